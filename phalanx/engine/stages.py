"""A rank's way to READY: each stage is told, then the drills ordered for it are held."""

from collections.abc import Callable

from phalanx.engine.drills import Drills
from phalanx.protocol import Ready, Stage, StartupStage


class Stages:
    """Implements `phalanx.engine.sequence.Progress`."""

    def __init__(self, tell: Callable[[Stage | Ready], None], drills: Drills) -> None:
        self._tell = tell
        self._drills = drills

    def begin(self) -> None:
        """STARTED, of which Hello has told already."""
        self._drills.enter(StartupStage.STARTED, self._report)

    def __call__(self, stage: StartupStage, progress: float | None = None, detail: str = "") -> None:
        self._report(stage, progress, detail)
        self._drills.enter(stage, self._report)

    def ready(self, detail: str) -> None:
        self._tell(Ready(detail))
        self._drills.enter(StartupStage.READY, lambda stage, progress, detail: None)

    def _report(self, stage: StartupStage, progress: float | None, detail: str) -> None:
        self._tell(Stage(stage, progress, detail))
