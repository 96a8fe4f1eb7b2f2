"""One incarnation in a place, and the states that the fleet moves it through. Only the fleet's handlers change it."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from phalanx.protocol import ChildId, Role, StartupStage
from phalanx.supervisor.events import Failure


class ChildState(enum.Enum):
    LAUNCHING = enum.auto()
    """Spawn was asked for; no process is known yet."""
    STARTING = enum.auto()
    READY = enum.auto()
    STOPPING = enum.auto()
    """It was told to end."""
    KILLED = enum.auto()
    RESTING = enum.auto()
    """It is over, and is started again in a moment."""
    ENDED = enum.auto()
    """The process is gone; its last words are being read."""
    GONE = enum.auto()
    LOST = enum.auto()
    """Its end was never seen, not even after SIGKILL; it is given up."""
    FALLEN = enum.auto()
    """It is over and is not started again: it fell too often."""


Unit = tuple[Role, int]
"""A rank with its workers, or an API server: what falls, leaves and comes back as one."""


@dataclass(frozen=True, slots=True)
class Wait:
    name: str
    since: float
    deadline: float


@dataclass(slots=True)
class Child:
    """One incarnation in a place. The start-up picture reads it; only the fleet's handlers change it."""

    id: ChildId
    state: ChildState = ChildState.LAUNCHING
    wait: Wait | None = None
    pid: int | None = None
    where: str = ""
    """The machine; empty: the supervisor's own."""
    stage: StartupStage = StartupStage.STARTED
    stage_since: float = 0.0
    progress: float | None = None
    detail: str = ""
    control_open: bool = False
    output_open: bool = False
    ended_by_us: bool = False
    """It was sent a signal that kills: its exit status says nothing about itself."""
    failure: Failure | None = None
    """How it fell, if by itself."""
    drains: bool = False
    """It understands Drain."""
    drained: bool = False
    served: bool = False
    """It has been READY."""
    steps: int = 0
    """The number in its last Pulse."""

    @property
    def unit(self) -> Unit:
        return self.id.place.role, self.id.place.index

    @property
    def over(self) -> bool:
        return self.state in (ChildState.GONE, ChildState.LOST, ChildState.FALLEN)


def all_ready(members: Iterable[Child]) -> bool:
    """Whether a unit serves: a rank does with all of its workers."""
    return all(member.state is ChildState.READY for member in members)
