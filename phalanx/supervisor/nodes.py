"""Children on other machines: started, read and signalled through the node that brought their place."""

import asyncio
import logging
import os
import re
import signal
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

import phalanx
from phalanx import protocol, running_time
from phalanx.config import ParallelOptions, ServiceOptions
from phalanx.hosting.host import Audience
from phalanx.hosting.words import spell
from phalanx.protocol import (
    ApiServerId,
    ChildId,
    Endpoint,
    NodeHello,
    Place,
    Pools,
    RankId,
    Role,
    StartNode,
    ToSupervisor,
)
from phalanx.supervisor import events
from phalanx.supervisor.claims import objection
from phalanx.transport.audit import audited
from phalanx.transport.frames import FrameError
from phalanx.transport.stream import Connection

log = logging.getLogger(__name__)

FORWARDED = ("PHALANX_", "HF_", "HUGGINGFACE_", "TORCH_", "CUDA_", "NCCL_", "OMP_", "MKL_", "TOKENIZERS_")
SECRETS = {"PHALANX_SECRET", "PHALANX_API_KEY", "PHALANX_ADMIN_KEY", "HF_TOKEN"}
NOT_FORWARDED = SECRETS | {"CUDA_VISIBLE_DEVICES", "HF_HOME"}
"""Secrets do not travel in the clear, and which devices and folders a machine has is its own affair."""

_UNDECODED = re.compile("[\ud800-\udfff]")
"""What Python makes of bytes that are not UTF-8."""

RAYS_WORDS = 3.0
"""Seconds that Ray gets to say why a node is gone, before the end of its connection has to do."""

_decoder: msgspec.msgpack.Decoder[ToSupervisor] = msgspec.msgpack.Decoder(ToSupervisor)


class Owner(Audience, Protocol):
    """The supervisor, as far as nodes need it."""

    def take(self, event: events.FleetEvent) -> None: ...

    def welcome_node(self, connection: Connection) -> None:
        """Send it the configuration."""

    def membership_changed(self) -> None:
        """API servers have been added on a node, or no more will be."""


class Link:
    """The connection to one node."""

    def __init__(self, nodes: "Nodes", connection: Connection, hello: NodeHello) -> None:
        self._nodes = nodes
        self.connection = connection
        self.hello = hello
        self.where = hello.address or connection.peer_host
        self.name = f"{hello.name} ({self.where})"
        self.ready: protocol.NodeReady | None = None
        self.children: set[ChildId] = set()
        """Started, and not over."""
        self.last_words = ""
        self.stopped = False
        self.over = False
        """Its end has been dealt with."""

    def received(self, body: bytes) -> None:
        try:
            message = _decoder.decode(body)
        except msgspec.DecodeError as error:
            raise FrameError(f"node {self.name} sent what is no message: {error}") from error
        self._nodes.received(self, message)

    def closed(self, reason: str) -> None:
        self._nodes.closed(self, self.last_words or f"the connection to its node {self.name} ended: {reason}")


