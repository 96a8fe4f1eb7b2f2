"""What a person at a terminal sees of the start: a line a child, changing in place; driven by the loop, no thread."""

import asyncio
import contextlib
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from phalanx import running_time
from phalanx.protocol import StartupStage
from phalanx.supervisor.child_states import Child, ChildState
from phalanx.supervisor.fleet import Fleet
from phalanx.supervisor.picture import Announce, PlainPicture
from phalanx.supervisor.state import FleetPhase

REFRESH = 0.1
"""Seconds between two frames; each also moves the seconds on."""


class LivePicture(PlainPicture):
    """The children's lines change in place until all are ready; whatever else is printed goes above them."""

    def __init__(self, stream: TextIO, announce: Announce) -> None:
        super().__init__(stream, announce)
        self._console = Console(file=stream)
        self._live: Live | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._fleet: Fleet | None = None

    def changed(self, fleet: Fleet) -> None:
        if self._fleet is None and fleet.phase is FleetPhase.STARTING:
            self._fleet = fleet
            self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            self._live.start()
            self._draw()
        elif fleet.phase is not FleetPhase.STARTING:
            self.close()

    def ready(self, fleet: Fleet, urls: list[str]) -> None:
        self.close()
        super().ready(fleet, urls)

    def line(self, text: str) -> None:
        if self._live is None:
            super().line(text)
        else:
            with contextlib.suppress(OSError):
                self._console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def close(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            with contextlib.suppress(OSError):  # the terminal may be gone
                self._frame(live)
                live.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _draw(self) -> None:
        if self._live is not None:
            with contextlib.suppress(OSError):
                self._frame(self._live)
            self._timer = asyncio.get_running_loop().call_later(REFRESH, self._draw)

    def _frame(self, live: Live) -> None:
        assert self._fleet is not None
        table = Table.grid(padding=(0, 2))
        now = running_time.now()
        for place, child in self._fleet.children.items():
            since = (
                child.stage_since - self._fleet.began_at if child.state is ChildState.READY else now - child.stage_since
            )
            table.add_row(
                Text(str(place), style="bold"),
                Text(
                    "launching" if child.state is ChildState.LAUNCHING else child.stage,
                    style=_STYLES.get(child.state, "yellow"),
                ),
                _bar(child),
                Text(f"{since:6.1f} s", style="dim"),
                Text(
                    "  ".join(part for part in (child.where, child.detail) if part),
                    style="dim",
                    no_wrap=True,
                    overflow="ellipsis",
                ),
            )
        live.update(table, refresh=True)


_BAR = 12
"""Columns."""

_STYLES = {ChildState.READY: "green", ChildState.LAUNCHING: "dim", ChildState.STARTING: "cyan"}


def _bar(child: Child) -> ProgressBar:
    if child.state is ChildState.READY:
        return ProgressBar(total=1.0, completed=1.0, width=_BAR, finished_style="green")
    if child.progress is not None:
        return ProgressBar(total=1.0, completed=min(max(child.progress, 0.0), 1.0), width=_BAR)
    # Its share of the stage is not known: how far along the stages it is.
    last, done = StartupStage.READY.position, child.stage.position
    return ProgressBar(total=last, completed=done, width=_BAR, complete_style="bar.back", style="dim")
