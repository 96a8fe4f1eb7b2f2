"""Control plane: what nodes on other machines, the Ray driver and the supervisor say to each other."""

from phalanx.protocol.identity import ChildId, Message, Place, RankId


class Pools(Message, frozen=True):
    """What the processes of a node take from. Those of another node with a pool of the same name take from it too."""

    memory: str
    cpus: str


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
    pools: Pools | None = None
    """None: it cannot tell, and its ranks count as alone there."""


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


class LaunchChild(Message, tag=26, frozen=True):
    """Start a child; it dials the supervisor itself, at the address that the node dialled."""

    child: ChildId
    environment: dict[str, str]
    """Added to the node's own."""


class SignalChild(Message, tag=27, frozen=True):
    """SIGKILL goes to the child's whole session, SIGABRT (print where you stand, and die) to the child."""

    child: ChildId
    number: int


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
