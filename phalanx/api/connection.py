"""The HTTP/1.1 protocol of a connection: uvicorn's on httptools, with bounds on what a client may leave undone.

Nothing here sets a timer: all connections are looked at together, about once a second (`Connections.look`).
"""

import asyncio
import contextlib
import logging
import socket
import struct
import sys
from enum import Enum, auto
from functools import partial
from http import HTTPStatus
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from phalanx import running_time
from phalanx.api.errors import ApiError
from phalanx.api.http import AsgiMessage, ClientConnection, Exchange, Receive, Scope, Send, request_id_of
from phalanx.api.known_errors import TOO_MANY_BODIES, TOO_MANY_CONNECTIONS
from phalanx.api.open_connections import Connections, Mark
from phalanx.api.request_head import check_head, without_upgrade

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 65536
"""Bytes after which a request's address and headers have to be at their end; the parser itself has no bound."""

UNSENT = 131_072
"""Bytes that the kernel takes for a connection ahead of sending them; by itself it would take megabytes."""

HIGH_WATER = 16_384
"""Bytes written beyond these at which a stream waits. Small: a token's event costs several times its bytes while the
event loop holds it, and far less while it is still a token."""

LAST_WORDS = 1.0
"""Seconds in which a new connection may still send its request when the server ends."""

CROSSING = 0.25
"""Seconds in which what an idle connection sends is still read when it has been told that the server ends."""


class Reading(Enum):
    """Which part of a request a connection is reading."""

    HEAD = auto()
    """The request's address and headers; a new connection owes them from the start."""
    BODY = auto()
    NOTHING = auto()
    """The last request has come whole, and nothing has come of the next."""


