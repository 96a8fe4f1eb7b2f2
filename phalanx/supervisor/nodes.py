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
from phalanx.protocol import ChildId, NodeHello, Place, Role, ToSupervisor
from phalanx.supervisor import events
from phalanx.supervisor.joined_nodes import JoinedNodes
from phalanx.supervisor.node_admission import objection
from phalanx.supervisor.ray_orders import RayOrders
from phalanx.supervisor.remote_places import RemoteNode, RemotePlaces
from phalanx.supervisor.waiting_children import WaitingChildren
from phalanx.transport.frames import FrameError
from phalanx.transport.stream import Connection

log = logging.getLogger(__name__)

FORWARDED = ("PHALANX_", "HF_", "HUGGINGFACE_", "TORCH_", "CUDA_", "NCCL_", "OMP_", "MKL_", "TOKENIZERS_")
SECRETS = {"PHALANX_SECRET", "PHALANX_API_KEY", "PHALANX_ADMIN_KEY", "HF_TOKEN"}
NOT_FORWARDED = SECRETS | {"CUDA_VISIBLE_DEVICES", "HF_HOME"}
"""Secrets do not travel in the clear, and which devices and folders a machine has is its own affair."""

_UNDECODED = re.compile("[\ud800-\udfff]")
"""What Python makes of bytes that are not UTF-8."""

_decoder: msgspec.msgpack.Decoder[ToSupervisor] = msgspec.msgpack.Decoder(ToSupervisor)


class Owner(Audience, Protocol):
    """The supervisor, as far as nodes need it."""

    def take(self, event: events.FleetEvent) -> None: ...

    def welcome_node(self, connection: Connection) -> None:
        """Send it the configuration."""

    def api_servers_changed(self) -> None:
        """API servers have been added on a node, or no more will be."""

    def dismiss(self, child: ChildId) -> None:
        """Have one end in order whose end is settled already."""


class NodeSource(Protocol):
    """Where nodes come from: all that one back-end does otherwise than another."""

    better_words_within: float
    """Seconds in which the back-end may tell why a node is gone, before the end of its connection has to do."""

    def knows_all(self) -> bool:
        """Whether every API server of the service has its node."""

    def seek(self, place: Place) -> None:
        """A child waits for a node with its place: have one come, and tell what is waited for."""

    def brought_by(self, hello: NodeHello) -> set[Place]:
        """All places that a node brings with those that it names."""

    def servers_of(self, hello: NodeHello) -> str:
        """The group of API servers that a node holds, which may be a new one."""

    def lost(self, node: RemoteNode, freed: Iterable[Place], reason: str) -> None:
        """A node is gone; its children have not been told of yet."""

    def advice(self, node: RemoteNode, reason: str) -> str | None:
        """What is to be said to the operator about a node that is gone; None: nothing that is not said anyhow."""

    def release(self, place: Place) -> None:
        """A place is no more: what is held for it elsewhere may be used for something else."""


class NodeHandler:
    """Reads what one node says."""

    def __init__(self, nodes: "Nodes", node: RemoteNode) -> None:
        self._nodes = nodes
        self._node = node
        self._last_words: str | None = None

    def received(self, body: bytes) -> None:
        try:
            message = _decoder.decode(body)
        except msgspec.DecodeError as error:
            raise FrameError(f"node {self._node.name} sent what is no message: {error}") from error
        if isinstance(message, protocol.Failed):
            self._last_words = f"its node {self._node.name} gave up: {message.reason}"
            self._nodes.gave_up(self._node, self._last_words)
        else:
            self._nodes.received(self._node, message)

    def closed(self, reason: str) -> None:
        name = self._node.name
        self._nodes.closed(self._node, self._last_words or f"the connection to its node {name} ended: {reason}")


