"""What happens to the fleet, and what the fleet asks for: the vocabulary of `fleet.py`.

Every event carries the time at which it happened, on the clock of `running_time`; every event about a child names its
incarnation.
"""

import enum
from typing import TypeAlias

import msgspec

from phalanx.protocol import ChildId, Place, RankId, StartupStage


class AfterLeaving(enum.Enum):
    """What becomes of a rank that leaves, once nothing runs in it."""

    GONE = enum.auto()
    RENEWED = enum.auto()
    """Started again."""
    HELD = enum.auto()
    """It stays, without work."""


class ExitCode(enum.IntEnum):
    """Exit status of `phalanx serve`."""

    OK = 0
    """It was asked to stop and did."""
    FAILED = 1
    """A child failed; the report on stderr says which."""
    USAGE = 2
    """Options, configuration file or checkpoint were refused; nothing was started."""
    ADDRESS = 3
    """The HTTP address could not be taken; nothing was started."""
    LEFT_BEHIND = 4
    """It was asked to stop, and a process survived even SIGKILL."""


class Cause(enum.StrEnum):
    """The first sign of a failure; a better account of the same end may replace it."""

    REPORTED = "reported"
    EXITED = "exited"
    STALLED = "stalled"
    DISCONNECTED = "disconnected"
    NOT_LAUNCHED = "not launched"
    VANISHED = "vanished"
    """What it ran on is gone: its node, its actor."""


class Failure(msgspec.Struct, frozen=True):
    """Who failed first, and what is known of it. Grows while the culprit's last words come in."""

    child: ChildId
    cause: Cause
    stage: StartupStage
    """READY: it had been serving."""
    waiting_for: str
    """What the fleet was waiting for from it; empty once it served."""
    in_stage: float
    """Seconds since it entered the stage."""
    without_progress: float
    """Seconds since it last got on."""
    pid: int | None = None
    where: str = ""
    """The machine; empty: the supervisor's own."""
    reason: str = ""
    """Its own words, or the launcher's."""
    traceback: str = ""
    status: int | None = None
    """The exit status, or minus the number of the signal (as subprocess has it); None: it did not end by itself."""


# --- events ---------------------------------------------------------------------------------------


class Event(msgspec.Struct, frozen=True, gc=False):
    at: float


class Begin(Event, frozen=True):
    """Start every child."""


class Tick(Event, frozen=True):
    """Time has passed; sent at `next_deadline()` or later."""


class StopRequested(Event, frozen=True):
    reason: str
    drain: bool = False
    """Running requests may finish first."""


class ChildEvent(Event, frozen=True):
    child: ChildId


class Waiting(ChildEvent, frozen=True):
    """What its launch waits for: a node to join, a placement group."""

    name: str
    limit: float
    """Seconds it may take."""


class Launched(ChildEvent, frozen=True):
    pid: int
    where: str = ""
    """The machine; empty: the supervisor's own."""


class LaunchFailed(ChildEvent, frozen=True):
    reason: str


class Greeted(ChildEvent, frozen=True):
    """Its Hello came in."""

    connection: int = 0
    """Which connection said it, and is to be answered: several may claim to be the same child."""


class Progressed(ChildEvent, frozen=True):
    stage: StartupStage
    progress: float | None
    detail: str


class Pulsed(ChildEvent, frozen=True):
    """It told how many steps it has made, and whether there is work for another."""

    steps: int
    busy: bool


class BecameReady(ChildEvent, frozen=True):
    detail: str
    drains: bool = False


class HasDrained(ChildEvent, frozen=True):
    """No request is running in it any more."""


class Reported(ChildEvent, frozen=True):
    """Its own account of its failure."""

    reason: str
    traceback: str


class ControlEnded(ChildEvent, frozen=True):
    """Its control connection is over, and everything in it has been read."""

    reason: str


class OutputEnded(ChildEvent, frozen=True):
    """Its stdout and stderr are closed, and everything in them has been read."""


class Exited(ChildEvent, frozen=True):
    status: int
    """The exit status, or minus the number of the signal, as subprocess gives it."""


