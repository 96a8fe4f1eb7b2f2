"""`--wait`: watch the ranks until they are as they were asked to be, and say what changes."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from phalanx.cli.admin import AdminError, Fleet, Service, Unreachable

LOOK = 0.25
"""Seconds between two looks."""

GAP = 15.0
"""Seconds without an answer before the service counts as gone: an API server may just be started again."""


@dataclass
class Watch:
    """What has been seen so far, of one rank or of all."""

    say: Callable[[str], None]
    only: int | None = None
    _seen: dict[int, str] = field(default_factory=dict)

    def look(self, fleet: Fleet) -> None:
        """Say what has changed since the last look."""
        for rank, state in fleet.states.items():
            if self.only in (None, rank) and self._seen.get(rank) != state:
                self.say(f"rank {rank}: {state}")
                self._seen[rank] = state
        for gone in self._seen.keys() - fleet.states.keys():
            self.say(f"rank {gone}: gone")
            del self._seen[gone]


def wait(
    service: Service,
    asked: Fleet,
    done: Callable[[Fleet], bool],
    say: Callable[[str], None],
    rank: int | None = None,
) -> None:
    """Until `done`; `asked` is the service's answer to what was asked, about one `rank` or about all.

    Raises:
        AdminError: such a rank has fallen for good, or nobody has answered for a while.
    """
    watch, fleet, heard_at = Watch(say, rank), asked, time.monotonic()
    while True:
        watch.look(fleet)
        fallen = [each for each, state in fleet.states.items() if state == "fallen" and rank in (None, each)]
        if fallen:
            named = ", ".join(f"rank {each}" for each in fallen)
            raise AdminError(f"{named} fell too often and was given up: the service's log says why")
        if done(fleet):
            return
        time.sleep(LOOK)
        try:
            fleet, heard_at = service.ask("GET", "/admin/ranks"), time.monotonic()
        except Unreachable:
            if time.monotonic() - heard_at > GAP:
                raise
