"""Control plane: which ranks there are, which leave, and what operators have done with them."""

import enum

from phalanx.protocol.identity import Incarnation, Message, RankId


class Roster(Message, tag=32, frozen=True):
    """To API servers: the ranks there are. Sent after Welcome and again on every change; answered by Vacated."""

    number: int
    """Counts changes."""
    ranks: tuple[RankId, ...]
    """Those that shall serve, be they there or not."""
    leaving: tuple[RankId, ...] = ()
    """These get no new requests, and their end is none that a request dies of."""
    moving: tuple[RankId, ...] = ()
    """Of those that leave: what still runs in them has to go on elsewhere now."""


class Vacated(Message, tag=18, frozen=True):
    """Answer to Roster, repeatedly: these ranks leave, and no request of the API server runs in them any more."""

    roster: int
    """The number of the latest Roster that it has taken."""
    ranks: tuple[RankId, ...]


class AdminVerb(enum.StrEnum):
    SHOW = "show"
    DRAIN = "drain"
    """Ranks get nothing new, and stay without work."""
    RESUME = "resume"
    """Undoes DRAIN."""
    RESTART = "restart"
    SCALE = "scale"


class AdminRequest(Message, tag=19, frozen=True):
    """What an operator asks of an API server; answered by AdminAnswer."""

    query: int
    verb: AdminVerb
    ranks: tuple[RankId, ...] = ()
    """With SCALE: those that go."""
    size: int | None = None
    """With SCALE: ranks that there shall be; absent: as many as stay."""
    timeout: float | None = None
    """Seconds that running requests get to finish before they go on elsewhere; absent: --drain-timeout."""


class Standing(enum.StrEnum):
    """Of a rank, or of an API server, which knows no leaving."""

    STARTING = "starting"
    SERVING = "serving"
    RESTARTING = "restarting"
    DRAINING = "draining"
    DRAINED = "drained"
    LEAVING = "leaving"
    """For good."""
    FALLEN = "fallen"
    """Given up; an operator may restart it."""


class RankState(Message, frozen=True):
    rank: RankId
    standing: Standing
    incarnation: Incarnation
    restarts: int
    """After falls, since the service began."""
    pid: int | None
    where: str
    """The machine; empty: the supervisor's own."""
    since: float
    """Seconds in its present stage."""
    detail: str = ""


class ApiServerState(Message, frozen=True):
    index: int
    standing: Standing
    incarnation: Incarnation
    pid: int | None
    where: str
    since: float


class AdminAnswer(Message, tag=33, frozen=True):
    query: int
    """Of the AdminRequest."""
    ranks: tuple[RankState, ...]
    api_servers: tuple[ApiServerState, ...]
    refusal: str = ""
    """Why nothing was done."""
    status: int = 202
    """Of HTTP."""
