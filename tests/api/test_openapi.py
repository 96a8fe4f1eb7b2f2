"""The published OpenAPI document is true: what it describes is what the server does, and nothing breaks it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from support.fake_engine import ServedApi, answering

from phalanx.api.route import Route
from phalanx.api.routes import ROUTES

EXAMPLES = 40
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def api(checkpoint_folder: Path) -> Iterator[ServedApi]:
    with ServedApi(checkpoint_folder, answering("ok")) as api:
        yield api


@pytest.fixture(scope="module")
def document(api: ServedApi) -> Any:
    return schemathesis.openapi.from_url(f"{api.url}/openapi.json")


@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_no_request_breaks_the_server_or_gets_what_the_document_does_not_say(
    api: ServedApi, document: Any, route: Route, mode: GenerationMode
) -> None:
    operation = document[route.path][route.method]
    session = requests.Session()
    if mode is GenerationMode.NEGATIVE and route.request is None:
        return  # there is nothing in it to be wrong

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), database=None)
    @given(case=operation.as_strategy(generation_mode=mode))
    def holds(case: schemathesis.Case) -> None:
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            # Nearly no text is the name of a model, and then the rest of the request would never be read.
            case.body.pop("model", None)
        case.validate_response(case.call(session=session), checks=CHECKS)

    holds()


def test_every_endpoint_is_in_the_document(api: ServedApi) -> None:
    paths = api.http.get("/openapi.json").json()["paths"]
    assert {(route.path, route.method.lower()) for route in ROUTES} == {
        (path, method) for path, methods in paths.items() for method in methods
    }
