"""The thin shell around `fleet.py`: sockets, processes and signals become events; actions become I/O."""

import asyncio
import contextlib
import logging
import os
import resource
import secrets
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from phalanx import protocol
from phalanx.child import SECRET_VARIABLE
from phalanx.config import Config
from phalanx.protocol import Hello, Incarnation, Role, ToSupervisor
from phalanx.supervisor import events, report
from phalanx.supervisor.events import ChildId, Finish, FleetAction, FleetEvent, Place
from phalanx.supervisor.fleet import Fleet, Limits
from phalanx.supervisor.launchers.local import LocalProcess, launch
from phalanx.supervisor.output import Output
from phalanx.supervisor.scrape import Scrapes
from phalanx.supervisor.signals import STOP_SIGNALS
from phalanx.supervisor.sockets import Sockets
from phalanx.transport import stream
from phalanx.transport.frames import FrameError

log = logging.getLogger(__name__)

COMMANDS: Mapping[Role, Sequence[str]] = {
    role: (sys.executable, *(("-P",) if sys.flags.safe_path or os.getcwd() not in sys.path else ()), "-m", module)
    for role, module in {Role.API: "phalanx.api", Role.ENGINE: "phalanx.engine"}.items()
}
"""-P: a child must not import from the folder the service was started in, unless this process itself does."""

HURRY = 0.25
"""Seconds a late tick is put off: whoever stopped this process stopped its reading too, not the children's writing."""

DESCRIPTORS = 2**20
"""What a process may open where its hard limit allows; programs that close all they might have should not take long."""

_READ = 65536

_decoder: msgspec.msgpack.Decoder[ToSupervisor] = msgspec.msgpack.Decoder(ToSupervisor)


class Watcher(Protocol):
    """Who is shown what happens: the start-up picture, or a test."""

    def changed(self, fleet: Fleet) -> None:
        """The fleet took an event."""

    def printed(self, place: Place, line: str) -> None:
        """A child printed a line."""

    def ready(self, fleet: Fleet, url: str) -> None:
        """The service serves."""


