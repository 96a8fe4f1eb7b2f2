"""The process of an API server: its event loop, the engine plane, HTTP on the inherited socket, and its end."""

import asyncio
import contextlib
import gc
import itertools
import logging
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from phalanx import running_time
from phalanx.api import https
from phalanx.api.app import Application
from phalanx.api.app_state import AppState
from phalanx.api.connection import BoundedProtocol
from phalanx.api.engine_client import EngineClient
from phalanx.api.metrics import Metrics
from phalanx.api.open_connections import Connections
from phalanx.api.service_ranks import ServiceRanks
from phalanx.api.supervisor_client import SupervisorClient
from phalanx.api.supervisor_inbox import SupervisorInbox
from phalanx.child import PULSE, Control, Launch
from phalanx.config import Config
from phalanx.protocol import (
    AdminAnswer,
    ApiServerId,
    Drain,
    Drained,
    MetricsGathered,
    MetricsRequest,
    Pulse,
    Ranks,
    Stop,
    ToChild,
)
from phalanx.text.chat_template import ChatTemplate, NoChatTemplate, find_template
from phalanx.text.tokenizer import ModelTokenizer

log = logging.getLogger(__name__)

GRACE = 1
"""Seconds in which connections may still take what has been written for them when the server stops."""


class HttpServer(uvicorn.Server):
    """uvicorn on sockets that others hold, ended by the supervisor and not by signals."""

    def __init__(self, application: Application, state: AppState, on_start: Callable[[], None] = lambda: None) -> None:
        """Raises https.CertificateError where --ssl-certfile and its like cannot be used."""
        options = state.config.http
        config = uvicorn.Config(
            application,
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            # Nothing here reads the address of the client.
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE,
            timeout_keep_alive=options.keep_alive_timeout,  # type: ignore[arg-type]  # handed to call_later
        )
        super().__init__(config)
        self._application = application
        self._state = state
        ranks = state.config.parallel.data_parallel_size
        self._connections = Connections(options, state.metrics, ranks, application.mark)
        self.server_state = self._connections
        self._on_start = on_start
        self._tls = https.context(options)
        self._renewal: https.Renewal | None = None
        if self._tls is not None and options.enable_ssl_refresh:
            self._renewal = https.Renewal(options, self._tls)
        self._stopped = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """What uvicorn does, with limits for clients that stall in TLS, and with socket files: it knows neither."""
        self.servers = [await self._listen(sock, self._tls) for sock in sockets or ()]
        self.started = True
        self._on_start()

    async def _listen(self, sock: socket.socket, context: ssl.SSLContext | None) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        create = loop.create_unix_server if sock.family == socket.AF_UNIX else loop.create_server
        limits: dict[str, Any] = {}
        if context is not None:
            limits = {
                "ssl_handshake_timeout": https.HANDSHAKE_TIMEOUT,
                "ssl_shutdown_timeout": https.SHUTDOWN_TIMEOUT,
            }
        server: asyncio.Server = await create(
            self._protocol, sock=sock, backlog=self.config.backlog, ssl=context, **limits
        )
        return server

    def _protocol(self) -> asyncio.Protocol:
        return BoundedProtocol(self.config, self.server_state, self.lifespan.state)

    async def main_loop(self) -> None:
        """Once a second, until told to stop: renew the Date header, and see after connections and requests.

        uvicorn's own loop looks ten times a second.
        """
        interval = self._connections.interval
        while not await self.on_tick(0):
            self._connections.look(running_time.now())
            self._state.look()
            if self._renewal is not None:
                self._renewal.look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._stopped.wait()

    def drain(self, on_idle: Callable[[], None]) -> None:
        """Take no new requests, which each learn so with the last answer on their connection; see Application.drain."""
        self._connections.leave()
        self._application.drain(on_idle)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Connections in a queue of the kernel are accepted in the next turns, and get an answer: see `stop_accepting`.
        for _ in range(2):
            await asyncio.sleep(0)
        await super().shutdown(sockets)

    def stop(self) -> None:
        """Take no more connections, cut requests in flight short (each is told so) and end."""
        self.drain(lambda: None)
        self.should_exit = True
        self._stopped.set()
        # Tasks are cancelled a turn later, since one that was cancelled before its first step would give no answer.
        # Those that begin from now on know that the server ends.
        for task in list(self.server_state.tasks):
            task.get_loop().call_soon(task.cancel)


def load_template(config: Config, tokenizer: ModelTokenizer) -> ChatTemplate | NoChatTemplate:
    """The chat template that was asked for by name, else the checkpoint's own.

    Raises ValueError for one that was asked for by name and does not compile.
    """
    override = config.model.chat_template
    if override is not None:
        try:
            return ChatTemplate(config.facts.chat_template, tokenizer.special)
        except ValueError as error:
            raise ValueError(f"{override}: {error}") from error
    found = find_template(Path(config.facts.folder))
    if isinstance(found, NoChatTemplate):
        return found
    try:
        return ChatTemplate(found.text, tokenizer.special)
    except ValueError as error:
        log.warning("%s: %s; chats will be refused", found.origin, error)
        return NoChatTemplate(f"The chat template in this model's files cannot be used: {error}.")


def settle() -> None:
    """Keep the garbage collector out of the way.

    What start-up made lives as long as the process and need not be looked at again; and a step's worth of tokens
    makes hundreds of objects, none in a cycle, on which the collector's own thresholds run it every few steps.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


async def serve(launch: Launch, control: Control, inbox: SupervisorInbox) -> None:
    """Serve until the supervisor says Stop."""
    config = control.config
    tokenizer = ModelTokenizer.load(Path(config.facts.folder))
    metrics = Metrics()
    if control.counted:
        metrics.count_on(control.counted)
    supervisor = SupervisorClient(control.send, metrics)
    engine = EngineClient(
        ApiServerId(launch.index), on_change=lambda: state.ranks_changed(), patience=config.service.rank_timeout
    )
    ranks = ServiceRanks(engine, control.send, config.parallel.data_parallel_size)
    state = AppState(
        config=config,
        engine=engine,
        tokenizer=tokenizer,
        chat_template=load_template(config, tokenizer),
        metrics=metrics,
        supervisor=supervisor,
        ranks=ranks,
        started=int(time.time()),
        max_model_len=config.facts.max_model_len,
    )
    application = Application(state)
    server = HttpServer(application, state, on_start=lambda: control.ready(drains=True))
    turns = itertools.count()

    def beat() -> None:
        # The event loop itself sends the pulse, so that a loop that is stuck is silent.
        control.send(Pulse(next(turns), busy=False))
        supervisor.report_metrics()
        asyncio.get_running_loop().call_later(PULSE, beat)

    def handle(message: ToChild) -> None:
        match message:
            case Stop():
                server.stop()
            case Drain():
                server.drain(lambda: control.send(Drained()))
            case Ranks():
                ranks.update(message)
            case AdminAnswer() | MetricsGathered() | MetricsRequest():
                supervisor.receive(message)

    inbox.open(handle)
    settle()
    beat()
    await engine.listen(launch.sockets["engine"], control.security)
    try:
        await server.serve(sockets=[*launch.sockets["http"]])
    finally:
        engine.close()
        tokenizer.close()


def run(launch: Launch, control: Control, inbox: SupervisorInbox) -> None:
    logging.basicConfig(level=control.config.service.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    # Starts and ends are the supervisor's to tell, failures the application's; a client's broken request is no news.
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(launch, control, inbox))
