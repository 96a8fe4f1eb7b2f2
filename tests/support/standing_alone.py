"""The compiled front-end as the supervisor starts it, before a supervisor and ranks that do what a test tells them."""

import asyncio
import contextlib
import os
import select
import signal
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec
from support.fake_engine import DEADLINE, LOAD, STEP_TOKENS, FakeRank, Script, a_config

from phalanx.hosting.process import launch
from phalanx.protocol import (
    ApiServerId,
    ApiServers,
    Endpoint,
    EngineHello,
    Hello,
    Incarnation,
    Message,
    MetricsGathered,
    MetricsQuery,
    RankId,
    Ready,
    StepOutput,
    ToChild,
    ToSupervisor,
    Welcome,
)
from phalanx.transport.channel import dial
from phalanx.transport.listener import address_of, bind_http, bind_tcp, bind_unix
from phalanx.transport.security import Security
from phalanx.transport.stream import Connection, serve

SECRET = "secret of the tests"
M = TypeVar("M", bound=Message)


class StandInSupervisor:
    """The control connection's other end, on a thread with an event loop of its own."""

    def __init__(self, address: Path, answer: Callable[[], Message], siblings: int) -> None:
        """`answer`: to Hello. Without `siblings` it answers scrapes by itself."""
        self._siblings = siblings
        self._socket = bind_unix(address)
        self._answer = answer
        self._messages: list[Any] = []
        self._changed = threading.Condition()
        self._connection: Connection | None = None
        self._decoder: msgspec.msgpack.Decoder[ToSupervisor] = msgspec.msgpack.Decoder(ToSupervisor)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def address(self) -> str:
        return address_of(self._socket)

    def _run(self) -> None:
        def accept(connection: Connection) -> "StandInSupervisor":
            self._connection = connection
            return self

        server = self._loop.run_until_complete(serve(self._socket, Security(SECRET.encode()), accept))
        self._loop.run_forever()
        server.close()
        if self._connection is not None:
            self._connection.abort("the test is over")
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def received(self, body: bytes) -> None:
        message = self._decoder.decode(body)
        if isinstance(message, Hello):
            assert self._connection is not None
            self._connection.send(self._answer())
        if isinstance(message, MetricsQuery) and not self._siblings:
            assert self._connection is not None
            self._connection.send(MetricsGathered(message.query, ()))
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()

    def closed(self, reason: str) -> None:
        pass

    def send(self, message: ToChild | Message) -> None:
        assert self._connection is not None
        self._loop.call_soon_threadsafe(self._connection.send, message)

    def hang_up(self) -> None:
        """As the kernel does for a supervisor that was killed."""
        assert self._connection is not None
        self._loop.call_soon_threadsafe(self._connection.abort, "hung up")

    def wait_for(self, kind: type[M]) -> M:
        """The first message of a kind, which is taken out."""

        def found() -> Any:
            return next((message for message in self._messages if isinstance(message, kind)), None)

        with self._changed:
            message = self._changed.wait_for(found, DEADLINE)
            assert message is not None, f"no {kind.__name__} came, but {self._messages}"
            self._messages.remove(message)
        assert isinstance(message, kind)
        return message

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE)
        self._socket.close()


class NumberedRank(FakeRank):
    """A stand-in rank of any number."""

    def __init__(self, script: Script | None = None, rank: int = 0, incarnation: int = 1, **further: Any) -> None:
        super().__init__(script, **further)
        self._number, self._incarnation = RankId(rank), Incarnation(incarnation)

    def attach(self, address: str, security: Security) -> None:
        self._channel = dial(address, security, DEADLINE)
        self._channel.send(EngineHello(self._number, self._incarnation, self._max_model_len, 64, 65536))
        self._channel.send(StepOutput([], LOAD, STEP_TOKENS))
        self._thread.start()


class FrontEnd:
    """The program on an HTTP port, its engine listeners and a control connection. A context manager."""

    def __init__(
        self,
        program: Path,
        checkpoint: Path,
        *,
        secret: str = SECRET,
        answer: Callable[[], Message] | None = None,
        siblings: int = 0,
        **http: Any,
    ) -> None:
        """`secret`: what the program is told; `siblings`: other API servers there are; `http`: options."""
        self._folder = tempfile.TemporaryDirectory(prefix="ph-", dir="/tmp")
        folder = Path(self._folder.name)
        self.config = a_config(checkpoint, **http)
        ((self._http_socket,),) = bind_http("127.0.0.1", 0, 1)
        self._engine_sockets = [bind_unix(folder / "api-0"), bind_tcp("127.0.0.1")]
        self.url = f"http://127.0.0.1:{self._http_socket.getsockname()[1]}"
        self.engine_addresses = [address_of(sock) for sock in self._engine_sockets]
        endpoints = tuple(Endpoint(ApiServerId(number), "unix:/nowhere") for number in range(1 + siblings))
        self.supervisor = StandInSupervisor(
            folder / "control", answer or (lambda: Welcome(self.config, ApiServers(endpoints))), siblings
        )
        self.ranks: list[FakeRank] = []
        named = [("http", self._http_socket), *(("engine", sock) for sock in self._engine_sockets)]
        self._process = launch(
            [str(program), "--control", self.supervisor.address, "--index", "0", "--incarnation", "3"],
            named,
            {"PHALANX_SECRET": secret, "PATH": os.environ["PATH"]},
        )
        self.pid = self._process.pid
        self.http = httpx.Client(base_url=self.url, timeout=DEADLINE, verify=False)

    def serving(self) -> "FrontEnd":
        self.supervisor.wait_for(Ready)
        return self

    def attach(self, rank: FakeRank, listener: int = 0, count: int = 1) -> FakeRank:
        """Until so many ranks are attached."""
        self.ranks.append(rank)
        rank.attach(self.engine_addresses[listener], Security(SECRET.encode()))
        self.wait_ranks(count)
        return rank

    def wait_ranks(self, count: int) -> Any:
        """`/ready`, once so many ranks are attached and have told their load."""
        while True:
            ranks = self.http.get("/ready").json()["ranks"]
            if len(ranks) == count and all(rank["running"] is not None for rank in ranks):
                return ranks

    def status(self, within: float = DEADLINE) -> int:
        """Exit status, once it has ended by itself."""
        readable, _, _ = select.select([self._process.ended], [], [], within)
        assert readable, f"still running after {within:g} s"
        status = self._process.reap()
        assert status is not None
        return status

    @property
    def output(self) -> str:
        """What it has printed; after its end all of it."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self._process.output, 1 << 16).decode()
        return ""

    def raw_connection(self) -> socket.socket:
        return socket.create_connection(self._http_socket.getsockname(), DEADLINE)

    def kill(self) -> None:
        self._process.signal(signal.SIGKILL)

    def __enter__(self) -> "FrontEnd":
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.ExitStack() as last_to_first:
            last_to_first.callback(self._folder.cleanup)
            for sock in (self._http_socket, *self._engine_sockets):
                last_to_first.callback(sock.close)
            last_to_first.callback(self.supervisor.close)
            last_to_first.callback(self._process.close)
            last_to_first.callback(self._end)
            for rank in self.ranks:
                last_to_first.callback(rank.die)
            self.http.close()

    def _end(self) -> None:
        self._process.kill()
        select.select([self._process.ended], [], [], DEADLINE)
        self._process.reap()
