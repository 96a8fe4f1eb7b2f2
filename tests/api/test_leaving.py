"""An API server that leaves says so with the last answer on each connection, and resets nobody."""

import contextlib
import http.client
import json
import signal
import socket
from collections.abc import Callable, Iterator

import pytest
from support.clients import PersistentClient
from support.fake_engine import DEADLINE, ServedApi, an_output, answering, byte_token
from support.service import Service
from support.streams import streams

from phalanx.protocol import FinishReason

Serve = Callable[..., ServedApi]


@contextlib.contextmanager
def kept(api: ServedApi) -> Iterator[http.client.HTTPConnection]:
    """A connection on which something was answered."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", api.port, timeout=DEADLINE)) as connection:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        assert answer.getheader("connection") is None
        answer.read()
        yield connection


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/models", 503), ("/ready", 503), ("/health", 200), ("/nowhere", 404)]
)
def test_while_it_drains_every_answer_is_the_last_on_its_connection(serve_api: Serve, path: str, status: int) -> None:
    api = serve_api(answering("ok"))
    with kept(api) as connection:
        api.drain()
        connection.request("GET", path)
        assert connection.sock is not None
        sock = connection.sock
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("connection")) == (status, "close")
        answer.read()
        assert sock.fileno() == -1  # http.client closed it, as it was told


def test_what_began_before_it_drains_ends_whole_and_then_its_connection_does(serve_api: Serve) -> None:
    api = serve_api()
    with kept(api) as streaming, kept(api) as waiting:
        streaming.request("POST", "/v1/completions", json.dumps({"prompt": "hi", "stream": True}))
        (first,) = api.rank.wait_asked(1)
        api.rank.push(first, an_output([byte_token(97)]))
        sock = streaming.sock
        stream = streaming.getresponse()
        assert stream.getheader("connection") is None
        waiting.request("POST", "/v1/completions", json.dumps({"prompt": "hi"}))
        second = api.rank.wait_asked(2)[1]
        api.drain()
        for asked in (first, second):
            api.rank.push(asked, an_output([byte_token(98)], FinishReason.LENGTH))
        assert stream.read().endswith(b"data: [DONE]\n\n")
        assert sock.recv(1) == b""
        answer = waiting.getresponse()
        assert (answer.status, answer.getheader("connection")) == (200, "close")


def test_at_its_end_connections_close_in_good_order_and_a_request_that_comes_late_is_answered(
    serve_api: Serve,
) -> None:
    api = serve_api(answering("ok"))
    with kept(api) as idle, contextlib.closing(socket.create_connection(("127.0.0.1", api.port))) as fresh:
        fresh.settimeout(DEADLINE)
        fresh.sendall(b"GET /v1/mod")
        sock = idle.sock
        api.loop.call_soon_threadsafe(api.server.stop)
        assert sock.recv(1) == b""  # no reset
        sock.sendall(b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n")
        fresh.sendall(b"els HTTP/1.1\r\nhost: a\r\n\r\n")
        answer = b"".join(iter(lambda: fresh.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"connection: close" in answer
        assert sock.recv(1) == b""


def test_the_default_outlives_the_connections_of_proxies(serve_api: Serve) -> None:
    assert serve_api(answering("ok")).config.http.keep_alive_timeout == 75


def test_clients_that_ask_on_while_a_service_ends_see_answers_and_at_last_a_closed_port(
    start_service: Callable[..., Service],
) -> None:
    service = start_service("--engine", "synthetic", "--api-server-count", "2", "--synthetic-rate", "120").wait_ready()
    clients = [PersistentClient(service.address, keep) for keep in (True, False) * 3]
    for client in clients:
        assert client.began.wait(DEADLINE)
    with streams(service.address, 1) as (running,):
        service.signal(signal.SIGTERM)
        assert running.result()[1] == 120
    assert service.wait() == 0
    for client in clients:
        client.assert_not_reset()
    service.assert_nothing_left()
