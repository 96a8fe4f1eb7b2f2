"""The thin shell around `fleet.py`: sockets, processes and signals become events; actions become I/O."""

import asyncio
import itertools
import logging
import signal
from collections import deque
from typing import Protocol

import msgspec

from phalanx import protocol, running_time, signals
from phalanx.config import Config
from phalanx.hosting import children
from phalanx.hosting.host import Host
from phalanx.hosting.open_files import allow_many_open_files
from phalanx.hosting.output import Output
from phalanx.machine import cpu_pool, memory_pool
from phalanx.protocol import (
    ApiServers,
    ChildId,
    Endpoint,
    Hello,
    Incarnation,
    NodeHello,
    Place,
    Pools,
    RankId,
    Role,
    ToSupervisor,
)
from phalanx.supervisor import events, leaving, report
from phalanx.supervisor.control_connections import ControlHandler
from phalanx.supervisor.events import Finish, FleetAction, FleetEvent
from phalanx.supervisor.fleet import Fleet
from phalanx.supervisor.layout import RAY, layout_of, limits_of
from phalanx.supervisor.nodes import Nodes
from phalanx.supervisor.operator_requests import OperatorRequests
from phalanx.supervisor.ray_orders import RayOrders
from phalanx.supervisor.scrape import Scrapes
from phalanx.supervisor.shares import ToldShares
from phalanx.supervisor.sockets import Sockets
from phalanx.supervisor.state import FleetPhase
from phalanx.transport import stream
from phalanx.transport.audit import audited
from phalanx.transport.frames import FrameError
from phalanx.transport.listener import address_of
from phalanx.transport.security import Security

log = logging.getLogger(__name__)

HURRY = 0.25
"""Seconds a late tick is put off: whoever stopped this process stopped its reading too, not the children's writing."""

NODES_END = 2.0
"""Seconds nodes get to end once all their children have."""


class Watcher(Protocol):
    """Who is shown what happens: the start-up picture, or a test."""

    def changed(self, fleet: Fleet) -> None:
        """The fleet took an event."""

    def printed(self, place: Place, line: str) -> None:
        """A child printed a line."""

    def ready(self, fleet: Fleet, urls: list[str]) -> None:
        """The service serves: behind its own HTTP port, and at these URLs on other machines."""