class Vanished(ChildEvent, frozen=True):
    """Nothing more will be heard of it: what it ran on is gone. May come twice, the second time with better words."""

    reason: str


class Added(Event, frozen=True):
    """Places that the service has from now on."""

    places: tuple[Place, ...]


class Leave(Event, frozen=True):
    """An operator wants these ranks to leave; what runs in them may finish within `timeout` seconds."""

    ranks: tuple[RankId, ...]
    after: AfterLeaving
    timeout: float


class Resume(Event, frozen=True):
    """An operator wants these ranks, which were to leave, to stay."""

    ranks: tuple[RankId, ...]


class HasVacated(ChildEvent, frozen=True):
    """No request of this API server is running in these ranks, nor will one, as long as they leave."""

    number: int
    """The number of the latest Ranks that it had heard of."""
    ranks: tuple[RankId, ...]


# --- actions --------------------------------------------------------------------------------------


class Action(msgspec.Struct, frozen=True, gc=False):
    pass


class Spawn(Action, frozen=True):
    child: ChildId


class CallOff(Action, frozen=True):
    """Stop waiting to launch it: answer with LaunchFailed, or with Launched where the launch is under way."""

    child: ChildId


class SendWelcome(Action, frozen=True):
    """Bind the connection that said Hello to this child and send it the configuration."""

    child: ChildId
    connection: int = 0
    """The number in its Greeted."""


class SendRefusal(Action, frozen=True):
    """Tell the connection that said Hello why it cannot be, and close it."""

    reason: str
    connection: int = 0
    """The number in its Greeted."""


class SendStop(Action, frozen=True):
    child: ChildId


class SendDrain(Action, frozen=True):
    """Have it take no new requests and tell when none is running."""

    child: ChildId


class Dump(Action, frozen=True):
    """Make a stuck child print where it stands and die of it (SIGABRT, with faulthandler enabled)."""

    child: ChildId


class Kill(Action, frozen=True):
    """SIGKILL, its whole session."""

    child: ChildId
    reason: str
    """Why it is killed; empty where that is nothing unusual."""


class AnnounceReady(Action, frozen=True):
    """Every child is ready."""


class AnnounceFall(Action, frozen=True):
    """A serving child has failed; others go on, and it will be started again."""

    failure: Failure


class AnnounceRestart(Action, frozen=True):
    """What fell is over: it is started again in `delay` seconds."""

    failure: Failure
    delay: float


class AnnounceBack(Action, frozen=True):
    """What fell serves again, `after` seconds."""

    child: ChildId
    after: float


class AnnounceDegraded(Action, frozen=True):
    """It is given up: the service goes on without it."""

    failure: Failure
    why: str


class TellRanks(Action, frozen=True):
    """Tell the API servers which ranks there are, and which of them leave."""


class AnnounceLeft(Action, frozen=True):
    """A rank has left for good, and what it ran on may be used for something else."""

    rank: RankId
    children: tuple[ChildId, ...]


class AnnounceStop(Action, frozen=True):
    reason: str
    draining: float = 0.0
    """Seconds that running requests get."""


class AnnounceFailure(Action, frozen=True):
    failure: Failure


class Finish(Action, frozen=True):
    """Everything has ended; the last action of a fleet."""

    exit_code: ExitCode
    failure: Failure | None
    left_behind: tuple[ChildId, ...]
    """Children whose end was never seen."""


FleetEvent: TypeAlias = (
    Begin
    | Tick
    | StopRequested
    | Waiting
    | Launched
    | LaunchFailed
    | Greeted
    | Progressed
    | Pulsed
    | BecameReady
    | HasDrained
    | Reported
    | ControlEnded
    | OutputEnded
    | Exited
    | Vanished
    | Added
    | Leave
    | Resume
    | HasVacated
)
FleetAction: TypeAlias = (
    AnnounceFall
    | AnnounceRestart
    | AnnounceBack
    | AnnounceDegraded
    | Spawn
    | CallOff
    | SendWelcome
    | SendRefusal
    | SendStop
    | SendDrain
    | Dump
    | Kill
    | AnnounceReady
    | AnnounceStop
    | TellRanks
    | AnnounceLeft
    | AnnounceFailure
    | Finish
)
