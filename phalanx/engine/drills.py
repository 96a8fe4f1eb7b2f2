"""Failures on order: what a synthetic rank does when it enters a start-up stage (`--synthetic-stage`)."""

import os
import threading
import time
from typing import NamedTuple

from phalanx.engine.sequence import Progress
from phalanx.protocol import StartupStage

EXIT_STATUS = 3
REPORT_INTERVAL = 0.1
FORM = "[RANK[.WORKER]:]STAGE=SECONDS or [RANK[.WORKER]:]STAGE=hang|exit|raise|abort"


class Drill(NamedTuple):
    rank: int | None
    """The rank that is meant; None for every rank."""
    stage: StartupStage
    action: str
    seconds: float
    worker: int | None = None
    """The worker that is meant; None for every worker of the rank."""


class DrillFailure(RuntimeError):
    """A rank was told to fail, and did."""


def parse(setting: str) -> Drill:
    """Read one `--synthetic-stage`.

    Raises:
        ValueError: says what is wrong with it and what it may be.
    """
    place, _, action = setting.rpartition("=")
    who, _, stage = place.rpartition(":")
    rank, dot, worker = who.partition(".")
    known = {name.value.replace("-", "_"): name for name in StartupStage}
    named = known.get(stage.strip().lower().replace("-", "_"))
    if named is None or (who and not rank.isdecimal()) or (dot and not worker.isdecimal()):
        stages = ", ".join(StartupStage)
        raise ValueError(f"--synthetic-stage {setting!r} is not of the form {FORM}, where STAGE is one of {stages}")
    seconds = 0.0
    if action not in ("hang", "exit", "raise", "abort"):
        try:
            seconds = float(action)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"--synthetic-stage {setting!r}: {action!r} is no time; the form is {FORM}")
        action = "wait"
    return Drill(int(rank) if rank else None, named, action, seconds, int(worker) if worker else None)


class Drills:
    """The drills of one worker of a rank."""

    def __init__(self, settings: tuple[str, ...], rank: int, worker: int = 0) -> None:
        """Raises ValueError, see `parse`."""
        drills = [parse(setting) for setting in settings]
        self._pending = [drill for drill in drills if drill.rank in (None, rank) and drill.worker in (None, worker)]
        self._name = f"rank {rank}" + (f" worker {worker}" if worker else "")

    def enter(self, stage: StartupStage, report: Progress) -> None:
        """Do what was ordered for this stage, once; `report` tells progress while seconds are spent."""
        due = [drill for drill in self._pending if drill.stage is stage]
        self._pending = [drill for drill in self._pending if drill.stage is not stage]
        for drill in due:
            self._perform(drill, report)

    def _perform(self, drill: Drill, report: Progress) -> None:
        match drill.action:
            case "wait":
                end = time.monotonic() + drill.seconds
                while (left := end - time.monotonic()) > 0:
                    report(drill.stage, 1 - left / drill.seconds, "drill")
                    time.sleep(min(left, REPORT_INTERVAL))
            case "hang":
                threading.Event().wait()
            case "exit":
                os._exit(EXIT_STATUS)
            case "raise":
                raise DrillFailure(f"{self._name} was told to fail in stage {drill.stage}")
            case "abort":
                os.abort()
