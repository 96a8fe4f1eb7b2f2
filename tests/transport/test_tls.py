"""TLS between machines: what both ends say when it cannot be, and that plain sockets never see what is inside."""

import asyncio
import contextlib
import logging
import select
import shutil
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from support.certificates import Authority
from transport.test_connections import HELLO, SECRET, TO_ENGINE, Peer, run

from phalanx.protocol import Abort, Failed, Hello, Incarnation, RequestId, Role, ToSupervisor
from phalanx.transport import channel, handshake, stream, tls
from phalanx.transport.channel import Channel, Closed, Untrusted, dial
from phalanx.transport.listener import address_of, bind_tcp, bind_unix
from phalanx.transport.security import SECRET_VARIABLE, Security
from phalanx.transport.stream import serve
from phalanx.transport.tls import Files, FilesError, Tls, TlsError

DEADLINE = 20.0
TO_SUPERVISOR: msgspec.msgpack.Decoder[ToSupervisor] = msgspec.msgpack.Decoder(ToSupervisor)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that the cluster does not know."""
    return Authority(tmp_path_factory.mktemp("theirs"), "stranger")


@pytest.fixture(scope="module")
def files(authority: Authority) -> Files:
    return Files(*authority.issue("machine-1"))


@pytest.fixture(scope="module")
def ours(files: Files) -> Tls:
    return Tls(files)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with bind_tcp("127.0.0.1") as sock:
        yield sock


def at(listener: socket.socket) -> str:
    return address_of(listener, encrypted=True)


def secured(tls: Tls | None = None, secret: bytes = SECRET) -> Security:
    security = Security(secret, None if tls is None else tls.files)
    security.tls = tls  # this one, and not what its files give now
    return security


@contextlib.asynccontextmanager
async def listening(sock: socket.socket, tls: Tls | None) -> AsyncIterator[Peer]:
    peer = Peer()
    server = await serve(sock, secured(tls), peer.accept)
    try:
        yield peer
    finally:
        server.close()


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> "asyncio.Queue[str]":
    """What the listener logs."""
    said: asyncio.Queue[str] = asyncio.Queue()
    monkeypatch.setattr(stream.log, "warning", lambda text, *args: said.put_nowait(text % args))
    return said


class Tap:
    """Relays one connection after another to a listener, and keeps what it sees."""

    def __init__(self, target: socket.socket) -> None:
        self._target = target.getsockname()
        self.seen = bytearray()

    async def __aenter__(self) -> "Tap":
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.host = f"{host}:{port}"
        return self

    async def __aexit__(self, *rest: object) -> None:
        self._server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(*self._target)
        await asyncio.gather(self._copy(reader, there[1]), self._copy(there[0], writer))

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(1 << 16):
                self.seen += data
                target.write(data)
        target.close()


@pytest.mark.parametrize("encrypted", [True, False])
def test_what_two_ends_say_is_seen_by_nobody_between_them(listener: socket.socket, ours: Tls, encrypted: bool) -> None:
    async def scene() -> None:
        async with listening(listener, ours if encrypted else None) as peer, Tap(listener) as tap:
            address = f"{'tls' if encrypted else 'tcp'}:{tap.host}"
            channel = await asyncio.to_thread(dial, address, secured(ours), DEADLINE)
            await asyncio.to_thread(channel.send, Hello(Role.ENGINE, 0xABCDEF, Incarnation(1), 0x123456))
            message = await peer.messages.get()
            assert message == Hello(Role.ENGINE, 0xABCDEF, Incarnation(1), 0x123456)
            (await peer.connections.get()).send(Abort([RequestId(0x654321)]))
            assert await asyncio.to_thread(channel.receive, TO_ENGINE) == Abort([RequestId(0x654321)])
            for word in (b"phalanx", b"\xab\xcd\xef", b"\x12\x34\x56", b"\x65\x43\x21"):
                assert (word in tap.seen) == (not encrypted)
            channel.close()
            await peer.endings.get()

    run(scene())


def test_many_messages_cross_in_both_directions_at_once_from_several_threads(
    listener: socket.socket, ours: Tls
) -> None:
    """Also long ones, and ones that come in pieces: a session is read by one thread while others write."""

    async def scene() -> None:
        async with listening(listener, ours) as peer:
            channel = await asyncio.to_thread(dial, at(listener), secured(ours), DEADLINE)
            connection = await peer.connections.get()
            aborts = [Abort([RequestId(n) for n in range(number * 50)]) for number in range(300)]

            def speak(speaker: int) -> None:
                for number in range(300):
                    channel.send(Hello(Role.API, speaker, Incarnation(number), 0))

            with ThreadPoolExecutor() as pool:
                said = [pool.submit(speak, speaker) for speaker in range(3)]
                heard = pool.submit(lambda: [channel.receive(TO_ENGINE) for _ in aborts])
                for abort in aborts:
                    connection.send(abort)
                seen: dict[int, list[int]] = {speaker: [] for speaker in range(3)}
                for _ in range(900):
                    message = await peer.messages.get()
                    assert isinstance(message, Hello)
                    seen[message.index].append(message.incarnation)
                assert await asyncio.wrap_future(heard) == aborts
                for future in said:
                    await asyncio.wrap_future(future)
            assert all(numbers == list(range(300)) for numbers in seen.values())
            channel.close()
            assert "closed" in await peer.endings.get()

    run(scene())


def test_a_selector_is_told_of_every_message(listener: socket.socket, ours: Tls) -> None:
    """`drain` leaves nothing inside TLS, of which no selector would tell; `post` nothing that `pending` hides."""

    async def scene() -> None:
        async with listening(listener, ours) as peer:
            channel = await asyncio.to_thread(dial, at(listener), secured(ours), DEADLINE)
            connection = await peer.connections.get()
            channel.setblocking(False)
            assert channel.drain(TO_ENGINE) == []
            aborts = [Abort([RequestId(n) for n in range(length)]) for length in (1, 9_000, 1, 70_000, 1)]
            for abort in aborts:
                connection.send(abort)
            loop, got, readable = asyncio.get_running_loop(), [], asyncio.Event()
            loop.add_reader(channel, readable.set)
            while len(got) < len(aborts):
                await readable.wait()
                readable.clear()
                got += channel.drain(TO_ENGINE)
            loop.remove_reader(channel)
            assert got == aborts

            connection._transport.pause_reading()
            posted = []
            while channel.pending < 2**20:
                posted.append(Failed(f"{len(posted)} {'x' * 5000}", ""))
                channel.post(posted[-1])
            connection._transport.resume_reading()
            while channel.pending:
                channel.flush()
                await asyncio.sleep(0)
            assert [await peer.messages.get() for _ in posted] == posted
            connection.close()
            with pytest.raises(Closed):
                await asyncio.to_thread(_until_end, channel)
            channel.close()

    run(scene())


def _until_end(channel: Channel) -> None:
    while True:
        select.select([channel], [], [])
        assert channel.drain(TO_ENGINE) == []


def test_the_launch_secret_still_counts_inside(
    listener: socket.socket, ours: Tls, warnings: "asyncio.Queue[str]"
) -> None:
    async def scene() -> None:
        async with listening(listener, ours) as peer:
            with pytest.raises(channel.HandshakeRefused, match="does not know the launch secret") as refused:
                await asyncio.to_thread(dial, at(listener), secured(ours, b"another"), DEADLINE)
            assert not isinstance(refused.value, Untrusted)
            assert "does not know the launch secret" in await warnings.get()
            assert peer.connections.empty()

    run(scene())


def both_say(
    listener: socket.socket,
    warnings: "asyncio.Queue[str]",
    *,
    there: Tls | None,
    here: Tls | None,
    listener_says: str,
    dialer_says: str,
    address: str = "",
) -> None:
    """Who dials so is turned away with a reason at both ends, and the next one that may is served."""

    async def scene() -> None:
        async with listening(listener, there) as peer:
            with pytest.raises(Untrusted) as turned_away:
                await asyncio.to_thread(dial, address or at(listener), secured(here), DEADLINE)
            assert dialer_says in str(turned_away.value)
            said = await warnings.get()
            assert said.startswith("dropped a connection from 127.0.0.1: ")
            assert listener_says in said
            assert peer.connections.empty()
            good = address_of(listener) if there is None else at(listener)
            (await asyncio.to_thread(dial, good, secured(there), DEADLINE)).close()
            await peer.endings.get()
            assert warnings.empty()

    run(scene())


def test_a_dialler_in_the_clear_is_told_to_speak_tls(
    listener: socket.socket, ours: Tls, warnings: "asyncio.Queue[str]"
) -> None:
    both_say(
        listener,
        warnings,
        there=ours,
        here=None,
        address=address_of(listener),
        listener_says="it does not speak TLS, and here that is needed",
        dialer_says="refused by the listener: TLS is needed here: give --cluster-ssl-certfile, --cluster-ssl-keyfile",
    )


def test_a_dialler_with_tls_is_told_that_the_listener_speaks_none(
    listener: socket.socket, ours: Tls, warnings: "asyncio.Queue[str]"
) -> None:
    both_say(
        listener,
        warnings,
        there=None,
        here=ours,
        listener_says="the dialer speaks TLS, and here nobody does",
        dialer_says="what listens there does not speak TLS",
    )


def test_a_listener_of_another_authority_is_not_believed(
    listener: socket.socket, ours: Tls, stranger: Authority, warnings: "asyncio.Queue[str]"
) -> None:
    both_say(
        listener,
        warnings,
        there=Tls(Files(*stranger.issue("machine-2"))),
        here=ours,
        listener_says="it does not accept our certificate: unknown ca",
        dialer_says="its certificate does not hold here: ",
    )


def test_a_dialler_of_another_authority_is_turned_away(
    listener: socket.socket,
    ours: Tls,
    authority: Authority,
    stranger: Authority,
    tmp_path: Path,
    warnings: "asyncio.Queue[str]",
) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(authority.certificate.read_bytes() + stranger.certificate.read_bytes())
    certificate, key, _ = stranger.issue("machine-2")
    both_say(
        listener,
        warnings,
        there=ours,
        here=Tls(Files(certificate, key, both)),
        listener_says="its certificate does not hold here: ",
        dialer_says="it does not accept our certificate: unknown ca",
    )


def _unrehearsed(files: Files, *, client_certificate: bool = True) -> Tls:
    """An identity that would not pass its own check, as one has that ran out while it was in use."""
    found = Tls.__new__(Tls)
    found.files = files
    found._stamps = tls._stamps(files)
    client = tls._context(files, ssl.PROTOCOL_TLS_CLIENT)
    if not client_certificate:
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.load_verify_locations(files.authority)
    found._contexts = (client, tls._context(files, ssl.PROTOCOL_TLS_SERVER))
    return found


@pytest.mark.parametrize("whose", ["dialler", "listener"])
def test_a_certificate_that_has_run_out_is_named_at_both_ends(
    whose: str, listener: socket.socket, ours: Tls, authority: Authority, warnings: "asyncio.Queue[str]"
) -> None:
    old = _unrehearsed(Files(*authority.issue("machine-2", expired=True)))
    not_ours = "it does not accept our certificate: certificate expired"
    not_its = "its certificate does not hold here: certificate has expired"
    if whose == "dialler":
        both_say(listener, warnings, there=ours, here=old, listener_says=not_its, dialer_says=not_ours)
        return

    async def scene() -> None:
        async with listening(listener, old):
            with pytest.raises(Untrusted, match=not_its):
                await asyncio.to_thread(dial, at(listener), secured(ours), DEADLINE)
            assert not_ours in await warnings.get()

    run(scene())


def test_a_dialler_without_a_certificate_is_turned_away(
    listener: socket.socket, ours: Tls, files: Files, warnings: "asyncio.Queue[str]"
) -> None:
    both_say(
        listener,
        warnings,
        there=ours,
        here=_unrehearsed(files, client_certificate=False),
        listener_says="it shows no certificate",
        dialer_says="it does not accept our certificate: certificate required",
    )


def test_who_stalls_holds_up_nobody_and_is_dropped(
    listener: socket.socket, ours: Tls, warnings: "asyncio.Queue[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "TIMEOUT", 0.2)

    async def scene() -> None:
        async with listening(listener, ours) as peer:
            stalled = [await asyncio.open_connection(*listener.getsockname()) for _ in range(5)]
            for _, writer in stalled:
                writer.write(b"\x16\x03\x01")  # the first bytes of a ClientHello
            (await asyncio.to_thread(dial, at(listener), secured(ours), DEADLINE)).close()
            await peer.connections.get()
            for reader, writer in stalled:
                assert await reader.read() == b""
                assert "did not prove itself within 0.2 s" in await warnings.get()
                writer.close()

    run(scene())


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x00\x05hello", b"\x16" * 4096, b"\x15\x03\x03\x00\x02\x02\x28"])
def test_what_only_looks_like_tls_is_dropped(
    garbage: bytes, listener: socket.socket, ours: Tls, warnings: "asyncio.Queue[str]"
) -> None:
    async def scene() -> None:
        async with listening(listener, ours) as peer:
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(garbage)
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
            assert "dropped a connection" in await warnings.get()
            assert peer.connections.empty()
            writer.close()

    run(scene())


def test_older_versions_of_tls_are_not_spoken(
    listener: socket.socket, ours: Tls, files: Files, warnings: "asyncio.Queue[str]"
) -> None:
    async def scene() -> None:
        async with listening(listener, ours):
            context = tls._context(files, ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
            with pytest.raises(ssl.SSLError):
                await asyncio.open_connection(*listener.getsockname(), ssl=context, server_hostname="x")
            assert "TLS with it failed: unsupported protocol" in await warnings.get()

    run(scene())


def test_a_listener_that_says_nothing_ends_in_a_timeout_that_names_it(listener: socket.socket, ours: Tls) -> None:
    with pytest.raises(TimeoutError, match=rf"{at(listener)} did not answer within 0\.05 s"):
        dial(at(listener), secured(ours), 0.05)


def test_a_tls_address_is_not_dialled_in_the_clear(listener: socket.socket) -> None:
    with pytest.raises(Untrusted, match=r"is reached over TLS: .* give --cluster-ssl-certfile"):
        dial(at(listener), secured(), DEADLINE)
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()


# --- the synchronous listener: a rank's leader ---


@contextlib.contextmanager
def accepting(listener: socket.socket, tls: Tls | None, timeout: float = DEADLINE) -> Iterator["list[object]"]:
    """Takes one connection in on a thread; what came of it."""
    outcome: list[object] = []

    def take() -> None:
        try:
            outcome.append(channel.accept(listener.accept()[0], secured(tls), timeout, "a worker"))
        except OSError as error:
            outcome.append(error)

    thread = threading.Thread(target=take)
    thread.start()
    yield outcome
    thread.join(DEADLINE)
    assert outcome


def test_a_leader_takes_its_workers_in_over_tls(listener: socket.socket, ours: Tls) -> None:
    with accepting(listener, ours) as outcome:
        worker = dial(at(listener), secured(ours), DEADLINE)
    (leader,) = outcome
    assert isinstance(leader, Channel)
    worker.send(HELLO)
    assert leader.receive(TO_SUPERVISOR) == HELLO
    worker.end_sending()
    with pytest.raises(Closed):
        leader.receive(TO_SUPERVISOR)
    leader.send(Abort([RequestId(7)]))
    assert worker.receive(TO_ENGINE) == Abort([RequestId(7)])
    for end in (worker, leader):
        end.close()


def test_a_leader_turns_away_who_speaks_no_tls_and_who_stalls(listener: socket.socket, ours: Tls) -> None:
    with accepting(listener, ours) as outcome, pytest.raises(Untrusted, match="TLS is needed here"):
        dial(address_of(listener), secured(), DEADLINE)
    assert isinstance(outcome[0], TlsError)
    with (
        accepting(listener, ours, timeout=0.1) as outcome,
        socket.create_connection(listener.getsockname()) as stalled,
    ):
        stalled.sendall(b"\x16\x03\x01")
        assert stalled.recv(100) == b""
    assert isinstance(outcome[0], TimeoutError)


# --- one session, without sockets ---


def test_a_dialler_says_nothing_before_its_certificate_is_known_to_be_accepted(ours: Tls) -> None:
    """Else what it said could make the listener's end of the connection a reset, and the reason would be lost."""
    dialler, listener = ours.session(server_side=False), ours.session(server_side=True)
    listener.open(dialler.outgoing())
    dialler.open(listener.outgoing())
    assert not dialler.established
    assert not listener.established
    listener.open(dialler.outgoing())
    assert listener.established
    dialler.open(listener.outgoing())
    assert dialler.established


