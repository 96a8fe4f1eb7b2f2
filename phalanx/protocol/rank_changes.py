"""Control plane: which ranks there are, which leave, and what operators have done with them."""

import enum

from phalanx.protocol.identity import Incarnation, Message, RankId


class Ranks(Message, tag=32, frozen=True):
    """Tells API servers the ranks there are, after Welcome and again on every change. RanksVacated is the answer."""

    number: int
    """The number of this change, counted from the start of the service."""
    ranks: tuple[RankId, ...]
    """The ranks that shall serve, whether they are there or not."""
    leaving: tuple[RankId, ...] = ()
    """Ranks that get no new requests. Their end is no failure: requests are not counted as killed by it."""
    moving: tuple[RankId, ...] = ()
    """The leaving ranks whose running requests have to go on elsewhere now."""


class RanksVacated(Message, tag=18, frozen=True):
    """The answer to Ranks, sent repeatedly: no request of the API server runs any more in these leaving ranks."""

    number: int
    """The number of the latest Ranks that it has taken."""
    ranks: tuple[RankId, ...]


class AdminVerb(enum.StrEnum):
    SHOW = "show"
    DRAIN = "drain"
    """The ranks get nothing new, and stay without work."""
    RESUME = "resume"
    """It undoes DRAIN."""
    RESTART = "restart"
    SCALE = "scale"


class AdminRequest(Message, tag=19, frozen=True):
    """An operator's request, passed on by an API server. AdminAnswer is the answer."""

    query: int
    verb: AdminVerb
    ranks: tuple[RankId, ...] = ()
    """The ranks that are meant; with SCALE those that go."""
    size: int | None = None
    """The number of ranks that SCALE asks for; absent: as many as stay."""
    timeout: float | None = None
    """Seconds that running requests get to finish before they go on elsewhere; absent: --drain-timeout."""


class PlaceState(enum.StrEnum):
    """How a rank or an API server is, as operators see it. An API server is never LEAVING."""

    STARTING = "starting"
    SERVING = "serving"
    RESTARTING = "restarting"
    DRAINING = "draining"
    DRAINED = "drained"
    LEAVING = "leaving"
    """It leaves for good."""
    FALLEN = "fallen"
    """It was given up; an operator may restart it."""


class RankState(Message, frozen=True):
    rank: RankId
    state: PlaceState
    incarnation: Incarnation
    restarts: int
    """Restarts after falls, since the service began."""
    pid: int | None
    where: str
    """The machine it runs on; empty: the supervisor's own."""
    since: float
    """Seconds that it has been in its present stage."""
    detail: str = ""


class ApiServerState(Message, frozen=True):
    index: int
    state: PlaceState
    incarnation: Incarnation
    pid: int | None
    where: str
    since: float


class AdminOutcome(enum.StrEnum):
    """What became of an AdminRequest."""

    SHOWN = "shown"
    """Nothing was to be done."""
    BEGUN = "begun"
    """It is being done; AdminAnswer tells the state at its beginning."""
    NO_SUCH_RANK = "no-such-rank"
    """It was refused: it names a rank that there is not."""
    IMPOSSIBLE_NOW = "impossible-now"
    """It was refused: it cannot be, as things are."""


class AdminAnswer(Message, tag=33, frozen=True):
    """How all ranks and API servers are once the AdminRequest was taken or refused."""

    query: int
    """The number of the AdminRequest."""
    ranks: tuple[RankState, ...]
    api_servers: tuple[ApiServerState, ...]
    refusal: str | None = None
    """Why nothing was done; None where what was asked for has begun."""
    outcome: AdminOutcome = AdminOutcome.BEGUN