class Nodes:
    """Every node of the service, and the places whose children live on one."""

    def __init__(
        self,
        owner: Owner,
        parallel: ParallelOptions,
        service: ServiceOptions,
        remote: Iterable[Place],
        local: Iterable[Place],
    ) -> None:
        """`remote`: the ranks and workers that nodes bring; `local`: those on this machine."""
        self._owner = owner
        self._per_node = parallel.api_servers_per_node
        self._patience, self._startup = parallel.node_timeout, service.startup_timeout
        self.places = RemotePlaces(remote, local, parallel.own_api_servers, self._per_node or 0)
        self._waiting = WaitingChildren(owner)
        self.ray: RayOrders | None = None
        """Where the service runs on a Ray cluster."""
        self._source: NodeSource
        if parallel.data_parallel_backend == "ray":
            self._source = self.ray = RayOrders(
                parallel, self._startup, self.places, self._waiting, owner.take, self._bury
            )
        else:
            self._source = JoinedNodes(self.places, self._waiting, self._patience)
        self._connected: list[RemoteNode] = []
        self._ended = asyncio.Event()
        self._complete = False

    # --- what the supervisor asks ---

    def note_whether_complete(self) -> bool:
        """Take note once all API servers of the service are known; whether they are. Once they are, it stays so."""
        self._complete = self._complete or self._per_node is None or self._source.knows_all()
        return self._complete

    def start(self, child: ChildId) -> None:
        """Start a child as soon as its node is there."""
        self._waiting.add(child)
        if child.place in self.places.holders:
            self._launch_waiting()
            self._waiting.tell(child.place, "all its nodes to be ready", self._patience)
        else:
            self._source.seek(child.place)

    def call_off(self, child: ChildId) -> None:
        """Its launch is not wanted any more."""
        self._waiting.call_off(child)

    def expect(self, places: Iterable[Place]) -> None:
        """Nodes are to bring these as well."""
        self.places.ranks |= set(places)

    def release(self, places: Iterable[Place]) -> None:
        """What is here of these is not wanted any more: its nodes may end, where they have nothing else to do."""
        for place in places:
            if place in self.places.ranks:
                idle = self.places.strike(place)
                self._source.release(place)
                if idle is not None:
                    _stop(idle)

    def signal(self, child: ChildId, number: signal.Signals) -> None:
        node = self.places.holders.get(child.place)
        if node is not None:
            node.connection.send(protocol.SignalChild(child, number))

    def stop_accepting(self, place: Place, then: Callable[[], None]) -> None:
        """Have the node of an API server let nobody new into its backlogs, and do `then` once that is so."""
        node = self.places.holders.get(place)
        if node is not None:
            if not node.after_accepting:
                node.connection.send(protocol.StopAccepting())
            node.after_accepting.append(then)

    def stop_idle(self) -> None:
        """The service ends: nodes without children may go, and nobody may come."""
        self.places.open = False
        for node in self._connected:
            if not node.children:
                _stop(node)

    async def close(self, timeout: float) -> None:
        """Tell all nodes to end and wait until they have gone, at most `timeout` seconds."""
        for node in self._connected:
            node.children.clear()
        self.stop_idle()
        try:
            async with running_time.timeout(timeout):
                while self._connected:
                    self._ended.clear()
                    await self._ended.wait()
        except TimeoutError:
            log.warning("nodes that did not end in time: %s", ", ".join(node.name for node in self._connected))

    # --- what nodes say ---

    def take_in(self, connection: Connection, hello: NodeHello) -> str | None:
        """A node wants to join: hand its connection over to it, or return why it cannot."""
        names = {place: node.name for place, node in self.places.holders.items()}
        refusal = objection(hello, phalanx.__version__, self.places.ranks, self.places.local, names, self.places.open)
        if refusal is not None:
            log.warning("turned away node %s (%s): %s", hello.name, connection.peer_host, refusal)
            return refusal
        node = RemoteNode(hello, hello.address or connection.peer_host, connection)
        self._connected.append(node)
        self.places.hold(self._source.brought_by(hello), node)
        connection.hand_over(NodeHandler(self, node))
        self._owner.welcome_node(connection)
        return None

    def received(self, node: RemoteNode, message: ToSupervisor) -> None:
        match message:
            case protocol.NodeReady():
                self._node_ready(node, message)
            case protocol.ChildLaunched(child, pid):
                self._owner.take(events.Launched(running_time.now(), child, pid, node.where))
            case protocol.ChildNotLaunched(child, reason):
                node.children.discard(child)
                self._owner.not_launched(child, reason)
            case protocol.ChildOutput(child, data):
                self._owner.printed(child, data)
            case protocol.ChildExited(child, status):
                node.children.discard(child)
                self._owner.exited(child, status)
            case protocol.StoppedAccepting():
                waiting, node.after_accepting = node.after_accepting, []
                for then in waiting:
                    then()
            case _:
                raise FrameError(f"node {node.name} sent {type(message).__name__}, which is not a node's to say")

    def gave_up(self, node: RemoteNode, reason: str) -> None:
        """A node is about to end by itself. It lets nobody new in, and waits a moment for its API servers."""
        servers = [child for child in node.children if child.place.role is Role.API]
        if servers and not self._source.better_words_within:
            self._lose(node, reason)
            for server in servers:
                self._owner.dismiss(server)

    def closed(self, node: RemoteNode, reason: str) -> None:
        """The connection to a node is over."""
        self._connected.remove(node)
        self._ended.set()
        if node.ready is not None and self._source.better_words_within:
            running_time.Timer(self._source.better_words_within, lambda: self._bury(node, reason))
        else:
            self._bury(node, reason)

    # --- inside ---

    def _bury(self, node: RemoteNode, reason: str) -> None:
        """A node is gone, with every child on it."""
        if not node.over:
            node.connection.close()
            self._lose(node, reason)

    def _lose(self, node: RemoteNode, reason: str) -> None:
        """Nothing more is expected of a node and its children; another may bring its places."""
        node.over = True
        endpoints = self.places.endpoints
        freed = self.places.free(node)
        self._source.lost(node, freed, reason)
        for child in list(node.children):
            self._owner.take(events.Vanished(running_time.now(), child, reason))
        if self.places.endpoints != endpoints:
            self._owner.api_servers_changed()
        if (advice := self._source.advice(node, reason)) is not None:
            log.warning("%s", advice)

    def _node_ready(self, node: RemoteNode, ready: protocol.NodeReady) -> None:
        group, new = self._source.servers_of(node.hello), []
        if ready.api_servers and group not in self.places.servers:
            new = self.places.new_servers(group)
        # Who comes in place of a node that is gone brings its API servers, at other addresses.
        self.places.serve(group, node, ready)
        if new:
            self._owner.take(events.Added(running_time.now(), tuple(new)))
        self._launch_waiting()
        self._owner.api_servers_changed()

    def _launch_waiting(self) -> None:
        for place in self._waiting.places:
            if self.places.can_launch(place):
                node = self.places.holders[place]
                self._waiting.tell(place, "its launch", self._startup)
                child = self._waiting.take(place)
                node.children.add(child)
                node.connection.send(protocol.LaunchChild(child, forwarded_environment()))


def _stop(node: RemoteNode) -> None:
    """Tell a node to end, once."""
    if not node.stopped:
        node.stopped = True
        node.connection.send(protocol.Stop())


def forwarded_environment() -> dict[str, str]:
    """What of this process's environment a child on another machine gets too; bytes that are no text cannot travel."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(FORWARDED) and name not in NOT_FORWARDED and not _UNDECODED.search(value)
    }
