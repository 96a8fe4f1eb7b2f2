"""Every endpoint: who answers it, and what it takes and gives. The OpenAPI document is made from this table."""

from collections.abc import Awaitable, Callable
from enum import Enum, auto
from functools import cache
from typing import NamedTuple

import msgspec

from phalanx.api import admin, openapi, status, tokens
from phalanx.api.http import JSON, Exchange
from phalanx.api.openai import chat, completions, models
from phalanx.api.service import Service


class Access(Enum):
    """Whom an endpoint answers."""

    OPEN = auto()
    """Anybody."""
    KEY = auto()
    """Who has one of --api-key; anybody where there is none."""
    ADMIN = auto()
    """Who has one of --admin-key; nobody where there is none."""


class Route(NamedTuple):
    method: str
    path: str
    """As OpenAPI writes it. One `{name}` in it is `Exchange.parameter`; at the end it takes all that follows."""
    handler: Callable[[Exchange, Service], Awaitable[None]]
    summary: str
    response: type[msgspec.Struct] | str
    """A type, or the media type of an answer that is not one of ours."""
    request: type[msgspec.Struct] | None = None
    event: type[msgspec.Struct] | None = None
    """Of the stream that the request may ask for."""
    unready: type[msgspec.Struct] | None = None
    """Answer with status 503 where it is not an error in the usual form."""
    access: Access = Access.KEY
    status: int = 200
    """Of an answer that is no error."""


async def openapi_json(exchange: Exchange, service: Service) -> None:
    await exchange.reply(200, _document())


@cache
def _document() -> bytes:
    return openapi.document(ROUTES)


ROUTES = (
    Route(
        "POST",
        "/v1/chat/completions",
        chat.chat_completions,
        "Answer a conversation",
        chat.ChatResponse,
        request=chat.ChatRequest,
        event=chat.ChatChunk,
    ),
    Route(
        "POST",
        "/v1/completions",
        completions.completions,
        "Continue a text",
        completions.CompletionResponse,
        request=completions.CompletionRequest,
        event=completions.CompletionResponse,
    ),
    Route("GET", "/v1/models", models.list_models, "The served model's names", models.ModelList),
    Route("GET", "/v1/models/{model}", models.show_model, "One of the served model's names", models.Model),
    Route(
        "POST",
        "/tokenize",
        tokens.tokenize,
        "A text's or a chat's tokens",
        tokens.TokenizeResponse,
        request=tokens.TokenizeRequest,
    ),
    Route(
        "POST",
        "/detokenize",
        tokens.detokenize,
        "Tokens' text",
        tokens.DetokenizeResponse,
        request=tokens.DetokenizeRequest,
    ),
    Route("GET", "/health", status.health, "Whether this process lives", status.Health, access=Access.OPEN),
    Route(
        "GET",
        "/ready",
        status.ready,
        "Whether requests can be served, and by which ranks",
        status.Readiness,
        unready=status.Readiness,
        access=Access.OPEN,
    ),
    Route("GET", "/admin/ranks", admin.ranks, "Ranks and API servers", admin.Fleet, access=Access.ADMIN),
    Route(
        "POST",
        "/admin/ranks/{rank}/drain",
        admin.drain,
        "Give a rank nothing new, and let it empty",
        admin.Fleet,
        request=admin.LeaveRequest,
        access=Access.ADMIN,
        status=202,
    ),
    Route(
        "POST",
        "/admin/ranks/{rank}/resume",
        admin.resume,
        "Have a drained rank serve again",
        admin.Fleet,
        request=admin.LeaveRequest,
        access=Access.ADMIN,
        status=202,
    ),
    Route(
        "POST",
        "/admin/ranks/{rank}/restart",
        admin.restart,
        "Empty a rank and start it again",
        admin.Fleet,
        request=admin.LeaveRequest,
        access=Access.ADMIN,
        status=202,
    ),
    Route(
        "POST",
        "/admin/scale",
        admin.scale,
        "Change how many ranks there are",
        admin.Fleet,
        request=admin.ScaleRequest,
        access=Access.ADMIN,
        status=202,
    ),
    Route("GET", "/version", status.version, "The server's version", status.Version),
    Route("GET", "/metrics", status.metrics, "The whole service's metrics for Prometheus", "text/plain"),
    Route("GET", "/openapi.json", openapi_json, "This document", JSON.decode()),
)


class Place(NamedTuple):
    """What is at a path."""

    methods: dict[str, Route]
    """Empty for an unknown path."""
    parameter: str = ""
    """What stands for the `{name}` of the route's path."""


class Routing:
    """Finds the route of a request."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self._exact: dict[str, Place] = {}
        self._around: dict[tuple[str, str], dict[str, Route]] = {}
        """By what stands before and behind the `{name}`."""
        for route in routes:
            before, brace, rest = route.path.partition("{")
            if brace:
                methods = self._around.setdefault((before, rest.partition("}")[2]), {})
            else:
                methods = self._exact.setdefault(route.path, Place({})).methods
            methods[route.method] = route
            if route.method == "GET":
                methods["HEAD"] = route

    def at(self, path: str) -> Place:
        exact = self._exact.get(path)
        if exact is not None:
            return exact
        for (before, behind), methods in self._around.items():
            end = len(path) - len(behind)
            if path.startswith(before) and path.endswith(behind) and end > len(before):
                parameter = path[len(before) : end]
                if not behind or "/" not in parameter:
                    return Place(methods, parameter)
        return Place({})
