"""Plans never over-commit, never divide a rank unless told to, and are refused only where there is none."""

from collections import Counter
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phalanx.ray_backend.placement_plan import (
    ClusterNode,
    Demand,
    DoesNotFit,
    Holder,
    PlacementPlan,
    Rule,
    lacks,
    pack,
    pack_one,
)


def node(number: int, free: float, total: float = 8, **further: object) -> ClusterNode:
    return ClusterNode(f"id{number}", f"10.0.0.{number}", f"node{number}", free, total, **further)  # type: ignore[arg-type]


def gpus(ranks: int, workers: int = 1) -> Demand:
    return Demand(ranks, workers, "GPU")


def addresses(plan: PlacementPlan) -> list[list[str]]:
    return [[node.address for node in rank] for rank in plan.ranks]


clusters = st.lists(st.integers(0, 5), min_size=1, max_size=3).map(
    lambda free: [node(number, amount, here=number == 1) for number, amount in enumerate(free)]
)


@given(clusters, st.integers(1, 4), st.integers(1, 2), st.sampled_from(["strict", "fill", "span"]), st.integers(1, 3))
def test_a_plan_keeps_its_rule_and_is_refused_only_where_there_is_none(
    nodes: list[ClusterNode], ranks: int, workers: int, rule: Rule, per_node: int
) -> None:
    try:
        plan = pack(nodes, gpus(ranks, workers), rule, per_node)
    except DoesNotFit:
        assert not any(keeps(rule, placed, nodes, per_node) for placed in every_way(nodes, ranks, workers))
        return
    assert len(plan.ranks) == ranks
    assert all(len(rank) == workers for rank in plan.ranks)
    assert keeps(rule, plan.ranks, nodes, per_node)


def every_way(nodes: list[ClusterNode], ranks: int, workers: int) -> list[tuple[tuple[ClusterNode, ...], ...]]:
    return [
        tuple(tuple(flat[rank * workers : (rank + 1) * workers]) for rank in range(ranks))
        for flat in product(nodes, repeat=ranks * workers)
    ]


def keeps(rule: Rule, ranks: tuple[tuple[ClusterNode, ...], ...], nodes: list[ClusterNode], per_node: int) -> bool:
    used = Counter(node for rank in ranks for node in rank)
    if any(count > node.free for node, count in used.items()):
        return False
    if rule != "span" and any(len(set(rank)) > 1 for rank in ranks):
        return False
    return rule != "strict" or set(Counter(rank[0] for rank in ranks).values()) == {per_node}


@given(clusters, st.integers(1, 6), st.integers(1, 3), st.sampled_from(["fill", "span"]))
def test_whole_ranks_of_a_node_have_neighbouring_numbers(
    nodes: list[ClusterNode], ranks: int, workers: int, rule: Rule
) -> None:
    try:
        plan = pack(nodes, gpus(ranks, workers), rule)
    except DoesNotFit:
        return
    first = [rank[0] for rank in plan.ranks]
    changes = sum(before != after for before, after in pairwise(first))
    assert changes == len(set(first)) - 1


def test_this_machine_is_filled_first_then_the_freest() -> None:
    plan = pack([node(1, 8), node(2, 3, here=True), node(3, 5)], gpus(14), "fill")
    assert Counter(rank[0] for rank in addresses(plan)) == {"10.0.0.2": 3, "10.0.0.1": 8, "10.0.0.3": 3}
    assert addresses(plan)[0] == ["10.0.0.2"]
    assert str(plan) == "14 placement groups on 3 nodes: 3 + 8 + 3"


def test_a_spanning_rank_takes_as_few_nodes_as_possible() -> None:
    plan = pack([node(1, 1), node(2, 3), node(3, 1), node(4, 2)], gpus(1, 5), "span")
    assert addresses(plan) == [["10.0.0.2", "10.0.0.2", "10.0.0.2", "10.0.0.4", "10.0.0.4"]]
    assert str(plan) == "1 placement group on 2 nodes, 1 of them over several"


def test_shares_of_a_resource_that_were_given_back_still_make_a_whole() -> None:
    assert len(pack([node(1, 0.99995)], gpus(1), "fill").ranks) == 1


def test_cpus_are_counted_by_the_threads_of_a_worker() -> None:
    with pytest.raises(DoesNotFit, match="3 ranks need 9 CPUs, and only 2 fit"):
        pack([node(1, 8)], Demand(3, 1, "CPU", 3), "fill")


def test_only_the_named_nodes_are_used() -> None:
    nodes = [node(1, 8), node(2, 8), node(3, 8)]
    assert set(pack(nodes, gpus(12), "fill", only=["node3", "10.0.0.2"]).nodes) == {nodes[1], nodes[2]}


