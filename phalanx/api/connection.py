"""The HTTP/1.1 protocol of a connection: uvicorn's on httptools, with a bound on what precedes the body."""

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from phalanx.api.errors import ApiError
from phalanx.api.http import OUTLET

MAX_HEAD_BYTES = 65536
"""Of a request's address and headers together; the parser itself has no bound."""


class BoundedProtocol(HttpToolsProtocol):
    _head_bytes = 0
    paused = False
    """The client reads more slowly than it is written to."""

    def pause_writing(self) -> None:
        self.paused = True
        super().pause_writing()

    def resume_writing(self) -> None:
        self.paused = False
        super().resume_writing()

    def write_chunk(self, body: bytes) -> None:
        """Write a part of a body whose response has begun, chunked: what ASGI's `send` does, without a coroutine.

        Not while `paused`.
        """
        self.transport.write(b"%x\r\n%b\r\n" % (len(body), body))

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        super().on_message_begin()
        self.scope["extensions"] = {OUTLET: {"connection": self}}  # type: ignore[dict-item]

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise httptools.HttpParserError("too long")

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be parsed in the form of all other errors, and close."""
        status, reason = b"400 Bad Request", "This is not a valid HTTP/1.1 request."
        if self._head_bytes > MAX_HEAD_BYTES:
            status = b"431 Request Header Fields Too Large"
            reason = f"The request's address and headers are longer than {MAX_HEAD_BYTES} bytes."
        body = ApiError(reason).body
        self.transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (status, len(body), body)
        )
        self.transport.close()
