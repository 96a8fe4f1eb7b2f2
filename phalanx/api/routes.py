"""Every endpoint: who answers it, and what it takes and gives. The OpenAPI document is made from this table."""

from functools import cache

from phalanx.api import admin_endpoints, openapi, status, tokens
from phalanx.api.app_state import AppState
from phalanx.api.http import JSON, Exchange
from phalanx.api.openai import chat, completions, models
from phalanx.api.route import Access, Route


async def openapi_json(exchange: Exchange, server: AppState) -> None:
    await exchange.reply(200, _document(server.config.http.strict_fields, server.config.http.root_path))


@cache
def _document(strict: bool, root_path: str) -> bytes:
    return openapi.document(ROUTES, strict=strict, root_path=root_path)


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
    Route(
        "GET",
        "/admin/ranks",
        admin_endpoints.ranks,
        "Ranks and API servers",
        admin_endpoints.FleetResponse,
        access=Access.ADMIN,
    ),
    Route(
        "POST",
        "/admin/ranks/{rank}/drain",
        admin_endpoints.drain,
        "Give a rank nothing new, and let it empty",
        admin_endpoints.FleetResponse,
        request=admin_endpoints.LeaveRequest,
        access=Access.ADMIN,
        status=202,
    ),
    Route(
        "POST",
        "/admin/ranks/{rank}/resume",
        admin_endpoints.resume,
        "Have a drained rank serve again",
        admin_endpoints.FleetResponse,
        request=admin_endpoints.LeaveRequest,
        access=Access.ADMIN,
        status=202,
    ),
    Route(
        "POST",
        "/admin/ranks/{rank}/restart",
        admin_endpoints.restart,
        "Empty a rank and start it again",
        admin_endpoints.FleetResponse,
        request=admin_endpoints.LeaveRequest,
        access=Access.ADMIN,
        status=202,
    ),
    Route(
        "POST",
        "/admin/scale",
        admin_endpoints.scale,
        "Change how many ranks there are",
        admin_endpoints.FleetResponse,
        request=admin_endpoints.ScaleRequest,
        access=Access.ADMIN,
        status=202,
    ),
    Route("GET", "/version", status.version, "The server's version", status.Version),
    Route("GET", "/metrics", status.metrics, "The whole service's metrics for Prometheus", "text/plain"),
    Route("GET", "/openapi.json", openapi_json, "This document", JSON.decode()),
)