def test_an_unknown_node_is_refused_with_those_that_exist() -> None:
    with pytest.raises(DoesNotFit, match=r"no node 'node9'; it has 10\.0\.0\.1 \(node1\), 10\.0\.0\.2 \(node2\)"):
        pack([node(1, 8), node(2, 8)], gpus(1), "fill", only=["node9"])


def test_a_refusal_says_in_numbers_what_is_needed_free_and_held_by_whom() -> None:
    holders = (Holder("phalanx-ab12-rank-0", 1), Holder("actor Trainer of train.py", 4))
    with pytest.raises(DoesNotFit) as refused:
        pack([node(1, 2, here=True, holders=holders), node(2, 3)], gpus(3, 2), "fill")
    assert str(refused.value) == (
        "3 ranks of 2 workers, 2 GPUs each, need 6 GPUs, and only 2 fit. "
        "10.0.0.1 (this machine): 2 of 8 GPUs free, 1 held by phalanx-ab12-rank-0, 4 held by actor Trainer of "
        "train.py, 1 held by tasks that Ray does not name; "
        "10.0.0.2: 3 of 8 GPUs free, 5 held by tasks that Ray does not name"
    )


def test_strict_wants_to_know_how_many_a_node() -> None:
    with pytest.raises(DoesNotFit, match="needs --data-parallel-size-local"):
        pack([node(1, 8)], gpus(2), "strict")
    with pytest.raises(DoesNotFit, match="multiple of --data-parallel-size-local"):
        pack([node(1, 8)], gpus(5), "strict", 2)


def test_strict_says_how_many_nodes_have_what_it_needs() -> None:
    with pytest.raises(DoesNotFit) as refused:
        pack([node(1, 8), node(2, 3)], gpus(8), "strict", 4)
    assert str(refused.value).startswith(
        "--data-parallel-pack strict: 8 ranks as 4 a node need 2 nodes with 4 GPUs free; 1 has that. 10.0.0.1: 8 of"
    )


@given(
    clusters,
    st.integers(1, 2),
    st.sampled_from(["strict", "fill", "span"]),
    st.integers(1, 3),
    st.lists(st.integers(0, 3), min_size=3, max_size=3),
)
def test_a_rank_that_comes_alone_keeps_the_rule_and_is_refused_only_where_it_must_be(
    nodes: list[ClusterNode], workers: int, rule: Rule, per_node: int, ranks: list[int]
) -> None:
    holding = {node.id: held for node, held in zip(nodes, ranks, strict=False)}
    able = [node for node in nodes if rule != "strict" or holding[node.id] < per_node]
    try:
        rank = pack_one(nodes, gpus(7, workers), rule, per_node, (), holding)
    except DoesNotFit:
        whole = "fill" if rule == "strict" else rule
        assert not any(keeps(whole, placed, nodes, per_node) for placed in every_way(able, 1, workers))
        return
    assert len(rank) == workers
    assert set(rank) <= set(able)
    assert all(count <= node.free for node, count in Counter(rank).items())
    assert rule == "span" or len(set(rank)) == 1


def test_a_rank_that_comes_alone_is_divided_only_where_ranks_may_be() -> None:
    nodes = [node(1, 1), node(2, 1)]
    assert {node.name for node in pack_one(nodes, gpus(1, 2), "span")} == {"node1", "node2"}
    for rule in ("fill", "strict"):
        with pytest.raises(DoesNotFit):
            pack_one(nodes, gpus(1, 2), rule, 8)  # type: ignore[arg-type]


def test_a_named_node_that_is_away_is_no_mistake_of_who_named_it() -> None:
    only = ["10.0.0.1", "node2"]
    assert pack_one([node(2, 1), node(3, 8)], gpus(1), "fill", None, only)[0].name == "node2"
    with pytest.raises(DoesNotFit):
        pack_one([node(3, 8)], gpus(1), "fill", None, only)
    assert lacks([node(3, 8)], gpus(1), "fill", None, only) == (
        "1 GPU on 10.0.0.1 or node2, which the cluster has not now"
    )


def test_what_a_rank_waits_for_says_how_much_and_where() -> None:
    nodes = [node(1, 0), node(2, 0)]
    assert lacks(nodes, gpus(8), "fill", None, ()) == "1 GPU on any of 10.0.0.1, 10.0.0.2"
    assert lacks(nodes, gpus(8, 2), "fill", None, ["node2"]) == "2 GPUs on 10.0.0.2"
    assert lacks(nodes, gpus(8, 2), "span", None, ()) == "2 GPUs over 10.0.0.1, 10.0.0.2"
    assert lacks(nodes, gpus(8), "strict", 4, ()) == (
        "1 GPU on any of 10.0.0.1, 10.0.0.2 with fewer than 4 ranks of ours (strict)"
    )
