"""The supervisor's end of the control plane, in the hands of a test: real listener, real handshake, no decisions."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from phalanx.checkpoint import fingerprints
from phalanx.checkpoint.facts import read
from phalanx.checkpoint.files import weight_files
from phalanx.config import Config, EngineOptions, HttpOptions, ModelOptions, ParallelOptions, ServiceOptions
from phalanx.protocol import ApiServers, ChildId, Incarnation, Message, Place, Role, ToSupervisor, Welcome
from phalanx.transport.frames import FrameError
from phalanx.transport.listener import address_of, bind_tcp
from phalanx.transport.security import Security
from phalanx.transport.stream import Connection, serve

SECRET = "a launch secret of some length"
DEADLINE = 60.0
decoder: msgspec.msgpack.Decoder[ToSupervisor] = msgspec.msgpack.Decoder(ToSupervisor)
M = TypeVar("M")


class Peer:
    """One connection that has proved the secret: what it said, in order."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._messages: asyncio.Queue[ToSupervisor] = asyncio.Queue()
        self._kept: list[ToSupervisor] = []
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def received(self, body: bytes) -> None:
        try:
            self._messages.put_nowait(decoder.decode(body))
        except msgspec.DecodeError as error:
            raise FrameError(f"does not decode: {error}") from None

    def closed(self, reason: str) -> None:
        self.ended.set_result(reason)

    def send(self, message: Message) -> None:
        self.connection.send(message)

    async def next(self, kind: type[M]) -> M:
        """The next message of a kind; those of other kinds stay for who asks for them."""
        found = next((message for message in self._kept if isinstance(message, kind)), None)
        if found is not None:
            self._kept.remove(found)
            return found
        async with asyncio.timeout(DEADLINE):
            while not isinstance(message := await self._messages.get(), kind):
                self._kept.append(message)
            return message


class FakeSupervisor:
    def __init__(self) -> None:
        self.address = ""
        self._peers: asyncio.Queue[Peer] = asyncio.Queue()

    def accept(self, connection: Connection) -> Peer:
        peer = Peer(connection)
        self._peers.put_nowait(peer)
        return peer

    async def peer(self) -> Peer:
        """The next connection."""
        async with asyncio.timeout(DEADLINE):
            return await self._peers.get()


@contextlib.asynccontextmanager
async def supervising(secret: str = SECRET, sock: socket.socket | None = None) -> AsyncIterator[FakeSupervisor]:
    """Serves control connections on a listening socket; its own by default."""
    supervisor = FakeSupervisor()
    sock = sock or bind_tcp("127.0.0.1")
    supervisor.address = address_of(sock)
    server = await serve(sock, Security(secret.encode()), supervisor.accept)
    try:
        yield supervisor
    finally:
        server.close()


def configuration(folder: Path, **options: Any) -> Config:
    """The configuration of a synthetic service; `options` are fields of any group."""
    groups = {
        "model": ModelOptions(model=str(folder)),
        "parallel": ParallelOptions(),
        "engine": EngineOptions(engine="synthetic"),
        "http": HttpOptions(port=0),
        "service": ServiceOptions(),
    }
    for name, group in groups.items():
        known = {field: value for field, value in options.items() if field in group.__struct_fields__}
        groups[name] = msgspec.structs.replace(group, **known)
    facts = read(folder, groups["model"].max_model_len)
    if groups["engine"].engine == "model":
        digests = facts.fingerprints | fingerprints.of_weights(weight_files(folder))
        facts = msgspec.structs.replace(facts, fingerprints=digests)
    return Config(facts=facts, **groups)


def welcome(config: Config) -> Welcome:
    return Welcome(config, ApiServers(()))


def rank(index: int, incarnation: int = 0) -> ChildId:
    return ChildId(Place(Role.ENGINE, index), Incarnation(incarnation))
