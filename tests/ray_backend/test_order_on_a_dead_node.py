"""An order that comes before the driver has heard that the machine it is for has died."""

import queue
from typing import Any

import pytest
from support.driver_process import config, rank

from phalanx.protocol import NodeEnded, StartNode
from phalanx.ray_backend import node_table
from phalanx.ray_backend.driver import Driver
from phalanx.ray_backend.placement_groups import RankGroup
from phalanx.ray_backend.placement_plan import ClusterNode
from phalanx.transport.listener import bind_tcp


class PlayedCluster:
    """The driver's connection to the supervisor, its groups, its actors and its pending orders, all in one."""

    def __init__(self, group: RankGroup) -> None:
        self.config = config()
        self.all = [group]
        self.sent: list[Any] = []
        self.started: list[tuple[StartNode, ClusterNode]] = []
        self.pending: list[StartNode] = []

    def send(self, message: Any) -> None:
        self.sent.append(message)

    def of(self, rank: int) -> RankGroup | None:
        return next((group for group in self.all if group.rank == rank), None)

    def remove(self, group: RankGroup) -> None:
        self.all.remove(group)

    def start(self, order: StartNode, node: ClusterNode, group: RankGroup | None) -> str:
        self.started.append((order, node))
        return "starts"

    def node_gone(self, node_id: str, ranks: list[int], reason: str) -> list[NodeEnded]:
        return [NodeEnded((rank(index),), reason) for index in ranks]

    def add(self, order: StartNode, now: float) -> None:
        self.pending.append(order)


@pytest.mark.parametrize("lives", [True, False])
def test_a_node_is_not_started_on_a_machine_that_has_just_died_whatever_ray_says(
    lives: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bind_tcp("127.0.0.1") as raylet:
        address, port = raylet.getsockname()
        node = ClusterNode("id", address, "name", 8, 8, raylet_port=port)
        monkeypatch.setattr(node_table, "raylets", lambda: {"id": (address, port)})
        played: Any = PlayedCluster(RankGroup(3, (node,), handle=None, there=True))
        driver = Driver(played, queue.SimpleQueue())
        driver._groups = driver._actors = driver._pending = played
        order = StartNode("tcp:127.0.0.1:1", (rank(3),))
        if lives:
            driver._take(order)
            assert played.started == [(order, node)]
            assert (played.sent, played.pending) == (["starts"], [])
            return
    driver._take(order)
    assert played.started == []
    assert (played.all, played.pending) == ([], [order])
    (ended,) = played.sent
    assert ended.reason.startswith(f"the Ray node 127.0.0.1 is gone: nobody answers at 127.0.0.1:{port} any more")
