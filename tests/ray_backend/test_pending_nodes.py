"""Who has no place gets one as soon as there is one, and waits by name for as long as it may."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from phalanx.config import ParallelOptions
from phalanx.protocol import NodeEnded, NodeStarting, Place, Role, StartNode
from phalanx.ray_backend.pending_nodes import PATIENCE, SEARCH, SETTLED, PendingNodes, Placed
from phalanx.ray_backend.placement_plan import ClusterNode, Demand

TIMEOUT = 60.0


@dataclass
class FakeGroup:
    rank: int
    nodes: tuple[ClusterNode, ...]
    there: bool = False

    @property
    def node_ids(self) -> set[str]:
        return {node.id for node in self.nodes}


@dataclass
class Cluster:
    """Nodes with what is free on each, and groups that come once `deliver` says so."""

    nodes: list[ClusterNode]
    all: list[FakeGroup] = field(default_factory=list)
    now: float = 1000.0
    used: list[ClusterNode] = field(default_factory=list)
    deliver: bool = True

    def of(self, rank: int) -> FakeGroup | None:
        return next((group for group in self.all if group.rank == rank), None)

    def make(self, rank: int, nodes: tuple[ClusterNode, ...]) -> FakeGroup:
        assert self.of(rank) is None
        self.all.append(FakeGroup(rank, nodes))
        return self.all[-1]

    def remove(self, group: FakeGroup) -> None:
        self.all.remove(group)

    def poll(self) -> list[FakeGroup]:
        for group in self.all:
            group.there = group.there or self.deliver
        return [group for group in self.all if not group.there]

    def lacks(self, nodes: tuple[ClusterNode, ...]) -> str:
        return f"{len(nodes)} on {nodes[0].address}"

    def set_free(self, **free: float) -> None:
        self.nodes = [replace(node, free=free.get(node.name, node.free)) for node in self.nodes]

    def pending(self, workers: int = 1, **parallel: object) -> PendingNodes:
        options = ParallelOptions(node_timeout=TIMEOUT, **parallel)  # type: ignore[arg-type]
        demand = Demand(8, workers, "GPU")
        return PendingNodes(self, lambda who: self.nodes, demand, options, self.used.append)  # type: ignore[arg-type]

    def after(self, seconds: float, pending: PendingNodes) -> list[Placed | NodeStarting | NodeEnded]:
        self.now += seconds
        return list(pending.poll(self.now))


def node(number: int, free: float) -> ClusterNode:
    return ClusterNode(f"id{number}", f"10.0.0.{number}", f"n{number}", free, 8)


def order(rank: int, worker: int = 0, number: int = 1) -> StartNode:
    return StartNode("", (Place(Role.ENGINE, rank, worker),), "", number)


def found(answers: list[Placed | NodeStarting | NodeEnded]) -> Iterator[tuple[int, int, str]]:
    """(rank, worker, address) of those that can be started."""
    for answer in answers:
        if isinstance(answer, Placed):
            yield answer.order.places[0].index, answer.order.places[0].worker, answer.node.address


def waits(answers: list[Placed | NodeStarting | NodeEnded]) -> list[str]:
    return [answer.waiting_for for answer in answers if isinstance(answer, NodeStarting)]


def test_all_workers_of_a_rank_start_together_where_its_group_is() -> None:
    cluster = Cluster([node(1, 0), node(2, 2)])
    pending = cluster.pending(workers=2)
    pending.add(order(5, 0), cluster.now)
    pending.add(order(5, 1), cluster.now)
    assert waits(cluster.after(0, pending)) == ["2 on 10.0.0.2"] * 2
    assert set(found(cluster.after(0.1, pending))) == {(5, 0, "10.0.0.2"), (5, 1, "10.0.0.2")}
    assert pending.idle
    assert {node.address for node in cluster.used} == {"10.0.0.2"}


def test_who_finds_no_room_is_told_of_it_once_and_placed_when_a_node_comes() -> None:
    cluster = Cluster([node(1, 0), node(2, 0)])
    pending = cluster.pending()
    pending.add(order(5), cluster.now)
    (told,) = cluster.after(0, pending)
    assert isinstance(told, NodeStarting)
    assert (told.waiting_for, told.number, told.limit) == ("1 GPU on any of 10.0.0.1, 10.0.0.2", 1, TIMEOUT)
    assert cluster.after(SEARCH, pending) == []
    cluster.nodes.append(node(3, 1))
    cluster.after(SEARCH, pending)
    assert list(found(cluster.after(0.1, pending))) == [(5, 0, "10.0.0.3")]


def test_ranks_that_are_placed_one_after_the_other_do_not_count_on_the_same_gpu() -> None:
    """Whatever the head tells as free lags behind what was just asked for."""
    cluster = Cluster([node(1, 2), node(2, 1)])
    pending = cluster.pending()
    for rank in (3, 4, 5, 6):
        pending.add(order(rank), cluster.now)
    assert waits(cluster.after(0, pending))[-1] == "1 GPU on any of 10.0.0.1, 10.0.0.2"
    assert [group.nodes[0].address for group in cluster.all] == ["10.0.0.1", "10.0.0.1", "10.0.0.2"]
    assert len(list(found(cluster.after(SEARCH, pending)))) == 3
    assert len(cluster.all) == 3
    cluster.set_free(n1=0, n2=1)
    cluster.after(SETTLED, pending)  # one has come free indeed
    assert list(found(cluster.after(0.1, pending))) == [(6, 0, "10.0.0.2")]


def test_no_rank_is_divided_because_a_group_is_counted_twice_for_a_moment() -> None:
    cluster = Cluster([node(1, 2), node(2, 8)])
    pending = cluster.pending(workers=3, data_parallel_pack="span")
    pending.add(order(3), cluster.now)
    cluster.after(0, pending)
    cluster.set_free(n2=5)  # the head tells of it at once this time, and it is still counted here
    assert list(found(cluster.after(SEARCH, pending))) == [(3, 0, "10.0.0.2")]
    pending.add(order(4), cluster.now)
    cluster.after(0, pending)
    cluster.after(SETTLED, pending)
    cluster.after(SEARCH, pending)
    assert [[each.address for each in group.nodes] for group in cluster.all] == [["10.0.0.2"] * 3] * 2


def test_nobody_is_said_to_wait_because_a_group_is_counted_twice_for_a_moment(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = Cluster([node(1, 0), node(2, 2)])
    pending = cluster.pending()
    pending.add(order(3), cluster.now)
    cluster.after(0, pending)
    cluster.set_free(n2=1)  # the head tells of it at once, and it is still counted here
    assert list(found(cluster.after(0.1, pending))) == [(3, 0, "10.0.0.2")]
    pending.add(order(4), cluster.now)
    assert cluster.after(0, pending) == []
    cluster.after(SETTLED, pending)
    assert list(found(cluster.after(0.1, pending))) == [(4, 0, "10.0.0.2")]
    assert not [record for record in caplog.records if record.levelname == "WARNING"]

    # What it lacks indeed is said as soon as that is certain.
    cluster.set_free(n2=0)
    pending.add(order(5), cluster.now)
    assert cluster.after(SETTLED / 2, pending) == []
    assert waits(cluster.after(SETTLED / 2, pending)) == ["1 GPU on any of 10.0.0.1, 10.0.0.2"]
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "rank 5 waits for 1 GPU on any of 10.0.0.1, 10.0.0.2"
    ]


def test_a_group_that_came_late_is_not_taken_for_free_room() -> None:
    """Its resources are taken when it comes, and not when it was asked for."""
    cluster = Cluster([node(1, 0), node(2, 1)], deliver=False)
    pending = cluster.pending()
    pending.add(order(3), cluster.now)
    cluster.after(0, pending)
    cluster.deliver = True
    assert list(found(cluster.after(2 * SETTLED, pending))) == [(3, 0, "10.0.0.2")]
    pending.add(order(4), cluster.now)  # the head still tells that GPU as free
    assert cluster.after(SETTLED / 2, pending) == []
    assert [group.rank for group in cluster.all] == [3]


def test_a_group_that_is_still_to_come_keeps_its_room() -> None:
    cluster = Cluster([node(1, 1), node(2, 1)], deliver=False)
    pending = cluster.pending()
    pending.add(order(5), cluster.now)
    cluster.after(0, pending)
    pending.add(order(6), cluster.now)
    cluster.after(2 * SETTLED, pending)
    assert [group.nodes[0].address for group in cluster.all] == ["10.0.0.1", "10.0.0.2"]


def test_a_group_that_does_not_come_is_planned_anew() -> None:
    cluster = Cluster([node(1, 1), node(2, 1)], deliver=False)
    pending = cluster.pending()
    pending.add(order(5), cluster.now)
    cluster.after(0, pending)
    assert [group.nodes[0].address for group in cluster.all] == ["10.0.0.1"]
    cluster.set_free(n1=0)
    cluster.after(PATIENCE, pending)
    assert [group.nodes[0].address for group in cluster.all] == ["10.0.0.1"]
    assert waits(cluster.after(SEARCH, pending)) == ["1 on 10.0.0.2"]
    assert [group.nodes[0].address for group in cluster.all] == ["10.0.0.2"]


@pytest.mark.parametrize("has_group", [False, True])
def test_who_waits_too_long_is_given_up_in_numbers_and_keeps_nothing(has_group: bool) -> None:
    cluster = Cluster([node(1, float(has_group))], deliver=False)
    pending = cluster.pending()
    pending.add(order(5, number=7), cluster.now)
    cluster.after(TIMEOUT - PATIENCE / 2, pending)
    assert cluster.after(PATIENCE / 2, pending) == []
    (over,) = cluster.after(SEARCH, pending)
    assert isinstance(over, NodeEnded)
    assert (over.places, over.number) == (order(5).places, 7)
    assert over.reason.startswith("no placement group for rank 5 within 60 s (--node-timeout): ")
    assert over.reason.endswith(
        "1 on 10.0.0.1 did not come"
        if has_group
        else "10.0.0.1: 0 of 8 GPUs free, 8 held by tasks that Ray does not name"
    )
    assert pending.idle
    assert cluster.all == []


def test_api_servers_wait_for_their_own_machine_and_for_no_other() -> None:
    cluster = Cluster([node(1, 8)])
    pending = cluster.pending()
    pending.add(StartNode("", (), "10.0.0.2", 3), cluster.now)
    (told,) = cluster.after(0, pending)
    assert isinstance(told, NodeStarting)
    assert (told.waiting_for, told.host, told.number) == ("the Ray node 10.0.0.2 to come back", "10.0.0.2", 3)
    cluster.nodes.append(node(2, 0))
    (here,) = cluster.after(SEARCH, pending)
    assert isinstance(here, Placed)
    assert (here.node.address, here.order.number) == ("10.0.0.2", 3)
    assert cluster.used == [here.node]

    pending.add(StartNode("", (), "10.0.0.3", 4), cluster.now)
    cluster.after(0, pending)
    (over,) = cluster.after(TIMEOUT + SEARCH, pending)
    assert isinstance(over, NodeEnded)
    assert over.reason == "the Ray node 10.0.0.3 has not come back within 60 s (--node-timeout)"


def test_what_is_released_while_it_waits_is_not_placed() -> None:
    cluster = Cluster([node(1, 0)])
    pending = cluster.pending()
    pending.add(order(5), cluster.now)
    pending.add(StartNode("", (), "10.0.0.2"), cluster.now)
    cluster.after(0, pending)
    pending.forget(5)
    pending.forget_host("10.0.0.2")
    cluster.nodes = [node(1, 8), node(2, 8)]
    assert cluster.after(SEARCH, pending) == []
    assert cluster.all == []
