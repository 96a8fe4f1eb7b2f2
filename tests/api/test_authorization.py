"""Which key opens which endpoint, and what is told to whom."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.fake_engine import ServedApi, answering

from phalanx.api import openapi, status
from phalanx.api.app_state import AppState
from phalanx.api.http import Exchange
from phalanx.api.route import Access, Route
from phalanx.api.routes import ROUTES

API, ADMIN = "key of a client", "key of an admin"


async def scaled(exchange: Exchange, server: AppState) -> None:
    await exchange.reply_json({"of": exchange.parameter})


SCALE = Route("POST", "/admin/scale", scaled, "Do", status.Version, access=Access.ADMIN)
RESTART = Route("POST", "/admin/ranks/{rank}/restart", scaled, "Do", status.Version, access=Access.ADMIN)
DRAIN = Route("POST", "/admin/ranks/{rank}/drain", scaled, "Do", status.Version, access=Access.ADMIN)
WITH_ADMIN = (*ROUTES, SCALE, RESTART, DRAIN)


@pytest.fixture(scope="module")
def servers(checkpoint_folder: Path) -> Iterator[dict[str, ServedApi]]:
    """With both kinds of keys, one of them, and none."""
    given: dict[str, dict[str, Any]] = {
        "both": {"api_key": ("other", API), "admin_key": ("another", ADMIN)},
        "api": {"api_key": (API,)},
        "admin": {"admin_key": (ADMIN,)},
        "none": {},
    }
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(ServedApi(checkpoint_folder, answering("ok"), routes=WITH_ADMIN, **keys))
            for name, keys in given.items()
        }


def asked(api: ServedApi, route: tuple[str, str], key: str | None) -> tuple[int, str]:
    """Status, and the error's code where it is one."""
    method, path = route
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    answer = api.http.request(method, path, headers=headers)
    failed = answer.status_code >= 400 and path not in ("/ready", "/health")
    return answer.status_code, answer.json()["error"]["code"] if failed else ""


MODELS, NOWHERE, SCALING = ("GET", "/v1/models"), ("GET", "/nowhere"), ("POST", "/admin/scale")
UNKNOWN, WRONG, OFF = (401, "invalid_api_key"), (403, "wrong_key"), (403, "admin_off")


@pytest.mark.parametrize(
    ("keys", "key", "models", "scaling"),
    [
        ("both", None, UNKNOWN, UNKNOWN),
        ("both", "a guess", UNKNOWN, UNKNOWN),
        ("both", API, (200, ""), WRONG),
        ("both", ADMIN, WRONG, (200, "")),
        ("api", None, UNKNOWN, UNKNOWN),
        ("api", API, (200, ""), OFF),
        ("admin", None, (200, ""), UNKNOWN),
        ("admin", "a guess", (200, ""), UNKNOWN),
        ("admin", ADMIN, (200, ""), (200, "")),
        ("none", None, (200, ""), OFF),
        ("none", "a guess", (200, ""), OFF),
    ],
)
def test_each_key_opens_its_own_endpoints_and_without_one_admin_endpoints_are_off(
    servers: dict[str, ServedApi], keys: str, key: str | None, models: tuple[int, str], scaling: tuple[int, str]
) -> None:
    assert asked(servers[keys], MODELS, key) == models
    assert asked(servers[keys], SCALING, key) == scaling


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
def test_without_a_key_nobody_learns_what_there_is(servers: dict[str, ServedApi], method: str) -> None:
    """The answer to an unknown path is the answer to all but /health and /ready, whatever the method."""
    api = servers["both"]

    def answer(path: str) -> tuple[int, bytes, list[tuple[str, str]]]:
        found = httpx.request(method, api.url + path, headers={"authorization": "Bearer guess"}, verify=False)
        headers = sorted(item for item in found.headers.items() if item[0] not in ("date", "x-request-id"))
        return found.status_code, found.content, headers

    unknown = answer("/nowhere")
    assert unknown[0] == 401
    open_paths = {route.path for route in WITH_ADMIN if route.access is Access.OPEN}
    assert open_paths == {"/health", "/ready"}
    for route in WITH_ADMIN:
        path = route.path.replace("{model}", "test-model").replace("{rank}", "0")
        if route.path not in open_paths or method not in ("GET", "HEAD"):
            assert answer(path) == unknown, path
        else:
            assert answer(path)[0] == 200


def test_a_wrong_method_at_an_admin_path_is_the_admins_to_know(servers: dict[str, ServedApi]) -> None:
    get = ("GET", "/admin/scale")
    assert asked(servers["both"], get, None) == UNKNOWN
    assert asked(servers["both"], get, API) == WRONG
    assert asked(servers["both"], get, ADMIN) == (405, None)
    assert asked(servers["none"], get, None) == OFF


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("/admin/ranks/3/restart", "3"),
        ("/admin/ranks/x/drain", "x"),
        ("/admin/ranks//drain", None),
        ("/admin/ranks/3/4/drain", None),
        ("/admin/ranks/drain", None),
        ("/admin/ranks/3/stop", None),
    ],
)
def test_a_name_inside_a_path_stands_for_one_step(
    servers: dict[str, ServedApi], path: str, parameter: str | None
) -> None:
    answer = servers["admin"].http.post(path, headers={"authorization": f"Bearer {ADMIN}"})
    assert answer.status_code == (404 if parameter is None else 200)
    assert parameter is None or answer.json() == {"of": parameter}


def test_the_document_tells_each_endpoints_key() -> None:
    document = json.loads(openapi.document(WITH_ADMIN))
    assert document["paths"]["/admin/scale"]["post"]["security"] == [{"admin": []}]
    assert document["paths"]["/admin/ranks/{rank}/drain"]["post"]["parameters"][0]["name"] == "rank"
    assert document["paths"]["/v1/models"]["get"]["security"] == [{}, {"key": []}]
    assert "security" not in document["paths"]["/health"]["get"]
    assert document["components"]["securitySchemes"].keys() == {"key", "admin"}
