"""Places on other machines: who holds them, what is known of them, and what comes back in place of what has gone."""

from phalanx.config import ParallelOptions
from phalanx.protocol import (
    ApiServerId,
    ChildId,
    ClusterPlan,
    Endpoint,
    Incarnation,
    Message,
    NodeHello,
    NodeReady,
    Place,
    Pools,
    RankId,
    Role,
    ServedAt,
)
from phalanx.supervisor.events import FleetEvent, Waiting
from phalanx.supervisor.joined_nodes import JoinedNodes
from phalanx.supervisor.ray_orders import RayOrders
from phalanx.supervisor.remote_places import RemoteNode, RemotePlaces
from phalanx.supervisor.waiting_children import WaitingChildren

RANKS = [Place(Role.ENGINE, rank, worker) for rank in (2, 3) for worker in (0, 1)]
A, B = Pools("a", "a"), Pools("b", "b")


class Silent:
    def send(self, message: Message) -> None: ...

    def close(self) -> None: ...


class Heard:
    """A supervisor that hears what waits and what will not be launched."""

    def __init__(self) -> None:
        self.waits: list[tuple[Place, str]] = []
        self.given_up: list[tuple[ChildId, str]] = []

    def take(self, event: FleetEvent) -> None:
        if isinstance(event, Waiting):
            self.waits.append((event.child.place, event.name))

    def not_launched(self, child: ChildId, reason: str) -> None:
        self.given_up.append((child, reason))


def node(*places: Place, pools: Pools | None = None, address: str = "10.0.0.2") -> RemoteNode:
    return RemoteNode(NodeHello("m", 1, "1", places, True, address, pools), address, Silent())


def places() -> RemotePlaces:
    return RemotePlaces(RANKS, [], own_api_servers=2, per_node=1)


def test_a_rank_is_launched_only_when_the_nodes_of_all_its_workers_are_ready() -> None:
    remote = places()
    first, second = node(RANKS[0]), node(RANKS[1])
    remote.hold([RANKS[0]], first)
    remote.serve("one", first, NodeReady("/m"))
    assert not remote.can_launch(RANKS[0])
    remote.hold([RANKS[1]], second)
    assert not remote.can_launch(RANKS[0])
    remote.serve("two", second, NodeReady("/m"))
    assert remote.can_launch(RANKS[0])
    assert remote.can_launch(RANKS[1])
    assert not remote.can_launch(RANKS[2])


def test_with_a_node_goes_what_it_served_and_where_it_led() -> None:
    remote = places()
    here = node(*RANKS[:2])
    remote.hold(RANKS[:2], here)
    [server] = remote.new_servers("one")
    remote.serve("one", here, NodeReady("/m", (ServedAt("http://a", "tcp:a"),), {RankId(2): "tcp:b"}))
    assert remote.endpoints == (Endpoint(ApiServerId(2), "tcp:a"),)
    assert remote.leader(RankId(2)) == "tcp:b"
    assert set(remote.free(here)) == {*RANKS[:2], server}
    assert (remote.endpoints, remote.leader(RankId(2)), remote.folder(RANKS[0])) == ((), None, None)
    assert server in remote  # Whoever comes next brings it again.


def test_a_node_is_idle_once_its_last_rank_is_struck() -> None:
    remote = places()
    here = node(RANKS[0], RANKS[2])
    remote.hold([RANKS[0], RANKS[2]], here)
    assert remote.strike(RANKS[0]) is None
    assert remote.strike(RANKS[2]) is here
    assert RANKS[0] not in remote


def test_who_joins_brings_whole_ranks_and_the_api_servers_of_one_that_has_gone() -> None:
    remote = places()
    source = JoinedNodes(remote, WaitingChildren(Heard()), 600.0)
    hello = node(RANKS[0]).hello
    assert source.brought_by(hello) == set(RANKS[:2])
    first = node(RANKS[0])
    group = source.servers_of(hello)
    [server] = remote.new_servers(group)
    remote.serve(group, first, NodeReady("/m", (ServedAt("http://a", "tcp:a"),)))
    assert source.servers_of(hello) != group
    remote.free(first)
    assert (source.servers_of(hello), remote.servers[group]) == (group, [server])


def test_what_waits_for_somebody_to_join_waits_on_and_what_waits_for_an_actor_is_given_up() -> None:
    for backend in ("mp", "ray"):
        heard, remote = Heard(), places()
        waiting = WaitingChildren(heard)
        waiting.add(ChildId(RANKS[0], Incarnation(0)))
        parallel = ParallelOptions(data_parallel_backend="ray")
        source: JoinedNodes | RayOrders = (
            JoinedNodes(remote, waiting, 600.0)
            if backend == "mp"
            else RayOrders(parallel, 120.0, remote, waiting, heard.take, lambda node, reason: None)
        )
        source.lost(node(RANKS[0]), [RANKS[0]], "its actor has died")
        assert (RANKS[0] in waiting, len(heard.given_up)) == ((True, 0) if backend == "mp" else (False, 1))


def test_ranks_that_are_planned_on_one_host_share_its_pools_before_they_come() -> None:
    remote, heard = places(), Heard()
    parallel = ParallelOptions(data_parallel_backend="ray")
    source = RayOrders(parallel, 120.0, remote, WaitingChildren(heard), heard.take, lambda node, reason: None)
    assert remote.pools(RANKS[0]) is None
    source.hear(ClusterPlan("10.0.0.1", ("10.0.0.2", "10.0.0.2", "10.0.0.3", "10.0.0.3"), "10.0.0.1"))
    assert remote.pools(RANKS[0]) == remote.pools(RANKS[1]) != remote.pools(RANKS[2])
    remote.hold([RANKS[1]], node(RANKS[1], pools=A))
    assert (remote.pools(RANKS[0]), remote.pools(RANKS[1])) == (A, A)
    # One that had to go elsewhere is where its own node says; and so long as that is gone, where it was last.
    moved = node(RANKS[1], pools=B, address="10.0.0.9")
    remote.hold([RANKS[1]], moved)
    remote.free(moved)
    assert remote.pools(RANKS[1]) == B