class BoundedProtocol(HttpToolsProtocol):
    """A client's connection: it reads requests, hands them to the application, and ends where a limit is passed."""

    paused = False
    """Whether the client reads more slowly than it is written to."""
    chunk_written = 0.0
    """When `write_chunk` was last called, on the event loop's clock."""
    _reading = Reading.HEAD
    _endless = 0
    """How many bytes have been read of what may have no end: of a head, or of chunk extensions and trailers since the
    last part of a body."""
    _of_bodies = 0
    """How many of the bytes that are being parsed belong to bodies."""
    _deaf = False
    """Whether nothing more is read, since a request was refused and nobody knows where the next would begin."""
    _upgrade_offered = False
    """Whether the head that is being read offers to change the protocol."""
    _since = 0.0
    """When the client began what it has to do now: to send a head, or a body; or when it had its last answer."""
    _unsent = 0
    """How many bytes were written and not taken by the client when it was last looked at."""
    _unsent_since = 0.0
    """Since when the client has taken none of them."""
    _receiving = 0
    """How many of the bytes that all connections are receiving are this one's."""

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
        self._since = running_time.now()
        if len(self.connections) > self._all.most:
            self._all.metrics.refused.add(1, "connections")
            self._refuse(TOO_MANY_CONNECTIONS.told(most=self._all.most))
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

        It must not be called while `paused`. It does nothing where the client has gone: the request is told so in a
        turn of its own.
        """
        if not self.transport.is_closing():
            self.chunk_written = self.loop.time()
            self.transport.write(b"%x\r\n%b\r\n" % (len(body), body))

    # --- the end of the server ---

    def leave(self) -> None:
        """Close the connection behind the answer to what was asked last."""
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """End the connection because the server ends. Nobody is reset: neither who waits for an answer nor who asks
        just now."""
        self.leave()
        if self.cycle is not None and not self.cycle.response_complete:
            return
        if self._reading is Reading.NOTHING:
            if not self.transport.can_write_eof():
                self.transport.close()
                return
            # A request that crosses this one is read and dropped: closed at once, the kernel would answer it with a
            # reset.
            self._deaf = True
            self.transport.write_eof()
            self.loop.call_later(CROSSING, self.transport.close)
        else:
            self.loop.call_later(LAST_WORDS, self.transport.close)

    # --- what a client may leave undone ---

    def look(self, now: float) -> None:
        """End the connection if its client has let the time for something pass; see `BoundedConnection`."""
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
        answered = self.cycle is None or self.cycle.response_complete
        match self._reading:
            case Reading.HEAD if answered and waited >= options.header_timeout:
                self._too_slow("header_timeout", "headers", options.header_timeout, silent=self._endless == 0)
            case Reading.BODY if not self.pipeline and waited >= options.body_timeout:
                self._too_slow("body_timeout", "body", options.body_timeout, silent=self.cycle.response_started)
            case Reading.NOTHING if answered and waited >= options.keep_alive_timeout:
                # uvicorn's own timer ends at the first byte, be it an empty line that begins no request.
                self.transport.close()

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
        """End the connection, with an answer that says why unless `silent`: nothing was asked, or it was answered."""
        self._all.metrics.cut.add(1, reason)
        log.debug("ended a connection of %s: %s", self.client, reason)
        if silent:
            self.transport.close()
            return
        message = f"The request's {what} did not come within {seconds:g} s (--{reason.replace('_', '-')})."
        self._refuse(ApiError(message, status=408, kind="timeout_error", code=reason))

    # --- the parser and its events; a request is refused by raising ApiError in one ---

    def data_received(self, data: bytes) -> None:
        if self._deaf or self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        self._of_bodies = 0
        try:
            self._parse(memoryview(data))
        except httptools.HttpParserError as error:
            reason = error.__context__
            self._refuse(reason if isinstance(reason, ApiError) else ApiError("This is not a valid HTTP/1.1 request."))
            return
        if self._reading is not Reading.NOTHING:
            self._endless += len(data) - self._of_bodies
            if self._endless > MAX_HEAD_BYTES:
                message = f"The request's address and headers are longer than {MAX_HEAD_BYTES} bytes."
                self._refuse(ApiError(message, status=431))

    def _parse(self, data: memoryview) -> None:
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                # The parser takes what follows for another protocol, and has not looked for a body. A server may
                # ignore the offer (RFC 9110, 7.8): the same head is read once more as one that makes none.
                data = data[upgrade.args[0] :]
                self._upgrade_offered = False
                head = without_upgrade(self.parser.get_method(), self.url, self.parser.get_http_version(), self.headers)
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                self.parser.feed_data(head)

    def on_message_begin(self) -> None:
        self._reading = Reading.HEAD
        self._endless = 0
        self._since = running_time.now()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        # A trailer is nothing that anybody asks for, and the request's headers have been looked at.
        if self._reading is Reading.HEAD:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        version = self.parser.get_http_version()
        check_head(self.parser.get_method(), version, self.headers)
        if self.parser.should_upgrade():
            self._upgrade_offered = True
            return
        if version == "1.0":
            # It knows no interim answers, whatever it asks for.
            self.expect_100_continue = False
        self._reading = Reading.BODY
        self._endless = 0
        self._since = running_time.now()
        super().on_headers_complete()
        if self._all.leaving:
            self.leave()

    def on_body(self, body: bytes) -> None:
        self._endless = 0
        self._of_bodies += len(body)
        super().on_body(body)
        shared = self._all
        self._receiving += len(body)
        shared.receiving += len(body)
        too_much = shared.receiving > shared.most_receiving
        is_alone = shared.receiving == self._receiving
        # One alone may always go on: --max-body-bytes bounds it.
        if too_much and not is_alone:
            # At once: the others must not be refused for what this one leaves.
            self._received()
            shared.metrics.refused.add(1, "receiving")
            raise TOO_MANY_BODIES.told()

    def on_message_complete(self) -> None:
        if self._upgrade_offered:
            return
        self._received()
        self._reading = Reading.NOTHING
        super().on_message_complete()

    def on_response_complete(self) -> None:
        # What has come of a next request had to wait until now.
        self._since = running_time.now()
        super().on_response_complete()

    def _received(self) -> None:
        """Count this connection's part out of what all are receiving."""
        self._all.receiving -= self._receiving
        self._receiving = 0

    # --- answers ---

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if cycle.scope["http_version"] == "1.1":
            super()._start_asgi_task(cycle, partial(app, connection=self))
            return

        async def without_chunks(scope: Scope, receive: Receive, send: Send, connection: ClientConnection) -> None:
            await app(scope, receive, _until_closed(cycle), connection)

        super()._start_asgi_task(cycle, partial(without_chunks, connection=self))

    def _refuse(self, error: ApiError) -> None:
        """Answer a fault in what is being read, and close. Nothing that follows it is read: where it ends is not known.

        Answers keep the order of their requests. Where one is owed that came before the fault, it is given first.
        """
        self._deaf = True
        self.flow.pause_reading()
        cycle = self.cycle
        if self._reading is Reading.BODY:
            if cycle.response_started:
                # It was answered before its body had come.
                self.transport.close()
                return
            if self.pipeline:
                # The newest, which is `cycle`, is at its left end.
                cycle.keep_alive = False
                self.pipeline[0] = (cycle, partial(_refuse_in_turn, error, self._all.mark))
                return
        elif cycle is not None and not cycle.response_complete:
            # The client has no answer to what is at fault, and asks again on a connection of its own.
            cycle.keep_alive = False
            return
        body = error.body
        self.transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n%b\r\n%b"
            % (error.status, HTTPStatus(error.status).phrase.encode(), len(body), self._headers_of(error), body)
        )
        self.transport.close()

    def _headers_of(self, error: ApiError) -> bytes:
        """The lines of the error's own headers and of those that every answer carries, made of the request's headers
        as far as these have been read."""
        asked = [] if self._reading is Reading.NOTHING else self.headers or []
        headers = [*error.headers, (b"x-request-id", request_id_of(asked).encode()), *self._all.mark(asked)]
        return b"".join(b"%b: %b\r\n" % header for header in headers)


async def _refuse_in_turn(
    error: ApiError, mark: Mark, scope: Scope, receive: Receive, send: Send, connection: ClientConnection
) -> None:
    exchange = Exchange(scope, receive, send, connection)
    exchange.signature += mark(scope["headers"])
    await exchange.refuse(error)


def _until_closed(cycle: RequestResponseCycle) -> Send:
    """What takes the place of `cycle.send` for HTTP/1.0, which knows no chunks: a body whose length is not told ends
    with the connection."""
    unbounded = False

    async def send(message: AsgiMessage) -> None:
        nonlocal unbounded
        if message["type"] == "http.response.start":
            unbounded = all(name != b"content-length" for name, _ in message["headers"])
            if unbounded:
                cycle.chunked_encoding, cycle.expected_content_length = False, sys.maxsize
        elif unbounded and not message.get("more_body", False):
            cycle.expected_content_length = len(message["body"])
        await cycle.send(cast(Any, message))

    return send