class Supervisor:
    """Runs one service from its sockets' binding to the end of its last child."""

    def __init__(
        self,
        config: Config,
        sockets: Sockets,
        watcher: Watcher,
        security: Security,
        commands: children.Commands | None = None,
    ) -> None:
        """`security` is what children and nodes prove that they have."""
        parallel = config.parallel
        self._config = config
        self._keyless = msgspec.structs.replace(config, http=config.http.without_keys())
        """The configuration for those that serve no clients."""
        self._sockets = sockets
        self._watcher = watcher
        self._commands = commands or children.own_commands(parallel.frontend_command)
        self._security = security
        layout = layout_of(parallel)
        self._fleet = Fleet.of(layout.all, limits_of(config.service))
        self._host = Host(self)
        self._nodes = Nodes(self, parallel, config.service, layout.remote, layout.local)
        self._outputs: dict[ChildId, Output] = {}
        self._connections: dict[ChildId, stream.Connection] = {}
        self._shares = ToldShares(Pools(memory_pool(), cpu_pool()), self._nodes.places)
        self._greeting: dict[int, ControlHandler] = {}
        """Connections whose Hello waits for the fleet's answer."""
        self._greetings = itertools.count()
        self._scrapes = Scrapes(self._send_to_api_server)
        self._operators = OperatorRequests(config, self._fleet, self._nodes, sockets, self.take)
        self._events: deque[FleetEvent] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._finished: asyncio.Future[Finish]

    async def run(self) -> Finish:
        """Start the children, watch them, end with the last of them. Leaves no process, whatever happens."""
        loop = asyncio.get_running_loop()
        self._finished = loop.create_future()
        allow_many_open_files()
        loop.set_exception_handler(self._defect)
        for number in signals.heeded():
            loop.add_signal_handler(number, self._signalled, number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.STOP_SIGNALS)
        listeners = [sock for sock in (self._sockets.control, self._sockets.remote_control) if sock is not None]
        servers = [
            await stream.serve(sock, self._security, lambda conn: ControlHandler(self, conn)) for sock in listeners
        ]
        clock = loop.create_task(running_time.keep())
        try:
            self.take(events.Begin(running_time.now()))
            finish = await self._finished
            await self._nodes.close(NODES_END)
            return finish
        finally:
            # The exit code is settled; a further Ctrl-C must not change it while the rest is put in order.
            signal.pthread_sigmask(signal.SIG_BLOCK, signals.STOP_SIGNALS)
            clock.cancel()
            for server in servers:
                server.close()
            self._host.close()

    def last_words(self, child: ChildId) -> list[str]:
        """The last lines it printed."""
        return list(self._outputs[child].tail) if child in self._outputs else []

    def take(self, event: FleetEvent) -> None:
        """Give the fleet an event and do what it asks; events that arise from that come after."""
        self._events.append(event)
        if len(self._events) > 1:
            return
        while self._events:
            actions = self._fleet.step(self._events[0])
            self._watcher.changed(self._fleet)
            for action in actions:
                self._perform(action)
            self._events.popleft()
        if self._fleet.phase is FleetPhase.STOPPING:
            self._nodes.stop_idle()
        self._arm()

    # --- actions ---

    def _perform(self, action: FleetAction) -> None:
        if news := report.news(action, self.last_words):
            log.log(*news)
        match action:
            case events.Spawn(child):
                self._spawn(child)
            case events.CallOff(child):
                self._nodes.call_off(child)
            case events.SendWelcome(child, connection):
                self._connections[child] = self._greeting.pop(connection).bind(child)
                self._welcome(child)
            case events.SendRefusal(reason, connection):
                self._greeting.pop(connection).refuse(reason)
            case events.SendStop(child):
                self._stop(child)
            case events.SendDrain(child):
                self._tell(child, protocol.Drain())
            case events.Dump(child):
                self._signal(child, signal.SIGABRT)
            case events.Kill(child):
                self._signal(child, signal.SIGKILL)
            case events.AnnounceReady():
                self._watcher.ready(self._fleet, self._nodes.places.urls)
            case events.AnnounceDegraded(failure):
                self._tell_shares()
                place = failure.child.place
                if place.role is Role.API and place not in self._nodes.places:
                    self._sockets.retire(place.index)
                    self.api_servers_changed()
            case events.TellRanks():
                self._tell_ranks()
                self._tell_shares()
            case events.AnnounceLeft(rank, former):
                for child in former:
                    self._outputs.pop(child, None)
                self._nodes.release([child.place for child in former])
                self._sockets.leave(rank)
            case events.Finish():
                if not self._finished.done():
                    self._finished.set_result(action)

    def _spawn(self, child: ChildId) -> None:
        place = child.place
        self._outputs.pop(ChildId(place, Incarnation(child.incarnation - 1)), None)
        self._outputs[child] = Output(lambda line: self._watcher.printed(place, line))
        if place in self._nodes.places:
            self._nodes.start(child)
            return
        command = [*self._commands[place.role], *children.arguments(self._sockets.control_address, child)]
        self._host.start(child, command, self._sockets.of(place), children.environment(self._security))

    def _stop(self, child: ChildId) -> None:
        """Tell it to end; an API server of a service that ends, once nobody new waits for it in a backlog."""
        if child.place.role is not Role.API or self._fleet.phase is not FleetPhase.STOPPING:
            self._tell(child, protocol.Stop())
        elif child.place in self._nodes.places:
            self._nodes.stop_accepting(child.place, lambda: self._tell(child, protocol.Stop()))
        else:
            self._sockets.stop_accepting()
            self._tell(child, protocol.Stop())

    def _tell(self, child: ChildId, message: protocol.Message) -> None:
        if child in self._connections:
            self._connections[child].send(message)

    def _signal(self, child: ChildId, number: signal.Signals) -> None:
        if child.place in self._nodes.places:
            self._nodes.signal(child, number)
        else:
            self._host.signal(child, number)

    def _welcome(self, child: ChildId) -> None:
        connection, place = self._connections[child], child.place
        config, folder = self._config if place.role is Role.API else self._keyless, self._nodes.places.folder(place)
        if folder is not None:
            facts = msgspec.structs.replace(config.facts, folder=folder)
            config = msgspec.structs.replace(config, facts=facts)
        leader = self._leader(place) if place.worker else None
        counted = self._scrapes.counted(place.index) if place.role is Role.API else b""
        api_servers, leader = self._api_servers(connection), audited(leader) if leader else ""
        share = self._shares.welcome(self._fleet, child) if place.role is Role.ENGINE else None
        connection.send(protocol.Welcome(config, api_servers, leader, counted, share))
        if place.role is Role.API:
            connection.send(leaving.ranks_now(self._fleet))

    def _leader(self, place: Place) -> str | None:
        """Where a worker of a rank finds worker 0; None: with its node it has just gone."""
        return self._sockets.leader(place.index) or self._nodes.places.leader(RankId(place.index))

    def _tell_ranks(self) -> None:
        ranks = leaving.ranks_now(self._fleet)
        for child, connection in self._connections.items():
            if child.place.role is Role.API:
                connection.send(ranks)

    def _tell_shares(self) -> None:
        """Tell each rank its part of its machine, where that has changed."""
        for child, share in self._shares.divide_anew(self._fleet):
            self._connections[child].send(share)

    def _api_servers(self, connection: stream.Connection) -> ApiServers:
        """The API servers, each where this peer can dial it."""
        endpoints = (*self._sockets.endpoints(connection.local_host), *self._nodes.places.endpoints)
        listening = tuple(Endpoint(endpoint.index, audited(endpoint.address)) for endpoint in endpoints)
        return ApiServers(listening, self._nodes.note_whether_complete())

    # --- for nodes ---

    def welcome_node(self, connection: stream.Connection) -> None:
        """A node learns the configuration; the API servers are its children's affair."""
        connection.send(protocol.Welcome(self._keyless, ApiServers(())))

    def api_servers_changed(self) -> None:
        """API servers have been added on a node, or no more will be."""
        for connection in self._connections.values():
            connection.send(self._api_servers(connection))

    def _driver_ready(self, orders: RayOrders, driver: stream.Connection) -> None:
        """The Ray driver takes orders: it learns where nodes on the cluster reach us."""
        assert self._sockets.remote_control is not None
        control = address_of(self._sockets.remote_control, orders.reached_at, encrypted=self._security.encrypts)
        orders.driver_ready(control, driver.send)
        self.api_servers_changed()

    def dismiss(self, child: ChildId) -> None:
        """Have one end in order whose end is settled already."""
        self._tell(child, protocol.Stop())

    def node_greeted(self, handler: ControlHandler, hello: NodeHello) -> None:
        """A connection said which ranks it brings."""
        refusal = self._nodes.take_in(handler.connection, hello)
        if refusal is None:
            self._tell_shares()
        else:
            handler.refuse(refusal, told=True)

    def _send_to_api_server(self, index: int, message: protocol.Message) -> None:
        self._tell(self._fleet.children[Place(Role.API, index)].id, message)

    # --- events ---

    def greeted(self, handler: ControlHandler, hello: Hello) -> None:
        """A connection said who it is."""
        connection = next(self._greetings)
        self._greeting[connection] = handler
        child = ChildId(Place(hello.role, hello.index, hello.worker), Incarnation(hello.incarnation))
        self.take(events.Greeted(running_time.now(), child, connection))

    def received(self, child: ChildId, message: ToSupervisor) -> None:
        """A child that said Hello said something else."""
        now = running_time.now()
        match message:
            case protocol.Stage(stage, progress, detail):
                self.take(events.Progressed(now, child, stage, progress, detail))
            case protocol.Pulse(steps, busy):
                self.take(events.Pulsed(now, child, steps, busy))
            case protocol.Drained():
                self.take(events.HasDrained(now, child))
            case protocol.RanksVacated(number, ranks):
                self.take(events.HasVacated(now, child, number, ranks))
            case protocol.AdminRequest() if child.place.role is Role.API:
                answer = self._operators.answer(message)
                if child in self._connections:
                    self._connections[child].send(answer)
            case protocol.Ready(detail, drains):
                self.take(events.BecameReady(now, child, detail, drains))
                if self._nodes.ray is not None and child.place == RAY:
                    self._driver_ready(self._nodes.ray, self._connections[child])
            case protocol.Failed(reason, traceback):
                self.take(events.Reported(now, child, reason, traceback))
            case protocol.MetricsQuery(query):
                others = [
                    other.place.index for other in self._connections if other.place.role is Role.API and other != child
                ]
                self._scrapes.query(child.place.index, query, others, self._fleet)
            case protocol.MetricsReport():
                self._scrapes.report(child.place.index, message)
            case protocol.ClusterPlan() | protocol.NodeStarting() | protocol.NodeEnded() if (
                self._nodes.ray is not None and child.place == RAY
            ):
                self._nodes.ray.hear(message)
            case _:
                raise FrameError(f"{child} said {type(message).__name__}, which is not its to say")

    def disconnected(self, child: ChildId, reason: str) -> None:
        """The control connection of a child is over."""
        del self._connections[child]
        self._shares.forget(child)
        if child.place.role is Role.API:
            self._scrapes.gone(child.place.index)
        self.take(events.ControlEnded(running_time.now(), child, reason))

    def launched(self, child: ChildId, pid: int) -> None:
        self.take(events.Launched(running_time.now(), child, pid))

    def not_launched(self, child: ChildId, reason: str) -> None:
        self.take(events.LaunchFailed(running_time.now(), child, reason))

    def printed(self, child: ChildId, data: bytes) -> None:
        """A child printed something, or, with nothing, never will again."""
        output = self._outputs.get(child)
        if data:
            if output is not None:
                output.feed(data)
        else:
            if output is not None:
                output.end()
            self.take(events.OutputEnded(running_time.now(), child))

    def exited(self, child: ChildId, status: int) -> None:
        self.take(events.Exited(running_time.now(), child, status))

    def _signalled(self, number: signal.Signals) -> None:
        self.take(events.StopRequested(running_time.now(), number.name, drain=number is signal.SIGTERM))

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        deadline = self._fleet.next_deadline()
        if deadline is None:
            self._timer = None
        else:
            delay = max(0.0, deadline - running_time.now()) + 0.001
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick, deadline)

    def _tick(self, deadline: float) -> None:
        now = running_time.now()
        if now - deadline > HURRY:
            # This process was stopped or starved itself: what children said meanwhile is read before they are judged.
            self._timer = asyncio.get_running_loop().call_later(HURRY, self._judge)
        else:
            self._judge()

    def _judge(self) -> None:
        self.take(events.Tick(running_time.now()))

    def _defect(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """An exception in a callback would otherwise be a log line and a service that nobody watches."""
        error = context.get("exception")
        if isinstance(error, BaseException) and not self._finished.done():
            self._finished.set_exception(error)
        else:
            loop.default_exception_handler(context)
