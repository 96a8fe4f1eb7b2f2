"""What a person sees of the start, as plain lines: one when a child enters a stage, none for progress within it."""

import logging
from collections.abc import Callable
from typing import TextIO

from phalanx import running_time
from phalanx.protocol import Place, StartupStage
from phalanx.streams import say
from phalanx.supervisor.child_states import ChildState
from phalanx.supervisor.fleet import Fleet
from phalanx.supervisor.state import FleetPhase

Announce = Callable[[list[str]], None]
"""Tell the addresses, once the service serves at them; the first is the service's own."""


class PlainPicture:
    """The picture for logs and pipes."""

    def __init__(self, stream: TextIO, announce: Announce) -> None:
        self._stream = stream
        self._announce = announce
        self._shown: dict[Place, tuple[StartupStage, ChildState]] = {}

    def changed(self, fleet: Fleet) -> None:
        if fleet.phase is FleetPhase.STOPPING or fleet.phase is FleetPhase.FINISHED:
            return
        now = running_time.now()
        width = max(10, *(len(str(place)) for place in fleet.children))
        for place, child in fleet.children.items():
            state = (child.stage, child.state)
            if child.state is ChildState.LAUNCHING and not child.detail:
                continue
            if (
                child.state in (ChildState.LAUNCHING, ChildState.STARTING, ChildState.READY)
                and self._shown.get(place) != state
            ):
                self._shown[place] = state
                detail = "".join(f"  {part}" for part in (child.where, child.detail) if part)
                stage = "launching" if child.state is ChildState.LAUNCHING else child.stage
                self.line(f"{place!s:<{width}} {stage:<9} {now - fleet.began_at:6.2f} s{detail}")

    def printed(self, place: Place, line: str) -> None:
        self.line(f"[{place}] {line}")

    def ready(self, fleet: Fleet, urls: list[str]) -> None:
        self._announce(urls)

    def line(self, text: str) -> None:
        say(self._stream, text)

    def close(self) -> None:
        """Leave the terminal as it was."""


class PictureLog(logging.Handler):
    """Log records of this process, shown above the live picture."""

    def __init__(self, picture: PlainPicture) -> None:
        super().__init__()
        self._picture = picture
        plain = "%(asctime)s %(message)s"
        self._plain = logging.Formatter(plain, "%H:%M:%S")
        self._severe = logging.Formatter(plain.replace(" ", " %(levelname)s: ", 1), "%H:%M:%S")

    def emit(self, record: logging.LogRecord) -> None:
        try:
            formatter = self._severe if record.levelno >= logging.WARNING else self._plain
            self._picture.line(formatter.format(record))
        except Exception:
            self.handleError(record)
