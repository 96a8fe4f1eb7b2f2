"""One HTTP exchange: bounded bodies, whole answers, event streams, and the client's departure.

Requests and answers go over plain ASGI. What ASGI has no words for goes to the connection itself.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from time import perf_counter
from typing import Any, NamedTuple, Protocol, TypeAlias
from uuid import uuid4

import msgspec

from phalanx.api.errors import ApiError

Scope: TypeAlias = MutableMapping[str, Any]
AsgiMessage: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[AsgiMessage]]
Send: TypeAlias = Callable[[AsgiMessage], Awaitable[None]]
Headers: TypeAlias = Iterable[tuple[bytes, bytes]]

JSON = b"application/json"

LINGER = 1.0
"""Seconds for which the rest of a refused body is read and dropped, so that the client gets to read the refusal:
closing a socket with unread input resets it, and many clients then never see the answer."""

_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Tells nginx not to collect the events.
    (b"x-accel-buffering", b"no"),
]


_COMMENT = b": waiting\n\n"
"""A line that readers of event streams pass over."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~:/+=@-]{1,128}")
"""The form of an `x-request-id` that is taken from a client: it goes into answers and into the log."""


def header_of(headers: Headers, name: bytes) -> bytes | None:
    """The first header of this lower-case name."""
    for key, value in headers:
        if key == name:
            return bytes(value)
    return None


def request_id_of(headers: Headers) -> str:
    """The request's id, which the client or its proxy gave, or else a new one of ours."""
    given = header_of(headers, b"x-request-id")
    return given.decode() if given is not None and _REQUEST_ID.fullmatch(given) else uuid4().hex


class ClientConnection(Protocol):
    """The connection that a request came on."""

    paused: bool
    """Whether the client reads more slowly than it is written to."""
    chunk_written: float
    """When `write_chunk` was last called, on the event loop's clock."""

    def write_chunk(self, body: bytes) -> None:
        """Write a part of an answer that has begun, without waiting; it must not be called while `paused`."""
        ...

    def cut(self, reason: str) -> None:
        """End the connection now. `reason` is counted."""
        ...


class ClientGone(Exception):
    """The connection ended before the answer did."""


class Generated(NamedTuple):
    """What a request that asked for text took."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    first_token: float | None
    """Seconds from the request's arrival to its first token, or None where there was none."""
    ranks: tuple[int, ...]


class BodyTooLarge(ApiError):
    def __init__(self, limit: int) -> None:
        super().__init__(
            f"The request body is larger than {limit} bytes, the most this server reads (--max-body-bytes).",
            status=413,
            code="body_too_large",
        )


