"""Every message that crosses a process boundary.

Messages are msgpack arrays, their integer tag first (`array_like` structs: no field names on the wire). A
new field goes at the end with a default, so an older peer's shorter array still decodes; any other change
raises `PROTOCOL_VERSION`, which is compared in the first frame of every connection.

Control plane, child <-> supervisor: Hello -> Welcome -> Stage* -> Ready -> ... -> Stop, or Hello -> Refused.
Control plane, node <-> supervisor: NodeHello -> Welcome -> NodeReady -> (LaunchChild | SignalChild)* <->
(ChildLaunched | ChildNotLaunched | ChildOutput | ChildExited)* ... -> Stop, or NodeHello -> Refused.
Engine plane (rank <-> API server, the rank dials): EngineHello -> (Submit | Abort | Probe)* <-> (StepOutput | Alive)*.
Worker plane (worker of a rank <-> its worker 0, the worker dials): WorkerHello -> WorkerWelcome -> Stage* -> Ready ->
(WorkerStep -> WorkerAnswer)*, or WorkerHello -> Refused.
"""

import enum
from typing import NewType, TypeAlias

import msgspec

from phalanx.config import Config

PROTOCOL_VERSION = 1

RankId = NewType("RankId", int)
ApiServerId = NewType("ApiServerId", int)
Incarnation = NewType("Incarnation", int)
RequestId = NewType("RequestId", int)
"""Unique within one API server; a rank keys requests by (ApiServerId, RequestId)."""


class Role(enum.StrEnum):
    API = "api"
    ENGINE = "engine"
    RAY = "ray"
    """The one process that talks to the Ray cluster."""


class StageName(enum.StrEnum):
    """Where a child is on its way to READY, in order; each has its own progress deadline."""

    STARTED = "started"
    IMPORTED = "imported"
    WEIGHTS = "weights"
    CACHE = "cache"
    WARM_UP = "warm-up"
    ATTACHED = "attached"
    READY = "ready"


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base of all messages; subclasses carry the integer tag."""


class Place(Message, frozen=True):
    """A seat in the fleet; stable while the processes that fill it come and go."""

    role: Role
    index: int
    """API server number or rank."""
    worker: int = 0
    """Tensor-parallel worker of a rank; worker 0 is the rank itself and leads the others."""

    def __str__(self) -> str:
        if self.role is Role.RAY:
            return "ray"
        return f"{self.role} {self.index}" + (f" tp {self.worker}" if self.worker else "")


class ChildId(Message, frozen=True):
    """One start of the process in a place."""

    place: Place
    incarnation: Incarnation

    def __str__(self) -> str:
        return str(self.place)


# --- control plane: child -> supervisor -----------------------------------------------------------


class Hello(Message, tag=1, frozen=True):
    """First message of a child. `index` is its API server number or its rank."""

    role: Role
    index: int
    incarnation: Incarnation
    pid: int
    worker: int = 0


class Stage(Message, tag=2, frozen=True):
    """The child has entered `stage`, or made progress in it: either restarts the stage's deadline."""

    stage: StageName
    progress: float | None = None
    """Share of the stage done, 0..1, where it can be told."""
    detail: str = ""


class Ready(Message, tag=3, frozen=True):
    """The child serves. `detail` is one line for the person who watches the start ("KV cache 65,536 tokens")."""

    detail: str = ""
    drains: bool = False
    """It understands Drain; one that does not is stopped without."""


class Failed(Message, tag=4, frozen=True):
    """The child's own last words before it exits non-zero."""

    reason: str
    traceback: str = ""


class MetricsReport(Message, tag=5, frozen=True):
    """One API server's samples, in the form of `phalanx.api.metrics`: the answer to MetricsRequest, or unasked."""

    query: int
    """0: unasked, so that the supervisor knows what it had counted when it dies."""
    samples: bytes


class MetricsQuery(Message, tag=6, frozen=True):
    """An API server that is being scraped asks for its siblings' samples."""

    query: int


class Pulse(Message, tag=16, frozen=True):
    """Sent every second by a child that serves: `--step-timeout` is measured on it.

    Optional: a child that never sends one is only judged by its connection and its exit.
    """

    steps: int
    """Rounds its loop has made."""
    busy: bool
    """It has work, so `steps` has to grow."""


