"""What is told of an actor that fails: the death of its node, where that is the cause, and else its own."""

import queue
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from phalanx.protocol import Place, Role, StartNode
from phalanx.ray_backend import node_actors
from phalanx.ray_backend.liveness import NodeGone
from phalanx.ray_backend.node_actors import ActorInspected, NodeActors
from phalanx.ray_backend.placement_plan import ClusterNode, Demand
from phalanx.transport.listener import bind_tcp

DEADLINE = 30.0


class FakeActor:
    """Stands for Ray's handle of an actor class, of an actor, of a method and of a result."""

    def __init__(self) -> None:
        self.outcome: Future[str | None] = Future()

    def options(self, **options: Any) -> "FakeActor":
        return self

    def remote(self, *arguments: Any) -> "FakeActor":
        return self

    @property
    def inspect(self) -> "FakeActor":
        return self

    def future(self) -> "Future[str | None]":
        return self.outcome


@pytest.fixture
def raylet() -> Iterator[ClusterNode]:
    """A node whose raylet listens."""
    with bind_tcp("127.0.0.1") as sock:
        address, port = sock.getsockname()
        yield ClusterNode("id", address, "name", 8, 8, raylet_port=port)


@pytest.mark.parametrize("lives", [True, False])
def test_an_actor_that_fails_with_its_node_is_told_as_the_end_of_the_node(
    raylet: ClusterNode, lives: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However late the watch over the node hears of it: an actor's end is heard of first on a busy machine."""
    actor = FakeActor()
    monkeypatch.setattr(node_actors.ray, "remote", lambda kind: actor)
    monkeypatch.setattr(node_actors, "NodeAffinitySchedulingStrategy", lambda node, soft: node)
    told: queue.Queue[Any] = queue.Queue()
    with bind_tcp("127.0.0.1") as closed:
        nobody = ClusterNode("id", "127.0.0.1", "name", 8, 8, raylet_port=closed.getsockname()[1])
    actors = NodeActors(Demand(1, 1, "GPU"), "secret", (), DEADLINE, told.put)
    actors.start(StartNode("", (Place(Role.ENGINE, 0),)), raylet if lives else nobody, None)
    actor.outcome.set_exception(RuntimeError("Socket closed"))
    event = told.get(timeout=DEADLINE)
    if lives:
        assert isinstance(event, ActorInspected)
        assert event.outcome is actor.outcome
    else:
        assert isinstance(event, NodeGone)
        assert event.node is nobody
        where = f"127.0.0.1:{nobody.raylet_port}"
        assert event.reason == (
            f"the Ray node 127.0.0.1 is gone: nobody answers at {where} any more (Connection refused)"
        )
