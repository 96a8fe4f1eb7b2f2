"""What the supervisor asks of the Ray driver: one node for all API servers of a machine, one for each worker."""

from phalanx import protocol
from phalanx.config import ParallelOptions, ServiceOptions
from phalanx.protocol import ChildId, ClusterPlan, Incarnation, NodeEnded, NodeStarting, Place, Role, StartNode
from phalanx.supervisor.events import FleetEvent, Waiting
from phalanx.supervisor.nodes import Nodes
from phalanx.transport.stream import Connection

SERVICE = ServiceOptions()
PARALLEL = ParallelOptions(data_parallel_backend="ray", api_servers_per_node=2)
RANK = Place(Role.ENGINE, 0)
HOST = "10.0.0.2"
SERVERS = [Place(Role.API, 2), Place(Role.API, 3)]


class Owner:
    """A supervisor that starts again at once what did not come."""

    def __init__(self) -> None:
        self.orders: list[StartNode | protocol.ReleaseNode] = []
        self.waits: dict[Place, tuple[str, float]] = {}
        self.nodes = Nodes(self, PARALLEL, SERVICE, [RANK], [])
        assert self.nodes.ray is not None
        self.ray = self.nodes.ray
        for place in (RANK, *SERVERS):
            self.nodes.start(ChildId(place, Incarnation(0)))

    def with_driver(self) -> "Owner":
        self.ray.hear(ClusterPlan("10.0.0.1", (HOST,), "10.0.0.1"))
        self.ray.driver_ready("tcp:10.0.0.1:1", self.orders.append)
        return self

    def take(self, event: FleetEvent) -> None:
        if isinstance(event, Waiting):
            self.waits[event.child.place] = event.name, event.limit

    def not_launched(self, child: ChildId, reason: str) -> None:
        self.nodes.start(ChildId(child.place, Incarnation(child.incarnation + 1)))

    def membership_changed(self) -> None: ...

    def launched(self, child: ChildId, pid: int) -> None: ...

    def printed(self, child: ChildId, data: bytes) -> None: ...

    def exited(self, child: ChildId, status: int) -> None: ...

    def welcome_node(self, connection: Connection) -> None: ...


def for_host(owner: Owner) -> list[int]:
    """The numbers of the orders for API servers."""
    return [order.number for order in owner.orders if order.host == HOST]


def test_a_machine_s_api_servers_are_asked_for_together_at_first_and_after_a_fall() -> None:
    owner = Owner().with_driver()
    assert for_host(owner) == [1]
    owner.ray.hear(NodeEnded((), "its actor has died", HOST, 1))
    assert for_host(owner) == [1, 2]
    # Word of what is over already.
    owner.ray.hear(NodeEnded((), "its actor has died", HOST, 1))
    assert for_host(owner) == [1, 2]
    owner.ray.hear(NodeEnded((), "the Ray node is gone", HOST, 2))
    assert for_host(owner) == [1, 2, 3]


def test_a_wait_that_the_driver_limits_is_limited_by_it_and_not_by_us() -> None:
    owner = Owner().with_driver()
    for waiting_for, limit in (("1 GPU on 10.0.0.3", 600.0), ("its actor on 10.0.0.3", None)):
        owner.ray.hear(NodeStarting((RANK,), waiting_for, "", 1, limit))
        assert owner.waits[RANK] == (waiting_for, (limit or 0.0) + SERVICE.startup_timeout)
    owner.ray.hear(NodeStarting((RANK,), "an actor of earlier", "", 0))
    assert owner.waits[RANK][0] == "its actor on 10.0.0.3"


def test_a_rank_that_is_released_and_asked_for_again_gets_a_new_order() -> None:
    owner = Owner().with_driver()
    owner.nodes.release([RANK])
    assert owner.orders[-1] == protocol.ReleaseNode((RANK,), "", 1)
    owner.nodes.expect([RANK])
    owner.nodes.start(ChildId(RANK, Incarnation(1)))
    last = owner.orders[-1]
    assert isinstance(last, StartNode)
    assert (last.places, last.number) == ((RANK,), 2)
