"""What an operator may ask of a running service, and what that means for the fleet. Pure."""

import itertools
from collections.abc import Iterable

from phalanx.protocol import (
    AdminOutcome,
    AdminRequest,
    AdminVerb,
    ApiServerState,
    Place,
    PlaceState,
    RankId,
    RankState,
    Role,
)
from phalanx.supervisor.child_states import Child, ChildState, all_ready
from phalanx.supervisor.events import Added, AfterLeaving, FleetEvent, Leave, Resume
from phalanx.supervisor.fleet import Fleet
from phalanx.supervisor.state import FleetPhase, LeavingStage

MOST_RANKS = 1024


class AdminRefused(Exception):
    """Why it cannot be."""

    def __init__(self, reason: str, outcome: AdminOutcome = AdminOutcome.IMPOSSIBLE_NOW) -> None:
        super().__init__(reason)
        self.outcome = outcome


def decide(fleet: Fleet, request: AdminRequest, now: float, workers: int, patience: float) -> list[FleetEvent]:
    """The events that do what is asked; none where it only asks how things are.

    Args:
        workers: tensor-parallel workers of a rank.
        patience: seconds that running requests get to finish where the request does not say.

    Raises:
        AdminRefused: it cannot be.
    """
    if request.verb is AdminVerb.SHOW:
        return []
    if fleet.phase is not FleetPhase.SERVING:
        raise AdminRefused(f"The service is {fleet.phase.name.lower()}; ranks are moved only while it serves.")
    timeout = patience if request.timeout is None else request.timeout
    if request.verb is AdminVerb.SCALE:
        return _scale(fleet, request, now, workers, timeout)
    unknown = [rank for rank in request.ranks if rank not in fleet.ranks()]
    if unknown:
        raise AdminRefused(
            f"There is no rank {unknown[0]}; there are {_spell(fleet.ranks())}.", AdminOutcome.NO_SUCH_RANK
        )
    if going := [rank for rank in request.ranks if fleet.leaves_for_good(rank)]:
        raise AdminRefused(f"Rank {going[0]} is leaving for good.")
    match request.verb:
        case AdminVerb.DRAIN:
            stopping = [rank for rank, each in fleet.departures.items() if each.stage is LeavingStage.STOPPING]
            if restarting := set(request.ranks).intersection(stopping):
                raise AdminRefused(f"Rank {min(restarting)} is being restarted.")
            if not _open(fleet) - set(request.ranks):
                raise AdminRefused("No other rank takes requests: to restart the last one, use restart.")
            return [Leave(now, request.ranks, AfterLeaving.HELD, timeout)]
        case AdminVerb.RESTART:
            return [Leave(now, request.ranks, AfterLeaving.RENEWED, timeout)]
        case AdminVerb.RESUME:
            return [Resume(now, request.ranks)]


def _scale(fleet: Fleet, request: AdminRequest, now: float, workers: int, timeout: float) -> list[FleetEvent]:
    staying = {rank for rank in fleet.ranks() if not fleet.leaves_for_good(rank)}
    retired = set(request.ranks)
    if unknown := retired - staying:
        raise AdminRefused(
            f"There is no rank {min(unknown)} to retire; there are {_spell(staying)}.", AdminOutcome.NO_SUCH_RANK
        )
    left = staying - retired
    size = len(left) if request.size is None else request.size
    if not max(1, fleet.limits.min_ranks) <= size <= MOST_RANKS:
        least = max(1, fleet.limits.min_ranks)
        raise AdminRefused(f"{size} ranks cannot be: at least {least} (--min-ranks), at most {MOST_RANKS}.")
    # Who serves nobody is missed least; of the others those that came last.
    serving = _open(fleet)
    surplus = sorted(left, key=lambda rank: (rank in serving, -rank))[: max(0, len(left) - size)]
    going = tuple(sorted(retired | set(surplus)))
    taken = fleet.ranks()
    free = (RankId(number) for number in itertools.count() if number not in taken)
    new = [next(free) for _ in range(size - len(left) + len(surplus))]
    if going and not new and not serving - set(going):
        raise AdminRefused("None of the ranks that stay serves now.")
    events: list[FleetEvent] = []
    if new:
        events.append(Added(now, tuple(Place(Role.ENGINE, rank, worker) for rank in new for worker in range(workers))))
    if going:
        events.append(Leave(now, going, AfterLeaving.GONE, timeout))
    return events


def ranks_of(fleet: Fleet, now: float) -> tuple[RankState, ...]:
    """How each rank stands, its workers together; process and times are worker 0's."""
    return tuple(_rank_state(fleet, rank, now) for rank in sorted(fleet.ranks()))


def api_servers_of(fleet: Fleet, now: float) -> tuple[ApiServerState, ...]:
    servers = (child for place, child in sorted(fleet.children.items(), key=_in_order) if place.role is Role.API)
    return tuple(
        ApiServerState(
            index=server.id.place.index,
            state=_state([server]),
            incarnation=server.id.incarnation,
            pid=server.pid,
            where=server.where,
            since=_since(server, now),
        )
        for server in servers
    )


def _rank_state(fleet: Fleet, rank: RankId, now: float) -> RankState:
    members = fleet.members((Role.ENGINE, rank))
    leader = next(member for member in members if member.id.place.worker == 0)
    departure = fleet.departures.get(rank)
    state = _state(members)
    if departure is not None and state is PlaceState.SERVING:
        if departure.after is AfterLeaving.GONE:
            state = PlaceState.LEAVING
        else:
            state = PlaceState.DRAINED if departure.stage is LeavingStage.EMPTY else PlaceState.DRAINING
    return RankState(
        rank=rank,
        state=state,
        incarnation=leader.id.incarnation,
        restarts=fleet.restarts.count(leader.unit),
        pid=leader.pid,
        where=leader.where,
        since=_since(leader, now),
        detail=leader.detail,
    )


def _state(members: list[Child]) -> PlaceState:
    states = {member.state for member in members}
    if states == {ChildState.READY}:
        return PlaceState.SERVING
    if states & {ChildState.FALLEN, ChildState.LOST}:
        return PlaceState.FALLEN
    if states <= {ChildState.LAUNCHING, ChildState.STARTING, ChildState.READY}:
        return PlaceState.STARTING if all(member.id.incarnation == 0 for member in members) else PlaceState.RESTARTING
    return PlaceState.RESTARTING


def _since(child: Child, now: float) -> float:
    return max(
        0.0, now - (child.wait.since if child.wait and child.state is not ChildState.READY else child.stage_since)
    )


def _open(fleet: Fleet) -> set[RankId]:
    """Ranks that take requests."""
    serving = {RankId(index) for index, members in fleet.units(Role.ENGINE).items() if all_ready(members)}
    return serving - set(fleet.departures)


def _in_order(item: tuple[Place, Child]) -> tuple[str, int, int]:
    return item[0].role, item[0].index, item[0].worker


def _spell(ranks: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(ranks)))
