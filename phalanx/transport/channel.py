"""A synchronous connection: ranks to API servers, and every child's control connection."""

import contextlib
import select
import socket
import threading
from collections.abc import Iterator
from typing import TypeVar

import msgspec

from phalanx.protocol import Message
from phalanx.transport import frames
from phalanx.transport.deadline import Deadline
from phalanx.transport.frames import FrameError, FrameReader
from phalanx.transport.handshake import NEEDS_TLS, Dialer, Handshake, HandshakeRefused, Listener, Refusal, Untrusted
from phalanx.transport.listener import connect_target, host_of, tune
from phalanx.transport.security import Security
from phalanx.transport.tls import Session, TlsError

__all__ = ["Channel", "Closed", "FrameError", "HandshakeRefused", "Untrusted", "accept", "dial"]

T = TypeVar("T")
READ_SIZE = 1 << 18
_IP_BIND_ADDRESS_NO_PORT = 24  # of <linux/in.h>; Python names it from 3.12 on


class Closed(ConnectionError):
    """The peer has gone: end-of-file or a reset."""


def dial(address: str, security: Security, timeout: float, source: str = "") -> "Channel":
    """Connect and prove ourselves; blocks until the peer has accepted us.

    A listener that nobody serves yet keeps us waiting in its backlog, up to `timeout` seconds: a caller that
    has other work dials from a thread. Time in which this process stood does not count. `source` is the address of
    this machine to dial from; empty: the system's choice.

    Raises:
        ConnectionError, FileNotFoundError: nothing listens there.
        HandshakeRefused: the secret or the protocol version differ; says at which end.
        Untrusted: only one end speaks TLS, or does not accept the other's certificate; says which.
        FilesError: our own certificate cannot be used; says why.
        TimeoutError: the peer did not answer in time.
    """
    deadline = Deadline(timeout)
    family, target = connect_target(address)
    session = _session(address, security)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if source:
            # The port is chosen by `connect`, which knows the peer: ports in use towards others are free for it.
            sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((source, 0))
        deadline.connect(sock, target)
        tune(sock)
        channel = Channel(sock, address, session)
        _secure(channel, deadline)
        handshake = Dialer(security.secret)
        channel.send(handshake.opening())
        _prove(channel, handshake, deadline)
        return channel
    except TimeoutError:
        sock.close()
        raise TimeoutError(f"{address} did not answer within {timeout:g} s") from None
    except TlsError as error:
        sock.close()
        raise Untrusted(str(error)) from None
    except BaseException:
        sock.close()
        raise


def _session(address: str, security: Security) -> Session | None:
    if not address.startswith("tls:"):
        return None
    if security.tls is None:
        raise Untrusted(f"{address} is reached over TLS: {NEEDS_TLS}")
    return security.tls.session(server_side=False)


def accept(sock: socket.socket, security: Security, timeout: float, peer: str) -> "Channel":
    """The other end of `dial`, for a connection that a listener has just accepted; blocks until both are proven.

    The socket is closed where this raises. `peer` is what the channel's errors call the other end. A connection from
    another machine must speak TLS where `security` has it.

    Raises:
        HandshakeRefused: the secret or the protocol version differ; says at which end.
        TlsError: only one end speaks TLS, or does not accept the other's certificate; says which.
        Closed, FrameError, TimeoutError: the peer left, did not speak this protocol, or was silent.
    """
    deadline = Deadline(timeout)
    try:
        tune(sock)
        tls = None if sock.family == socket.AF_UNIX else security.tls
        channel = Channel(sock, peer, None if tls is None else tls.session(server_side=True))
        _secure(channel, deadline)
        _prove(channel, Listener(security.secret), deadline)
        return channel
    except TimeoutError:
        sock.close()
        raise TimeoutError(f"{peer} did not prove itself within {timeout:g} s") from None
    except BaseException:
        sock.close()
        raise


def _prove(channel: "Channel", handshake: Handshake, deadline: Deadline) -> None:
    """Take one side of the handshake to its end. Raises TimeoutError at `deadline`."""
    channel._reader.limit = frames.MAX_UNPROVEN_FRAME
    while not handshake.done:
        body = channel._receive_body(deadline)
        try:
            answer = handshake.receive(body)
        except HandshakeRefused as refused:
            with contextlib.suppress(OSError):
                channel.send(Refusal(str(refused)))
            raise
        if answer is not None:
            channel.send(answer)
    channel._reader.limit = frames.MAX_FRAME


def _secure(channel: "Channel", deadline: Deadline) -> None:
    """Take the TLS handshake to its end, where TLS is spoken. Raises TimeoutError at `deadline`."""
    if channel._session is None:
        return
    channel._answer()
    while not channel._session.established:
        deadline.wait_for(channel._socket, select.POLLIN)
        channel._read_once()


