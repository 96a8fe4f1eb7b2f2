"""When a client goes, the engine stops working for it at once; when it has all, nothing is aborted."""

import json
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
from support.fake_engine import DEADLINE, Asked, ServedApi, an_output, answering, byte_token

from phalanx.protocol import FinishReason

Serve = Callable[..., ServedApi]
CHAT = ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]})
ASSISTANT = 259
COMPLETE = ("/v1/completions", {"prompt": "hi"})


class RawClient:
    """A client whose socket the test closes as it likes."""

    def __init__(self, api: ServedApi, path: str, body: dict[str, Any]) -> None:
        self.connection = socket.socket()
        self.connection.settimeout(DEADLINE)
        # Before connecting, so that the kernel never takes megabytes for a client that does not read.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self.connection.connect(("127.0.0.1", api.port))
        content = json.dumps(body).encode()
        self.connection.sendall(
            b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (path.encode(), len(content), content)
        )
        self.received = bytearray()

    def read_until(self, mark: bytes) -> bytes:
        looked_through = 0
        while self.received.find(mark, looked_through) < 0:
            looked_through = max(len(self.received) - len(mark), 0)
            part = self.connection.recv(65536)
            assert part, f"closed before {mark!r}: {bytes(self.received)!r}"
            self.received += part
        return bytes(self.received)

    def close(self) -> None:
        self.connection.close()


def assert_aborted(*asked: Asked) -> None:
    for request in asked:
        assert request.aborted.wait(DEADLINE), "the engine was not told"


def token(letter: str) -> list[int]:
    return [byte_token(ord(letter))]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), [CHAT, COMPLETE], ids=["chat", "completion"])
def test_a_client_that_goes_before_the_first_token_is_let_go(
    serve_api: Serve, path: str, body: dict[str, Any], stream: bool
) -> None:
    api = serve_api()
    client = RawClient(api, path, {**body, "stream": stream})
    (asked,) = api.rank.wait_asked(1)
    client.close()
    assert_aborted(asked)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_in_the_middle_is_let_go(serve_api: Serve, stream: bool) -> None:
    api = serve_api()
    client = RawClient(api, *COMPLETE[:1], {**COMPLETE[1], "stream": stream})
    (asked,) = api.rank.wait_asked(1)
    api.rank.push(asked, an_output(token("a")))
    if stream:
        client.read_until(b'"text":"a"')
        api.rank.push(asked, an_output(token("b")))
        client.read_until(b'"text":"b"')
    client.close()
    assert_aborted(asked)


@pytest.mark.parametrize("stream", [False, True])
def test_all_completions_of_a_request_are_let_go(serve_api: Serve, stream: bool) -> None:
    api = serve_api()
    client = RawClient(api, "/v1/completions", {"prompt": ["a", "b"], "n": 3, "stream": stream})
    asked = list(api.rank.wait_asked(6))
    api.rank.push(asked[4], an_output(token("a")))
    if stream:
        client.read_until(b'"index":4,"text":"a"')
    client.close()
    assert_aborted(*asked)


def test_a_client_that_only_stops_sending_is_taken_as_gone(serve_api: Serve) -> None:
    api = serve_api()
    client = RawClient(api, "/v1/completions", {**COMPLETE[1], "stream": True})
    (asked,) = api.rank.wait_asked(1)
    client.connection.shutdown(socket.SHUT_WR)
    assert_aborted(asked)
    client.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_finished_request_is_never_aborted(serve_api: Serve, stream: bool) -> None:
    api = serve_api(answering("done"))
    for _ in range(20):
        client = RawClient(api, "/v1/completions", {**COMPLETE[1], "stream": stream})
        client.read_until(b'"finish_reason":"stop"')
        client.close()
    assert api.http.post("/v1/completions", json=COMPLETE[1]).status_code == 200
    assert not any(asked.aborted.is_set() for asked in api.rank.asked)
    assert api.metrics.finished.values == {("0", "stop"): 21.0}


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_engine_s_work_too(serve_api: Serve, stream: bool) -> None:
    api = serve_api()
    client = RawClient(api, "/v1/completions", {**COMPLETE[1], "stream": stream, "stop": "bc"})
    (asked,) = api.rank.wait_asked(1)
    for letter in "abc":
        api.rank.push(asked, an_output(token(letter)))
    assert_aborted(asked)
    answer = client.read_until(b'"stop_reason":"bc"')
    assert b'"text":"a"' in answer
    client.close()


