"""Control plane: what a child and the supervisor say to each other."""

from phalanx.config import Config
from phalanx.protocol.identity import ApiServerId, Incarnation, Message, RankId, Role, StartupStage


class Hello(Message, tag=1, frozen=True):
    """The first message of a child. `index` is its API server number or its rank."""

    role: Role
    index: int
    incarnation: Incarnation
    pid: int
    worker: int = 0


class Stage(Message, tag=2, frozen=True):
    """The child has entered `stage`, or made progress in it: either restarts the stage's deadline."""

    stage: StartupStage
    progress: float | None = None
    """Share of the stage done, 0..1, where it can be told."""
    detail: str = ""


class Ready(Message, tag=3, frozen=True):
    """The child serves. `detail` is one line for the person who watches the start ("KV cache 65,536 tokens")."""

    detail: str = ""
    drains: bool = False
    """Whether it understands Drain. A child that does not is stopped without one."""


class Failed(Message, tag=4, frozen=True):
    """The child's own last words before it exits with a status other than 0."""

    reason: str
    traceback: str = ""


class MetricsReport(Message, tag=5, frozen=True):
    """One API server's samples, in the form of `phalanx.api.metrics`: the answer to MetricsRequest, or unasked."""

    query: int | None
    """The number of the MetricsRequest; None for an unasked report, kept for the case that the server dies."""
    samples: bytes


class MetricsQuery(Message, tag=6, frozen=True):
    """An API server that is being scraped asks for its siblings' samples."""

    query: int


class Pulse(Message, tag=16, frozen=True):
    """Sent every second by a child that serves: `--step-timeout` is measured on it.

    Optional: a child that never sends one is only judged by its connection and its exit.
    """

    steps: int
    """Rounds that its loop has made."""
    busy: bool
    """Whether it has work, so that `steps` has to grow."""


class Drained(Message, tag=17, frozen=True):
    """The answer to Drain: no request is running any more."""


class Endpoint(Message, frozen=True):
    """The address at which ranks dial one API server. The listener exists before this is ever sent.

    The same API server has other addresses for other children: a socket file on its own machine, elsewhere a
    host and port that the child can reach.
    """

    index: ApiServerId
    address: str


class ApiServers(Message, tag=20, frozen=True):
    """The API servers there are now. Sent in Welcome and again on every change."""

    endpoints: tuple[Endpoint, ...]
    complete: bool = True
    """Whether these are all. Otherwise more will be named, and no rank is READY before it has reached those too."""


class Share(Message, tag=31, frozen=True):
    """A rank's part of its machine. Sent in Welcome, and again when ranks come or go there.

    The tensor-parallel workers of a rank are counted each by itself, as is said of the rank below.
    """

    memory: int = 1
    """Ranks that divide the memory there, this one included. A rank takes its part once."""
    cpus: int = 1
    """Ranks that divide the CPUs there, this one included."""
    place: int = 0
    """Which of those that divide the CPUs this one is, from 0."""


class Welcome(Message, tag=21, frozen=True):
    """The answer to Hello or NodeHello: all that the child or node needs to know."""

    config: Config
    api_servers: ApiServers
    leader: str = ""
    """The address at which worker 0 of the rank listens; only a tensor-parallel worker is told it."""
    counted: bytes = b""
    """The last samples of an API server's predecessor, from which it counts on; empty where it had none."""
    share: Share | None = None
    """The part of its machine that a rank has; None for all others."""


class Stop(Message, tag=22, frozen=True):
    """End now, in order: an API server closes its connections, a rank leaves its loop."""


class Drain(Message, tag=29, frozen=True):
    """Tells an API server that said it `drains` to take no new requests, and to say Drained once none is running."""


class MetricsRequest(Message, tag=23, frozen=True):
    """The supervisor asks an API server to report its samples under this query number."""

    query: int


class MetricsGathered(Message, tag=24, frozen=True):
    """The answer to MetricsQuery: the samples of the siblings that answered in time."""

    query: int
    samples: tuple[bytes, ...]
    kept: tuple[bytes, ...] = ()
    """The last known samples of siblings that did not answer or are not there: what they counted still counts."""
    rank_restarts: dict[RankId, int] = {}
    """How often each rank was started again after a fall."""
    api_server_restarts: dict[ApiServerId, int] = {}


class Refused(Message, tag=25, frozen=True):
    """The answer to a Hello, NodeHello or WorkerHello that cannot be; the connection is closed after it."""

    reason: str
