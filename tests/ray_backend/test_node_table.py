"""What Ray says of its nodes, put together from answers that are given one after the other."""

from typing import Any

import pytest

from phalanx.ray_backend import node_table


def ray_node(id: str, alive: bool = True) -> dict[str, Any]:
    names = {
        "NodeID": id,
        "NodeManagerAddress": f"10.0.0.{id}",
        "NodeManagerHostname": f"node{id}",
        "NodeManagerPort": 7000,
    }
    return {**names, "Alive": alive, "Resources": {"GPU": 8.0}}


def test_a_node_that_joins_between_two_answers_is_never_taken_for_a_full_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer is given by another moment's cluster: node 2 joins, node 3 dies."""
    moments = iter(
        [
            [ray_node("1"), ray_node("3"), ray_node("4", alive=False)],
            [ray_node("1"), ray_node("2")],
        ]
    )

    def free() -> dict[str, dict[str, float]]:
        return {node["NodeID"]: {"GPU": 5.0} for node in next(moments)}

    monkeypatch.setattr(node_table, "own_node_id", lambda: "1")
    monkeypatch.setattr("ray.nodes", lambda: next(moments))
    monkeypatch.setattr(node_table, "available_resources_per_node", free)
    found = node_table.nodes("GPU", with_holders=False)
    assert [(node.id, node.free, node.total, node.here) for node in found] == [("1", 5.0, 8.0, True)]
