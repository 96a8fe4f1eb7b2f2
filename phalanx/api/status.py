"""What operators, balancers and dashboards ask: /health, /ready, /version, /metrics."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

import phalanx
from phalanx.api.app_state import AppState
from phalanx.api.http import Exchange
from phalanx.api.known_errors import NO_RANK, STOPPING, Unavailable


class Health(msgspec.Struct):
    status: Literal["ok"] = "ok"


class AttachedRank(msgspec.Struct):
    """An engine rank that is attached to this API server, as the server sees it."""

    rank: int
    incarnation: int
    max_num_seqs: int
    kv_cache_tokens: int
    own_requests: Annotated[int, Meta(description="Requests that this API server has in it.")]
    running: Annotated[int | None, Meta(description="Requests it runs, of all API servers; null: not heard yet.")] = (
        None
    )
    waiting: int | None = None
    kv_used_tokens: int | None = None


class Readiness(msgspec.Struct):
    status: Literal["ready", "degraded", "waiting for a rank", "draining"]
    ranks: list[AttachedRank]
    missing_ranks: Annotated[list[int], Meta(description="Ranks of the service that are not attached.")] = []


class Version(msgspec.Struct):
    version: str


async def health(exchange: Exchange, server: AppState) -> None:
    """Answer that this process lives, which says nothing of the engine."""
    await exchange.reply_json(Health())


async def ready(exchange: Exchange, server: AppState) -> None:
    ranks = []
    for status in server.engine.ranks():
        rank = AttachedRank(
            status.rank,
            status.incarnation,
            status.hello.max_num_seqs,
            status.hello.kv_cache_tokens,
            status.own_requests,
        )
        if status.load is not None:
            rank.running, rank.waiting = status.load.running, status.load.waiting
            rank.kv_used_tokens = status.load.kv_used_tokens
        ranks.append(rank)
    attached = {rank.rank for rank in ranks}
    missing: list[int] = [rank for rank in server.ranks.expected if rank not in attached]
    answer = Readiness("degraded" if missing else "ready", ranks, missing)
    unready: Unavailable | None = None
    if server.draining:
        answer.status, unready = "draining", STOPPING
    elif not ranks:
        answer.status, unready = "waiting for a rank", NO_RANK
    body = msgspec.json.encode(answer)
    if unready is None:
        await exchange.reply(200, body)
    else:
        await exchange.reply(503, body, headers=unready.headers)


async def version(exchange: Exchange, server: AppState) -> None:
    await exchange.reply_json(Version(phalanx.__version__))


async def metrics(exchange: Exchange, server: AppState) -> None:
    """Answer with the metrics of the whole service, whichever API server is asked."""
    from phalanx.api import exposition

    gathered = await server.supervisor.gather_metrics()
    # No await from here on: what is shown is what the supervisor has just been told.
    merged = server.metrics.merged(gathered.samples, gathered.kept)
    for rank in server.ranks.expected:
        merged.begin(rank)
    text = exposition.exposition(
        merged,
        server.engine.ranks(),
        gathered,
        server.config.served_names[0],
        len(server.ranks.expected),
        server.config.engine,
    )
    await exchange.reply(200, text, exposition.CONTENT_TYPE)
