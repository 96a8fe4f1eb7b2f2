"""The HTTP/1.1 protocol of a connection: uvicorn's on httptools, with bounds on what a client may leave undone.

Nothing here sets a timer: all connections are looked at together, about once a second (`Connections.look`).
"""

import asyncio
import contextlib
import logging
import resource
import socket
import struct
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from phalanx.api.errors import ApiError, server_error
from phalanx.api.http import OUTLET
from phalanx.api.metrics import Metrics
from phalanx.config import HttpOptions

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 65536
"""Of a request's address and headers, when they are not at their end; the parser itself has no bound."""

UNSENT = 131_072
"""Bytes that the kernel takes for a connection ahead of sending them; by itself it would take megabytes."""

HIGH_WATER = 16_384
"""Bytes written beyond these at which a stream waits. Small: a token's event costs several times its bytes while the
event loop holds it, and far less while it is still a token."""

RESERVED_DESCRIPTORS = 64
"""What an API server needs besides its HTTP connections and one for each rank."""


class Connections(ServerState):
    """All connections of an API server, and the limits that each is held to."""

    def __init__(self, options: HttpOptions, metrics: Metrics, ranks: int) -> None:
        super().__init__()
        self.options = options
        self.metrics = metrics
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED_DESCRIPTORS - ranks
        self.most = options.max_connections or max(descriptors, 1)
        self.receiving = 0
        """Bytes of bodies that are not complete."""
        self.most_receiving = options.max_held_bytes // 4
        metrics.connections.read = lambda: len(self.connections)

    @property
    def interval(self) -> float:
        """Seconds between two looks: a second, or less where a limit is shorter than a few."""
        options = self.options
        return min(1.0, min(options.header_timeout, options.body_timeout, options.write_timeout) / 4)

    def look(self, now: float) -> None:
        """End those whose client has let the time for something pass. `now`: on the event loop's clock."""
        for connection in list(self.connections):
            cast(BoundedProtocol, connection).look(now)


class BoundedProtocol(HttpToolsProtocol):
    _head_bytes: int | None = 0
    """Read while a request's head is not complete; None once it is."""
    paused = False
    """The client reads more slowly than it is written to."""
    _since = 0.0
    """When the client began what it has to do now: to send a head, or a body."""
    _unsent = 0
    """Bytes written and not taken by the client when last looked at, and since when it has taken none."""
    _unsent_since = 0.0
    _receiving = 0
    """This one's part of what all are receiving."""
    _beside_body = 0
    """Read since a part of the body came that was not its end: chunk extensions and trailers, which may be endless."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        assert isinstance(server_state, Connections)
        self._all = server_state

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self._since = self.loop.time()
        if len(self.connections) > self._all.most:
            self._all.metrics.refused.add(1, "connections")
            message = f"This server has {self._all.most} open connections, the most it takes (--max-connections)."
            self._refuse(b"503 Service Unavailable", server_error(message, status=503, code="overloaded"))
            return
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)

    def connection_lost(self, exc: Exception | None) -> None:
        self._received()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        self.paused = True
        super().pause_writing()

    def resume_writing(self) -> None:
        self.paused = False
        super().resume_writing()

    def write_chunk(self, body: bytes) -> None:
        """Write a part of a body whose response has begun, chunked: what ASGI's `send` does, without a coroutine.

        Not while `paused`. Does nothing where the client has gone: the request is told so in a turn of its own.
        """
        if not self.transport.is_closing():
            self.transport.write(b"%x\r\n%b\r\n" % (len(body), body))

    # --- what a client may leave undone ---

    def look(self, now: float) -> None:
        options = self._all.options
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        elif unsent and now - self._unsent_since >= options.write_timeout:
            # Also where the answer is complete and the connection waits for its last bytes to be taken.
            self.cut("write_timeout")
            return
        if self.transport.is_closing():
            return
        waited = now - self._since
        if self.cycle is None or self.cycle.response_complete:
            if self._head_bytes is not None and waited >= options.header_timeout:
                self._too_slow("header_timeout", "headers", options.header_timeout, silent=self._head_bytes == 0)
        elif self.cycle.more_body and not self.pipeline and waited >= options.body_timeout:
            self._too_slow("body_timeout", "body", options.body_timeout, silent=self.cycle.response_started)

    def cut(self, reason: str) -> None:
        """End the connection now; its requests are told as if the client had gone."""
        self._all.metrics.cut.add(1, reason)
        log.debug("cut a connection of %s: %s", self.client, reason)
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            # By a reset: else the kernel would go on holding what the client does not take.
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _too_slow(self, reason: str, what: str, seconds: float, silent: bool) -> None:
        """`silent`: nothing has been asked, or the answer has been given."""
        self._all.metrics.cut.add(1, reason)
        log.debug("ended a connection of %s: %s", self.client, reason)
        if silent:
            self.transport.close()
            return
        message = f"The request's {what} did not come within {seconds:g} s (--{reason.replace('_', '-')})."
        self._refuse(b"408 Request Timeout", ApiError(message, status=408, kind="timeout_error", code=reason))

    # --- the parser's events ---

    def data_received(self, data: bytes) -> None:
        self._beside_body += len(data)
        super().data_received(data)
        if self._head_bytes is None and self._beside_body > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("too long")
        if self._head_bytes is not None and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response("too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        # A trailer is nothing that anybody asks for, and the request's headers have been looked at.
        if self._head_bytes is not None:
            super().on_header(name, value)

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        self._since = self.loop.time()
        super().on_message_begin()
        self.scope["extensions"] = {OUTLET: {"connection": self}}

    def on_headers_complete(self) -> None:
        self._head_bytes = None
        self._since = self.loop.time()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._beside_body = 0
        super().on_body(body)
        shared = self._all
        if self.transport.is_closing():
            return
        self._receiving += len(body)
        shared.receiving += len(body)
        # One alone may always go on: --max-body-bytes bounds it.
        if shared.most_receiving < shared.receiving > self._receiving:
            # At once: the others must not be refused for what this one leaves.
            self._received()
            shared.metrics.refused.add(1, "receiving")
            message = "The server is receiving as many request bodies as its memory allows (--max-held-bytes)."
            error = server_error(message, status=503, code="overloaded")
            if self.cycle.response_started:
                self.transport.close()
            else:
                self._refuse(b"503 Service Unavailable", error)

    def on_message_complete(self) -> None:
        self._received()
        self._beside_body = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        # What has come of a next request had to wait until now.
        self._since = self.loop.time()
        super().on_response_complete()

    def _received(self) -> None:
        self._all.receiving -= self._receiving
        self._receiving = 0

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be parsed in the form of all other errors, and close."""
        status, reason = b"400 Bad Request", "This is not a valid HTTP/1.1 request."
        if (self._head_bytes or self._beside_body) > MAX_HEAD_BYTES:
            status = b"431 Request Header Fields Too Large"
            reason = f"The request's address and headers are longer than {MAX_HEAD_BYTES} bytes."
        self._refuse(status, ApiError(reason))

    def _refuse(self, status: bytes, error: ApiError) -> None:
        """Answer before there is a request to answer, and close."""
        body = error.body
        self.transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (status, len(body), body)
        )
        self.transport.close()
