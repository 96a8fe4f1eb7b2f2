"""What a person sees of the start: a line a child, live on a terminal, a line a change of stage elsewhere."""

import asyncio
import logging
import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from phalanx.protocol import StageName
from phalanx.supervisor.events import Place
from phalanx.supervisor.fleet import Child, Fleet, Life, Phase

REFRESH = 0.1
"""Seconds between two frames of the live picture; it also moves the seconds on."""

Announce = Callable[[str], None]
"""Tell the address, once the service serves at it."""


class PlainPicture:
    """For logs and pipes: one line when a child enters a stage, none for progress within it."""

    def __init__(self, console: Console, announce: Announce) -> None:
        self._console = console
        self._announce = announce
        self._shown: dict[Place, tuple[StageName, Life]] = {}

    def changed(self, fleet: Fleet) -> None:
        if fleet.phase is Phase.STOPPING or fleet.phase is Phase.FINISHED:
            return
        now = time.monotonic()
        for place, child in fleet.children.items():
            state = (child.stage, child.life)
            if child.life in (Life.STARTING, Life.READY) and self._shown.get(place) != state:
                self._shown[place] = state
                detail = f"  {child.detail}" if child.detail else ""
                self.line(f"{place!s:<10} {child.stage:<9} {now - fleet.began_at:6.2f} s{detail}")

    def printed(self, place: Place, line: str) -> None:
        self.line(f"[{place}] {line}")

    def ready(self, fleet: Fleet, url: str) -> None:
        self._announce(url)

    def line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal as it was."""


class LivePicture(PlainPicture):
    """For a terminal: the children's lines change in place until all are ready; driven by the loop, no thread."""

    def __init__(self, console: Console, announce: Announce) -> None:
        super().__init__(console, announce)
        self._live: Live | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._fleet: Fleet | None = None

    def changed(self, fleet: Fleet) -> None:
        if self._fleet is None and fleet.phase is Phase.STARTING:
            self._fleet = fleet
            self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            self._live.start()
            self._draw()
        elif fleet.phase is not Phase.STARTING:
            self.close()

    def ready(self, fleet: Fleet, url: str) -> None:
        self.close()
        super().ready(fleet, url)

    def close(self) -> None:
        if self._live is not None:
            self._frame(self._live)
            self._live.stop()
            self._live = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _draw(self) -> None:
        if self._live is not None:
            self._frame(self._live)
            self._timer = asyncio.get_running_loop().call_later(REFRESH, self._draw)

    def _frame(self, live: Live) -> None:
        assert self._fleet is not None
        table = Table.grid(padding=(0, 2))
        now = time.monotonic()
        for place, child in self._fleet.children.items():
            since = child.stage_since - self._fleet.began_at if child.life is Life.READY else now - child.stage_since
            table.add_row(
                Text(str(place), style="bold"),
                Text(child.stage, style=_STYLES.get(child.life, "yellow")),
                _bar(child),
                Text(f"{since:6.1f} s", style="dim"),
                Text(child.detail, style="dim", no_wrap=True, overflow="ellipsis"),
            )
        live.update(table, refresh=True)


_STYLES = {Life.READY: "green", Life.LAUNCHING: "dim", Life.STARTING: "cyan"}


def _bar(child: Child) -> ProgressBar | Text:
    if child.life is Life.READY:
        return ProgressBar(total=1.0, completed=1.0, width=20)
    if child.progress is not None:
        return ProgressBar(total=1.0, completed=min(max(child.progress, 0.0), 1.0), width=20)
    # Without a known share: how far along the stages it is.
    stages = list(StageName)
    return ProgressBar(total=len(stages) - 1, completed=stages.index(child.stage), width=20, style="dim")


class PictureLog(logging.Handler):
    """Log records of this process, shown above the live picture."""

    def __init__(self, picture: PlainPicture) -> None:
        super().__init__()
        self._picture = picture
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
            self._picture.line(level + self.format(record))
        except Exception:
            self.handleError(record)


def picture_for(console: Console, announce: Announce) -> PlainPicture:
    """Live where the console is a terminal."""
    return LivePicture(console, announce) if console.is_terminal else PlainPicture(console, announce)
