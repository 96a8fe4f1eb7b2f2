"""What happens when too much comes, or when a client leaves something undone: on real sockets."""

import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.fake_engine import DEADLINE, Asked, FakeRank, ServedApi, an_output, answering, byte_token, events

from phalanx.protocol import FinishReason

Serve = Callable[..., ServedApi]
COMPLETE = "/v1/completions"
SEATS = 64
"""Of the stand-in rank, whose cache holds 65,536 tokens."""
NEVER = 3600.0


@contextmanager
def connect(api: ServedApi, window: int | None = None) -> Iterator[socket.socket]:
    with socket.socket() as connection:
        connection.settimeout(DEADLINE)
        if window is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        connection.connect(("127.0.0.1", api.port))
        yield connection


def post(body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    return b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(content), content)


def everything(connection: socket.socket) -> bytes:
    """Until the server closes."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def error_of(answer: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


@contextmanager
def in_flight(api: ServedApi, *bodies: dict[str, Any]) -> Iterator[tuple[list[Asked], list[socket.socket]]]:
    """Requests that the rank has and has not answered; `n` of each body are so many."""
    connections: list[socket.socket] = []
    before = seen = len(api.rank.asked)
    try:
        for body in bodies:
            connection = socket.create_connection(("127.0.0.1", api.port), DEADLINE)
            connections.append(connection)
            connection.sendall(post(body))
            seen += body.get("n", 1)
            api.rank.wait_asked(seen)
        yield api.rank.asked[before:], connections
    finally:
        for connection in connections:
            connection.close()


def assert_overloaded(answer: httpx.Response, says: str) -> None:
    error = answer.json()["error"]
    assert answer.status_code == 429
    assert (error["type"], error["code"]) == ("rate_limit_error", "overloaded")
    assert says in error["message"]
    assert 1 <= int(answer.headers["retry-after"]) <= 60


def until(ask: Callable[[], httpx.Response], status: int, met: Callable[[], bool] = lambda: True) -> httpx.Response:
    """Ask until the answer has this status and the condition is met."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        answer = ask()
        if answer.status_code == status and met():
            return answer
    raise AssertionError(f"{answer.status_code} {answer.text}")


def wait_idle(api: ServedApi) -> None:
    """Until nothing is held."""
    until(lambda: api.http.get("/health"), 200, lambda: api.state.admission.held == (0, 0, 0))


# --- too much ---


def test_more_completions_than_run_and_wait_are_refused_until_some_have_ended(serve_api: Serve) -> None:
    api = serve_api(max_queued_requests=2)
    with in_flight(api, {"prompt": "hi", "n": SEATS}, {"prompt": "hi", "n": 2}) as (asked, (_, second)):
        assert_overloaded(api.http.post(COMPLETE, json={"prompt": "hi"}), "--max-queued-requests")
        assert len(api.rank.asked) == SEATS + 2, "the rank heard of what was refused"
        for one in asked[SEATS:]:
            api.rank.push(one, an_output([byte_token(97)], FinishReason.LENGTH))
        assert second.recv(65536).startswith(b"HTTP/1.1 200 ")
        with in_flight(api, {"prompt": "hi", "n": 2}):
            assert_overloaded(api.http.post(COMPLETE, json={"prompt": "hi"}), "--max-queued-requests")
    wait_idle(api)
    assert api.metrics.refused.values == {("queued_requests",): 2.0}


def test_more_tokens_than_fit_and_wait_are_refused_by_what_the_prompt_and_its_answer_take(serve_api: Serve) -> None:
    # The stand-in's cache and 100 tokens; the first takes all but 356 of these.
    api = serve_api(max_queued_tokens=100)
    first = {"prompt": [1] * 2000, "max_tokens": 40, "n": 32}
    with in_flight(api, first):
        assert api.state.admission.held.tokens == 32 * 2040
        with in_flight(api, {"prompt": "a" * 250, "max_tokens": 90}):
            assert api.state.admission.held.tokens == 32 * 2040 + 340
        refused = api.http.post(COMPLETE, json={"prompt": "a" * 250, "max_tokens": 120})
        assert_overloaded(refused, "--max-queued-tokens")
        # The body is larger than the room, and is not tokenised to find out whether its text is.
        assert_overloaded(api.http.post(COMPLETE, json={"prompt": "a" * 1000}), "--max-queued-tokens")


