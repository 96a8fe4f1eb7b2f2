"""The client tells exactly what came and how it ended."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from phalanx.chaos.http_client import HttpConnection, HttpResponse

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-phalanx-api-server: 1\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
Answering = Callable[[asyncio.StreamWriter, asyncio.Event], Awaitable[None]]


@contextlib.asynccontextmanager
async def server(answering: Answering, seen: asyncio.Event) -> AsyncIterator[tuple[str, int]]:
    """Reads a request's head, then answers as told."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await answering(writer, seen)
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        host, port = listening.sockets[0].getsockname()
        yield host, port


def exchange(answering: Answering, leave_after: int | None = None) -> HttpResponse:
    """One request answered so; the answering may wait until something of it has come."""

    async def run() -> HttpResponse:
        seen = asyncio.Event()

        def enough(so_far: HttpResponse) -> bool:
            if so_far.arrivals:
                seen.set()
            return leave_after is not None and len(so_far.arrivals) >= leave_after

        async with server(answering, seen) as address, HttpConnection.open(address) as connection:
            return await connection.request("POST", "/", b"{}", enough=enough)

    return asyncio.run(asyncio.wait_for(run(), 30))


def sending(*pieces: bytes) -> Answering:
    async def answer(writer: asyncio.StreamWriter, seen: asyncio.Event) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return answer


def test_a_whole_answer_is_complete() -> None:
    got = exchange(sending(HEAD + b"content-length: 5\r\n\r\nhello"))
    assert (got.status, bytes(got.body), got.complete, got.trouble) == (200, b"hello", True, "")
    assert got.headers["x-phalanx-api-server"] == "1"


def test_chunks_are_put_together_however_they_were_cut() -> None:
    text = CHUNKED + b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    got = exchange(sending(*(text[place : place + 1] for place in range(len(text)))))
    assert (bytes(got.body), got.complete) == (b"hello world", True)


def test_each_piece_has_its_time() -> None:
    async def answer(writer: asyncio.StreamWriter, seen: asyncio.Event) -> None:
        writer.write(CHUNKED + b"5\r\nhello\r\n")
        await seen.wait()
        writer.write(b"6\r\n world\r\n0\r\n\r\n")

    got = exchange(answer)
    assert len(got.arrivals) == 2
    assert got.sent_at < got.arrivals[0] < got.arrivals[1]


@pytest.mark.parametrize(
    "pieces",
    [(), (HEAD,), (CHUNKED + b"5\r\nhello\r\n",), (HEAD + b"content-length: 9\r\n\r\nhello",)],
    ids=["nothing", "half a head", "no last chunk", "too little"],
)
def test_an_answer_without_its_end_is_not_complete(pieces: tuple[bytes, ...]) -> None:
    got = exchange(sending(*pieces))
    assert not got.complete
    assert got.trouble == "the connection ended before the answer did"


def test_a_reset_is_told() -> None:
    async def answer(writer: asyncio.StreamWriter, seen: asyncio.Event) -> None:
        writer.write(CHUNKED + b"5\r\nhello\r\n")
        await seen.wait()
        writer.transport.abort()

    got = exchange(answer)
    assert not got.complete
    assert got.trouble
    assert bytes(got.body) == b"hello"


def test_what_is_not_http_is_told() -> None:
    assert "not HTTP" in exchange(sending(b"hello\r\n\r\n")).trouble


def test_a_client_may_leave_in_the_middle() -> None:
    async def answer(writer: asyncio.StreamWriter, seen: asyncio.Event) -> None:
        writer.write(CHUNKED + b"5\r\nhello\r\n")
        await seen.wait()

    got = exchange(answer, leave_after=1)
    assert (bytes(got.body), got.complete, got.trouble) == (b"hello", False, "")
