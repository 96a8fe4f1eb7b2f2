"""Every endpoint: who answers it, and what it takes and gives. The OpenAPI document is made from this table."""

from collections.abc import Awaitable, Callable
from functools import cache
from typing import NamedTuple

import msgspec

from phalanx.api import openapi, status, tokens
from phalanx.api.http import JSON, Exchange
from phalanx.api.openai import chat, completions, models
from phalanx.api.service import Service


class Route(NamedTuple):
    method: str
    path: str
    """As OpenAPI writes it; a `{name}` at its end takes all that follows, slashes too."""
    handler: Callable[[Exchange, Service], Awaitable[None]]
    summary: str
    response: type[msgspec.Struct] | str
    """A type, or the media type of an answer that is not one of ours."""
    request: type[msgspec.Struct] | None = None
    event: type[msgspec.Struct] | None = None
    """Of the stream that the request may ask for."""
    unready: type[msgspec.Struct] | None = None
    """Answer with status 503 where it is not an error in the usual form."""
    open: bool = False
    """Needs no API key."""


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
    Route("GET", "/health", status.health, "Whether this process lives", status.Health, open=True),
    Route(
        "GET",
        "/ready",
        status.ready,
        "Whether requests can be served, and by which ranks",
        status.Readiness,
        unready=status.Readiness,
        open=True,
    ),
    Route("GET", "/version", status.version, "The server's version", status.Version),
    Route("GET", "/metrics", status.metrics, "The whole service's metrics for Prometheus", "text/plain"),
    Route("GET", "/openapi.json", openapi_json, "This document", JSON.decode()),
)


class Routing:
    """Finds the route of a request."""

    def __init__(self) -> None:
        self._exact: dict[str, dict[str, Route]] = {}
        self._prefixes: list[tuple[str, dict[str, Route]]] = []
        for route in ROUTES:
            prefix, brace, _ = route.path.partition("{")
            methods: dict[str, Route]
            if brace:
                methods = {}
                self._prefixes.append((prefix, methods))
            else:
                methods = self._exact.setdefault(route.path, {})
            methods[route.method] = route
            if route.method == "GET":
                methods["HEAD"] = route

    def methods(self, path: str) -> dict[str, Route]:
        """The routes at a path by method; empty for an unknown path."""
        found = self._exact.get(path)
        if found is None:
            found = next((below for prefix, below in self._prefixes if path.startswith(prefix) and path != prefix), {})
        return found