class Channel:
    """An authenticated connection. Either blocking (`send`, `receive`) or in a selector loop (`post`, `drain`)."""

    def __init__(self, sock: socket.socket, peer: str, session: Session | None = None) -> None:
        self._socket = sock
        self._session = session
        self.peer = peer
        self._reader = FrameReader()
        self._unsent = bytearray()
        self._send_lock = threading.Lock()
        self._send_timeout: float | None = None

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def local_host(self) -> str:
        """The address of this machine that the connection uses; empty for a socket file."""
        return host_of(self._socket.getsockname())

    def setblocking(self, blocking: bool) -> None:
        self._socket.setblocking(blocking)

    def set_send_timeout(self, seconds: float) -> None:
        """Have a blocking `send` raise TimeoutError after `seconds` in which this process ran."""
        self._send_timeout = seconds

    def end_sending(self) -> None:
        """Nothing more comes from here; what was sent still arrives, and we can still receive."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()

    # --- blocking ---

    def send(self, message: Message) -> None:
        """Send one message, whole. Safe from several threads.

        Raises:
            Closed: the peer has gone.
            TimeoutError: the peer did not take it in time; see `set_send_timeout`.
        """
        frame = frames.encode(message)
        with self._send_lock, self._naming_the_peer():
            data = frame if self._session is None else self._session.seal(frame)
            if self._send_timeout is None:
                self._socket.sendall(data)
            else:
                Deadline(self._send_timeout).send(self._socket, data)

    def receive(self, decoder: msgspec.msgpack.Decoder[T]) -> T:
        """Wait for one message.

        Raises:
            Closed: the peer has gone.
            FrameError: what came does not decode.
        """
        return frames.decode(decoder, self._receive_body(), self.peer)

    def _receive_body(self, deadline: Deadline | None = None) -> bytes:
        while (body := self._reader.take()) is None:
            if deadline is not None:
                deadline.wait_for(self._socket, select.POLLIN)
            self._read_once()
        return body

    # --- in a selector loop ---

    def drain(self, decoder: msgspec.msgpack.Decoder[T]) -> list[T]:
        """Every message that has arrived by now; never blocks.

        Messages that came before an end-of-file are returned first; the next call raises Closed.

        Raises:
            Closed, FrameError: as `receive`.
        """
        messages: list[T] = []
        with contextlib.suppress(BlockingIOError):
            self._read_once()
        while (body := self._reader.take()) is not None:
            messages.append(frames.decode(decoder, body, self.peer))
        return messages

    @property
    def pending(self) -> int:
        """Bytes posted that the kernel has not taken yet."""
        return len(self._unsent)

    def post(self, message: Message) -> None:
        """Queue one message and send what the socket takes now; never blocks.

        Raises:
            Closed: the peer has gone.
        """
        frame = frames.encode(message)
        if self._session is not None:
            frame = self._session.seal(frame)
        if self._unsent:
            self._unsent += frame
            return
        self._unsent = frame
        self.flush()

    def flush(self) -> None:
        """Send what the socket takes of the queued bytes; never blocks.

        Raises:
            Closed: the peer has gone.
        """
        if not self._unsent:
            return
        try:
            with self._naming_the_peer():
                sent = self._socket.send(self._unsent)
        except BlockingIOError:
            return
        if sent == len(self._unsent):
            self._unsent = bytearray()
        else:
            del self._unsent[:sent]

    def _read_once(self) -> None:
        with self._naming_the_peer():
            data = self._socket.recv(READ_SIZE)
        if not data:
            # Without TLS's own farewell, too: frames are whole or not, and none means more for being the last.
            raise Closed(f"{self.peer} closed the connection")
        if self._session is not None:
            established = self._session.established
            try:
                data = self._session.open(data)
            finally:
                if not established:
                    self._answer()
        self._reader.feed(data)

    def _answer(self) -> None:
        """Take what the TLS handshake has to send. Once it is over, TLS sends only with the next frame."""
        assert self._session is not None
        if answer := self._session.outgoing():
            with contextlib.suppress(OSError):  # what the peer said on its way out is worth reading
                self._socket.sendall(answer)

    @contextlib.contextmanager
    def _naming_the_peer(self) -> Iterator[None]:
        try:
            yield
        except (BlockingIOError, Closed):
            raise
        except OSError as error:
            # Our own timeout has no number; ETIMEDOUT is the kernel's word that the peer's machine is gone.
            if isinstance(error, TimeoutError) and error.errno is None:
                raise
            raise Closed(f"{self.peer}: {error.strerror or error}") from error