class Drained(Message, tag=17, frozen=True):
    """Answer to Drain: no request is running any more."""


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


# --- control plane: node -> supervisor ------------------------------------------------------------


class NodeHello(Message, tag=7, frozen=True):
    """First message of a node: a process on another machine that starts children there for the supervisor."""

    name: str
    """Of the machine, for people."""
    pid: int
    version: str
    """`phalanx.__version__`; another one is refused: its ranks might not continue a request as ours would."""
    places: tuple[Place, ...]
    """The ranks, or workers of ranks, that it brings; empty where it only holds API servers."""
    serves: bool
    """It can hold API servers, `ParallelOptions.api_servers_per_node` of them."""
    address: str = ""
    """Its own, where its sockets listen and from where it dials."""


class ServedAt(Message, frozen=True):
    """The sockets of one API server on a node; both listen already."""

    url: str
    """Where clients find it."""
    engine: str
    """Where ranks dial it."""


class NodeReady(Message, tag=8, frozen=True):
    """The node has the service's model and has bound what its children need."""

    folder: str
    """The checkpoint's, on that machine."""
    api_servers: tuple[ServedAt, ...] = ()
    leaders: dict[RankId, str] = {}
    """Where the tensor-parallel workers of its ranks find worker 0; it listens already."""


class ChildLaunched(Message, tag=9, frozen=True):
    child: ChildId
    pid: int


class ChildNotLaunched(Message, tag=10, frozen=True):
    child: ChildId
    reason: str


class ChildOutput(Message, tag=11, frozen=True):
    """What a child printed; empty: its stdout and stderr are closed."""

    child: ChildId
    data: bytes


class ChildExited(Message, tag=12, frozen=True):
    child: ChildId
    status: int
    """As subprocess gives it: exit status, or minus the number of the signal."""


# --- control plane: Ray driver -> supervisor ------------------------------------------------------


class ClusterPlan(Message, tag=15, frozen=True):
    """Which of the cluster's machines hold ranks; sent before the driver is READY."""

    address: str
    """This machine's, as a real connection towards the cluster shows it."""
    nodes: tuple[str, ...]
    """The machine of each place, ranks in order and each rank's workers in order."""
    head: str
    """This machine's name among `nodes`' machines; empty: it is none of the cluster's."""


class NodeStarting(Message, tag=13, frozen=True):
    """How far the start of a node (a Ray actor) has come. Answers StartNode, repeatedly."""

    places: tuple[Place, ...]
    waiting_for: str
    host: str = ""
    """Where `places` is empty: as in StartNode."""
    number: int = 0
    """Of the StartNode that this is about."""
    limit: float = 0.0
    """Seconds after which the driver gives this wait up by itself; 0: it is the supervisor's to limit."""


class NodeEnded(Message, tag=14, frozen=True):
    """An actor that held a node has ended, or could not be started; in Ray's words."""

    places: tuple[Place, ...]
    reason: str
    host: str = ""
    """Where `places` is empty: as in StartNode."""
    number: int = 0
    """Of the StartNode that this is about: what is told of an earlier actor must not be held against a later one."""


# --- control plane: supervisor -> child -----------------------------------------------------------


class Endpoint(Message, frozen=True):
    """Where ranks dial one API server. The listener exists before this is ever sent.

    The same API server has other addresses for other children: a socket file on its own machine, elsewhere a
    host and port that the child can reach.
    """

    index: ApiServerId
    address: str


class Membership(Message, tag=20, frozen=True):
    """The API servers there are now. Sent in Welcome and again on every change."""

    api_servers: tuple[Endpoint, ...]
    complete: bool = True
    """False: more will be named before the service is ready, and no rank is READY before it has reached them."""


class Welcome(Message, tag=21, frozen=True):
    config: Config
    membership: Membership
    leader: str = ""
    """For a tensor-parallel worker: where worker 0 of its rank listens."""
    counted: bytes = b""
    """For an API server: the last samples of its predecessor in its place, to count on from; empty: none."""


class Stop(Message, tag=22, frozen=True):
    """End now, in order: an API server closes its connections, a rank leaves its loop."""


class Drain(Message, tag=29, frozen=True):
    """To an API server that said it `drains`: take no new requests, and say Drained once none is running."""


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


