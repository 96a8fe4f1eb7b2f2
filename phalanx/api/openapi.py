"""The OpenAPI document, from the same types that requests are decoded with."""

from typing import Any

import msgspec

import phalanx
from phalanx.api.errors import ErrorResponse
from phalanx.api.route import Access, Route

_ERRORS = {
    "400": "The request is wrong; the message says what and where.",
    "401": "No key, or one that is not known.",
    "404": "No such model.",
    "408": "The request did not come, or was not answered, in the time it had.",
    "413": "The body is larger than this server reads.",
    "429": "The server is overloaded; try again after `Retry-After` seconds.",
    "500": "The server failed.",
    "503": "The server cannot answer this now; try again after `Retry-After` seconds.",
}
_OFF = "The key is no admin key, or the service was started without one: its admin endpoints are off."
_GET_ERRORS = ("401", "404", "500", "503")
_POST_ERRORS = ("400", "401", "404", "408", "413", "429", "500", "503")


def document(routes: tuple[Route, ...], *, strict: bool = False, root_path: str = "") -> bytes:
    """OpenAPI 3.1 as JSON.

    `strict`: requests may have no fields that it does not name. `root_path`: what a proxy puts before every path.
    """
    types: list[type[msgspec.Struct]] = [
        found
        for route in routes
        for found in (route.request, route.response, route.event, route.unready)
        if isinstance(found, type)
    ]
    unique: list[type[msgspec.Struct]] = list(dict.fromkeys([*types, ErrorResponse]))
    schemas, components = msgspec.json.schema_components(unique, ref_template="#/components/schemas/{name}")
    schema_of: dict[type[msgspec.Struct], Any] = dict(zip(unique, schemas, strict=True))
    if strict:
        requests = [route.request for route in routes if route.request is not None]
        for name in msgspec.json.schema_components(requests)[1]:
            components[name]["additionalProperties"] = False
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema_of)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "Phalanx", "version": phalanx.__version__},
            "servers": [{"url": root_path or "/"}],
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {
                    "key": {"type": "http", "scheme": "bearer", "description": "One of --api-key."},
                    "admin": {"type": "http", "scheme": "bearer", "description": "One of --admin-key."},
                },
            },
        }
    )


def _operation(route: Route, schema_of: dict[type[msgspec.Struct], Any]) -> dict[str, Any]:
    if isinstance(route.response, str):
        content: dict[str, Any] = {route.response: {}}
    else:
        content = {"application/json": {"schema": schema_of[route.response]}}
    if route.event is not None:
        # One event, as OpenAPI 3.2 and tools for 3.1 read this media type.
        chunk_or_error = [
            {"type": "string", "contentMediaType": "application/json", "contentSchema": schema_of[carried]}
            for carried in (route.event, ErrorResponse)
        ]
        data = {"anyOf": [{"const": "[DONE]"}, *chunk_or_error]}
        event = {"type": "object", "required": ["data"], "properties": {"data": data}}
        content["text/event-stream"] = {"schema": event}
    responses: dict[str, Any] = {str(route.status): {"description": route.summary, "content": content}}
    for status in _GET_ERRORS if route.request is None else _POST_ERRORS:
        responses[status] = {
            "description": _ERRORS[status],
            "content": {"application/json": {"schema": schema_of[ErrorResponse]}},
        }
    if route.unready is not None:
        responses["503"] = {
            "description": "Not ready; ask again after `Retry-After` seconds.",
            "content": {"application/json": {"schema": schema_of[route.unready]}},
        }
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": route.summary,
        "responses": responses,
    }
    match route.access:
        case Access.KEY:
            # The key is needed only where the service was started with one.
            operation["security"] = [{}, {"key": []}]
        case Access.ADMIN:
            operation["security"] = [{"admin": []}]
            responses["403"] = responses["401"] | {"description": _OFF}
    if route.request is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema_of[route.request]}},
        }
    name = route.path.partition("{")[2].partition("}")[0]
    if name:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        ]
    return operation
