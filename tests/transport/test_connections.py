"""Two ends of one connection: a synchronous dialer and an asyncio listener, over Unix sockets and TCP."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from phalanx.protocol import PROTOCOL_VERSION, Abort, Hello, Incarnation, RequestId, Role, ToEngine, ToSupervisor
from phalanx.transport import frames, stream
from phalanx.transport.channel import Closed, FrameError, HandshakeRefused, dial
from phalanx.transport.handshake import Opening, Proof
from phalanx.transport.listener import address_of, bind_tcp, bind_unix
from phalanx.transport.security import Security
from phalanx.transport.stream import Connection, serve

SECRET = b"a launch secret"
SECURITY = Security(SECRET)
HELLO = Hello(Role.ENGINE, 3, Incarnation(1), 4711)
TO_SUPERVISOR: msgspec.msgpack.Decoder[ToSupervisor] = msgspec.msgpack.Decoder(ToSupervisor)
TO_ENGINE: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)


class Peer:
    """The listening side: records what arrives and lets the test wait for it."""

    def __init__(self) -> None:
        self.connections: asyncio.Queue[Connection] = asyncio.Queue()
        self.messages: asyncio.Queue[ToSupervisor] = asyncio.Queue()
        self.endings: asyncio.Queue[str] = asyncio.Queue()

    def accept(self, connection: Connection) -> "Peer":
        self.connections.put_nowait(connection)
        return self

    def received(self, body: bytes) -> None:
        try:
            self.messages.put_nowait(TO_SUPERVISOR.decode(body))
        except msgspec.DecodeError as error:
            raise FrameError(f"does not decode: {error}") from None

    def closed(self, reason: str) -> None:
        self.endings.put_nowait(reason)


@contextlib.asynccontextmanager
async def listening(sock: socket.socket) -> AsyncIterator[Peer]:
    peer = Peer()
    server = await serve(sock, SECURITY, peer.accept)
    try:
        yield peer
    finally:
        server.close()


@pytest.fixture(params=["unix", "tcp"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> socket.socket:
    return bind_unix(tmp_path / "s") if request.param == "unix" else bind_tcp("127.0.0.1")


def run(coroutine: object) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 30))  # type: ignore[arg-type]


def test_messages_cross_in_both_directions_and_the_end_is_noticed(listener: socket.socket) -> None:
    async def scene() -> None:
        async with listening(listener) as peer:
            channel = await asyncio.to_thread(dial, address_of(listener), SECURITY, 10)
            await asyncio.to_thread(channel.send, HELLO)
            assert await peer.messages.get() == HELLO
            connection = await peer.connections.get()
            aborts = [Abort([RequestId(n)]) for n in range(500)]
            for abort in aborts:
                connection.send(abort)
            assert [await asyncio.to_thread(channel.receive, TO_ENGINE) for _ in aborts] == aborts
            channel.close()
            assert "closed" in await peer.endings.get()

    run(scene())


def test_a_dialer_learns_of_the_listeners_end_as_an_error(listener: socket.socket) -> None:
    async def scene() -> None:
        async with listening(listener) as peer:
            channel = await asyncio.to_thread(dial, address_of(listener), SECURITY, 10)
            (await peer.connections.get()).abort("no more")
            with pytest.raises(Closed):
                await asyncio.to_thread(channel.receive, TO_ENGINE)
            assert await peer.endings.get() == "no more"
            channel.close()

    run(scene())


def test_a_peer_with_another_secret_is_refused_with_a_reason_at_both_ends(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        warnings: asyncio.Queue[str] = asyncio.Queue()
        monkeypatch.setattr(stream.log, "warning", lambda text, *args: warnings.put_nowait(text % args))
        async with listening(listener) as peer:
            with pytest.raises(HandshakeRefused, match="does not know the launch secret"):
                await asyncio.to_thread(dial, address_of(listener), Security(b"another"), 10)
            assert "does not know the launch secret" in await warnings.get()
            assert peer.connections.empty()

    run(scene())


def test_a_forged_proof_is_refused_by_the_listener_itself(listener: socket.socket) -> None:
    async def scene() -> None:
        async with listening(listener) as peer:
            reader, writer = await _open(listener)
            writer.write(frames.encode(Opening("phalanx", PROTOCOL_VERSION, b"n" * 32)))
            writer.write(frames.encode(Proof(b"p" * 32)))
            writer.write(frames.encode(HELLO))
            answer = await reader.read()
            assert b"the dialer does not know the launch secret" in answer
            assert peer.connections.empty()
            writer.close()

    run(scene())


def test_another_protocol_version_is_refused_with_both_numbers(listener: socket.socket) -> None:
    async def scene() -> None:
        async with listening(listener) as peer:
            reader, writer = await _open(listener)
            writer.write(frames.encode(Opening("phalanx", PROTOCOL_VERSION + 1, b"n" * 32)))
            answer = await reader.read()
            assert f"version {PROTOCOL_VERSION + 1}".encode() in answer
            assert peer.connections.empty()
            writer.close()

    run(scene())


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\xff" * 64, b"\x04\x00\x00\x00\x93\x02\xc4\x00", b"\x00\x00\x00\x00"],
    ids=["http", "huge frame", "proof first", "empty frame"],
)
def test_a_stranger_is_dropped_before_anything_it_says_is_a_message(listener: socket.socket, garbage: bytes) -> None:
    async def scene() -> None:
        async with listening(listener) as peer:
            reader, writer = await _open(listener)
            writer.write(garbage)
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
            assert peer.connections.empty()
            writer.close()

    run(scene())


def test_an_authenticated_peer_that_sends_nonsense_loses_its_connection_only(listener: socket.socket) -> None:
    async def scene() -> None:
        async with listening(listener) as peer:
            good = await asyncio.to_thread(dial, address_of(listener), SECURITY, 10)
            bad = await asyncio.to_thread(dial, address_of(listener), SECURITY, 10)
            await asyncio.to_thread(bad.send, Abort([RequestId(1)]))
            assert "does not decode" in await peer.endings.get()
            await asyncio.to_thread(good.send, HELLO)
            assert await peer.messages.get() == HELLO
            good.close()
            bad.close()

    run(scene())


def test_posting_never_blocks_on_a_peer_that_does_not_read(listener: socket.socket) -> None:
    async def scene() -> None:
        async with listening(listener) as peer:
            channel = await asyncio.to_thread(dial, address_of(listener), SECURITY, 10)
            connection = await peer.connections.get()
            connection._transport.pause_reading()
            channel.setblocking(False)
            posted = 0
            while channel.pending < 2**20:
                channel.post(Hello(Role.ENGINE, posted, Incarnation(0), 0))
                posted += 1
            connection._transport.resume_reading()
            while channel.pending:
                channel.flush()
                await asyncio.sleep(0)
            indices = [(await peer.messages.get()).index for _ in range(posted)]  # type: ignore[union-attr]
            assert indices == list(range(posted))
            channel.close()

    run(scene())


def test_dialling_where_nobody_listens_fails_at_once(tmp_path: Path) -> None:
    sock = bind_unix(tmp_path / "s")
    address = address_of(sock)
    sock.close()
    with pytest.raises(ConnectionRefusedError):
        dial(address, SECURITY, 10)
    with pytest.raises(FileNotFoundError):
        dial(f"unix:{tmp_path}/nowhere", SECURITY, 10)


@pytest.mark.parametrize("address", ["tcp:127.0.0.1:0", "tcp:host", "unix:", "127.0.0.1:80", "tcp:h:99999"])
def test_an_address_that_cannot_be_dialled_is_refused_by_name(address: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        dial(address, SECURITY, 1)


def test_a_listener_that_never_answers_ends_in_a_timeout_that_names_it(listener: socket.socket) -> None:
    with pytest.raises(TimeoutError, match="did not answer"):
        dial(address_of(listener), SECURITY, 0.05)
    listener.close()


def test_threads_may_send_at_once_without_mixing_frames(listener: socket.socket) -> None:
    async def scene() -> None:
        async with listening(listener) as peer:
            channel = await asyncio.to_thread(dial, address_of(listener), SECURITY, 10)

            def speak(speaker: int) -> None:
                for number in range(200):
                    channel.send(Hello(Role.API, speaker, Incarnation(number), 0))

            threads = [threading.Thread(target=speak, args=(n,)) for n in range(4)]
            for thread in threads:
                thread.start()
            seen: dict[int, list[int]] = {n: [] for n in range(4)}
            for _ in range(800):
                message = await peer.messages.get()
                assert isinstance(message, Hello)
                seen[message.index].append(message.incarnation)
            assert all(numbers == list(range(200)) for numbers in seen.values())
            for thread in threads:
                thread.join()
            channel.close()

    run(scene())


async def _open(listener: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if listener.family == socket.AF_UNIX:
        return await asyncio.open_unix_connection(listener.getsockname())
    return await asyncio.open_connection(*listener.getsockname())
