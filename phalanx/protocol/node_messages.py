"""Control plane: what nodes on other machines, the Ray driver and the supervisor say to each other."""

from phalanx.protocol.identity import ChildId, Message, Place, RankId


class Pools(Message, frozen=True):
    """What the processes of a node take from. Those of another node with a pool of the same name take from it too."""

    memory: str
    cpus: str


class NodeHello(Message, tag=7, frozen=True):
    """The first message of a node: a process on another machine that starts children there for the supervisor."""

    name: str
    """The machine's name, for people."""
    pid: int
    version: str
    """`phalanx.__version__`; another one is refused: its ranks might not continue a request as ours would."""
    places: tuple[Place, ...]
    """The ranks, or workers of ranks, that it brings; empty where it only holds API servers."""
    serves: bool
    """Whether it can hold API servers, `ParallelOptions.api_servers_per_node` of them."""
    address: str = ""
    """The node's own address, where its sockets listen and from where it dials."""
    pools: Pools | None = None
    """The pools of its machine; None if it cannot tell them, and its ranks count as alone there."""


class ServedAt(Message, frozen=True):
    """The sockets of one API server on a node; both listen already."""

    url: str
    """The URL at which clients find it."""
    engine: str
    """The address at which ranks dial it."""


class NodeReady(Message, tag=8, frozen=True):
    """The node has the service's model and has bound what its children need."""

    folder: str
    """The checkpoint's folder on that machine."""
    api_servers: tuple[ServedAt, ...] = ()
    leaders: dict[RankId, str] = {}
    """The address of worker 0 of each rank, for the rank's other workers; the socket listens already."""


class ChildLaunched(Message, tag=9, frozen=True):
    """A child's process has been started."""

    child: ChildId
    pid: int


class ChildNotLaunched(Message, tag=10, frozen=True):
    """A child's process could not be started."""

    child: ChildId
    reason: str


class ChildOutput(Message, tag=11, frozen=True):
    """A child has printed `data`; empty `data` says that its stdout and stderr are closed."""

    child: ChildId
    data: bytes


class ChildExited(Message, tag=12, frozen=True):
    """A child's process has ended."""

    child: ChildId
    status: int
    """The exit status, or minus the number of the signal that killed it, as subprocess gives it."""


class StoppedAccepting(Message, tag=35, frozen=True):
    """Answers StopAccepting: from now on nobody gets into the backlogs of the node's HTTP sockets."""


class ClusterPlan(Message, tag=15, frozen=True):
    """Says which of the cluster's machines hold ranks; sent before the driver is READY."""

    address: str
    """This machine's address, as a real connection to the cluster shows it."""
    nodes: tuple[str, ...]
    """The machine of each place, ranks in order and each rank's workers in order."""
    head: str
    """This machine's name among those of `nodes`; empty if it is none of the cluster's."""


class NodeStarting(Message, tag=13, frozen=True):
    """Says how far the start of a node (a Ray actor) has come. It answers StartNode, repeatedly."""

    places: tuple[Place, ...]
    waiting_for: str
    host: str = ""
    """The same as in the StartNode."""
    number: int = 0
    """The number of the StartNode that this is about."""
    limit: float | None = None
    """Seconds after which the driver gives this wait up by itself; None: the supervisor limits it."""


class NodeEnded(Message, tag=14, frozen=True):
    """An actor that ran a node has ended, or could not be started; says why in Ray's words."""

    places: tuple[Place, ...]
    reason: str
    host: str = ""
    """The same as in the StartNode."""
    number: int = 0
    """The number of the StartNode that this is about: an earlier actor's end must not be held against a later one."""


class LaunchChild(Message, tag=26, frozen=True):
    """Tells a node to start a child, which dials the supervisor itself, at the address that the node dialled."""

    child: ChildId
    environment: dict[str, str]
    """The variables that are added to the node's own environment."""


class SignalChild(Message, tag=27, frozen=True):
    """Tells a node to signal a child. SIGKILL goes to its whole session; SIGABRT has it print its stacks and die."""

    child: ChildId
    number: int


class StopAccepting(Message, tag=34, frozen=True):
    """Tells a node that its API servers are about to end, once it has let the kernel put nobody into their backlogs."""


class StartNode(Message, tag=28, frozen=True):
    """Tells the Ray driver to start a node in the placement group of these places.

    A node that only holds API servers has no placement group.
    """

    control: str
    """The address at which the node dials the supervisor, which listens there already."""
    places: tuple[Place, ...]
    host: str = ""
    """The address of the cluster's node on which it must be; given where `places` is empty."""
    number: int = 0
    """The number of this order, which comes back in what is told about it."""


class ReleaseNode(Message, tag=30, frozen=True):
    """Tells the Ray driver to end the node of these places for good, unreported, and free their placement group."""

    places: tuple[Place, ...]
    """The places; empty where the node on `host` that only holds API servers is to end."""
    host: str = ""
    """The same as in the StartNode."""
    number: int = 0
    """The number of the latest StartNode for them."""