class MetricsRequest(Message, tag=23, frozen=True):
    """Supervisor -> API server: report your samples under this query number."""

    query: int


class MetricsGathered(Message, tag=24, frozen=True):
    """Supervisor -> the API server that sent MetricsQuery: the siblings' samples, those that answered in time."""

    query: int
    samples: tuple[bytes, ...]
    kept: tuple[bytes, ...] = ()
    """The last known samples of those that did not answer, or are not there: what they counted still counts."""
    rank_restarts: dict[RankId, int] = {}
    """Times each was started again after a fall."""
    api_server_restarts: dict[ApiServerId, int] = {}


class Refused(Message, tag=25, frozen=True):
    """Answer to a Hello or NodeHello that cannot be; the connection is closed after it."""

    reason: str


# --- control plane: supervisor -> node ------------------------------------------------------------


class LaunchChild(Message, tag=26, frozen=True):
    """Start a child; it dials the supervisor itself, at the address that the node dialled."""

    child: ChildId
    environment: dict[str, str]
    """Added to the node's own."""


class SignalChild(Message, tag=27, frozen=True):
    """SIGKILL goes to the child's whole session, SIGABRT (print where you stand, and die) to the child."""

    child: ChildId
    number: int


# --- control plane: supervisor -> Ray driver ------------------------------------------------------


class StartNode(Message, tag=28, frozen=True):
    """Start a node in the placement group of these places; one that only holds API servers has none."""

    control: str
    """Where it dials the supervisor; it listens already."""
    places: tuple[Place, ...]
    host: str = ""
    """Where `places` is empty: the address of the cluster's node it must be on."""
    number: int = 0
    """Counts orders; comes back in what is told about this one."""


class ReleaseNode(Message, tag=30, frozen=True):
    """End the node of these places for good, without a word about it, and remove their placement group."""

    places: tuple[Place, ...]
    """Empty: only end the node on `host` that holds API servers."""
    host: str = ""
    """Where `places` is empty: as in StartNode."""
    number: int = 0
    """Of the latest StartNode for them."""


ToSupervisor: TypeAlias = (
    Hello
    | Stage
    | Ready
    | Failed
    | MetricsReport
    | MetricsQuery
    | Pulse
    | Drained
    | Vacated
    | AdminRequest
    | NodeHello
    | NodeReady
    | ChildLaunched
    | ChildNotLaunched
    | ChildOutput
    | ChildExited
    | ClusterPlan
    | NodeStarting
    | NodeEnded
)
ToChild: TypeAlias = (
    Welcome
    | Membership
    | Roster
    | Stop
    | Drain
    | MetricsRequest
    | MetricsGathered
    | AdminAnswer
    | Refused
    | StartNode
    | ReleaseNode
)
ToNode: TypeAlias = Welcome | Membership | Stop | Refused | LaunchChild | SignalChild


# --- engine plane ---------------------------------------------------------------------------------


class SamplingParams(Message, frozen=True):
    """How to choose tokens. Validated by the API server; a rank trusts it.

    The random number of output position p is a function of (seed, p) alone, so a request continued on
    another rank, or recomputed after preemption, goes on as it would have.
    """

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is no limit."""
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    """0 <= seed < 2**64; always set by the API server, at random where the client gave none."""
    stop_token_ids: tuple[int, ...] = ()
    """Besides the checkpoint's own end-of-sequence ids."""
    ignore_eos: bool = False
    logit_bias: dict[int, float] | None = None
    logprobs: int | None = None
    """None: none. k >= 0: the sampled token's log probability and the k most likely ones'."""
    prompt_logprobs: int | None = None
    """As `logprobs`, for each prompt token after the first."""


