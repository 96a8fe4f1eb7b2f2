"""The states that `fleet.py` moves children and the fleet through, and how long each may last."""

import enum
from dataclasses import dataclass

from phalanx.protocol import ChildId, Role, StartupStage
from phalanx.supervisor.events import Failure


class Life(enum.Enum):
    LAUNCHING = enum.auto()
    """Spawn was asked for; no process is known yet."""
    STARTING = enum.auto()
    READY = enum.auto()
    STOPPING = enum.auto()
    """Told to end."""
    KILLED = enum.auto()
    RESTING = enum.auto()
    """Over, and to be started again in a moment."""
    ENDED = enum.auto()
    """The process is gone; its last words are being read."""
    GONE = enum.auto()
    LOST = enum.auto()
    """Its end was never seen, SIGKILL notwithstanding; given up."""
    FALLEN = enum.auto()
    """Over, and not to be started again: it fell too often."""


class Phase(enum.Enum):
    STARTING = enum.auto()
    SERVING = enum.auto()
    DRAINING = enum.auto()
    """No new requests; STOPPING once those that run have finished."""
    STOPPING = enum.auto()
    FINISHED = enum.auto()


GOING = (Phase.SERVING, Phase.DRAINING)
"""What falls is started again."""

Seat = tuple[Role, int]
"""A rank, its workers included, or an API server: what falls, leaves and comes back as one."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds."""

    startup: float
    """In one stage without progress."""
    shutdown: float
    """From Stop to the end."""
    cluster: float = 10.0
    """The Ray driver gets that much more: it takes actors and placement groups down."""
    dump: float = 1.0
    """For a stuck child to print where it stands."""
    kill: float = 5.0
    """From SIGKILL to the end; only a process stuck in the kernel takes longer."""
    drain: float = 0.0
    """For running requests to finish, before Stop."""
    step: float = 60.0
    """A serving child's work without getting on."""
    max_restarts: int = 0
    """Of one rank or API server within `window`; 0: any death ends the service."""
    window: float = 60.0
    failed_starts: int = 5
    """In a row, until it is given up."""
    min_ranks: int = 1
    backoff: float = 0.5
    """Before a second try to start; doubles with each further one, up to `longest_backoff`."""
    longest_backoff: float = 30.0
    link: float = 20.0
    """Until a connection to another machine that is silent counts as ended; see `transport.listener.tune`."""
    last_words: float = 1.0
    """From a child's end to the end of its pipes (a grandchild may hold them open), or the other way round."""


@dataclass(frozen=True, slots=True)
class Wait:
    name: str
    since: float
    deadline: float


@dataclass(slots=True)
class Child:
    """One incarnation in a place. Read by the start-up picture; changed by Fleet alone."""

    id: ChildId
    life: Life = Life.LAUNCHING
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
    """As its last pulse had it."""

    @property
    def seat(self) -> Seat:
        return self.id.place.role, self.id.place.index

    @property
    def over(self) -> bool:
        return self.life in (Life.GONE, Life.LOST, Life.FALLEN)
