"""Browsers: which pages may read answers, what they are told before they ask, and the path a proxy puts before ours."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from support.fake_engine import ServedApi, answering

from phalanx.cli.options import UsageError
from phalanx.cli.serve import parse

Serve = Callable[..., ServedApi]
PAGE, OTHER = "http://ui.example", "http://evil.example"
PROMPT = {"prompt": "hi"}


@pytest.fixture(scope="module")
def api(checkpoint_folder: Path) -> Iterator[ServedApi]:
    options = {"allowed_origins": (PAGE, "HTTPS://Second.example:8443"), "api_key": ("one",)}
    with ServedApi(checkpoint_folder, answering("ok"), **options) as api:
        yield api


def preflight(api: ServedApi, path: str, origin: str, headers: str = "authorization,content-type") -> httpx.Response:
    asked = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": headers}
    return api.http.options(path, headers=asked)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/nowhere"])
def test_a_page_that_is_let_in_is_told_so_without_a_key_whatever_the_path(api: ServedApi, path: str) -> None:
    answer = preflight(api, path, PAGE)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert set(answer.headers["access-control-allow-methods"].split(", ")) == {"GET", "POST"}
    assert answer.headers["access-control-allow-headers"] == "authorization,content-type"
    assert answer.headers["vary"] == "origin"
    assert "content-length" not in answer.headers
    assert "access-control-allow-credentials" not in answer.headers


def test_another_page_is_refused_and_is_told_nothing(api: ServedApi) -> None:
    answer = preflight(api, "/v1/models", OTHER)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
    answer = api.http.get("/v1/models", headers={"origin": OTHER, "authorization": "Bearer one"})
    assert answer.status_code == 200  # it is the browser that keeps it from the page
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["vary"] == "origin"


@pytest.mark.parametrize(
    ("method", "path", "key", "body", "status"),
    [
        ("GET", "/v1/models", "one", None, 200),
        ("GET", "/health", "two", None, 200),
        ("POST", "/v1/completions", "one", PROMPT, 200),
        ("POST", "/v1/completions", "one", {**PROMPT, "stream": True}, 200),
        ("POST", "/v1/completions", "one", {"prompt": 7}, 400),
        ("POST", "/v1/completions", "two", PROMPT, 401),
        ("GET", "/nowhere", "one", None, 404),
        ("PUT", "/v1/models", "one", None, 405),
    ],
)
def test_a_page_may_read_every_answer_errors_included(
    api: ServedApi, method: str, path: str, key: str, body: object, status: int
) -> None:
    headers = {"origin": PAGE, "authorization": f"Bearer {key}"}
    answer = api.http.request(method, path, headers=headers, json=body)
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "x-request-id" in answer.headers["access-control-expose-headers"]


def test_an_origin_is_compared_as_browsers_write_it_and_whole(api: ServedApi) -> None:
    for origin, status in [("https://second.example:8443", 204), ("https://second.example", 403), (f"{PAGE}.x", 403)]:
        assert preflight(api, "/v1/models", origin).status_code == status


def test_the_key_is_asked_for_all_the_same(api: ServedApi) -> None:
    assert api.http.get("/v1/models", headers={"origin": PAGE}).status_code == 401
    # An OPTIONS that is no preflight is a method like others.
    assert api.http.options("/v1/models", headers={"origin": PAGE}).status_code == 401


def test_all_pages_may_be_let_in_and_what_they_send_be_narrowed(serve_api: Serve) -> None:
    narrow = {"allowed_methods": ("GET",), "allowed_headers": ("Authorization", "X-Mine")}
    api = serve_api(answering("ok"), allowed_origins=("*",), **narrow)
    answer = preflight(api, "/v1/models", OTHER, "authorization")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-methods"] == "GET"
    assert answer.headers["access-control-allow-headers"] == "Authorization, X-Mine"
    assert "vary" not in answer.headers
    assert api.http.get("/v1/models").headers["access-control-allow-origin"] == "*"


def test_cookies_are_let_through_where_that_is_asked_for(serve_api: Serve) -> None:
    api = serve_api(answering("ok"), allowed_origins=(PAGE,), allow_credentials=True)
    for answer in preflight(api, "/v1/models", PAGE), api.http.get("/v1/models", headers={"origin": PAGE}):
        assert answer.headers["access-control-allow-credentials"] == "true"
        assert answer.headers["access-control-allow-origin"] == PAGE


def test_without_the_option_no_page_may_read_anything(serve_api: Serve) -> None:
    api = serve_api(answering("ok"))
    assert preflight(api, "/v1/models", PAGE).status_code == 405
    answer = api.http.get("/v1/models", headers={"origin": PAGE})
    assert not [name for name in answer.headers if name.startswith("access-control") or name == "vary"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--allowed-origins", "http://a.example/"], "is not a page's origin"),
        (["--allowed-origins", "a.example"], "is not a page's origin"),
        (["--allowed-origins", "*", "--allow-credentials"], "name the origins"),
        (["--allow-credentials"], "needs --allowed-origins"),
        (["--allowed-origins", PAGE, "--allowed-headers", "a b"], "'a b' is no name of a header"),
        (["--allowed-origins", PAGE, "--frontend-command", "true"], "has no meaning with --frontend-command"),
        (["--root-path", "llm"], "begins with a slash"),
        (["--root-path", "/llm/"], "ends without"),
    ],
)
def test_what_would_not_do_what_it_seems_to_is_refused(flags: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse(flags)


def test_lists_may_be_typed_as_json_too() -> None:
    for typed in ([f'["{PAGE}", "{OTHER}"]'], [PAGE, OTHER], ["null", PAGE]):
        origins = parse(["--allowed-origins", *typed]).options.http.allowed_origins
        assert origins == (("null", PAGE) if typed[0] == "null" else (PAGE, OTHER))
    assert parse(["--allowed-origins", '["*"]']).options.http.allowed_origins == ("*",)


def test_paths_are_served_with_and_without_what_a_proxy_puts_before_them(serve_api: Serve) -> None:
    api = serve_api(answering("ok"), root_path="/team/llm")
    for path in ("/v1/models", "/team/llm/v1/models", "/v1/models/other/name", "/team/llm/v1/models/other/name"):
        assert api.http.get(path).status_code == 200, path
    for path in ("/team/v1/models", "/team/llmv1/models", "/team/llm/team/llm/v1/models", "/team/llm"):
        assert api.http.get(path).status_code == 404, path
    assert api.http.post("/team/llm/v1/completions", json=PROMPT).json()["choices"][0]["text"] == "ok"
    assert api.http.get("/openapi.json").json()["servers"] == [{"url": "/team/llm"}]