class Supervisor:
    """Runs one service from its sockets' binding to the end of its last child."""

    def __init__(
        self, config: Config, sockets: Sockets, watcher: Watcher, commands: Mapping[Role, Sequence[str]] = COMMANDS
    ) -> None:
        self._config = config
        self._sockets = sockets
        self._watcher = watcher
        self._commands = commands
        self._secret = secrets.token_bytes(32)
        api_servers = [Place(Role.API, index) for index in range(config.parallel.api_server_count)]
        ranks = [Place(Role.ENGINE, index) for index in range(config.parallel.data_parallel_size)]
        limits = Limits(startup=config.service.startup_timeout, shutdown=config.service.shutdown_timeout)
        self._fleet = Fleet.of(api_servers + ranks, limits)
        self._processes: dict[ChildId, LocalProcess] = {}
        self._outputs: dict[ChildId, Output] = {}
        self._connections: dict[ChildId, stream.Connection] = {}
        self._greeting: ControlHandler | None = None
        self._scrapes = Scrapes(self._send_to_api_server)
        self._events: deque[FleetEvent] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._finished: asyncio.Future[Finish]

    async def run(self) -> Finish:
        """Start the children, watch them, end with the last of them. Leaves no process, whatever happens."""
        loop = asyncio.get_running_loop()
        self._finished = loop.create_future()
        _allow_many_descriptors()
        loop.set_exception_handler(self._defect)
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._signalled, number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        server = await stream.serve(self._sockets.control, self._secret, lambda conn: ControlHandler(self, conn))
        try:
            self.take(events.Begin(time.monotonic()))
            return await self._finished
        finally:
            # The exit code is settled; a further Ctrl-C must not change it while the rest is put in order.
            signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
            server.close()
            for process in self._processes.values():
                process.kill()
                loop.remove_reader(process.output)
                loop.remove_reader(process.ended)
                process.close()

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
        self._arm()

    # --- actions ---

    def _perform(self, action: FleetAction) -> None:
        match action:
            case events.Spawn(child):
                self._spawn(child)
            case events.Welcome(child):
                assert self._greeting is not None
                self._connections[child] = self._greeting.bind(child)
                self._connections[child].send(protocol.Welcome(self._config, self._sockets.membership))
            case events.Refuse(reason):
                assert self._greeting is not None
                self._greeting.refuse(reason)
            case events.Stop(child):
                if child in self._connections:
                    self._connections[child].send(protocol.Stop())
            case events.Dump(child):
                self._dump(child)
            case events.Kill(child, reason):
                if reason:
                    log.warning("killing %s: %s", child, reason)
                if child in self._processes:
                    self._processes[child].kill()
            case events.AnnounceReady():
                self._watcher.ready(self._fleet, self._sockets.url)
            case events.AnnounceStop(reason):
                log.info("%s: stopping", reason)
            case events.AnnounceFailure(failure):
                log.error("%s; stopping the others", report.summary(failure))
            case events.Finish():
                if not self._finished.done():
                    self._finished.set_result(action)

    def _spawn(self, child: ChildId) -> None:
        place = child.place
        command = [
            *self._commands[place.role],
            *("--control", self._sockets.control_address),
            *("--index", str(place.index), "--incarnation", str(child.incarnation)),
        ]
        inherited = self._sockets.of_api_server(place.index) if place.role is Role.API else {}
        try:
            process = launch(command, inherited, self._child_environment())
        except OSError as error:
            self.take(events.LaunchFailed(time.monotonic(), child, str(error)))
            return
        self._processes[child] = process
        self._outputs[child] = Output(lambda line: self._watcher.printed(place, line))
        loop = asyncio.get_running_loop()
        loop.add_reader(process.output, self._read_output, child)
        loop.add_reader(process.ended, self._reap, child)
        self.take(events.Launched(time.monotonic(), child, process.pid))

    def _child_environment(self) -> dict[str, str]:
        environment = {
            name: value for name, value in os.environ.items() if name not in ("PHALANX_API_KEY", "NOTIFY_SOCKET")
        }
        return environment | {
            SECRET_VARIABLE: self._secret.hex(),
            # Last words must not sit in a buffer when the process dies, nor a native crash die silently.
            "PYTHONUNBUFFERED": "1",
            "PYTHONFAULTHANDLER": "1",
        }

    def _dump(self, child: ChildId) -> None:
        process = self._processes[child]
        with contextlib.suppress(OSError):
            # SIGABRT would write a core of everything it has loaded.
            resource.prlimit(process.pid, resource.RLIMIT_CORE, (0, 0))
        process.signal(signal.SIGABRT)

    def _send_to_api_server(self, index: int, message: protocol.Message) -> None:
        child = self._fleet.children[Place(Role.API, index)].id
        if child in self._connections:
            self._connections[child].send(message)

    # --- events ---

    def greeted(self, handler: "ControlHandler", hello: Hello) -> None:
        """A connection said who it is."""
        self._greeting = handler
        child = ChildId(Place(hello.role, hello.index), Incarnation(hello.incarnation))
        self.take(events.Greeted(time.monotonic(), child))
        self._greeting = None

    def received(self, child: ChildId, message: ToSupervisor) -> None:
        """A child that said Hello said something else."""
        now = time.monotonic()
        match message:
            case protocol.Stage(stage, progress, detail):
                self.take(events.Progressed(now, child, stage, progress, detail))
            case protocol.Ready(detail):
                self.take(events.BecameReady(now, child, detail))
            case protocol.Failed(reason, traceback):
                self.take(events.Reported(now, child, reason, traceback))
            case protocol.MetricsQuery(query):
                others = [
                    other.place.index for other in self._connections if other.place.role is Role.API and other != child
                ]
                self._scrapes.query(child.place.index, query, others)
            case protocol.MetricsReport():
                self._scrapes.report(child.place.index, message)
            case Hello():
                raise FrameError(f"{child} said Hello twice")

    def disconnected(self, child: ChildId, reason: str) -> None:
        """The control connection of a child is over."""
        del self._connections[child]
        if child.place.role is Role.API:
            self._scrapes.gone(child.place.index)
        self.take(events.ControlEnded(time.monotonic(), child, reason))

    def _read_output(self, child: ChildId) -> None:
        """Everything it has printed; its end is an event."""
        process, output = self._processes[child], self._outputs[child]
        try:
            data = os.read(process.output, _READ)
        except BlockingIOError:
            return
        if data:
            output.feed(data)
            return
        output.end()
        asyncio.get_running_loop().remove_reader(process.output)
        self.take(events.OutputEnded(time.monotonic(), child))

    def _reap(self, child: ChildId) -> None:
        process = self._processes[child]
        status = process.reap()
        if status is not None:
            asyncio.get_running_loop().remove_reader(process.ended)
            self.take(events.Exited(time.monotonic(), child, status))

    def _signalled(self, number: signal.Signals) -> None:
        self.take(events.StopRequested(time.monotonic(), number.name))

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        deadline = self._fleet.next_deadline()
        if deadline is None:
            self._timer = None
        else:
            delay = max(0.0, deadline - time.monotonic()) + 0.001
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick, deadline)

    def _tick(self, deadline: float) -> None:
        now = time.monotonic()
        if now - deadline > HURRY:
            # This process was stopped or starved itself: what children said meanwhile is read before they are judged.
            self._timer = asyncio.get_running_loop().call_later(HURRY, self._judge)
        else:
            self._judge()

    def _judge(self) -> None:
        self.take(events.Tick(time.monotonic()))

    def _defect(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """An exception in a callback would otherwise be a log line and a service that nobody watches."""
        error = context.get("exception")
        if isinstance(error, BaseException) and not self._finished.done():
            self._finished.set_exception(error)
        else:
            loop.default_exception_handler(context)


def _allow_many_descriptors() -> None:
    """Raise the soft limit, which children inherit: 1,024 descriptors are as few connections for an API server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class ControlHandler:
    """One control connection: Hello first, then the messages of that child."""

    def __init__(self, supervisor: Supervisor, connection: stream.Connection) -> None:
        self._supervisor = supervisor
        self._connection = connection
        self._child: ChildId | None = None

    def bind(self, child: ChildId) -> stream.Connection:
        self._child = child
        return self._connection

    def refuse(self, reason: str) -> None:
        log.warning("refused a control connection: %s", reason)
        self._connection.close()

    def received(self, body: bytes) -> None:
        try:
            message = _decoder.decode(body)
        except msgspec.MsgspecError as error:
            raise FrameError(f"{self._child or 'a peer'} sent what is no message: {error}") from error
        if self._child is not None:
            self._supervisor.received(self._child, message)
        elif isinstance(message, Hello):
            self._supervisor.greeted(self, message)
        else:
            raise FrameError(f"a peer sent {type(message).__name__} before Hello")

    def closed(self, reason: str) -> None:
        if self._child is not None:
            self._supervisor.disconnected(self._child, reason)
