"""The asyncio end of connections: what the supervisor and the API servers listen with."""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Protocol, cast

from phalanx import running_time
from phalanx.protocol import Message
from phalanx.transport import frames
from phalanx.transport.frames import FrameError, FrameReader
from phalanx.transport.handshake import TIMEOUT, HandshakeRefused, Listener, Refusal
from phalanx.transport.listener import host_of, tune
from phalanx.transport.security import Security
from phalanx.transport.tls import Session, is_hello

log = logging.getLogger(__name__)


class Handler(Protocol):
    """Receives what comes over one authenticated connection."""

    def received(self, body: bytes) -> None:
        """Take one frame body. A FrameError raised from here closes the connection with its reason."""

    def closed(self, reason: str) -> None:
        """Learn that the connection is over; called once, last."""


async def serve(
    sock: socket.socket, security: Security, accept: Callable[["Connection"], Handler]
) -> asyncio.AbstractServer:
    """Accept connections on a listening socket; `accept` is called for each peer that has proved the secret.

    A peer that fails, stalls or speaks another version is told why, dropped and logged; `accept` never sees it.
    Connections from other machines must speak TLS where `security` has it.

    Raises:
        FilesError: the certificate that this process is to show cannot be used; says why.
    """
    loop = asyncio.get_running_loop()
    tls = None if sock.family == socket.AF_UNIX else security.tls

    def connection() -> Connection:
        return Connection(security.secret, accept, None if tls is None else tls.session(server_side=True))

    if sock.family == socket.AF_UNIX:
        return await loop.create_unix_server(connection, sock=sock)
    return await loop.create_server(connection, sock=sock)


class Connection(asyncio.Protocol):
    """One accepted connection: TLS where it is spoken, then the handshake, then frames to its handler."""

    def __init__(
        self, secret: bytes, accept: Callable[["Connection"], Handler], session: Session | None = None
    ) -> None:
        self._accept = accept
        self._session = session
        self._handshake: Listener | None = Listener(secret)
        self._handler: Handler | None = None
        self._reader = FrameReader(frames.MAX_UNPROVEN_FRAME)
        self._first = True
        """Whether nothing has been received yet."""
        self._transport: asyncio.Transport
        self._deadline: running_time.Timer
        self._reason = "the peer closed the connection"

    # --- for the handler ---

    def send(self, message: Message) -> None:
        """Queue one message; never blocks. Does nothing once the connection is over."""
        if not self._transport.is_closing():
            frame = frames.encode(message)
            self._transport.write(frame if self._session is None else self._session.seal(frame))

    @property
    def pending(self) -> int:
        """Bytes queued that the kernel has not taken yet."""
        return self._transport.get_write_buffer_size()

    @property
    def local_host(self) -> str:
        """The address of this machine that the peer dialled; empty for a socket file."""
        return host_of(self._transport.get_extra_info("sockname"))

    @property
    def peer_host(self) -> str:
        return host_of(self._transport.get_extra_info("peername"))

    def hand_over(self, handler: Handler) -> None:
        """Frames and the end of this connection go to another handler from now on."""
        self._handler = handler

    def close(self) -> None:
        """End the connection once what was sent has gone out."""
        self._transport.close()

    def abort(self, reason: str) -> None:
        """End the connection now; `closed` gets the reason."""
        self._reason = reason
        self._transport.abort()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the interface without the base class.
        self._transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            tune(sock)
        self._deadline = running_time.Timer(TIMEOUT, self._stalled)

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(self._opened(data))
            while (body := self._reader.take()) is not None:
                if self._handler is not None:
                    self._handler.received(body)
                else:
                    self._prove(body)
        except HandshakeRefused as refused:
            self.send(Refusal(str(refused)))
            self._drop(str(refused))
        except FrameError as error:
            self._drop(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        if exc is not None:
            self._reason = str(exc)
        if self._handler is not None:
            self._handler.closed(self._reason)

    def _opened(self, data: bytes) -> bytes:
        """The frames in what the peer sent."""
        if self._session is None:
            if self._first and is_hello(data):
                raise HandshakeRefused(
                    "the dialer speaks TLS, and here nobody does: give --cluster-ssl-certfile at both ends"
                )
            self._first = False
            return data
        try:
            return self._session.open(data)
        finally:
            if answer := self._session.outgoing():
                self._transport.write(answer)

    def _prove(self, body: bytes) -> None:
        assert self._handshake is not None
        answer = self._handshake.receive(body)
        if answer is not None:
            self.send(answer)
        if self._handshake.done:
            self._handshake = None
            self._deadline.cancel()
            self._reader.limit = frames.MAX_FRAME
            self._handler = self._accept(self)

    def _stalled(self) -> None:
        self._drop(f"the peer did not prove itself within {TIMEOUT:g} s")

    def _drop(self, reason: str) -> None:
        self._reason = reason
        log.warning("dropped a connection%s: %s", f" from {self.peer_host}" if self.peer_host else "", reason)
        self._transport.close()