def test_what_was_changed_on_its_way_ends_the_connection(ours: Tls) -> None:
    dialler, listener = ours.session(server_side=False), ours.session(server_side=True)
    for _ in range(2):
        listener.open(dialler.outgoing())
        dialler.open(listener.outgoing())
    first, second = dialler.seal(b"one"), dialler.seal(b"two")
    assert listener.open(first) == b"one"
    second[-1] ^= 1
    with pytest.raises(TlsError, match="TLS with it failed: decryption failed or bad record mac"):
        listener.open(second)


# --- which files ---


def test_a_process_speaks_tls_as_its_environment_says(
    listener: socket.socket, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files.certificate.parent)
    started = Security(SECRET, Files(*(Path(path.name) for path in files)))
    environment = started.handed_on({"PATH": "/bin"})
    assert [environment[name] for name in tls.VARIABLES] == [str(path) for path in files]
    child = Security.taken_from(environment)
    assert child is not None
    assert child.secret == SECRET
    assert SECRET_VARIABLE not in environment  # nor will it be in that of what the child starts
    assert address_of(listener, encrypted=child.encrypts) == at(listener)
    own = bind_unix(tmp_path / "s")
    assert address_of(own, encrypted=child.encrypts) == f"unix:{tmp_path}/s"

    async def scene() -> None:
        async with Tap(listener) as tap, listening(listener, child.tls) as peer, listening(own, child.tls) as neighbour:
            for address, ended in ((f"tls:{tap.host}", peer.endings), (address_of(own), neighbour.endings)):
                (await asyncio.to_thread(dial, address, child, DEADLINE)).close()
                await ended.get()
            assert tap.seen
            assert b"phalanx" not in tap.seen

    run(scene())


