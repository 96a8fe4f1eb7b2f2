"""Who has no place gets one as soon as there is one, and waits by name for as long as it may."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from phalanx.cluster.packing import Demand, Node
from phalanx.cluster.placing import PATIENCE, SEARCH, SETTLED, Found, Placing
from phalanx.config import ParallelOptions
from phalanx.protocol import NodeEnded, NodeStarting, Place, Role, StartNode

TIMEOUT = 60.0


@dataclass
class FakeGroup:
    rank: int
    nodes: tuple[Node, ...]
    there: bool = False

    @property
    def node_ids(self) -> set[str]:
        return {node.id for node in self.nodes}


@dataclass
class Cluster:
    """Nodes with what is free on each, and groups that come once `deliver` says so."""

    nodes: list[Node]
    all: list[FakeGroup] = field(default_factory=list)
    now: float = 1000.0
    used: list[Node] = field(default_factory=list)
    deliver: bool = True

    def of(self, rank: int) -> FakeGroup | None:
        return next((group for group in self.all if group.rank == rank), None)

    def make(self, rank: int, nodes: tuple[Node, ...]) -> FakeGroup:
        assert self.of(rank) is None
        self.all.append(FakeGroup(rank, nodes))
        return self.all[-1]

    def remove(self, group: FakeGroup) -> None:
        self.all.remove(group)

    def look(self) -> list[FakeGroup]:
        for group in self.all:
            group.there = group.there or self.deliver
        return [group for group in self.all if not group.there]

    def lacks(self, nodes: tuple[Node, ...]) -> str:
        return f"{len(nodes)} on {nodes[0].address}"

    def set_free(self, **free: float) -> None:
        self.nodes = [replace(node, free=free.get(node.name, node.free)) for node in self.nodes]

    def placing(self, workers: int = 1, **parallel: object) -> Placing:
        options = ParallelOptions(node_timeout=TIMEOUT, **parallel)  # type: ignore[arg-type]
        demand = Demand(8, workers, "GPU")
        return Placing(self, lambda who: self.nodes, demand, options, self.used.append)  # type: ignore[arg-type]

    def after(self, seconds: float, placing: Placing) -> list[Found | NodeStarting | NodeEnded]:
        self.now += seconds
        return list(placing.look(self.now))


def node(number: int, free: float) -> Node:
    return Node(f"id{number}", f"10.0.0.{number}", f"n{number}", free, 8)


def order(rank: int, worker: int = 0, number: int = 1) -> StartNode:
    return StartNode("", (Place(Role.ENGINE, rank, worker),), "", number)


def found(answers: list[Found | NodeStarting | NodeEnded]) -> Iterator[tuple[int, int, str]]:
    """(rank, worker, address) of those that can be started."""
    for answer in answers:
        if isinstance(answer, Found):
            yield answer.order.places[0].index, answer.order.places[0].worker, answer.node.address


def waits(answers: list[Found | NodeStarting | NodeEnded]) -> list[str]:
    return [answer.waiting_for for answer in answers if isinstance(answer, NodeStarting)]


def test_all_workers_of_a_rank_start_together_where_its_group_is() -> None:
    cluster = Cluster([node(1, 0), node(2, 2)])
    placing = cluster.placing(workers=2)
    placing.add(order(5, 0), cluster.now)
    placing.add(order(5, 1), cluster.now)
    assert waits(cluster.after(0, placing)) == ["2 on 10.0.0.2"] * 2
    assert set(found(cluster.after(0.1, placing))) == {(5, 0, "10.0.0.2"), (5, 1, "10.0.0.2")}
    assert placing.idle
    assert {node.address for node in cluster.used} == {"10.0.0.2"}


def test_who_finds_no_room_is_told_of_it_once_and_placed_when_a_node_comes() -> None:
    cluster = Cluster([node(1, 0), node(2, 0)])
    placing = cluster.placing()
    placing.add(order(5), cluster.now)
    (told,) = cluster.after(0, placing)
    assert isinstance(told, NodeStarting)
    assert (told.waiting_for, told.number, told.limit) == ("1 GPU on any of 10.0.0.1, 10.0.0.2", 1, TIMEOUT)
    assert cluster.after(SEARCH, placing) == []
    cluster.nodes.append(node(3, 1))
    cluster.after(SEARCH, placing)
    assert list(found(cluster.after(0.1, placing))) == [(5, 0, "10.0.0.3")]


def test_ranks_that_are_placed_one_after_the_other_do_not_count_on_the_same_gpu() -> None:
    """Whatever the head tells as free lags behind what was just asked for."""
    cluster = Cluster([node(1, 2), node(2, 1)])
    placing = cluster.placing()
    for rank in (3, 4, 5, 6):
        placing.add(order(rank), cluster.now)
    assert waits(cluster.after(0, placing))[-1] == "1 GPU on any of 10.0.0.1, 10.0.0.2"
    assert [group.nodes[0].address for group in cluster.all] == ["10.0.0.1", "10.0.0.1", "10.0.0.2"]
    assert len(list(found(cluster.after(SEARCH, placing)))) == 3
    assert len(cluster.all) == 3
    cluster.set_free(n1=0, n2=1)
    cluster.after(SETTLED, placing)  # one has come free indeed
    assert list(found(cluster.after(0.1, placing))) == [(6, 0, "10.0.0.2")]


def test_no_rank_is_divided_because_a_group_is_counted_twice_for_a_moment() -> None:
    cluster = Cluster([node(1, 2), node(2, 8)])
    placing = cluster.placing(workers=3, data_parallel_pack="span")
    placing.add(order(3), cluster.now)
    cluster.after(0, placing)
    cluster.set_free(n2=5)  # the head tells of it at once this time, and it is still counted here
    assert list(found(cluster.after(SEARCH, placing))) == [(3, 0, "10.0.0.2")]
    placing.add(order(4), cluster.now)
    cluster.after(0, placing)
    cluster.after(SETTLED, placing)
    cluster.after(SEARCH, placing)
    assert [[each.address for each in group.nodes] for group in cluster.all] == [["10.0.0.2"] * 3] * 2


def test_a_group_that_is_still_to_come_keeps_its_room() -> None:
    cluster = Cluster([node(1, 1), node(2, 1)], deliver=False)
    placing = cluster.placing()
    placing.add(order(5), cluster.now)
    cluster.after(0, placing)
    placing.add(order(6), cluster.now)
    cluster.after(2 * SETTLED, placing)
    assert [group.nodes[0].address for group in cluster.all] == ["10.0.0.1", "10.0.0.2"]


def test_a_group_that_does_not_come_is_planned_anew() -> None:
    cluster = Cluster([node(1, 1), node(2, 1)], deliver=False)
    placing = cluster.placing()
    placing.add(order(5), cluster.now)
    cluster.after(0, placing)
    assert [group.nodes[0].address for group in cluster.all] == ["10.0.0.1"]
    cluster.set_free(n1=0)
    cluster.after(PATIENCE, placing)
    assert [group.nodes[0].address for group in cluster.all] == ["10.0.0.1"]
    assert waits(cluster.after(SEARCH, placing)) == ["1 on 10.0.0.2"]
    assert [group.nodes[0].address for group in cluster.all] == ["10.0.0.2"]


@pytest.mark.parametrize("pending", [False, True])
def test_who_waits_too_long_is_given_up_in_numbers_and_keeps_nothing(pending: bool) -> None:
    cluster = Cluster([node(1, float(pending))], deliver=False)
    placing = cluster.placing()
    placing.add(order(5, number=7), cluster.now)
    cluster.after(TIMEOUT - PATIENCE / 2, placing)
    assert cluster.after(PATIENCE / 2, placing) == []
    (over,) = cluster.after(SEARCH, placing)
    assert isinstance(over, NodeEnded)
    assert (over.places, over.number) == (order(5).places, 7)
    assert over.reason.startswith("no placement group for rank 5 within 60 s (--node-timeout): ")
    assert over.reason.endswith(
        "1 on 10.0.0.1 did not come"
        if pending
        else "10.0.0.1: 0 of 8 GPUs free, 8 held by tasks that Ray does not name"
    )
    assert placing.idle
    assert cluster.all == []


def test_api_servers_wait_for_their_own_machine_and_for_no_other() -> None:
    cluster = Cluster([node(1, 8)])
    placing = cluster.placing()
    placing.add(StartNode("", (), "10.0.0.2", 3), cluster.now)
    (told,) = cluster.after(0, placing)
    assert isinstance(told, NodeStarting)
    assert (told.waiting_for, told.host, told.number) == ("the Ray node 10.0.0.2 to come back", "10.0.0.2", 3)
    cluster.nodes.append(node(2, 0))
    (here,) = cluster.after(SEARCH, placing)
    assert isinstance(here, Found)
    assert (here.node.address, here.order.number) == ("10.0.0.2", 3)
    assert cluster.used == [here.node]

    placing.add(StartNode("", (), "10.0.0.3", 4), cluster.now)
    cluster.after(0, placing)
    (over,) = cluster.after(TIMEOUT + SEARCH, placing)
    assert isinstance(over, NodeEnded)
    assert over.reason == "the Ray node 10.0.0.3 has not come back within 60 s (--node-timeout)"


def test_what_is_released_while_it_waits_is_not_placed() -> None:
    cluster = Cluster([node(1, 0)])
    placing = cluster.placing()
    placing.add(order(5), cluster.now)
    placing.add(StartNode("", (), "10.0.0.2"), cluster.now)
    cluster.after(0, placing)
    placing.forget(5)
    placing.forget_host("10.0.0.2")
    cluster.nodes = [node(1, 8), node(2, 8)]
    assert cluster.after(SEARCH, placing) == []
    assert cluster.all == []