class Exchange:
    """A request being answered.

    Handlers read `body()`. Then they `reply` once, or `begin_events`, `send_event` for each and `end_events`.
    """

    __slots__ = (
        "_body_asked_for",
        "_receive",
        "_spoke",
        "arrival",
        "connection",
        "generated",
        "method",
        "parameter",
        "path",
        "request_id",
        "scope",
        "send",
        "signature",
        "status",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, connection: ClientConnection) -> None:
        self.scope = scope
        self.connection = connection
        self._receive = receive
        self._body_asked_for = False
        self.send = send
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.parameter = ""
        """The part of the path that its route leaves open."""
        self.arrival = perf_counter()
        self.status: int | None = None
        """The status of the answer, or None while none has begun."""
        self._spoke = 0.0
        """When an event was last sent, on the event loop's clock; `write_chunk` keeps its own time."""
        self.generated: Generated | None = None
        """What the request took, or None where it asks for no text."""
        self.request_id = request_id_of(scope["headers"])
        self.signature: list[tuple[bytes, bytes]] = [(b"x-request-id", self.request_id.encode())]
        """Headers that every answer carries, whatever it is."""

    @property
    def has_begun(self) -> bool:
        """Whether a part of the answer has been sent, so that its status cannot be another any more."""
        return self.status is not None

    def header(self, name: bytes) -> bytes | None:
        """The first header of this lower-case name."""
        return header_of(self.scope["headers"], name)

    async def body(self, limit: int) -> bytes:
        """Read the whole body.

        Raises:
            BodyTooLarge: it is over `limit` bytes; what lies beyond has not been read.
            ClientGone: the connection ended first.
        """
        declared = self.header(b"content-length")
        if declared is not None and int(declared) > limit:
            raise BodyTooLarge(limit)
        parts: list[bytes] = []
        size = 0
        self._body_asked_for = True
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise BodyTooLarge(limit)
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    async def reply(self, status: int, body: bytes, content_type: bytes = JSON, headers: Headers = ()) -> None:
        """Send the whole answer."""
        self.status = status
        await self._start(status, [(b"content-type", content_type), *headers], len(body))
        await self.send({"type": "http.response.body", "body": body})

    async def reply_json(self, answer: Any) -> None:
        await self.reply(200, msgspec.json.encode(answer))

    async def reply_nothing(self, headers: Headers) -> None:
        """Answer that all is well, without a body."""
        self.status = 204
        await self.send({"type": "http.response.start", "status": 204, "headers": [*headers, *self.signature]})
        await self.send({"type": "http.response.body", "body": b""})

    async def refuse(self, error: ApiError) -> None:
        """Answer with an error."""
        if not isinstance(error, BodyTooLarge):
            await self.reply(error.status, error.body, headers=error.headers)
            return
        self.status = error.status
        await self._start(error.status, [(b"content-type", JSON), (b"connection", b"close")], len(error.body))
        await self.send({"type": "http.response.body", "body": error.body, "more_body": True})
        try:
            async with asyncio.timeout(LINGER):
                while (await self._receive()).get("more_body", False):
                    pass
        except TimeoutError:
            pass
        await self.send({"type": "http.response.body", "body": b""})

    async def begin_events(self) -> None:
        """Start a stream of server-sent events; `send_event` and `end_events` write them."""
        self.status = 200
        self._spoke = asyncio.get_running_loop().time()
        await self.send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS + self.signature})

    @property
    def outlet(self) -> ClientConnection | None:
        """The connection, or None where it takes no chunks, which HTTP/1.0 does not know."""
        return self.connection if self.scope["http_version"] == "1.1" else None

    async def send_event(self, event: bytes) -> None:
        self._spoke = asyncio.get_running_loop().time()
        await self.send({"type": "http.response.body", "body": event, "more_body": True})

    async def end_events(self, event: bytes) -> None:
        """Send the last event and end the answer."""
        await self.send({"type": "http.response.body", "body": event})

    @contextmanager
    def kept_alive(self, silence: float) -> Iterator[None]:
        """In the block, which writes an event stream, say something whenever it has been silent for so many seconds.

        A stream whose first event takes that long, counted from the request's arrival, gets its headers then; what
        refuses it after that has to be an event. What says something is a comment, which clients pass over: it is for
        the proxies between, which cut silent connections. A `silence` of 0 stands for never.
        """
        if not silence:
            yield
            return
        loop = asyncio.get_running_loop()
        self._spoke = loop.time() - (perf_counter() - self.arrival)
        saying: asyncio.Task[None] | None = None
        timer: asyncio.TimerHandle | None = None

        def look() -> None:
            nonlocal saying, timer
            left = silence - (loop.time() - max(self._spoke, self.connection.chunk_written))
            if left <= 0:
                left = silence
                # A client that does not read has something to read.
                if not self.connection.paused:
                    saying = loop.create_task(self._say_something())
            timer = loop.call_later(left, look)

        timer = loop.call_later(max(silence - (loop.time() - self._spoke), 0), look)
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
            if saying is not None:
                saying.cancel()

    async def _say_something(self) -> None:
        if not self.has_begun:
            await self.begin_events()
        await self.send_event(_COMMENT)

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]], length: int) -> None:
        headers += [(b"content-length", str(length).encode()), *self.signature]
        if not self._body_asked_for and self.header(b"expect") is not None:
            # Whether a client that was to be told to send its body sends it all the same, nobody can tell: what it
            # sends next on this connection could be either.
            headers.append((b"connection", b"close"))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    @asynccontextmanager
    async def ended_with_client(self) -> AsyncIterator[None]:
        """Cancel the block when the client goes, streaming or not; ClientGone comes out of it.

        It may be used only after the whole body has been read.
        """
        task = asyncio.current_task()
        assert task is not None
        gone = False

        async def watch() -> None:
            nonlocal gone
            while (await self._receive())["type"] != "http.disconnect":
                pass
            gone = True
            task.cancel()

        watcher = asyncio.get_running_loop().create_task(watch())
        try:
            yield
        except asyncio.CancelledError:
            # Cancelled from elsewhere as well (the server stops): that one has to go on.
            if gone and task.uncancel() == 0:
                raise ClientGone from None
            raise
        finally:
            watcher.cancel()
