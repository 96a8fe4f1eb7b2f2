"""Which places are on other machines, which node holds each, and what is known of it there. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from phalanx.protocol import (
    ApiServerId,
    ChildId,
    Endpoint,
    Message,
    NodeHello,
    NodeReady,
    Place,
    Pools,
    RankId,
    Role,
    ServedAt,
)


class NodeConnection(Protocol):
    """The way to a node."""

    def send(self, message: Message) -> None: ...

    def close(self) -> None: ...


@dataclass(slots=True, eq=False)
class RemoteNode:
    """What is known of one node, for as long as its connection lasts."""

    hello: NodeHello
    where: str
    """Its address."""
    connection: NodeConnection
    ready: NodeReady | None = None
    children: set[ChildId] = field(default_factory=set)
    """Started there, and not over."""
    after_accepting: list[Callable[[], None]] = field(default_factory=list)
    """What is to be done once it lets nobody new into the backlogs of its API servers."""
    stopped: bool = False
    """It has been told to end."""
    over: bool = False
    """Its end has been dealt with."""

    @property
    def name(self) -> str:
        """Its name, for people."""
        return f"{self.hello.name} ({self.where})"


class RemotePlaces:
    """The places whose children live on nodes; nodes come, hold places, and go."""

    def __init__(self, ranks: Iterable[Place], local: Iterable[Place], own_api_servers: int, per_node: int) -> None:
        """
        Args:
            ranks: those that nodes bring, workers of ranks included.
            local: those on the supervisor's machine.
            own_api_servers: those on the supervisor's machine; the numbers of others come after them.
            per_node: API servers that a node holds.
        """
        self.ranks = set(ranks)
        self.local = frozenset(local)
        self.open = True
        """More nodes may come; not once the service ends."""
        self.holders: dict[Place, RemoteNode] = {}
        self.servers: dict[str, list[Place]] = {}
        """The API servers that share a node, whether that is there or not, by a name that their back-end gives them."""
        self.hosts: dict[Place, str] = {}
        """Where a back-end that plans ahead has room for a rank."""
        self._own_api_servers = own_api_servers
        self._per_node = per_node
        self._next_api_server = own_api_servers
        self._leaders: dict[RankId, str] = {}
        self._served: dict[ApiServerId, ServedAt] = {}
        self._pools: dict[Place, Pools | None] = {}

    # --- questions ---

    def __contains__(self, place: Place) -> bool:
        return place in self.ranks or (place.role is Role.API and place.index >= self._own_api_servers)

    def folder(self, place: Place) -> str | None:
        """Where the checkpoint is on the machine of a place; None: where it is here."""
        node = self.holders.get(place)
        return node.ready.folder if node is not None and node.ready is not None else None

    def leader(self, rank: RankId) -> str | None:
        """Where workers of a rank find worker 0; None where the rank is not on a node."""
        return self._leaders.get(rank)

    def pools(self, place: Place) -> Pools | None:
        """What the rank in a place takes from, as far as is known: told by its node, by the one it had before, or by
        another on the host where its back-end has room for it."""
        if place in self._pools:
            return self._pools[place]
        host = self.hosts.get(place)
        if host is None:
            return None
        known = (self._pools[each] for each, where in self.hosts.items() if where == host and each in self._pools)
        return next(known, Pools(host, host))

    def can_launch(self, place: Place) -> bool:
        """Whether its node is ready, and for a rank those of all its workers: a leader that waits for one would be
        blamed for it."""
        workers = [each for each in self.ranks if each.index == place.index] if place.role is Role.ENGINE else []
        return all(self.is_ready(each) for each in (place, *workers))

    def is_ready(self, place: Place) -> bool:
        node = self.holders.get(place)
        return node is not None and node.ready is not None

    @property
    def all_servers(self) -> list[Place]:
        return [place for places in self.servers.values() for place in places]

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The API servers on nodes."""
        return tuple(Endpoint(index, served.engine) for index, served in sorted(self._served.items()))

    @property
    def urls(self) -> list[str]:
        """Where clients find them, one a node."""
        return sorted({served.url for served in self._served.values()})

    # --- changes ---

    def new_servers(self, group: str) -> list[Place]:
        """Numbers for the API servers of one more node."""
        first, self._next_api_server = self._next_api_server, self._next_api_server + self._per_node
        self.servers[group] = [Place(Role.API, index) for index in range(first, self._next_api_server)]
        return self.servers[group]

    def hold(self, places: Iterable[Place], node: RemoteNode) -> None:
        """A node has come with these."""
        for place in places:
            self.holders[place] = node
            if place.role is Role.ENGINE:
                self._pools[place] = node.hello.pools

    def serve(self, group: str, node: RemoteNode, ready: NodeReady) -> None:
        """A node has bound what its children need: what leads its ranks, and the sockets of a group's API servers."""
        node.ready = ready
        self._leaders |= ready.leaders
        if ready.api_servers:
            for place, served in zip(self.servers[group], ready.api_servers, strict=True):
                self.holders[place] = node
                self._served[ApiServerId(place.index)] = served

    def free(self, node: RemoteNode) -> list[Place]:
        """A node is gone; the places that it held."""
        freed = [place for place, holder in self.holders.items() if holder is node]
        for place in freed:
            del self.holders[place]
            if place.role is Role.ENGINE:
                self._leaders.pop(RankId(place.index), None)
            else:
                self._served.pop(ApiServerId(place.index), None)
        return freed

    def strike(self, place: Place) -> RemoteNode | None:
        """A rank is no more; the node that held it, where that has nothing else to do."""
        self.ranks.discard(place)
        self.hosts.pop(place, None)
        self._pools.pop(place, None)
        self._leaders.pop(RankId(place.index), None)
        node = self.holders.pop(place, None)
        return None if node in self.holders.values() else node
