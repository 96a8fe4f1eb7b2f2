"""A node's life: reach the supervisor, show the model, bind, start children on order, end."""

import asyncio
import logging
import os
import signal
import socket
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field

import setproctitle

import phalanx
from phalanx import protocol, running_time, signals
from phalanx.child import EXIT_FAILED, EXIT_ORPHANED
from phalanx.hosting.children import Commands, arguments, environment, own_commands
from phalanx.hosting.host import Host
from phalanx.hosting.output import Output
from phalanx.hosting.words import ending, spell
from phalanx.machine import cpu_pool, memory_pool
from phalanx.node import model
from phalanx.node.arrival import in_thread, reach
from phalanx.node.errors import NodeError
from phalanx.node.link import SupervisorLink
from phalanx.node.node_exit import NodeExit
from phalanx.node.node_sockets import NodeSockets
from phalanx.protocol import ChildId, Failed, NodeHello, NodeReady, Place, Pools, Role, ToNode, Welcome
from phalanx.transport.security import Security

log = logging.getLogger(__name__)

WELCOME = 30.0
"""Seconds from NodeHello to the answer; the supervisor has nothing to wait for."""
FAREWELL = 2.0
"""Seconds for the supervisor to take our last message and close."""
LAST_WORDS = 1.0
"""Seconds for a killed child's end and output to come in."""
UNSENT = 4 * 2**20
"""Bytes that may wait for a supervisor that does not read; beyond that the children's output is not kept for it."""

OWN = ("CUDA_VISIBLE_DEVICES",)
"""Variables of which a machine's own value is the right one."""


@dataclass(frozen=True)
class Orders:
    """The settings with which a node was started."""

    control: str
    """The address at which the supervisor listens."""
    security: Security = field(repr=False)
    places: tuple[Place, ...]
    """The ranks, or workers of ranks, that it brings."""
    serves: bool
    """Whether it can hold API servers."""
    model: str | None = None
    """The model's folder on this machine, if it is elsewhere than on the supervisor's."""
    patience: float = 0.0
    """Seconds to wait until the supervisor is there; 0: it must be there already."""
    address: str = ""
    """The address of this machine from which to dial; empty: the system's choice."""


def run(orders: Orders, commands: Commands | None = None) -> NodeExit:
    """Be a node until the service, the link to it or a signal ends it; leaves no child behind.

    On the main thread: a child is killed when the thread that started it ends. `commands` starts other programs.
    """
    setproctitle.setproctitle("phalanx node")
    return asyncio.run(Node(orders, commands).run())


