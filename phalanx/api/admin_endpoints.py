"""The endpoints below /admin: what operators see of ranks and API servers, and have done with them."""

from typing import Annotated

import msgspec
from msgspec import Meta

from phalanx.api.app_state import AppState
from phalanx.api.decoding import BodyDecoder
from phalanx.api.errors import ApiError
from phalanx.api.http import Exchange
from phalanx.api.supervisor_client import STATUSES
from phalanx.protocol import AdminAnswer, AdminVerb, PlaceState

MOST_BYTES = 65536

RankNumber = Annotated[int, Meta(ge=0, lt=2**31)]


class RankInfo(msgspec.Struct):
    rank: int
    state: PlaceState
    incarnation: int
    restarts: Annotated[int, Meta(description="After falls, since the service began.")]
    pid: int | None
    where: Annotated[str, Meta(description="The machine; empty: the supervisor's own.")]
    since: Annotated[float, Meta(description="Seconds in its present stage.")]
    detail: str
    running: Annotated[int | None, Meta(description="Requests it runs; null: not attached, or not heard yet.")] = None
    waiting: int | None = None
    kv_used_tokens: int | None = None
    kv_total_tokens: int | None = None


class ApiServerInfo(msgspec.Struct):
    index: int
    state: PlaceState
    incarnation: int
    pid: int | None
    where: str
    since: float


class FleetResponse(msgspec.Struct):
    data_parallel_size: Annotated[int, Meta(description="Ranks that shall serve.")]
    ranks: list[RankInfo]
    api_servers: list[ApiServerInfo]


Patience = Annotated[
    float,
    Meta(
        ge=0,
        le=86400,
        description="Seconds in which running requests may finish; then other ranks continue them. "
        "Default: --drain-timeout.",
    ),
]


class LeaveRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    timeout: Patience | None = None


class ScaleRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    data_parallel_size: (
        Annotated[int, Meta(ge=0, lt=2**31, description="Ranks that shall serve. Default: as many as `retire` leaves.")]
        | None
    ) = None
    retire: Annotated[
        list[RankNumber], Meta(description="Ranks that go. Default: the last ones.", max_length=1024)
    ] = []
    timeout: Patience | None = None


_leave_decoder = BodyDecoder(LeaveRequest)
_scale_decoder = BodyDecoder(ScaleRequest)


async def ranks(exchange: Exchange, server: AppState) -> None:
    await _reply(exchange, server, await server.supervisor.administer(AdminVerb.SHOW))


async def drain(exchange: Exchange, server: AppState) -> None:
    await _leave(exchange, server, AdminVerb.DRAIN)


async def resume(exchange: Exchange, server: AppState) -> None:
    await _leave(exchange, server, AdminVerb.RESUME)


async def restart(exchange: Exchange, server: AppState) -> None:
    await _leave(exchange, server, AdminVerb.RESTART)


async def _leave(exchange: Exchange, server: AppState, verb: AdminVerb) -> None:
    name = exchange.parameter
    if not (name.isascii() and name.isdecimal() and len(name) < 10):
        raise ApiError(f"{name[:100]!r} is not the number of a rank.", status=404)
    request = _leave_decoder.decode(await exchange.body(MOST_BYTES) or b"{}", strict=True)
    await _reply(exchange, server, await server.supervisor.administer(verb, [int(name)], timeout=request.timeout))


async def scale(exchange: Exchange, server: AppState) -> None:
    request = _scale_decoder.decode(await exchange.body(MOST_BYTES), strict=True)
    if request.data_parallel_size is None and not request.retire:
        raise ApiError("Give data_parallel_size, or the ranks to retire.", param="data_parallel_size")
    answer = await server.supervisor.administer(
        AdminVerb.SCALE, sorted(set(request.retire)), request.data_parallel_size, request.timeout
    )
    await _reply(exchange, server, answer)


async def _reply(exchange: Exchange, server: AppState, answer: AdminAnswer) -> None:
    attached = {status.rank: status for status in server.engine.ranks()}
    infos = []
    for state in answer.ranks:
        info = RankInfo(
            rank=state.rank,
            state=state.state,
            incarnation=state.incarnation,
            restarts=state.restarts,
            pid=state.pid,
            where=state.where,
            since=round(state.since, 3),
            detail=state.detail,
        )
        status = attached.get(state.rank)
        if status is not None and status.load is not None:
            info.running, info.waiting = status.load.running, status.load.waiting
            info.kv_used_tokens, info.kv_total_tokens = status.load.kv_used_tokens, status.load.kv_total_tokens
        infos.append(info)
    servers = [
        ApiServerInfo(each.index, each.state, each.incarnation, each.pid, each.where, round(each.since, 3))
        for each in answer.api_servers
    ]
    stay = sum(info.state not in (PlaceState.LEAVING, PlaceState.DRAINED, PlaceState.DRAINING) for info in infos)
    await exchange.reply(STATUSES[answer.outcome], msgspec.json.encode(FleetResponse(stay, infos, servers)))
