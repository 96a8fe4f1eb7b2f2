"""A small HTTP/1.1 client that tells exactly what came, when, and how it ended; it sends one request at a time."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import httptools

CHUNK = 65536

Address: TypeAlias = tuple[str, int] | str
"""Host and port, or the path of a socket file."""


@dataclass
class HttpResponse:
    """What came back for one request."""

    sent_at: float = 0.0
    status: int = 0
    """The status of the answer, or 0 while none has begun."""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    """The body so far, without the framing of chunks."""
    arrivals: list[float] = field(default_factory=list)
    """When each piece of the body came."""
    complete: bool = False
    """Whether the answer came to its end as HTTP tells it."""
    trouble: str = ""
    """Why the answer did not come to its end, or nothing while there is no reason."""

    # httptools calls these.

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, piece: bytes) -> None:
        self.body += piece
        self.arrivals.append(time.monotonic())

    def on_message_complete(self) -> None:
        self.complete = True


class HttpConnection:
    """A connection to one of the API servers behind the port; `HttpConnection.open` dials."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader = reader
        self.writer = writer
        self._host = host

    @staticmethod
    @contextlib.asynccontextmanager
    async def open(address: Address, receive_buffer: int | None = None) -> AsyncIterator["HttpConnection"]:
        """Dial, and close the connection at once at the end of the block.

        `receive_buffer` is how many bytes the kernel may hold for a client that reads slowly.

        Raises:
            OSError: nobody listens there.
        """
        family, host = socket.AF_UNIX, "localhost"
        if isinstance(address, tuple):
            family, host = socket.AF_INET6 if ":" in address[0] else socket.AF_INET, f"{address[0]}:{address[1]}"
        sock = socket.socket(family)
        try:
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, address)
            limit = 2**16 if receive_buffer is None else receive_buffer
            reader, writer = await asyncio.open_connection(sock=sock, limit=limit)
        except BaseException:
            sock.close()
            raise
        try:
            yield HttpConnection(reader, writer, host)
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def head(self, method: str, path: str, length: int) -> bytes:
        return (
            f"{method} {path} HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/json\r\n"
            f"content-length: {length}\r\n\r\n"
        ).encode()

    async def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        pace: float = 0.0,
        piece: int = CHUNK,
        enough: Callable[[HttpResponse], bool] = lambda response: False,
        into: HttpResponse | None = None,
    ) -> HttpResponse:
        """Send a request and read its answer; the response tells what went wrong.

        Args:
            pace: the seconds between two reads of at most `piece` bytes.
            enough: whether the rest is left unread; it is asked after every read.
            into: the response to fill as it comes, for those who watch it meanwhile.
        """
        response = into or HttpResponse()
        response.sent_at = time.monotonic()
        parser = httptools.HttpResponseParser(response)
        try:
            self.writer.write(self.head(method, path, len(body)) + body)
            while not response.complete and not enough(response):
                data = await self._reader.read(piece)
                if not data:
                    response.trouble = "the connection ended before the answer did"
                    break
                parser.feed_data(data)
                response.status = parser.get_status_code()
                if pace:
                    await asyncio.sleep(pace)
        except OSError as error:
            response.trouble = f"{type(error).__name__}: {error}"
        except httptools.HttpParserError as error:
            response.trouble = f"what came is not HTTP: {error}"
        return response