class Node:
    """One node. It is the audience of its own host: what becomes of the children goes to the supervisor."""

    def __init__(self, orders: Orders, commands: Commands | None) -> None:
        self._orders = orders
        self._commands = commands
        self._control = orders.control
        """The address that children are told: the very one that answered."""
        self._host = Host(self)
        self._link: SupervisorLink | None = None
        self._sockets: NodeSockets | None = None
        self._outputs: dict[ChildId, Output] = {}
        """The outputs of the children whose stdout and stderr are open."""
        self._at_rest = asyncio.Event()
        """Set once no child is left, or nobody to tell of one."""
        self._welcomed: asyncio.Future[Welcome]
        self._over: asyncio.Future[NodeExit]
        self._stopped = False
        self._signalled_children: set[ChildId] = set()
        self._casualty = ""
        """A sentence about the first child that failed by itself, and how."""
        self._muted = False
        self._grace = 0.0

    async def run(self) -> NodeExit:
        loop = asyncio.get_running_loop()
        self._welcomed, self._over = loop.create_future(), loop.create_future()
        loop.set_exception_handler(self._defect)
        for number in signals.heeded():
            loop.add_signal_handler(number, self._signalled, number)
        begin = loop.create_task(self._begin())
        begin.add_done_callback(self._begun)
        try:
            ending = await self._over
            begin.cancel()
            await self._depart(ending)
        finally:
            self._host.close()
            if self._sockets is not None:
                self._sockets.__exit__(None, None, None)
            if self._link is not None:
                self._link.close()
        return ending

    # --- the beginning ---

    async def _begin(self) -> None:
        """Up to NodeReady.

        Raises:
            NodeError: this machine cannot be part of the service.
        """
        orders, machine = self._orders, socket.gethostname()
        channel, self._control = await reach(
            orders.control,
            orders.security,
            orders.patience,
            lambda trouble: log.info("waiting up to %g s for %s: %s", orders.patience, orders.control, trouble),
            orders.address,
        )
        link = self._link = SupervisorLink(channel, self._received, self._lost)
        pools = Pools(memory_pool(), cpu_pool())
        hello = NodeHello(machine, os.getpid(), phalanx.__version__, orders.places, orders.serves, link.host, pools)
        link.send(hello)
        try:
            async with running_time.timeout(WELCOME):
                welcome = await self._welcomed
        except TimeoutError:
            raise NodeError(f"{orders.control} took the connection and did not answer within {WELCOME:g} s") from None
        config = welcome.config
        self._grace = config.service.shutdown_timeout
        self._commands = self._commands or own_commands(config.parallel.frontend_command)
        log.info("the service at %s knows us; checking the model", orders.control)
        folder = await in_thread(lambda: model.find(config, orders.model, holds_ranks=bool(orders.places)))
        try:
            self._sockets = NodeSockets(
                config, orders.places, orders.serves, link.host, encrypted=orders.security.encrypts
            )
        except OSError as error:
            raise NodeError(f"no place for API servers: {error.strerror or error}") from None
        ready = NodeReady(str(folder), self._sockets.api_servers, self._sockets.leaders)
        link.send(ready)
        where = f", API servers at {ready.api_servers[0].url}" if ready.api_servers else ""
        log.info("joined as %s, model %s%s", spell(orders.places) or "a node without ranks", folder, where)

    def _begun(self, begin: "asyncio.Task[None]") -> None:
        if begin.cancelled():
            return
        error = begin.exception()
        if isinstance(error, NodeError):
            self._fail(EXIT_FAILED, str(error))
        elif error is not None:
            self._broken(error)

    # --- the supervisor's orders ---

    def _received(self, message: ToNode) -> None:
        match message:
            case Welcome() if not self._welcomed.done():
                self._welcomed.set_result(message)
            case protocol.Refused(reason):
                self._end(NodeExit(EXIT_FAILED, f"the service at {self._orders.control} turned us away: {reason}"))
            case protocol.LaunchChild(child, further):
                self._launch(child, further)
            case protocol.SignalChild(child, number):
                self._signalled_children.add(child)
                self._host.signal(child, signal.Signals(number))
            case protocol.StopAccepting():
                if self._sockets is not None:
                    self._sockets.stop_accepting()
                self._send(protocol.StoppedAccepting())
            case protocol.Stop():
                self._stopped = True
                if self._casualty:
                    # Status 0 would tell whoever watches this program that all went well.
                    self._end(NodeExit(EXIT_FAILED, f"the service ended; {self._casualty}"))
                else:
                    self._end(NodeExit(0, "the service ended"))
            case protocol.ApiServers() | Welcome():
                pass  # Children hear of it themselves.

    def _launch(self, child: ChildId, further: Mapping[str, str]) -> None:
        place = child.place
        ours = place.role is Role.API or place.index in {held.index for held in self._orders.places}
        if self._sockets is None or self._commands is None or not ours or place.role is Role.RAY:
            self.not_launched(child, "it is not this node's to start")
            return
        try:
            sockets = self._sockets.of(place)
        except LookupError as error:
            self.not_launched(child, str(error))
            return
        command = [*self._commands[place.role], *arguments(self._control, child)]
        own = {name: os.environ[name] for name in OWN if name in os.environ}
        self._host.start(child, command, sockets, environment(self._orders.security, {**further, **own}))

    # --- what becomes of the children ---

    def launched(self, child: ChildId, pid: int) -> None:
        self._outputs[child] = Output(lambda line: log.info("[%s] %s", child, line))
        log.info("%s started (pid %d)", child, pid)
        self._send(protocol.ChildLaunched(child, pid))

    def not_launched(self, child: ChildId, reason: str) -> None:
        log.error("%s could not be started: %s", child, reason)
        self._send(protocol.ChildNotLaunched(child, reason))

    def printed(self, child: ChildId, data: bytes) -> None:
        if data:
            self._outputs[child].feed(data)
        else:
            self._outputs.pop(child).end()
        muted = bool(data) and self._link is not None and self._link.pending >= UNSENT
        if not muted:
            self._send(protocol.ChildOutput(child, data))
        elif not self._muted:
            log.warning("the supervisor does not read: what children print is not kept for it")
        self._muted = muted
        self._settle()

    def exited(self, child: ChildId, status: int) -> None:
        failed = status != 0 and not self._stopped and child not in self._signalled_children
        log.log(logging.ERROR if failed else logging.INFO, "%s ended: %s", child, ending(status))
        if failed and not self._casualty:
            self._casualty = f"{child} failed here: {ending(status)}"
        self._send(protocol.ChildExited(child, status))
        self._settle()

    def _send(self, message: protocol.Message) -> None:
        if self._link is not None:
            self._link.send(message)

    # --- the end ---

    def _end(self, ending: NodeExit) -> None:
        """The first reason counts."""
        if not self._over.done():
            self._over.set_result(ending)

    def _fail(self, status: int, reason: str) -> None:
        """End for a reason of our own, which the supervisor is told; it has our API servers end in order."""
        if not self._over.done():
            if self._sockets is not None:
                self._sockets.stop_accepting()
            self._send(Failed(reason))
            self._end(NodeExit(status, reason))

    def _lost(self, reason: str) -> None:
        self._end(NodeExit(EXIT_ORPHANED, f"the service at {self._orders.control} is gone: {reason}"))
        self._at_rest.set()

    def _signalled(self, number: signal.Signals) -> None:
        if self._over.done():
            self._at_rest.set()  # The second time: wait for nobody.
        doing = "" if self._link is not None else f" while waiting for {self._orders.control}"
        self._fail(128 + number, f"stopped by {number.name}{doing}")

    def _defect(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """An exception in a callback would otherwise be a log line and a node that nobody can stop."""
        error = context.get("exception")
        if isinstance(error, BaseException):
            self._broken(error)
        else:
            loop.default_exception_handler(context)

    def _broken(self, error: BaseException) -> None:
        log.error("%s", "".join(traceback.format_exception(error)))
        self._fail(EXIT_FAILED, f"{type(error).__name__}: {error}")

    def _settle(self) -> None:
        if self._stopped:
            waits = bool(self._host.living or self._outputs)
        else:
            # What ranks do is continued elsewhere; the clients of API servers have nobody else.
            waits = not self._over.done() or any(child.place.role is Role.API for child in self._host.living)
        if not waits:
            self._at_rest.set()

    async def _depart(self, ending: NodeExit) -> None:
        """Children that the supervisor stops get their time; any other ending is theirs as well."""
        self._settle()
        await self._rest(self._grace)
        if self._stopped:
            for child in self._host.living:
                log.warning("killing %s: it did not end within %g s", child, self._grace)
                self._host.signal(child, signal.SIGKILL)
            await self._rest(LAST_WORDS)
        if self._link is not None:
            await self._link.farewell(FAREWELL)

    async def _rest(self, patience: float) -> None:
        try:
            async with running_time.timeout(patience):
                await self._at_rest.wait()
        except TimeoutError:
            pass