def test_what_is_refused_once_it_is_tokenised_is_no_completion_that_ended(serve_api: Serve) -> None:
    api = serve_api(max_queued_tokens=100)
    with in_flight(api, {"prompt": [1] * 2000, "max_tokens": 40, "n": 32}):
        refused = api.http.post(COMPLETE, json={"prompt": "a" * 250, "max_tokens": 120})
        assert_overloaded(refused, "--max-queued-tokens")
        assert api.metrics.finished.values == {}


def test_memory_is_bounded_by_what_scores_may_take(serve_api: Serve) -> None:
    api = serve_api(max_held_bytes=2**20)
    scored = {"prompt": "hi", "max_tokens": 100, "logprobs": 20}
    with in_flight(api, scored, scored, scored):
        assert_overloaded(api.http.post(COMPLETE, json=scored), "--max-held-bytes")
        with in_flight(api, {"prompt": "hi", "max_tokens": 100}):
            pass
        assert api.http.post("/tokenize", json={"prompt": "hi"}).json()["count"] == 2
        assert_overloaded(api.http.post("/tokenize", json={"prompt": "a" * 10_000}), "--max-held-bytes")
        assert_overloaded(api.http.post("/detokenize", json={"tokens": [1] * 5_000}), "--max-held-bytes")
    wait_idle(api)
    # Alone it may be larger than the bound.
    with in_flight(api, scored | {"n": 4}):
        assert_overloaded(api.http.post(COMPLETE, json={"prompt": "hi"}), "--max-held-bytes")


def test_a_stream_that_is_refused_has_not_begun(serve_api: Serve) -> None:
    api = serve_api(max_queued_requests=0)
    with in_flight(api, {"prompt": "hi", "n": SEATS}):
        assert_overloaded(api.http.post(COMPLETE, json={"prompt": "hi", "stream": True}), "--max-queued-requests")


def test_what_the_others_hold_counts_as_the_ranks_tell_it(serve_api: Serve) -> None:
    api = serve_api(answering("ok"), max_queued_requests=0)

    def answer(others: int) -> httpx.Response:
        api.rank.tell_load(others_requests=others)
        return api.http.post(COMPLETE, json={"prompt": "hi"})

    assert_overloaded(until(lambda: answer(SEATS), 429), "--max-queued-requests")
    assert until(lambda: answer(SEATS - 1), 200).json()["choices"][0]["text"] == "ok"


def test_a_better_priority_takes_the_place_of_what_waits_but_not_of_what_has_begun(serve_api: Serve) -> None:
    api = serve_api(max_queued_requests=0)
    running = {"prompt": "hi", "n": SEATS - 2, "priority": 9}
    low = {"prompt": "hi", "priority": 5}
    with in_flight(api, running, low, low | {"stream": True}) as (asked, (_, older, newer)):
        assert [one.submit.priority for one in asked[-3:]] == [9, 5, 5]
        api.rank.push(asked[0], an_output([byte_token(97)]))
        with in_flight(api, {"prompt": "hi", "priority": 0}):
            status, error = error_of_open(newer)
            assert (status, error["code"]) == (429, "overloaded")
            assert "gave its place" in error["message"]
            assert asked[-1].aborted.wait(DEADLINE)
            assert_overloaded(api.http.post(COMPLETE, json=low), "--max-queued-requests")
            with in_flight(api, {"prompt": "hi", "priority": -1}):
                assert error_of_open(older)[0] == 429
                # The one of the worst priority has begun, and those that wait are no worse.
                assert_overloaded(api.http.post(COMPLETE, json={"prompt": "hi"}), "--max-queued-requests")
        assert not asked[0].aborted.is_set()
    assert api.metrics.refused.values["priority",] == 2


