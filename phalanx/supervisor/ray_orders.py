"""Nodes that the Ray driver starts, each as an actor, on our order."""

from collections.abc import Callable, Iterable

from phalanx import running_time
from phalanx.config import ParallelOptions
from phalanx.protocol import ClusterPlan, NodeEnded, NodeHello, NodeStarting, Place, ReleaseNode, StartNode
from phalanx.supervisor import events
from phalanx.supervisor.remote_places import RemoteNode, RemotePlaces
from phalanx.supervisor.waiting_children import WaitingChildren
from phalanx.transport.audit import audited


class RayOrders:
    """Implements `nodes.NodeSource`, and hears what the driver says.

    A node is asked for by the places that it brings, or, where it only holds API servers, by its host. Each order has a
    number, so that what is told of an earlier actor is not held against a later one.
    """

    better_words_within = 3.0
    """Ray is about to tell more than an end-of-file can."""

    def __init__(
        self,
        parallel: ParallelOptions,
        startup: float,
        places: RemotePlaces,
        waiting: WaitingChildren,
        take: Callable[[events.FleetEvent], None],
        bury: Callable[[RemoteNode, str], None],
    ) -> None:
        """
        Args:
            startup: seconds that one stage of a start may take.
            take: hears of the API servers that the service has on the cluster.
            bury: deals with the end of a node.
        """
        self._serves_everywhere = parallel.api_servers_per_node is not None
        self._patience = parallel.node_timeout
        self._startup = startup
        self._places = places
        self._waiting = waiting
        self._take = take
        self._bury = bury
        self._driver: Callable[[StartNode | ReleaseNode], None] | None = None
        self._control = ""
        self.reached_at = ""
        """This machine's address, as the cluster's machines reach it."""
        self._numbers: dict[tuple[tuple[Place, ...], str], int] = {}
        """The latest order for each node."""

    # --- what the driver says ---

    def driver_ready(self, control: str, send: Callable[[StartNode | ReleaseNode], None]) -> None:
        """The placement groups are there. `control` is where the cluster's machines reach the supervisor."""
        self._control, self._driver = control, send
        self._ask(self._waiting.places)

    def hear(self, message: ClusterPlan | NodeStarting | NodeEnded) -> None:
        match message:
            case ClusterPlan():
                self._planned(message)
            case NodeStarting():
                self._starting(message)
            case NodeEnded():
                self._ended(message)

    def _planned(self, plan: ClusterPlan) -> None:
        """The driver has placed the ranks; which of the cluster's machines are used is known from now on."""
        self.reached_at = plan.address
        ranks = sorted(self._places.ranks, key=lambda place: (place.index, place.worker))
        self._places.hosts = dict(zip(ranks, plan.nodes, strict=False))
        if not self._serves_everywhere:
            return
        for host in dict.fromkeys(plan.nodes):
            if host != plan.head:
                self._places.new_servers(host)
        self._take(events.Added(running_time.now(), tuple(self._places.all_servers)))

    def _starting(self, message: NodeStarting) -> None:
        if self._is_latest(message):
            for place in self._asked_for(message.places, message.host):
                # What the driver limits itself, it has better words for.
                self._waiting.tell(place, message.waiting_for, (message.limit or 0.0) + self._startup)

    def _ended(self, message: NodeEnded) -> None:
        """An actor is gone, or never was; its node's connection may have told so already."""
        if not self._is_latest(message):
            return
        places = self._asked_for(message.places, message.host)
        # First: whoever is buried may be started again at once, and then waits for something new.
        self._waiting.give_up(places, message.reason)
        holders = self._places.holders
        for node in {holders[place] for place in places if place in holders}:
            self._bury(node, message.reason)

    # --- as a source of nodes ---

    def knows_all(self) -> bool:
        return self._driver is not None and all(place in self._places.holders for place in self._places.all_servers)

    def seek(self, place: Place) -> None:
        if self._driver is not None:
            self._ask([place])
        else:
            # The driver has deadlines of its own and knows better what it waits for.
            self._waiting.tell(place, "the Ray driver", self._patience + 4 * self._startup)

    def brought_by(self, hello: NodeHello) -> set[Place]:
        return {*hello.places, *(self._places.servers.get(hello.address, ()) if hello.serves else ())}

    def servers_of(self, hello: NodeHello) -> str:
        return hello.address

    def lost(self, node: RemoteNode, freed: Iterable[Place], reason: str) -> None:
        self._waiting.give_up(freed, reason)

    def advice(self, node: RemoteNode, reason: str) -> str | None:
        return None

    def release(self, place: Place) -> None:
        if self._driver is not None:
            self._driver(ReleaseNode((place,), "", self._numbers.get(((place,), ""), 0)))

    # --- inside ---

    def _ask(self, places: list[Place]) -> None:
        """Order the nodes of these places."""
        for place in places:
            if place in self._places.ranks:
                self._order([place], (place,), "", "its actor")
        for host, servers in self._places.servers.items():
            waiting = [place for place in servers if place in self._waiting]
            # All of a machine's API servers come with one node: who waits already has asked for it.
            if waiting and all(place in places for place in waiting):
                self._order(servers, (), host, f"a node on {host}")

    def _order(self, waiting: list[Place], places: tuple[Place, ...], host: str, awaited: str) -> None:
        assert self._driver is not None
        for place in waiting:
            self._waiting.tell(place, awaited, self._startup)
        number = self._numbers[places, host] = self._numbers.get((places, host), 0) + 1
        self._driver(StartNode(audited(self._control), places, host, number))

    def _is_latest(self, message: NodeStarting | NodeEnded) -> bool:
        return self._numbers.get((message.places, message.host)) == message.number

    def _asked_for(self, places: tuple[Place, ...], host: str) -> list[Place]:
        return list(places) or list(self._places.servers.get(host, ()))
