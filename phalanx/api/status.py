"""What operators, balancers and dashboards ask: /health, /ready, /version, /metrics."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

import phalanx
from phalanx.api.http import JSON, Exchange
from phalanx.api.service import Service


class Health(msgspec.Struct):
    status: Literal["ok"] = "ok"


class Rank(msgspec.Struct):
    """An engine rank as this API server sees it."""

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
    ranks: list[Rank]
    missing_ranks: Annotated[list[int], Meta(description="Ranks of the service that are not attached.")] = []


class Version(msgspec.Struct):
    version: str


async def health(exchange: Exchange, service: Service) -> None:
    """This process lives; says nothing of the engine."""
    await exchange.reply_json(Health())


async def ready(exchange: Exchange, service: Service) -> None:
    ranks = []
    for status in service.engine.ranks():
        rank = Rank(
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
    missing: list[int] = [rank for rank in service.roster.expected if rank not in attached]
    answer = Readiness("degraded" if missing else "ready", ranks, missing)
    if service.draining:
        answer.status = "draining"
    elif not ranks:
        answer.status = "waiting for a rank"
    await exchange.reply(200 if ranks and not service.draining else 503, msgspec.json.encode(answer), JSON)


async def version(exchange: Exchange, service: Service) -> None:
    await exchange.reply_json(Version(phalanx.__version__))


async def metrics(exchange: Exchange, service: Service) -> None:
    """The whole service's, whichever API server is asked."""
    from phalanx.api import exposition

    gathered = await service.gather()
    # No await from here on: what is shown is what the supervisor has just been told.
    merged = service.metrics.merged(gathered.samples, gathered.kept)
    for rank in service.roster.expected:
        merged.begin(rank)
    text = exposition.exposition(
        merged,
        service.engine.ranks(),
        gathered,
        service.config.served_names[0],
        len(service.roster.expected),
        service.config.engine,
    )
    await exchange.reply(200, text, exposition.CONTENT_TYPE)