def test_a_process_without_files_speaks_in_the_clear_and_so_do_its_children(listener: socket.socket) -> None:
    security = Security(SECRET)
    environment = security.handed_on(dict.fromkeys(tls.VARIABLES, "/somewhere"))
    assert environment == {SECRET_VARIABLE: SECRET.decode()}
    assert security.tls is None
    assert address_of(listener, encrypted=security.encrypts).startswith("tcp:127.0.0.1:")
    assert Security.taken_from({}) is None


def test_files_that_do_not_do_are_named_before_anything_is_dialled(
    files: Files, authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    other = Files(*authority.issue("machine-3"))
    (empty := tmp_path / "empty.pem").touch()

    def trouble(files: Files) -> str:
        with pytest.raises(FilesError) as error:
            Tls(files)
        return str(error.value)

    nowhere = tmp_path / "nowhere"
    assert trouble(files._replace(key=nowhere)) == f"cannot read {nowhere}: No such file or directory"
    assert trouble(files._replace(key=other.key)) == f"{other.key} is not the key of {files.certificate}"
    assert f"{empty} holds no PEM certificate" in trouble(files._replace(certificate=empty))
    assert trouble(files._replace(authority=empty)) == f"{empty} holds no PEM certificate of an authority"
    foreign = files._replace(authority=stranger.certificate)
    assert trouble(foreign) == (
        f"{files.certificate} does not hold against {stranger.certificate}: unable to get local issuer certificate"
    )
    old = Files(*authority.issue("machine-4", expired=True))
    assert trouble(old).endswith(": certificate has expired")
    with pytest.raises(FilesError, match="set all three or none"):
        Files.named_by({tls.VARIABLES[0]: "x"})


def test_a_key_with_a_password_is_refused_and_nobody_is_asked(files: Files, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    with pytest.raises(FilesError, match="needs no password"):
        Tls(files._replace(key=locked))


def test_renewed_files_count_from_the_next_connection_on(
    listener: socket.socket,
    ours: Tls,
    authority: Authority,
    stranger: Authority,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mine = Files(tmp_path / "certificate.pem", tmp_path / "key.pem", tmp_path / "authority.pem")

    def install(issued: Files) -> None:
        for source, target in zip(issued, mine, strict=True):
            shutil.copy(source, target.with_suffix(".new"))
            target.with_suffix(".new").rename(target)

    async def scene() -> None:
        install(Files(*stranger.issue("machine-5")))
        renewed = Tls(mine)
        async with listening(listener, renewed) as peer:
            with pytest.raises(Untrusted):
                await asyncio.to_thread(dial, at(listener), secured(ours), DEADLINE)
            install(Files(*authority.issue("machine-5")))
            (await asyncio.to_thread(dial, at(listener), secured(ours), DEADLINE)).close()
            await peer.endings.get()
            mine.key.unlink()  # half of a renewal: the former pair still counts
            with caplog.at_level(logging.WARNING):
                (await asyncio.to_thread(dial, at(listener), secured(ours), DEADLINE)).close()
            await peer.endings.get()
            assert "goes on with the certificate that it has: cannot read " in caplog.text

    run(scene())


def test_a_peer_gets_as_long_for_tls_as_for_its_proof() -> None:
    assert stream.TIMEOUT is handshake.TIMEOUT
