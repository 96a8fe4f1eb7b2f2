"""What happens before a handler: bodies, keys, paths, methods, broken HTTP."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import pytest
from support.fake_engine import DEADLINE, ServedApi, answering

from phalanx.api import status
from phalanx.api.connection import MAX_HEAD_BYTES

Serve = Callable[..., ServedApi]
LIMIT = 100_000
PROMPT = {"prompt": "hi"}


@pytest.fixture(scope="module")
def api(checkpoint_folder: Path) -> Iterator[ServedApi]:
    with ServedApi(checkpoint_folder, answering("ok"), max_body_bytes=LIMIT, api_key=("one", "schlüssel")) as api:
        api.http.headers["authorization"] = "Bearer one"
        yield api


def connect(api: ServedApi) -> socket.socket:
    return socket.create_connection(("127.0.0.1", api.port), timeout=DEADLINE)


def answer_to(api: ServedApi, request: bytes) -> bytes:
    """All that comes back until the server closes."""
    with connect(api) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def error_of(answer: bytes) -> tuple[int, dict[str, str]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


def still_serves(api: ServedApi) -> bool:
    return bool(api.http.post("/v1/completions", json=PROMPT).json()["choices"][0]["text"] == "ok")


def test_a_body_of_fifty_megabytes_is_refused_and_the_client_hears_it(api: ServedApi) -> None:
    answer = api.http.post("/v1/completions", content=b" " * 50_000_000)
    assert answer.status_code == 413
    assert answer.json()["error"]["message"].startswith(f"The request body is larger than {LIMIT} bytes")
    assert still_serves(api)


def test_the_official_client_hears_of_a_body_too_large(api: ServedApi) -> None:
    client = openai.OpenAI(base_url=f"{api.url}/v1", api_key="one", max_retries=0, http_client=api.http)
    with pytest.raises(openai.APIStatusError, match="larger than") as error:
        client.completions.create(model="test-model", prompt="x" * 20_000_000)
    assert error.value.status_code == 413


def test_a_body_without_declared_length_is_read_no_further_than_the_limit(api: ServedApi) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 10_000

    assert api.http.post("/v1/completions", content=parts()).status_code == 413
    assert still_serves(api)


def test_a_declared_length_over_the_limit_is_refused_before_any_of_it_comes(api: ServedApi) -> None:
    with connect(api) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer one\r\n"
            b"content-length: 100000000\r\nexpect: 100-continue\r\n\r\n"
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_one_who_never_ends_a_body_too_large_is_cut_off(api: ServedApi) -> None:
    with connect(api) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer one\r\n"
            b"content-length: 100000000000000\r\n\r\n"
        )

        def send_on() -> None:
            try:
                while True:
                    connection.sendall(b" " * 65536)
            except OSError:
                pass

        sender = threading.Thread(target=send_on)
        sender.start()
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
        sender.join(DEADLINE)
        assert not sender.is_alive()


def test_several_bodies_under_the_limit_go_through_one_connection(api: ServedApi) -> None:
    for _ in range(3):
        answer = api.http.post("/v1/completions", json={**PROMPT, "user": "u" * 900, "stop": ["z" * 1000] * 16})
        assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/v1/models", "/v1/completions", "/metrics", "/openapi.json", "/nowhere"])
@pytest.mark.parametrize("header", [None, "Bearer two", "Bearer", "one", "Basic one"])
def test_without_a_right_key_nothing_is_told(api: ServedApi, path: str, header: str | None) -> None:
    answer = httpx.get(api.url + path, headers={} if header is None else {"authorization": header}, verify=False)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("key", ["one", "schlüssel"])
def test_each_key_opens(api: ServedApi, key: str) -> None:
    headers = {"authorization": f"Bearer {key}".encode()}
    assert httpx.get(f"{api.url}/v1/models", headers=headers, verify=False).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_life_and_readiness_need_no_key(api: ServedApi, path: str) -> None:
    assert httpx.get(api.url + path, verify=False).status_code == 200


def test_an_unknown_path_is_a_404(api: ServedApi) -> None:
    answer = api.http.get("/v1/nothing/here")
    assert answer.status_code == 404
    assert "/v1/nothing/here" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/v1/completions", "POST"), ("DELETE", "/v1/models", "GET, HEAD"), ("PUT", "/v1/models/x", "GET, HEAD")],
)
def test_a_wrong_method_is_a_405_that_names_the_right_one(api: ServedApi, method: str, path: str, allowed: str) -> None:
    answer = api.http.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allowed


def test_head_is_get_without_the_body(api: ServedApi) -> None:
    answer = api.http.head("/v1/models")
    assert answer.status_code == 200
    assert answer.content == b""
    assert answer.headers["content-length"] == str(len(api.http.get("/v1/models").content))


def test_a_compressed_body_is_refused_by_name(api: ServedApi) -> None:
    answer = api.http.post("/v1/completions", json=PROMPT, headers={"content-encoding": "gzip"})
    assert answer.status_code == 415


def test_the_content_type_of_a_body_does_not_matter(api: ServedApi) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert api.http.post("/v1/completions", content=json.dumps(PROMPT), headers=headers).status_code == 200


@pytest.mark.parametrize("request_line", [b"NONSENSE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"])
def test_what_is_not_http_gets_an_error_in_the_usual_form(api: ServedApi, request_line: bytes) -> None:
    status_code, error = error_of(answer_to(api, request_line))
    assert status_code == 400
    assert error["message"] == "This is not a valid HTTP/1.1 request."


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * (MAX_HEAD_BYTES + 1) + b" HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\na: " + b"x" * (MAX_HEAD_BYTES + 1) + b"\r\n",
        b"GET / HTTP/1.1\r\n" + b"some-header: and its value\r\n" * (MAX_HEAD_BYTES // 20),
    ],
    ids=["address", "one header", "many headers"],
)
def test_an_endless_head_is_refused(api: ServedApi, head: bytes) -> None:
    status_code, error = error_of(answer_to(api, head))
    assert status_code == 431
    assert str(MAX_HEAD_BYTES) in error["message"]
    assert still_serves(api)


def test_endless_trailers_behind_a_body_are_refused(api: ServedApi) -> None:
    """Those that end are not looked at: what a request may do was decided by its headers."""
    begun = (
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer %b\r\n"
        b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n"
    )
    body = json.dumps(PROMPT).encode()
    few = b"content-encoding: gzip\r\nauthorization: Bearer one\r\n\r\n"
    assert answer_to(api, begun % (b"one", len(body), body) + few).startswith(b"HTTP/1.1 200 ")
    assert answer_to(api, begun % (b"two", len(body), body) + few).startswith(b"HTTP/1.1 401 ")
    for endless in (b"a: b\r\n" * MAX_HEAD_BYTES, b"a: " + b"b" * 3 * MAX_HEAD_BYTES):
        with connect(api) as connection:
            connection.sendall(begun % (b"one", len(body), body))
            try:
                connection.sendall(endless)
                answer = connection.recv(65536)
            except ConnectionError:
                continue  # it did not want to read on
            assert answer.startswith(b"HTTP/1.1 431 ")
    assert still_serves(api)


def test_an_old_http_version_can_stream_too(api: ServedApi) -> None:
    body = json.dumps({**PROMPT, "stream": True}).encode()
    answer = answer_to(
        api,
        b"POST /v1/completions HTTP/1.0\r\nauthorization: Bearer one\r\ncontent-length: %d\r\n\r\n%b"
        % (len(body), body),
    )
    assert b'"finish_reason":"stop"' in answer
    assert b"data: [DONE]" in answer


def test_pipelined_requests_are_answered_in_order(api: ServedApi) -> None:
    get = b"GET %b HTTP/1.1\r\nhost: x\r\nauthorization: Bearer one\r\n%b\r\n"
    answer = answer_to(api, get % (b"/version", b"") + get % (b"/v1/models", b"connection: close\r\n"))
    assert answer.index(b'"version"') < answer.index(b'"test-model"')


def test_a_defect_of_ours_is_a_500_that_tells_nothing_of_the_inside(
    serve_api: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(status, "Readiness", broken)
    api = serve_api()
    answer = api.http.get("/ready")
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "secret detail" not in answer.text
    assert api.http.get("/health").status_code == 200


def test_no_rank_is_a_503_that_says_when_to_come_back(serve_api: Serve) -> None:
    api = serve_api(answering("ok"), attach=False)
    assert api.http.get("/ready").status_code == 503
    answer = api.http.post("/v1/completions", json=PROMPT)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert answer.json()["error"]["code"] == "no_rank"
    assert api.http.get("/health").status_code == 200
    api.attach()
    assert api.http.get("/ready").json()["ranks"][0]["rank"] == 0
    assert still_serves(api)


def test_a_rank_with_a_small_cache_shortens_what_fits(serve_api: Serve) -> None:
    from support.fake_engine import FakeRank

    api = serve_api(FakeRank(answering("ok"), max_model_len=100))
    assert api.http.get("/v1/models").json()["data"][0]["max_model_len"] == 100
    answer = api.http.post("/v1/completions", json={"prompt": "x" * 100})
    assert answer.status_code == 400
    assert "100 tokens" in answer.json()["error"]["message"]
