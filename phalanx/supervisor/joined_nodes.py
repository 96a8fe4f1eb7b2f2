"""Nodes that others start with `phalanx join`: they come when they come, and bring whole ranks."""

from collections.abc import Iterable

from phalanx.hosting.words import spell
from phalanx.protocol import NodeHello, Place, Role
from phalanx.supervisor.remote_places import RemoteNode, RemotePlaces
from phalanx.supervisor.waiting_children import WaitingChildren


class JoinedNodes:
    """Implements `nodes.NodeSource`."""

    better_words_within = 0.0

    def __init__(self, places: RemotePlaces, waiting: WaitingChildren, patience: float) -> None:
        """`patience`: seconds that a child waits for its node."""
        self._places = places
        self._waiting = waiting
        self._patience = patience

    def knows_all(self) -> bool:
        return all(self._places.is_ready(place) for place in self._places.ranks)

    def seek(self, place: Place) -> None:
        command = f" (phalanx join ... --data-parallel-start-rank {place.index})" if place.role is Role.ENGINE else ""
        self._waiting.tell(place, f"a node to join with it{command}", self._patience)

    def brought_by(self, hello: NodeHello) -> set[Place]:
        """Whole ranks: the node learns only now how many workers one has."""
        ranks = {place.index for place in hello.places}
        return {*hello.places, *(place for place in self._places.ranks if place.index in ranks)}

    def servers_of(self, hello: NodeHello) -> str:
        """Those of a node that is gone, whichever ranks that had brought; else a new group."""
        groups, holders = self._places.servers, self._places.holders
        vacant = (group for group, servers in groups.items() if not any(each in holders for each in servers))
        return next(vacant, f"node {len(groups)}")

    def lost(self, node: RemoteNode, freed: Iterable[Place], reason: str) -> None:
        """Children that wait go on to wait: somebody else may join with their places."""

    def advice(self, node: RemoteNode, reason: str) -> str | None:
        if node.ready is None:
            return reason
        if not self._places.open:
            return None
        ranks = sorted({place.index for place in node.hello.places})
        flags = f"--data-parallel-start-rank {ranks[0]} --data-parallel-size-local {len(ranks)}"
        return f"{spell(node.hello.places)} can join again: phalanx join ... {flags}"

    def release(self, place: Place) -> None:
        """Nobody else is to be told."""
