"""A request's id comes back with its answer and stands in the log, with what it took and never with what it said."""

import logging
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.fake_engine import DEADLINE, ServedApi, answering

Serve = Callable[..., ServedApi]
OURS = re.compile("[0-9a-f]{32}")
SECRET = "what nobody may read"


@pytest.fixture(scope="module")
def api(checkpoint_folder: Path) -> Iterator[ServedApi]:
    with ServedApi(checkpoint_folder, answering(SECRET), log_requests=True) as api:
        yield api


@pytest.mark.parametrize("path", ["/v1/models", "/v1/completions", "/health", "/nowhere"])
@pytest.mark.parametrize("given", ["req-1", "Root=1-67891233-abcdef012345678912345678", "a" * 128])
def test_a_request_id_that_is_given_comes_back_whatever_the_answer(api: ServedApi, path: str, given: str) -> None:
    assert api.http.get(path, headers={"x-request-id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", [None, "", "a" * 129, "two words", "a\tb", "ä", "a;b", 'a"b', "a,b"])
def test_one_that_is_absent_too_long_or_odd_is_replaced_by_one_of_ours(api: ServedApi, given: str | None) -> None:
    headers = {} if given is None else {"x-request-id": given.encode()}
    answer = api.http.get("/v1/models", headers=headers)
    assert answer.status_code == 200
    assert OURS.fullmatch(answer.headers["x-request-id"])
    again = api.http.get("/v1/models", headers=headers)
    assert again.headers["x-request-id"] != answer.headers["x-request-id"]


def test_streams_have_one_too(api: ServedApi) -> None:
    answer = api.http.post("/v1/completions", json={"prompt": "hi", "stream": True}, headers={"x-request-id": "s-1"})
    assert answer.headers["x-request-id"] == "s-1"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "phalanx.api.request_log"]


def logged(caplog: pytest.LogCaptureFixture, request_id: str) -> str:
    """A line is written once its answer has been sent: the next request's shows that it must be there."""
    (line,) = [line for line in lines(caplog) if f"id={request_id} " in line]
    return line


def test_the_log_has_what_a_request_took_and_nothing_of_its_text(
    api: ServedApi, caplog: pytest.LogCaptureFixture
) -> None:
    for stream in (False, True):
        headers = {"x-request-id": f"r-{stream}"}
        body = {"prompt": f"{SECRET}!", "stream": stream, "max_tokens": 5, "user": SECRET}
        api.http.post("/v1/completions", json=body, headers=headers)
        api.http.get("/health")
        line = logged(caplog, f"r-{stream}")
        assert re.fullmatch(
            rf"id=r-{stream} POST /v1/completions status=200 prompt_tokens={len(SECRET) + 1} cached_tokens=2 "
            r"output_tokens=5 first_token=\d+\.\d{3}s rank=0 total=\d+\.\d{3}s",
            line,
        ), line
    assert SECRET not in caplog.text


def test_what_is_refused_or_asks_for_no_text_has_a_line_and_probes_have_none(
    api: ServedApi, caplog: pytest.LogCaptureFixture
) -> None:
    for number, path in enumerate(["/v1/models", f"/{SECRET.replace(' ', '-')}", "/health", "/ready"]):
        api.http.get(path, headers={"x-request-id": f"n-{number}"})
    api.http.post("/v1/completions", json={"prompt": "", "n": "x"}, headers={"x-request-id": "bad"})
    api.http.get("/health")
    assert re.fullmatch(r"id=n-0 GET /v1/models status=200 total=\d+\.\d{3}s", logged(caplog, "n-0"))
    assert logged(caplog, "n-1").startswith("id=n-1 GET none status=404 ")
    assert logged(caplog, "bad").startswith("id=bad POST /v1/completions status=400 ")
    assert not [line for line in lines(caplog) if "id=n-2 " in line or "id=n-3 " in line]


