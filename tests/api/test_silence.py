"""A stream that has nothing to say yet says that it lives, so that no proxy between takes it for dead."""

import json
import socket
from collections.abc import Callable

import openai
import pytest
from support.fake_engine import DEADLINE, ServedApi, an_output, answering, byte_token

from phalanx.protocol import FinishReason

Serve = Callable[..., ServedApi]
SOON = 0.2
COMMENT = b": waiting\n\n"


class Reader:
    """A streamed completion as its bytes come, chunks undone."""

    def __init__(self, api: ServedApi, version: str = "1.1", **further: object) -> None:
        body = json.dumps({"prompt": "hi", "stream": True, **further}).encode()
        self.sock = socket.create_connection(("127.0.0.1", api.port), timeout=DEADLINE)
        self.sock.sendall(
            b"POST /v1/completions HTTP/%b\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b"
            % (version.encode(), len(body), body)
        )
        self._file = self.sock.makefile("rb")
        self._chunked = version == "1.1"

    def head(self) -> bytes:
        return b"".join(iter(self._file.readline, b"\r\n"))

    def next(self) -> bytes:
        """The next chunk, or the next event without chunks; empty at the end."""
        if not self._chunked:
            return b"".join(iter(self._file.readline, b"\n")) + b"\n"
        size = int(self._file.readline(), 16)
        chunk = self._file.read(size)
        self._file.readline()
        return chunk

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        self.sock.close()


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_stream_that_waits_gets_its_headers_and_comments_and_then_its_events(serve_api: Serve, version: str) -> None:
    api = serve_api(sse_keep_alive=SOON)
    with Reader(api, version) as reader:
        (asked,) = api.rank.wait_asked(1)
        assert reader.head().startswith(b"HTTP/1.1 200 ")
        assert [reader.next() for _ in range(3)] == [COMMENT] * 3
        api.rank.push(asked, an_output([byte_token(97)]))
        while (event := reader.next()) == COMMENT:
            pass
        assert json.loads(event.removeprefix(b"data: "))["choices"][0]["text"] == "a"
        assert [reader.next() for _ in range(2)] == [COMMENT] * 2
        api.rank.push(asked, an_output([byte_token(98)], FinishReason.LENGTH))
        while (event := reader.next()) == COMMENT:
            pass
        assert b'"text":"b"' in event


def test_a_stream_that_speaks_hears_no_comments_and_0_is_never(serve_api: Serve) -> None:
    for seconds in (15.0, 0.0):
        api = serve_api(answering("fluent"), sse_keep_alive=seconds)
        answer = api.http.post("/v1/completions", json={"prompt": "hi", "stream": True})
        assert b"\n:" not in answer.content
        assert answer.content.startswith(b"data: ")


def test_what_refuses_a_stream_after_its_headers_is_an_event(serve_api: Serve) -> None:
    api = serve_api(attach=False, sse_keep_alive=SOON, patience=1.0)
    with Reader(api) as reader:
        assert reader.head().startswith(b"HTTP/1.1 200 ")
        event = COMMENT
        while event == COMMENT:
            event = reader.next()
        assert json.loads(event.removeprefix(b"data: "))["error"]["code"] == "no_rank"
        assert reader.next() == b""


def test_one_that_gives_its_place_away_after_its_headers_is_told_in_an_event(serve_api: Serve) -> None:
    """Nothing has been generated for it, so one of better priority may still take its place."""
    api = serve_api(sse_keep_alive=SOON, max_queued_requests=0)
    seats = api.config.engine.max_num_seqs
    with Reader(api, priority=5, n=seats) as reader:
        api.rank.wait_asked(seats)
        assert reader.head().startswith(b"HTTP/1.1 200 ")
        assert reader.next() == COMMENT
        with Reader(api, priority=0):
            event = COMMENT
            while event == COMMENT:
                event = reader.next()
            assert json.loads(event.removeprefix(b"data: "))["error"]["code"] == "overloaded"
            assert reader.next() == b""


def test_the_official_client_reads_over_comments(serve_api: Serve) -> None:
    api = serve_api(sse_keep_alive=SOON)
    client = openai.OpenAI(base_url=f"{api.url}/v1", api_key="x", max_retries=0, http_client=api.http)
    stream = client.completions.create(model="test-model", prompt="hi", stream=True)
    (asked,) = api.rank.wait_asked(1)
    api.rank.push(asked, an_output([byte_token(97)]))
    assert next(iter(stream)).choices[0].text == "a"
    api.rank.push(asked, an_output([byte_token(98)], FinishReason.LENGTH))
    assert [chunk.choices[0].text for chunk in stream] == ["b", ""]