def expected_remaining(expected_tokens: int, max_tokens: int, produced: int) -> int:
    """Output tokens a live request will likely still take, at least 1: the one measure of a rank's decode work.

    Lengths are uncertain, and a request that has outlived its expectation is not nearly done: half the
    expectation stays until the request's own limit is nearer. (Counting such requests as nothing made the
    busiest of 64 simulated ranks 24 % busier than the mean, this 16 %: `benchmarks/routing.py`.)
    """
    likely = max(expected_tokens - produced, expected_tokens // 2)
    return max(1, min(likely, max_tokens - produced))


class Submit(Message, tag=40, frozen=True):
    """Run a request, or continue one: `generated` holds the tokens it already has, prompt not included."""

    request_id: RequestId
    prompt: list[int]
    sampling: SamplingParams
    generated: list[int] = []
    expected_tokens: int = 0
    """Output tokens the router expects it to take; with `expected_remaining`, what other routers hear of it."""
    priority: int = 0
    """Lower runs first; equal ones in order of arrival."""


class Abort(Message, tag=41, frozen=True):
    request_ids: list[RequestId]


class Probe(Message, tag=42, frozen=True):
    """Say `Alive` at once.

    Sent before a request whose rank has died goes on at another: where several die of one cause, and not all ends have
    been seen yet, the request must not be held to be the cause.
    """

    number: int


class EngineHello(Message, tag=60, frozen=True):
    """First message of a rank to an API server, sent when the rank can take requests."""

    rank: RankId
    incarnation: Incarnation
    max_model_len: int
    max_num_seqs: int
    kv_cache_tokens: int


class FinishReason(enum.IntEnum):
    STOP = 1
    LENGTH = 2
    ABORT = 3
    ERROR = 4


class TokenLogprobs(Message, frozen=True):
    """`logprob` and `rank` (1 = most likely) of the token itself, and the most likely ids with theirs, in order."""

    logprob: float
    rank: int
    top_ids: list[int]
    top_logprobs: list[float]


class RequestOutput(Message, frozen=True):
    """What one step brought one request."""

    request_id: RequestId
    tokens: list[int]
    """New tokens in order; the end-of-sequence or stop token that ended it is included, as the last."""
    finish: FinishReason | None = None
    stop_token: int | None = None
    """The id of `stop_token_ids` that ended it; None when the checkpoint's own end-of-sequence did."""
    logprobs: list[TokenLogprobs] | None = None
    """One for each of `tokens`."""
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    """With the request's first tokens, where asked for: one a prompt token, None for the first."""
    cached_tokens: int = 0
    """With the request's first tokens: how many prompt tokens the prefix cache held."""
    error: str = ""


class Load(Message, frozen=True):
    """What a rank has to do, told to each API server from that server's point of view.

    `others_*` leave out the receiver's own requests, which it counts itself, at once and exactly; so no
    report ever overwrites a router's own count and nothing is counted twice.
    """

    others_prefill_tokens: int
    others_decode_tokens: int
    others_requests: int
    running: int
    waiting: int
    kv_used_tokens: int
    kv_total_tokens: int
    prefix_query_tokens: int
    """Counter since start: prompt tokens looked up in the prefix cache, and those found."""
    prefix_hit_tokens: int
    preemptions: int
    """Counter since start."""
    steps: int
    """Counter since start."""


class StepOutput(Message, tag=61, frozen=True):
    """One a step to each API server that has requests in it, and one when the load changed for the others."""

    outputs: list[RequestOutput]
    load: Load


class Alive(Message, tag=62, frozen=True):
    """Answer to Probe."""

    number: int
    """Of the Probe."""


ToEngine: TypeAlias = Submit | Abort | Probe
ToApi: TypeAlias = EngineHello | StepOutput | Alive


# --- worker plane ---------------------------------------------------------------------------------


class WorkerHello(Message, tag=80, frozen=True):
    """First message of a tensor-parallel worker to worker 0, which leads its rank."""

    rank: RankId
    worker: int
    incarnation: Incarnation
    """Of the whole rank: its workers start and end together."""


class WorkerWelcome(Message, tag=81, frozen=True):
    """The leader takes the worker. Its stages and its READY are the leader's to hear from now on, too."""


class WorkerStep(Message, tag=82, frozen=True):
    """The worker's share of one step, which may be nothing; answered by WorkerAnswer."""

    step: int
    """Counter since start, the same for all workers of the rank."""
    draws: list[tuple[int, int]]
    """A token each: the digest that names prompt and seed, 0 <= digest < 2**64, and the output position."""


class WorkerAnswer(Message, tag=83, frozen=True):
    step: int
    """Of the WorkerStep that it answers."""
    places: list[int]
    """For each draw, in order, the place of the word drawn in the list of words."""


ToWorker: TypeAlias = WorkerWelcome | Refused | WorkerStep
ToLeader: TypeAlias = WorkerHello | Stage | Ready | WorkerAnswer