def test_a_client_that_goes_before_its_answer_has_a_line_with_status_0_and_is_counted_as_gone(
    serve_api: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    api = serve_api(log_requests=True)
    with socket.create_connection(("127.0.0.1", api.port), DEADLINE) as connection:
        connection.sendall(ASKED + b'content-length: 16\r\n\r\n{"prompt": "hi"}')
        (asked,) = api.rank.wait_asked(1)
    assert asked.aborted.wait(DEADLINE)
    api.http.get("/health")
    assert logged(caplog, "given-1").startswith("id=given-1 POST /v1/completions status=0 ")
    assert api.metrics.http.values["/v1/completions", "POST", "gone"] == 1.0


def test_without_the_option_nothing_is_logged(serve_api: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    api = serve_api(answering("ok"))
    api.http.get("/v1/models")
    api.http.get("/health")
    assert lines(caplog) == []


PAGE = "http://ui.example"
ASKED = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-request-id: given-1\r\norigin: {PAGE}\r\n".encode()


def first_head(answer: bytes) -> tuple[int, dict[str, str]]:
    head = answer.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    return int(head[0].split()[1]), dict(line.split(": ", 1) for line in head[1:])


@pytest.mark.parametrize(
    ("sent", "status", "known"),
    [
        (b"NONSENSE\r\n\r\n", 400, False),
        (ASKED + b"content-length: 1\r\ncontent-length: 2\r\n\r\n", 400, True),
        (ASKED + b"transfer-encoding: chunked\r\n\r\nno number\r\n", 400, True),
        (ASKED + b"x: " + b"a" * 70_000, 431, True),
        (ASKED + b"content-le", 408, True),
        (ASKED + b"content-length: 9\r\n\r\n", 408, True),
        # Refused in its turn, behind the answer to one that came before.
        (
            b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" + ASKED + b"transfer-encoding: chunked\r\n\r\nno number\r\n",
            400,
            True,
        ),
    ],
)
def test_what_a_connection_refuses_by_itself_has_the_same_headers(
    serve_api: Serve, sent: bytes, status: int, known: bool
) -> None:
    api = serve_api(answering("ok"), allowed_origins=(PAGE,), header_timeout=0.5, body_timeout=0.5)
    with socket.create_connection(("127.0.0.1", api.port), DEADLINE) as connection:
        connection.sendall(sent)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    last = [found.start() for found in re.finditer(rb"HTTP/1\.1 \d", answer)][-1]
    found, headers = first_head(answer[last:])
    assert found == status
    assert headers["vary"] == "origin"
    assert headers["x-phalanx-api-server"] == "0"
    if known:
        assert (headers["x-request-id"], headers["access-control-allow-origin"]) == ("given-1", PAGE)
    else:
        assert OURS.fullmatch(headers["x-request-id"])
        assert "access-control-allow-origin" not in headers


def test_what_came_before_says_nothing_about_what_is_no_request(serve_api: Serve) -> None:
    api = serve_api(answering("ok"), allowed_origins=(PAGE,))
    with socket.create_connection(("127.0.0.1", api.port), DEADLINE) as connection:
        connection.sendall(
            b"GET /health HTTP/1.1\r\nhost: x\r\nx-request-id: before\r\norigin: %b\r\n\r\n" % PAGE.encode()
        )
        assert b"x-request-id: before" in connection.recv(65536)
        connection.sendall(b"?")
        status, headers = first_head(b"".join(iter(lambda: connection.recv(65536), b"")))
    assert status == 400
    assert OURS.fullmatch(headers["x-request-id"])
    assert "access-control-allow-origin" not in headers


def test_a_connection_too_many_is_refused_with_an_id_that_pages_can_read_where_all_may(serve_api: Serve) -> None:
    api = serve_api(answering("ok"), allowed_origins=("*",), max_connections=1)
    with socket.create_connection(("127.0.0.1", api.port), DEADLINE) as taken:
        taken.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert taken.recv(65536).startswith(b"HTTP/1.1 200 ")
        with socket.create_connection(("127.0.0.1", api.port), DEADLINE) as connection:
            status, headers = first_head(b"".join(iter(lambda: connection.recv(65536), b"")))
    assert status == 503
    assert OURS.fullmatch(headers["x-request-id"])
    assert headers["access-control-allow-origin"] == "*"
    assert "x-request-id" in headers["access-control-expose-headers"]
