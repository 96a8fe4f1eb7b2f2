"""Where one request ends and the next begins: nothing that a client sends is taken for a request that it did not make.

The protocol is fed packet by packet. Behind every request that is at fault stands another, for `/next`, which must
never be answered.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import pytest
import uvicorn

from phalanx import running_time
from phalanx.api.connection import BoundedProtocol
from phalanx.api.errors import ApiError
from phalanx.api.http import ClientConnection, Exchange, Receive, Scope, Send
from phalanx.api.metrics import Metrics
from phalanx.api.open_connections import Connections
from phalanx.config import HttpOptions

LIMIT = 1000
NEXT = b"GET /next HTTP/1.1\r\nhost: a\r\n\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> str:
        return str(msgspec.json.decode(self.body)["error"]["message"])


class Wire(asyncio.Transport):
    """A connection's other end: what was written, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        assert not self.closed
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


class Echo:
    """Says what it was asked, once `/slow` has been told to go on; `/refused` is refused without its body."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.seen: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send, connection: ClientConnection) -> None:
        exchange = Exchange(scope, receive, send, connection)
        self.seen.append(exchange.path)
        if exchange.path == "/refused":
            await exchange.refuse(ApiError("no", status=401))
            return
        try:
            body = await exchange.body(LIMIT)
            if exchange.path == "/slow":
                await self.go_on.wait()
            if exchange.path == "/stream":
                await exchange.begin_events()
                await exchange.send_event(b"one ")
                await exchange.end_events(b"two")
                return
            await exchange.reply(200, b"%b %b: %b" % (exchange.method.encode(), exchange.path.encode(), body))
        except ApiError as error:
            await exchange.refuse(error)


class Talk:
    """A connection, before the Echo."""

    def __init__(self) -> None:
        self.app = Echo()
        config = uvicorn.Config(
            self.app, http=BoundedProtocol, ws="none", lifespan="off", log_config=None, proxy_headers=False
        )
        self.connections = Connections(HttpOptions(), Metrics(), 1, mark=lambda headers: [])
        self.protocol = BoundedProtocol(config, self.connections, {})
        self.wire = Wire()
        self.protocol.connection_made(self.wire)

    async def say(self, *packets: bytes) -> "Talk":
        for packet in packets:
            # After the end nothing more is read, as a real transport has it.
            if not self.wire.closed:
                self.protocol.data_received(packet)
            await self.settle()
        return self

    async def settle(self) -> "Talk":
        for _ in range(20):
            await asyncio.sleep(0)
        return self

    def answers(self) -> list[Answer]:
        found, rest = [], self.wire.written
        while rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            if lines[0] == "HTTP/1.1 100 Continue":
                found.append(Answer(100, {}, b""))
                continue
            headers = dict(line.split(": ", 1) for line in lines[1:])
            assert "transfer-encoding" not in headers
            length = int(headers["content-length"])
            found.append(Answer(int(lines[0].split()[1]), headers, rest[:length]))
            rest = rest[length:]
        return found


def talk(*packets: bytes) -> tuple[list[Answer], bool]:
    """The answers, and whether the connection was closed after them."""

    async def run() -> tuple[list[Answer], bool]:
        talk = await Talk().say(*packets)
        return talk.answers(), talk.wire.closed

    return asyncio.run(run())


def post(headers: bytes = b"", body: bytes = b"", *, path: bytes = b"/", version: bytes = b"1.1") -> bytes:
    return b"POST %b HTTP/%b\r\nhost: a\r\n%b\r\n%b" % (path, version, headers, body)


def splits(request: bytes) -> Sequence[tuple[bytes, ...]]:
    """At once, in two packets at every place, and byte by byte."""
    return [
        (request,),
        *((request[:at], request[at:]) for at in range(1, len(request))),
        tuple(bytes([byte]) for byte in request),
    ]


# --- offers of another protocol ---

BODY = b"GET /body HTTP/1.1\r\nhost: b\r\n\r\n"
"""Of a request: the very text of another."""
OFFERS = {
    "h2c": b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAA\r\n",
    "websocket": b"connection: keep-alive, upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n",
    "tls": b"upgrade: TLS/1.0\r\nconnection: upgrade\r\n",
    "anything": b"upgrade: anything\r\nproxy-connection: upgrade\r\n",
    "without connection": b"upgrade: h2c\r\n",
}
FRAMED = {
    "declared": (b"content-length: %d\r\n" % len(BODY), BODY),
    "chunked": (CHUNKED, b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)),
}


@pytest.mark.parametrize("framing", FRAMED)
@pytest.mark.parametrize("offer", OFFERS)
def test_a_request_that_offers_an_upgrade_is_an_ordinary_one_in_packets_of_any_size(offer: str, framing: str) -> None:
    length, body = FRAMED[framing]
    request = post(OFFERS[offer] + length, body)
    for packets in splits(request):
        (answer,), closed = talk(*packets)
        assert (answer.status, answer.body, closed) == (200, b"POST /: " + BODY, False)


@pytest.mark.parametrize("offer", OFFERS)
def test_offers_without_a_body_and_pipelined_ones_are_answered_one_by_one(offer: str) -> None:
    get = b"GET /%d HTTP/1.1\r\nhost: a\r\n" + OFFERS[offer] + b"\r\n"
    length, body = FRAMED["declared"]
    requests = (
        get % 1 + post(OFFERS[offer] + length, body) + NEXT + get % 2 + post(OFFERS[offer] + CHUNKED, b"0\r\n\r\n")
    )
    wanted = [b"GET /1: ", b"POST /: " + BODY, b"GET /next: ", b"GET /2: ", b"POST /: "]
    for packets in (requests,), tuple(bytes([byte]) for byte in requests):
        answers, closed = talk(*packets)
        assert [answer.body for answer in answers] == wanted
        assert not closed


def test_an_offer_may_ask_for_the_end_of_the_connection_and_is_made_in_vain_by_http_1_0() -> None:
    request = post(b"connection: close, upgrade\r\nupgrade: h2c\r\ncontent-length: 2\r\n", b"ab")
    for asked in (request, request.replace(b"HTTP/1.1", b"HTTP/1.0")):
        (answer,), closed = talk(asked + NEXT)
        assert (answer.body, answer.headers["connection"], closed) == (b"POST /: ab", "close", True)


def test_many_offers_in_one_packet_take_no_longer_than_they_should() -> None:
    request = post(OFFERS["h2c"] + b"content-length: 1\r\n", b"x")
    answers, _ = talk(request * 1000)
    assert [answer.body for answer in answers] == [b"POST /: x"] * len(answers)
    assert answers


def test_an_offer_can_be_too_long_as_any_head() -> None:
    (answer,), closed = talk(b"GET / HTTP/1.1\r\n" + OFFERS["h2c"] + b"x: " + b"y" * 70_000)
    assert (answer.status, closed) == (431, True)


# --- what is refused, and ends the connection ---

REFUSED = {
    "two lengths": (post(b"content-length: 2\r\ncontent-length: 3\r\n", b"ab"), 400),
    "the same length twice": (post(b"content-length: 2\r\ncontent-length: 2\r\n", b"ab"), 400),
    "a list of lengths": (post(b"content-length: 2, 2\r\n", b"ab"), 400),
    "a length with a sign": (post(b"content-length: +2\r\n", b"ab"), 400),
    "a negative length": (post(b"content-length: -2\r\n", b"ab"), 400),
    "a hexadecimal length": (post(b"content-length: 0x2\r\n", b"ab"), 400),
    "no length": (post(b"content-length: \r\n"), 400),
    "a length in two words": (post(b"content-length: 2 2\r\n", b"ab"), 400),
    "a length beyond 64 bits": (post(b"content-length: 18446744073709551618\r\n", b"ab"), 400),
    "a space before a colon": (post(b"content-length : 2\r\n", b"ab"), 400),
    "chunked and a length": (post(CHUNKED + b"content-length: 2\r\n", b"0\r\n\r\n"), 400),
    "a length and chunked": (post(b"content-length: 2\r\n" + CHUNKED, b"0\r\n\r\n"), 400),
    "a length and another encoding": (post(b"content-length: 2\r\ntransfer-encoding: identity\r\n", b"ab"), 400),
    "compressed and chunked": (post(b"transfer-encoding: gzip, chunked\r\n", b"0\r\n\r\n"), 501),
    "chunked and compressed": (post(b"transfer-encoding: chunked, gzip\r\n", b"0\r\n\r\n"), 400),
    "compressed without chunks": (post(b"transfer-encoding: gzip\r\n", b"0\r\n\r\n"), 501),
    "identity": (post(b"transfer-encoding: identity\r\n", b"0\r\n\r\n"), 501),
    "chunked twice": (post(CHUNKED + CHUNKED, b"0\r\n\r\n"), 400),
    "chunked in quotes": (post(b'transfer-encoding: "chunked"\r\n', b"0\r\n\r\n"), 501),
    "something like chunked": (post(b"transfer-encoding: xchunked\r\n", b"0\r\n\r\n"), 501),
    "chunked behind a control character": (post(b"transfer-encoding: \x0bchunked\r\n", b"0\r\n\r\n"), 400),
    "no encoding": (post(b"transfer-encoding: \r\n", b"0\r\n\r\n"), 400),
    "chunks in HTTP/1.0": (post(CHUNKED, b"0\r\n\r\n", version=b"1.0"), 400),
    "a folded header": (post(b"x: a\r\n b\r\n"), 400),
    "a folded length": (post(b"content-length:\r\n 2\r\n", b"ab"), 400),
    "a folded encoding": (post(b"transfer-encoding:\r\n chunked\r\n", b"0\r\n\r\n"), 400),
    "a space before the first header": (b"POST / HTTP/1.1\r\n host: a\r\n\r\n", 400),
    "lines that end in LF": (b"POST / HTTP/1.1\nhost: a\n\n", 400),
    "a header that ends in LF": (post(b"x: a\ny: b\r\n"), 400),
    "a head that ends in LF": (b"POST / HTTP/1.1\r\nhost: a\r\n\n", 400),
    "a CR in a header": (post(b"x: a\ry: b\r\n"), 400),
    "a NUL in a value": (post(b"x: a\0b\r\n"), 400),
    "a NUL in a name": (post(b"x\0: b\r\n"), 400),
    "a control character": (post(b"x: a\x01b\r\n"), 400),
    "a header without a colon": (post(b"x\r\n"), 400),
    "a header without a name": (post(b": b\r\n"), 400),
    "chunks that end in LF": (post(CHUNKED, b"2\nab\n0\n\n"), 400),
    "a chunk that ends in LF": (post(CHUNKED, b"2\r\nab\n0\r\n\r\n"), 400),
    "a chunk longer than it says": (post(CHUNKED, b"2\r\nabc\r\n0\r\n\r\n"), 400),
    "a hexadecimal chunk size": (post(CHUNKED, b"0x2\r\nab\r\n0\r\n\r\n"), 400),
    "a negative chunk size": (post(CHUNKED, b"-2\r\nab\r\n0\r\n\r\n"), 400),
    "a chunk size beyond 64 bits": (post(CHUNKED, b"10000000000000002\r\nab\r\n0\r\n\r\n"), 400),
    "a space behind a chunk size": (post(CHUNKED, b"2 \r\nab\r\n0\r\n\r\n"), 400),
    "a LF in a chunk's extension": (post(CHUNKED, b"2;a\nb\r\nab\r\n0\r\n\r\n"), 400),
    "a CR in a chunk's extension": (post(CHUNKED, b"2;a\rb\r\nab\r\n0\r\n\r\n"), 400),
    "a length among the trailers": (post(CHUNKED, b"2\r\nab\r\n0\r\ncontent-length: 9\r\n\r\n"), 400),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n", 501),
    "CONNECT with a body": (b"CONNECT a:443 HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab", 501),
    "CONNECT to a path": (b"CONNECT / HTTP/1.1\r\nhost: a\r\n\r\n", 501),
    "HTTP/2 as a version": (b"GET / HTTP/2.0\r\nhost: a\r\n\r\n", 505),
    "HTTP/2 from the start": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/0.9 as a version": (b"GET / HTTP/0.9\r\n\r\n", 505),
    "HTTP/0.9": (b"GET /\r\n\r\n", 505),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\n\r\n", 400),
    "an unknown protocol": (b"GET / FTP/1.1\r\n\r\n", 400),
    "an unknown method": (b"BREW / HTTP/1.1\r\n\r\n", 400),
    "a method in small letters": (b"get / HTTP/1.1\r\n\r\n", 400),
    "a tab in the request line": (b"GET\t/ HTTP/1.1\r\n\r\n", 400),
    "a space in the address": (b"GET /a b HTTP/1.1\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_not_clear_is_refused_and_nothing_behind_it_is_read(fault: str) -> None:
    request, status = REFUSED[fault]
    for packets in (request + NEXT,), tuple(bytes([byte]) for byte in request + NEXT):
        (answer,), closed = talk(*packets)
        assert (answer.status, answer.headers["connection"], closed) == (status, "close", True), answer
        assert answer.message


@pytest.mark.parametrize("fault", REFUSED)
def test_an_answer_that_is_owed_comes_before_the_connection_ends_and_nothing_gets_into_it(fault: str) -> None:
    request, _ = REFUSED[fault]

    async def run() -> None:
        talk = await Talk().say(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n", request + NEXT)
        assert talk.answers() == []
        talk.app.go_on.set()
        first, *more = (await talk.settle()).answers()
        assert (first.status, first.body) == (200, b"GET /slow: ")
        assert talk.wire.closed
        # Only of one whose head was in order is it known that it is a request: it gets its own answer, behind.
        assert [answer.headers["connection"] for answer in more] == ["close"] * len(more)
        assert len(more) <= 1
        assert "/next" not in talk.app.seen

    asyncio.run(run())


def test_a_fault_in_a_body_that_was_answered_already_brings_no_second_answer() -> None:
    (answer,), closed = talk(post(CHUNKED, path=b"/refused"), b"zz\r\n" + NEXT)
    assert (answer.status, closed) == (401, True)


# --- what is clear, and kept apart ---


def test_a_body_that_nobody_asked_for_is_not_the_next_request() -> None:
    for framing, body in FRAMED.values():
        request = post(framing, body, path=b"/refused") + NEXT
        for packets in (request,), tuple(bytes([byte]) for byte in request):
            answers, closed = talk(*packets)
            assert [answer.status for answer in answers] == [401, 200]
            assert answers[1].body == b"GET /next: "
            assert not closed


def test_a_get_may_have_a_body_and_a_post_without_a_length_has_none() -> None:
    get = b"GET /get HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)
    answers, _ = talk(get + post() + NEXT)
    assert [answer.body for answer in answers] == [b"GET /get: " + BODY, b"POST /: ", b"GET /next: "]


def test_chunks_may_have_extensions_and_trailers_which_change_nothing() -> None:
    body = b'2;a="b"\r\nab\r\n1\r\nc\r\n0;x\r\nexpect: 100-continue\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n'
    answers, closed = talk(post(CHUNKED.upper().replace(b"CHUNKED", b"Chunked"), body) + NEXT)
    assert [answer.body for answer in answers] == [b"POST /: abc", b"GET /next: "]
    assert not closed


def test_nothing_is_read_after_a_request_that_was_to_be_the_last() -> None:
    last = b"GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    for request in (last, last.replace(b"1.1", b"1.0").replace(b"connection: close", b"connection: keep-alive")):
        (answer,), closed = talk(request + NEXT)
        assert (answer.body, answer.headers["connection"], closed) == (b"GET /last: ", "close", True)


def test_a_large_body_before_the_next_request_does_not_count_as_its_head() -> None:
    body = b"b" * 100_000
    answers, _ = talk(
        post(b"content-length: 100000\r\n", body[:10], path=b"/refused"), body[10:] + NEXT[:20], NEXT[20:]
    )
    assert [answer.status for answer in answers] == [401, 200]


# --- Expect: 100-continue ---

EXPECT = b"expect: 100-continue\r\ncontent-length: 2\r\n"


def test_a_client_that_waits_is_told_to_go_on_and_one_that_does_not_wait_is_served_too() -> None:
    answers, closed = talk(post(EXPECT), b"ab" + NEXT)
    assert [(answer.status, answer.body) for answer in answers] == [
        (100, b""),
        (200, b"POST /: ab"),
        (200, b"GET /next: "),
    ]
    assert not closed
    answers, closed = talk(post(EXPECT, b"ab") + NEXT)
    assert [answer.body for answer in answers if answer.status == 200] == [b"POST /: ab", b"GET /next: "]


@pytest.mark.parametrize("length", [b"content-length: 40\r\n", b"content-length: 100000\r\n", CHUNKED])
def test_one_that_was_refused_before_it_was_told_to_send_its_body_is_asked_nothing_more(length: bytes) -> None:
    """Whether what comes next is the body or a request is not to be told."""
    path = b"/" if b"100000" in length else b"/refused"
    (answer,), closed = talk(post(b"expect: 100-continue\r\n" + length, path=path), NEXT)
    assert (answer.status, answer.headers["connection"]) == (401 if path == b"/refused" else 413, "close")
    assert closed or path == b"/"


def test_http_1_0_gets_no_interim_answer() -> None:
    (answer,), _ = talk(post(EXPECT, version=b"1.0"), b"ab")
    assert (answer.status, answer.body) == (200, b"POST /: ab")


def test_http_1_0_gets_a_stream_without_chunks_that_ends_with_the_connection() -> None:
    async def run() -> None:
        talk = await Talk().say(b"GET /stream HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
        head, _, body = talk.wire.written.partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head
        assert b"content-length" not in head
        assert b"connection: close" in head
        assert body == b"one two"
        assert talk.wire.closed

    asyncio.run(run())


# --- what is neither a request nor the end of one ---


@pytest.mark.parametrize(
    ("sent", "limit"),
    [
        ((b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", b"\r\n"), "keep_alive_timeout"),
        ((post(b"content-length: 100\r\n", path=b"/refused"), b"x"), "body_timeout"),
    ],
    ids=["an empty line after an answer", "a body that was refused and never ends"],
)
def test_a_connection_that_asks_for_nothing_ends_in_time_whatever_else_it_sends(
    sent: tuple[bytes, ...], limit: str
) -> None:
    async def run() -> None:
        talk = await Talk().say(*sent)
        (answer,) = talk.answers()
        now, seconds = running_time.now(), getattr(HttpOptions(), limit)
        talk.protocol.look(now + seconds - 1)
        assert not talk.wire.closed
        talk.protocol.look(now + seconds + 1)
        assert talk.wire.closed
        assert talk.answers() == [answer]

    asyncio.run(run())