def error_of_open(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """The error on a connection that stays open."""
    answer = bytearray()
    while not answer.endswith(b"}}"):
        answer += connection.recv(65536)
    return error_of(bytes(answer))


# --- too long ---


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_has_the_time_it_asks_for(serve_api: Serve, stream: bool) -> None:
    api = serve_api()
    answer = api.http.post(COMPLETE, json={"prompt": "hi", "timeout": 0.1, "stream": stream, "n": 2})
    assert answer.status_code == 408
    assert answer.json()["error"]["code"] == "timeout"
    assert all(asked.aborted.wait(DEADLINE) for asked in api.rank.asked)
    assert len(api.rank.asked) == 2
    assert api.metrics.timed_out.values == {(): 1.0}
    assert api.state.admission.held == (0, 0, 0)


def test_a_stream_that_has_begun_ends_in_an_event_of_the_error(serve_api: Serve) -> None:
    api = serve_api(lambda prompt, sampling: [an_output([byte_token(97)])])
    answer = api.http.post(COMPLETE, json={"prompt": "hi", "timeout": 0.2, "stream": True})
    assert answer.status_code == 200
    assert b"[DONE]" not in answer.content
    first, *_, last = events(answer.content)
    assert first["choices"][0]["text"] == "a"
    assert last["error"]["code"] == "timeout"
    assert api.rank.asked[0].aborted.wait(DEADLINE)


def test_the_time_runs_while_there_is_no_rank(checkpoint_folder: Path) -> None:
    with ServedApi(checkpoint_folder, attach=False, patience=NEVER) as api:
        answer = api.http.post(COMPLETE, json={"prompt": "hi", "timeout": 0.1})
        assert (answer.status_code, answer.json()["error"]["code"]) == (408, "timeout")
        api.attach()
        assert api.rank.asked == []


def test_a_request_that_is_answered_in_time_is_left_alone(serve_api: Serve) -> None:
    api = serve_api(answering("ok"))
    answer = api.http.post(COMPLETE, json={"prompt": "hi", "timeout": NEVER})
    assert answer.json()["choices"][0]["text"] == "ok"


# --- too slow ---

SHORT = 0.2


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (b"", None, "header_timeout"),
        (b"POST /v1/comp", 408, "header_timeout"),
        (b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-le", 408, "header_timeout"),
        (b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n", 408, "body_timeout"),
        (b'POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"prompt": "', 408, "body_timeout"),
        (b'POST /tokenize HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{"pro', 408, "body_timeout"),
    ],
)
def test_what_is_not_sent_to_its_end_is_ended(serve_api: Serve, sent: bytes, status: int | None, reason: str) -> None:
    api = serve_api(**{reason: SHORT})
    with connect(api) as connection:
        connection.sendall(sent)
        answer = everything(connection)
    if status is None:
        assert answer == b""
    else:
        assert (error_of(answer)[0], error_of(answer)[1]["code"]) == (status, reason)
    assert api.metrics.cut.values == {(reason,): 1.0}
    assert api.server._connections.receiving == 0


def test_a_body_that_trickles_has_no_more_time_than_one_that_stands(serve_api: Serve) -> None:
    api = serve_api(body_timeout=SHORT)
    with connect(api) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000\r\n\r\n")
        stop = threading.Event()

        def trickle() -> None:
            while not stop.wait(0.01):
                try:
                    connection.send(b" ")
                except OSError:
                    return

        sender = threading.Thread(target=trickle)
        sender.start()
        try:
            assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")
        finally:
            stop.set()
            sender.join()


def test_a_request_that_is_sent_while_another_is_answered_has_its_time_from_then_on(serve_api: Serve) -> None:
    api = serve_api(header_timeout=2.0, body_timeout=2.0)
    with connect(api) as connection:
        second = post({"prompt": "second"})
        connection.sendall(post({"prompt": "first", "timeout": 2.5}) + second[:20])
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"timeout"' in answer
        # Long enough that it has been looked at.
        threading.Event().wait(0.8)
        connection.sendall(second[20:])
        asked = api.rank.wait_asked(2)[1]
        api.rank.push(asked, an_output([byte_token(98)], FinishReason.LENGTH))
        assert b'"text":"b"' in connection.recv(65536)
    assert api.metrics.cut.values == {}


def test_an_answer_that_takes_long_is_no_half_sent_request(serve_api: Serve) -> None:
    api = serve_api(header_timeout=0.5, body_timeout=0.5, write_timeout=0.5, keep_alive_timeout=0.5)
    answer = api.http.post(COMPLETE, json={"prompt": "hi", "timeout": 1.2})
    assert answer.json()["error"]["code"] == "timeout"
    assert api.metrics.cut.values == {}


def test_a_connection_without_a_request_is_closed_after_its_time(serve_api: Serve) -> None:
    api = serve_api(answering("ok"), keep_alive_timeout=SHORT)
    with connect(api) as connection:
        connection.sendall(post({"prompt": "hi"}))
        assert b'"text":"ok"' in everything(connection)


STALLED = {"prompt": "hi", "max_tokens": 2000, "stream": True}


def feed(rank: FakeRank, asked: Asked, tokens: int) -> None:
    """More than the kernel and the event loop take for a connection."""
    for _ in range(tokens // 500):
        rank.push(asked, an_output([259] * 500))


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_takes_nothing_is_cut_off_and_others_are_served(serve_api: Serve, stream: bool) -> None:
    api = serve_api(write_timeout=SHORT)
    body = STALLED | {"stream": stream, "skip_special_tokens": False}
    with connect(api, window=65536) as connection:
        connection.sendall(post(body))
        (asked,) = api.rank.wait_asked(1)
        feed(api.rank, asked, 100_000)
        if not stream:
            api.rank.push(asked, an_output([259], FinishReason.LENGTH))
        with in_flight(api, {"prompt": "other"}) as ((other,), (second,)):
            api.rank.push(other, an_output([byte_token(121)], FinishReason.LENGTH))
            assert b'"text":"y"' in second.recv(65536)
        # In the middle of a stream, or of the one answer.
        until(lambda: api.http.get("/health"), 200, lambda: bool(api.metrics.cut.values))
        assert not stream or asked.aborted.wait(DEADLINE)
        with pytest.raises(ConnectionResetError):
            everything(connection)
    assert api.metrics.cut.values == {("write_timeout",): 1.0}


def test_a_client_that_reads_slowly_is_served_to_the_end(serve_api: Serve) -> None:
    api = serve_api(write_timeout=1.5)
    with connect(api, window=65536) as connection:
        connection.sendall(post(STALLED | {"skip_special_tokens": False}))
        (asked,) = api.rank.wait_asked(1)
        feed(api.rank, asked, 100_000)
        api.rank.push(asked, an_output([byte_token(122)], FinishReason.LENGTH))
        answer = bytearray()
        pause = threading.Event()
        while b"[DONE]" not in answer[-100:]:
            answer += connection.recv(65536)
            # So it takes longer than the time in which it must take something.
            pause.wait(0.1)
    assert answer.count(b"<|assistant|>") == 100_000
    assert api.metrics.cut.values == {}


def test_what_waits_for_one_client_is_bounded_before_its_time_is_over(
    serve_api: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phalanx.api.openai.admitted_request.MAX_UNREAD", 2**20)
    # Looked at four times in the shortest of the times.
    api = serve_api(write_timeout=NEVER, header_timeout=1.0)
    with connect(api, window=65536) as connection:
        connection.sendall(post(STALLED | {"skip_special_tokens": False}))
        (asked,) = api.rank.wait_asked(1)
        feed(api.rank, asked, 100_000)
        assert asked.aborted.wait(DEADLINE)
    assert api.metrics.cut.values == {("unread",): 1.0}


# --- too many ---


def test_connections_over_the_bound_are_told_so_and_closed(serve_api: Serve) -> None:
    api = serve_api(answering("ok"), max_connections=2)
    with connect(api) as first, connect(api) as second:
        for connection in (first, second):
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        with connect(api) as third:
            status, error = error_of(everything(third))
            assert (status, error["code"]) == (503, "overloaded")
            assert "--max-connections" in error["message"]
    assert api.metrics.refused.values == {("connections",): 1.0}


def test_bodies_being_received_are_bounded_together(serve_api: Serve) -> None:
    api = serve_api(max_held_bytes=2**20)
    half = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 400000\r\n\r\n" + b" " * 200_000
    with connect(api) as first, connect(api) as second:
        first.sendall(half)
        second.sendall(half)
        readable, _, _ = select.select([first, second], [], [], DEADLINE)
        (refused,) = readable
        # What it has sent and was not read may turn the answer into a reset.
        with contextlib.suppress(ConnectionResetError):
            status, error = error_of(everything(refused))
            assert (status, error["code"]) == (503, "overloaded")
        other = first if refused is second else second
        other.sendall(b" " * 200_000)
        assert other.recv(65536).startswith(b"HTTP/1.1 400 ")
    assert api.metrics.refused.values == {("receiving",): 1.0}
    assert api.server._connections.receiving == 0


def test_metrics_tell_what_is_held_and_what_was_refused(serve_api: Serve) -> None:
    api = serve_api(max_queued_requests=0)
    with in_flight(api, {"prompt": "hi", "max_tokens": 10, "n": SEATS}):
        api.http.post(COMPLETE, json={"prompt": "hi"})
        text = api.http.get("/metrics").text
    assert 'phalanx:requests_refused_total{model_name="test-model",reason="queued_requests"} 1.0' in text
    assert f'phalanx:held_requests{{model_name="test-model"}} {SEATS}.0' in text
    assert f'phalanx:held_tokens{{model_name="test-model"}} {SEATS * 12}.0' in text
    assert "# TYPE phalanx:held_tokens gauge" in text
    assert 'phalanx:connections{model_name="test-model"} 2.0' in text