class Nodes:
    """Every node of the service, and the places whose children live on one."""

    def __init__(
        self, parallel: ParallelOptions, service: ServiceOptions, remote: Iterable[Place], local: Iterable[Place]
    ) -> None:
        """`remote`: the ranks and workers that nodes bring; `local`: those on this machine."""
        self._parallel = parallel
        self._startup = service.startup_timeout
        self._remote = set(remote)
        self._local = frozenset(local)
        self._owner: Owner
        self._links: list[Link] = []
        self._held: dict[Place, Link] = {}
        self._waiting: dict[Place, ChildId] = {}
        self._ended = asyncio.Event()
        self._open = True
        self._complete = False
        self._leaders: dict[RankId, str] = {}
        self._api_servers: dict[ApiServerId, protocol.ServedAt] = {}
        self._next_api_server = parallel.own_api_servers
        self._seats: dict[str, list[Place]] = {}
        """API servers that a Ray node of that address is to hold, or that a joined node holds."""
        self._driver: Callable[[StartNode | protocol.ReleaseNode], None] | None = None
        self._orders: dict[tuple[tuple[Place, ...], str], int] = {}
        """The latest of each node asked of the driver."""
        self._control = ""
        self._pools: dict[Place, Pools | None] = {}
        """What the node that brought a place last said of its machine."""
        self._planned: dict[Place, str] = {}
        """The cluster's host on which the Ray driver has room for a place, from its first plan."""

    def belong_to(self, owner: Owner) -> None:
        self._owner = owner

    # --- what the supervisor asks ---

    def bring(self, place: Place) -> bool:
        """Whether the child in a place lives on a node."""
        return place in self._remote or (place.role is Role.API and place.index >= self._parallel.own_api_servers)

    def folder(self, place: Place) -> str | None:
        """Where the checkpoint is on the machine of a place; None: where it is here."""
        link = self._held.get(place)
        return link.ready.folder if link is not None and link.ready is not None else None

    def pools(self, place: Place) -> Pools | None:
        """What the rank in a place takes from, as far as is known: told by its node, by the one it had before, or by
        another on the host where the Ray driver plans it."""
        if place in self._pools:
            return self._pools[place]
        host = self._planned.get(place)
        if host is None:
            return None
        known = (self._pools[mate] for mate, where in self._planned.items() if where == host and mate in self._pools)
        return next(known, Pools(host, host))

    def leader(self, rank: int) -> str:
        """Where workers of a rank find worker 0; empty where the rank is not on a node."""
        return self._leaders.get(RankId(rank), "")

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The API servers on nodes."""
        return tuple(Endpoint(index, served.engine) for index, served in sorted(self._api_servers.items()))

    @property
    def urls(self) -> list[str]:
        """Where clients find them, one a node."""
        return sorted({served.url for served in self._api_servers.values()})

    @property
    def complete(self) -> bool:
        """Whether all API servers of the service are known; once they are, it stays so."""
        self._complete = self._complete or self._all_known()
        return self._complete

    def _all_known(self) -> bool:
        if self._parallel.api_servers_per_node is None:
            return True
        if self._parallel.data_parallel_backend == "ray":
            return self._driver is not None and all(place in self._held for place in self._all_seats())
        return all(place in self._held and self._held[place].ready is not None for place in self._remote)

    def start(self, child: ChildId) -> None:
        """Start a child as soon as its node is there."""
        self._waiting[child.place] = child
        if child.place in self._held:
            self._launch_waiting()
            self._tell_waiting(child.place, "all its nodes to be ready", self._parallel.node_timeout)
        elif self._parallel.data_parallel_backend == "mp":
            bring = f" (phalanx join ... --data-parallel-start-rank {child.place.index})"
            name = f"a node to join with it{bring if child.place.role is Role.ENGINE else ''}"
            self._tell_waiting(child.place, name, self._parallel.node_timeout)
        elif self._driver is not None:
            self._ask_driver([child.place])
        else:
            # The Ray driver has deadlines of its own and knows better what it waits for.
            self._tell_waiting(child.place, "the Ray driver", self._parallel.node_timeout + 4 * self._startup)

    def call_off(self, child: ChildId) -> None:
        """Its launch is not wanted any more."""
        if self._waiting.get(child.place) == child:
            del self._waiting[child.place]
            self._owner.not_launched(child, "called off")

    def expect(self, places: Iterable[Place]) -> None:
        """Nodes are to bring these as well."""
        self._remote |= set(places)

    def release(self, places: Iterable[Place]) -> None:
        """What is here of these is not wanted any more: its nodes may end, where they have nothing else to do."""
        for place in places:
            if place not in self._remote:
                continue
            self._remote.discard(place)
            link = self._held.pop(place, None)
            self._pools.pop(place, None)
            self._planned.pop(place, None)
            self._leaders.pop(RankId(place.index), None)
            if self._driver is not None:
                self._driver(protocol.ReleaseNode((place,), "", self._orders.get(((place,), ""), 0)))
            if link is not None and link not in self._held.values() and not link.stopped:
                link.stopped = True
                link.connection.send(protocol.Stop())

    def signal(self, child: ChildId, number: signal.Signals) -> None:
        link = self._held.get(child.place)
        if link is not None:
            link.connection.send(protocol.SignalChild(child, number))

    def stop_idle(self) -> None:
        """The service ends: nodes without children may go, and nobody may come."""
        self._open = False
        for link in self._links:
            if not link.children and not link.stopped:
                link.stopped = True
                link.connection.send(protocol.Stop())

    async def close(self, timeout: float) -> None:
        """Tell all nodes to end and wait until they have gone, at most `timeout` seconds."""
        for link in self._links:
            link.children.clear()
        self.stop_idle()
        try:
            async with asyncio.timeout(timeout):
                while self._links:
                    self._ended.clear()
                    await self._ended.wait()
        except TimeoutError:
            log.warning("nodes that did not end in time: %s", ", ".join(link.name for link in self._links))

    # --- the Ray driver ---

    def planned(self, plan: protocol.ClusterPlan) -> None:
        """The driver has placed the ranks; which of the cluster's machines are used is known from now on."""
        ranks = sorted(self._remote, key=lambda place: (place.index, place.worker))
        self._planned = dict(zip(ranks, plan.nodes, strict=False))
        if self._parallel.api_servers_per_node is None:
            return
        for host in dict.fromkeys(plan.nodes):
            if host != plan.head:
                self._seats[host] = self._new_seats()
        self._owner.take(events.Added(running_time.now(), tuple(self._all_seats())))

    def driver_ready(self, control: str, send: Callable[[StartNode | protocol.ReleaseNode], None]) -> None:
        """The placement groups are there. `control` is where the cluster's machines reach the supervisor."""
        self._control, self._driver = control, send
        self._ask_driver(list(self._waiting))
        self._owner.membership_changed()

    def starting(self, message: protocol.NodeStarting) -> None:
        if self._orders.get((message.places, message.host)) != message.number:
            return
        for place in self._meant(message.places, message.host):
            # What the driver limits itself, it has better words for.
            self._tell_waiting(place, message.waiting_for, message.limit + self._startup)

    def ended(self, message: protocol.NodeEnded) -> None:
        """An actor is gone, or never was; its node's connection may have told so already."""
        if self._orders.get((message.places, message.host)) != message.number:
            return
        places = self._meant(message.places, message.host)
        # First: whoever is buried may be started again at once, and then waits for something new.
        self._never_comes(places, message.reason)
        for link in {self._held[place] for place in places if place in self._held}:
            self._bury(link, message.reason)

    def _ask_driver(self, places: list[Place]) -> None:
        assert self._driver is not None
        for place in places:
            if place in self._remote:
                self._tell_waiting(place, "its actor", self._startup)
                self._driver(StartNode(audited(self._control), (place,), "", self._number((place,), "")))
        for host, seats in self._seats.items():
            waiting = [place for place in seats if place in self._waiting]
            # All of a machine's API servers come with one node: who waits already has asked for it.
            if waiting and all(place in places for place in waiting):
                for place in seats:
                    self._tell_waiting(place, f"a node on {host}", self._startup)
                self._driver(StartNode(audited(self._control), (), host, self._number((), host)))

    def _number(self, places: tuple[Place, ...], host: str) -> int:
        number = self._orders.get((places, host), 0) + 1
        self._orders[places, host] = number
        return number

    def _meant(self, places: tuple[Place, ...], host: str) -> list[Place]:
        return list(places) or list(self._seats.get(host, ()))

    # --- what nodes say ---

    def greeted(self, connection: Connection, hello: NodeHello) -> str:
        """A node wants to join; returns why it cannot, or hands its connection over to a link."""
        holders = {place: link.name for place, link in self._held.items()}
        refusal = objection(hello, phalanx.__version__, self._remote, self._local, holders, self._open)
        if refusal:
            log.warning("turned away node %s (%s): %s", hello.name, connection.peer_host, refusal)
            return refusal
        link = Link(self, connection, hello)
        self._links.append(link)
        brought = set(hello.places)
        if self._parallel.data_parallel_backend == "mp":
            # `phalanx join` brings whole ranks, and learns only now how many workers one has.
            ranks = {place.index for place in hello.places}
            brought |= {place for place in self._remote if place.index in ranks}
        for place in (*brought, *(self._seats.get(hello.address, ()) if hello.serves else ())):
            self._held[place] = link
        self._pools |= dict.fromkeys(brought, hello.pools)
        connection.hand_over(link)
        self._owner.welcome_node(connection)
        return ""

    def received(self, link: Link, message: ToSupervisor) -> None:
        match message:
            case protocol.NodeReady():
                self._node_ready(link, message)
            case protocol.ChildLaunched(child, pid):
                self._owner.take(events.Launched(running_time.now(), child, pid, link.where))
            case protocol.ChildNotLaunched(child, reason):
                link.children.discard(child)
                self._owner.not_launched(child, reason)
            case protocol.ChildOutput(child, data):
                self._owner.printed(child, data)
            case protocol.ChildExited(child, status):
                link.children.discard(child)
                self._owner.exited(child, status)
            case protocol.Failed(reason):
                link.last_words = f"its node {link.name} gave up: {reason}"
            case _:
                raise FrameError(f"node {link.name} sent {type(message).__name__}, which is not a node's to say")

    def closed(self, link: Link, reason: str) -> None:
        """The connection to a node is over."""
        self._links.remove(link)
        self._ended.set()
        if link.ready is not None and self._parallel.data_parallel_backend == "ray":
            # Ray is about to tell more than an end-of-file can.
            asyncio.get_running_loop().call_later(RAYS_WORDS, self._bury, link, reason)
        else:
            self._bury(link, reason)

    def _bury(self, link: Link, reason: str) -> None:
        """A node is gone, with every child on it; another may bring its places."""
        if link.over:
            return
        link.over = True
        link.connection.close()
        freed = [place for place, holder in self._held.items() if holder is link]
        for place in freed:
            del self._held[place]
            if place.role is Role.ENGINE:
                self._leaders.pop(RankId(place.index), None)
        if self._parallel.data_parallel_backend == "ray":
            self._never_comes(freed, reason)
        elif link.ready is None:
            log.warning("%s", reason)
        for child in list(link.children):
            self._owner.take(events.Vanished(running_time.now(), child, reason))
        if any(self._api_servers.pop(ApiServerId(place.index), None) for place in freed if place.role is Role.API):
            self._owner.membership_changed()
        ranks = sorted({place.index for place in link.hello.places})
        if self._parallel.data_parallel_backend == "mp" and self._open and link.ready is not None:
            flags = f"--data-parallel-start-rank {ranks[0]} --data-parallel-size-local {len(ranks)}"
            log.warning("%s can join again: phalanx join ... %s", spell(link.hello.places), flags)

    def _node_ready(self, link: Link, ready: protocol.NodeReady) -> None:
        link.ready = ready
        self._leaders |= ready.leaders
        if ready.api_servers:
            # Who comes in place of a node that is gone brings its API servers, at other addresses.
            key = link.hello.address if self._parallel.data_parallel_backend == "ray" else self._vacant_seats()
            seats, new = self._seats.get(key), key not in self._seats
            if seats is None:
                seats = self._seats[key] = self._new_seats()
            for place, served in zip(seats, ready.api_servers, strict=True):
                self._held[place] = link
                self._api_servers[ApiServerId(place.index)] = served
            if new:
                self._owner.take(events.Added(running_time.now(), tuple(seats)))
        self._launch_waiting()
        self._owner.membership_changed()

    # --- inside ---

    def _all_seats(self) -> list[Place]:
        return [place for seats in self._seats.values() for place in seats]

    def _vacant_seats(self) -> str:
        """The key of those of a node that is gone, whichever ranks that had brought; else a new one."""
        gone = (key for key, seats in self._seats.items() if not any(seat in self._held for seat in seats))
        return next(gone, f"node {len(self._seats)}")

    def _new_seats(self) -> list[Place]:
        first, count = self._next_api_server, self._parallel.api_servers_per_node or 0
        self._next_api_server += count
        return [Place(Role.API, index) for index in range(first, first + count)]

    def _launch_waiting(self) -> None:
        for place, child in list(self._waiting.items()):
            link = self._held.get(place)
            if link is None or link.ready is None or not self._whole(place):
                continue
            del self._waiting[place]
            link.children.add(child)
            self._tell(child, "its launch", self._startup)
            link.connection.send(protocol.LaunchChild(child, forwarded_environment()))

    def _whole(self, place: Place) -> bool:
        """Whether all of a rank's workers have a node: a leader that waits for one would be blamed for it."""
        if place.role is not Role.ENGINE:
            return True
        mates = [mate for mate in self._remote if mate.index == place.index]
        return all((link := self._held.get(mate)) is not None and link.ready is not None for mate in mates)

    def _tell_waiting(self, place: Place, name: str, limit: float) -> None:
        if place in self._waiting:
            self._tell(self._waiting[place], name, limit)

    def _tell(self, child: ChildId, name: str, limit: float) -> None:
        self._owner.take(events.Waiting(running_time.now(), child, name, limit))

    def _never_comes(self, places: Iterable[Place], reason: str) -> None:
        """What these places wait for will not come."""
        for child in [self._waiting.pop(place) for place in places if place in self._waiting]:
            self._owner.not_launched(child, reason)


def forwarded_environment() -> dict[str, str]:
    """What of this process's environment a child on another machine gets too; bytes that are no text cannot travel."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(FORWARDED) and name not in NOT_FORWARDED and not _UNDECODED.search(value)
    }
