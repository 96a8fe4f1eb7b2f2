"""The HTTP/1.1 protocol of a connection: uvicorn's on httptools, with a bound on what precedes the body."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from phalanx.api.errors import ApiError
from phalanx.api.http import OUTLET

MAX_HEAD_BYTES = 65536
"""Of a request's address and headers, when they are not at their end; the parser itself has no bound."""


class BoundedProtocol(HttpToolsProtocol):
    _head_bytes: int | None = 0
    """Read while a request's head is not complete; None once it is."""
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

        Not while `paused`. Does nothing where the client has gone: the request is told so in a turn of its own.
        """
        if not self.transport.is_closing():
            self.transport.write(b"%x\r\n%b\r\n" % (len(body), body))

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_bytes is not None and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response("too long")

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        super().on_message_begin()
        self.scope["extensions"] = {OUTLET: {"connection": self}}

    def on_headers_complete(self) -> None:
        self._head_bytes = None
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be parsed in the form of all other errors, and close."""
        status, reason = b"400 Bad Request", "This is not a valid HTTP/1.1 request."
        if self._head_bytes is not None and self._head_bytes > MAX_HEAD_BYTES:
            status = b"431 Request Header Fields Too Large"
            reason = f"The request's address and headers are longer than {MAX_HEAD_BYTES} bytes."
        body = ApiError(reason).body
        self.transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (status, len(body), body)
        )
        self.transport.close()