def stalled(api: ServedApi) -> tuple[RawClient, Asked]:
    """A client that reads nothing of the 7.8 MB that the rank has sent for it in 2000 steps."""
    options = {"stream": True, "max_tokens": 2000, "skip_special_tokens": False}
    client = RawClient(api, "/v1/completions", {"prompt": "hi", **options})
    (asked,) = api.rank.wait_asked(1)
    # More than the kernel and the event loop hold for a connection.
    for _ in range(2000):
        api.rank.push(asked, an_output([ASSISTANT] * 300))
    # Another client is served meanwhile, and by then all of it has reached the server.
    other = RawClient(api, "/v1/completions", {"prompt": "other"})
    second = api.rank.wait_asked(2)[1]
    api.rank.push(second, an_output(token("y"), FinishReason.LENGTH))
    other.read_until(b'"text":"y"')
    other.close()
    return client, asked


def test_a_client_that_does_not_read_costs_no_queue_and_gets_all_in_the_end(serve_api: Serve) -> None:
    api = serve_api()
    client, asked = stalled(api)
    api.rank.push(asked, an_output(token("z"), FinishReason.LENGTH))
    answer = client.read_until(b"[DONE]")
    events = [json.loads(line[6:]) for line in answer.split(b"\n") if line.startswith(b"data: {")]
    text = "".join(event["choices"][0]["text"] for event in events)
    assert text == "<|assistant|>" * 600_000 + "z"
    assert len(events) < 2000
    client.close()


def test_a_client_that_does_not_read_does_not_keep_a_server_from_stopping(serve_api: Serve) -> None:
    api = serve_api()
    client, asked = stalled(api)
    api.stop()
    assert_aborted(asked)
    client.close()


def test_a_server_that_stops_tells_those_it_serves(serve_api: Serve) -> None:
    api = serve_api()
    begun = RawClient(api, "/v1/completions", {**COMPLETE[1], "stream": True})
    (first,) = api.rank.wait_asked(1)
    api.rank.push(first, an_output(token("a")))
    begun.read_until(b'"text":"a"')
    waiting = RawClient(api, "/v1/completions", COMPLETE[1])
    second = api.rank.wait_asked(2)[1]
    api.stop()
    assert b'data: {"error":{"message":"The server is being stopped."' in begun.read_until(b"\r\n0\r\n\r\n")
    assert waiting.read_until(b"stopped").startswith(b"HTTP/1.1 503 ")
    assert_aborted(first, second)
    begun.close()
    waiting.close()


def test_a_client_that_goes_is_counted_as_an_abort(serve_api: Serve) -> None:
    api = serve_api()
    client = RawClient(api, *COMPLETE)
    (asked,) = api.rank.wait_asked(1)
    client.close()
    assert_aborted(asked)
    assert api.metrics.finished.values == {("0", "abort"): 1.0}


def test_a_stream_in_full_flow_survives_its_client_s_reset(serve_api: Serve, caplog: pytest.LogCaptureFixture) -> None:
    api = serve_api(lambda prompt, sampling: [an_output(token("a"))] * 1000)
    for _ in range(10):
        client = RawClient(api, "/v1/completions", {**COMPLETE[1], "stream": True, "n": 4})
        client.read_until(b'"text":"a')
        # Closing now sends a reset, and the rank has hundreds of tokens left to send.
        client.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert_aborted(*api.rank.asked[-4:])
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
