"""A small HTTP/1.1 client that tells exactly what came, when, and how it ended. One connection, one exchange a time."""

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
class Exchange:
    """What came back for one request sent."""

    sent_at: float = 0.0
    status: int = 0
    """0: no answer has begun."""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    """Without the framing of chunks."""
    arrivals: list[float] = field(default_factory=list)
    """When each piece of the body came."""
    complete: bool = False
    """The answer came to its end as HTTP tells it."""
    trouble: str = ""
    """Why it did not."""

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
        """Closed at once at the end. `receive_buffer`: bytes the kernel may hold for a client that reads slowly.

        Raises:
            OSError: nobody listens.
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

    async def exchange(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        pace: float = 0.0,
        piece: int = CHUNK,
        enough: Callable[[Exchange], bool] = lambda exchange: False,
        into: Exchange | None = None,
    ) -> Exchange:
        """Send a request, read its answer; whatever goes wrong is told in the exchange.

        Args:
            pace: seconds between two reads of at most `piece` bytes.
            enough: looked at after every read; True leaves the rest unread.
            into: filled as it comes, for who looks on.
        """
        exchange = into or Exchange()
        exchange.sent_at = time.monotonic()
        parser = httptools.HttpResponseParser(exchange)
        try:
            self.writer.write(self.head(method, path, len(body)) + body)
            while not exchange.complete and not enough(exchange):
                data = await self._reader.read(piece)
                if not data:
                    exchange.trouble = "the connection ended before the answer did"
                    break
                parser.feed_data(data)
                exchange.status = parser.get_status_code()
                if pace:
                    await asyncio.sleep(pace)
        except OSError as error:
            exchange.trouble = f"{type(error).__name__}: {error}"
        except httptools.HttpParserError as error:
            exchange.trouble = f"what came is not HTTP: {error}"
        return exchange
