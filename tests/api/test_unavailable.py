"""Every 503 that an API server gives says when to come again, as the OpenAPI document promises and clients wait for."""

import ast
import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from support.fake_engine import DEADLINE, ServedApi, answering

from phalanx.api import known_errors
from phalanx.api.known_errors import (
    NO_RANK,
    STOPPING,
    SUPERVISOR_SILENT,
    TOO_MANY_BODIES,
    TOO_MANY_CONNECTIONS,
    Unavailable,
)

Serve = Callable[..., ServedApi]
COMPLETE = b'{"prompt": "hi"}'


class Refusal(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def read(connection: socket.socket) -> Refusal:
    """An answer, up to where its connection is closed."""
    answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return Refusal(int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body)


def connect(api: ServedApi) -> socket.socket:
    return socket.create_connection(("127.0.0.1", api.port), DEADLINE)


def ask(api: ServedApi, request: bytes, body: bytes = b"") -> Refusal:
    with connect(api) as connection:
        connection.sendall(request + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer admin\r\n")
        connection.sendall(b"content-length: %d\r\n\r\n%b" % (len(body), body))
        return read(connection)


def one_connection_too_many(serve_api: Serve) -> Refusal:
    api = serve_api(max_connections=1)
    with connect(api) as first:
        first.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert first.recv(65536).startswith(b"HTTP/1.1 200 ")
        with connect(api) as second:
            return read(second)


def bodies_beyond_what_is_held(serve_api: Serve) -> Refusal:
    api = serve_api(max_held_bytes=2**20)
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 400000\r\n\r\n"
    with connect(api) as first, connect(api) as second:
        first.sendall(head + b" " * 200_000)
        # The first has been read as far as it came before the second begins, as there is an answer between them.
        while api.server._connections.receiving < 200_000:
            assert api.http.get("/health").status_code == 200
        # Its last byte is the one too many, so nothing is left unread, which would make a reset of the answer.
        room = api.server._connections.most_receiving - 200_000
        second.sendall(head + b" " * (room + 1))
        return read(second)


def a_completion_without_a_rank(serve_api: Serve) -> Refusal:
    return ask(serve_api(attach=False), b"POST /v1/completions", COMPLETE)


def not_ready_without_a_rank(serve_api: Serve) -> Refusal:
    return ask(serve_api(attach=False), b"GET /ready")


def not_ready_while_it_drains(serve_api: Serve) -> Refusal:
    api = serve_api(answering("ok"))
    api.drain()
    return ask(api, b"GET /ready")


def a_request_while_it_drains(serve_api: Serve) -> Refusal:
    api = serve_api(answering("ok"))
    api.drain()
    return ask(api, b"GET /v1/models")


def a_request_that_is_cut_short_by_the_end(serve_api: Serve) -> Refusal:
    api = serve_api()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(ask, api, b"POST /v1/completions", COMPLETE)
        api.rank.wait_asked(1)
        api.stop()
        return waiting.result()


def an_operator_before_a_silent_supervisor(serve_api: Serve) -> Refusal:
    return ask(serve_api(admin_key=("admin",)), b"GET /admin/ranks")


SITUATIONS: dict[Callable[[Serve], Refusal], Unavailable] = {
    one_connection_too_many: TOO_MANY_CONNECTIONS,
    bodies_beyond_what_is_held: TOO_MANY_BODIES,
    a_completion_without_a_rank: NO_RANK,
    not_ready_without_a_rank: NO_RANK,
    not_ready_while_it_drains: STOPPING,
    a_request_while_it_drains: STOPPING,
    a_request_that_is_cut_short_by_the_end: STOPPING,
    an_operator_before_a_silent_supervisor: SUPERVISOR_SILENT,
}


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.__name__)
def test_a_503_says_when_to_come_again(
    serve_api: Serve, monkeypatch: pytest.MonkeyPatch, situation: Callable[[Serve], Refusal]
) -> None:
    # The stand-in for the supervisor never answers what operators ask.
    monkeypatch.setattr("phalanx.api.supervisor_client.PATIENCE", 0.01)
    reason, refusal = SITUATIONS[situation], situation(serve_api)
    assert refusal.status == 503
    assert refusal.headers["retry-after"] == str(reason.retry_after)
    assert reason.retry_after >= 1
    answer = json.loads(refusal.body)
    if "ranks" not in answer:  # /ready has an answer of its own form
        assert (answer["error"]["type"], answer["error"]["code"]) == ("server_error", reason.code)


def test_every_reason_for_a_503_is_among_the_situations() -> None:
    reasons = {reason for reason in vars(known_errors).values() if isinstance(reason, Unavailable)}
    assert reasons == set(SITUATIONS.values())


def test_no_503_is_made_without_a_reason_from_the_table() -> None:
    """The status itself stands in the table, and where /ready answers in a form of its own with a reason's headers."""
    makers = {
        path.name
        for path in (Path(__file__).parents[2] / "phalanx" / "api").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value == 503
    }
    assert makers == {"known_errors.py", "status.py"}
