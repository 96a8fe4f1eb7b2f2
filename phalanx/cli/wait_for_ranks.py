"""`--wait`: watch the ranks until they are as they were asked to be, and say what changes."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from phalanx import running_time
from phalanx.cli.admin_client import AdminClient, AdminError, FleetReport, ServiceUnreachable

LOOK = 0.25
"""Seconds between two looks."""

GAP = 15.0
"""Seconds without an answer after which the service counts as gone; an API server may just be started again."""


@dataclass
class Watch:
    """It says what changes, of the `only` rank that it is about or of all."""

    say: Callable[[str], None]
    only: int | None = None
    _seen: dict[int, str] = field(default_factory=dict)

    def look(self, report: FleetReport) -> None:
        """Say what has changed since the last look."""
        for rank, state in report.states.items():
            if self.only in (None, rank) and self._seen.get(rank) != state:
                self.say(f"rank {rank}: {state}")
                self._seen[rank] = state
        for gone in self._seen.keys() - report.states.keys():
            self.say(f"rank {gone}: gone")
            del self._seen[gone]


def wait(
    client: AdminClient,
    asked: FleetReport,
    done: Callable[[FleetReport], bool],
    say: Callable[[str], None],
    rank: int | None = None,
) -> None:
    """Wait until `done`, saying what changes meanwhile.

    Args:
        asked: the answer of the service to what was asked of it.
        rank: the one that it is about; None for all.

    Raises:
        AdminError: such a rank has fallen for good, or nobody has answered for a while.
    """
    watch, report, heard_at = Watch(say, rank), asked, running_time.now()
    with running_time.kept():
        while True:
            watch.look(report)
            fallen = [each for each, state in report.states.items() if state == "fallen" and rank in (None, each)]
            if fallen:
                named = ", ".join(f"rank {each}" for each in fallen)
                raise AdminError(f"{named} fell too often and was given up: the service's log says why")
            if done(report):
                return
            time.sleep(LOOK)
            try:
                report, heard_at = client.ask("GET", "/admin/ranks"), running_time.now()
            except ServiceUnreachable:
                if running_time.now() - heard_at > GAP:
                    raise
