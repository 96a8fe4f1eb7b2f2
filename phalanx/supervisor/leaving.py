"""How ranks leave because an operator says so, for good, for a moment, or to stay idle. Pure; called by `fleet.py`
alone.

A rank that leaves gets nothing new from then on. What runs in it may finish until a deadline; what is left then goes
on at other ranks. Only when each API server has said that nothing of it runs there any more, or has had long enough
for that, is the rank stopped. So no request sees its end.
"""

from phalanx.protocol import Place, RankId, Ranks, Role
from phalanx.supervisor import ending
from phalanx.supervisor.child_states import Child, ChildState, Unit
from phalanx.supervisor.events import AfterLeaving, AnnounceLeft, HasVacated, Leave, Resume, TellRanks
from phalanx.supervisor.state import Departure, FleetPhase, FleetState, LeavingStage

MOVING = 5.0
"""Seconds that API servers get to carry requests on elsewhere, which takes them a moment."""


def leave(fleet: FleetState, event: Leave) -> None:
    if fleet.phase is not FleetPhase.SERVING:
        return
    tell_ranks(fleet)
    servers = {c.id for c in fleet.children.values() if _routes(c)}
    for rank in event.ranks:
        departure = fleet.departures.get(rank)
        if departure is not None and departure.stage is LeavingStage.STOPPING:
            # It is on its way out already; what was asked for last is what comes after.
            departure.after = departure.after if event.after is AfterLeaving.HELD else event.after
        elif Place(Role.ENGINE, rank) in fleet.children:
            fleet.departures[rank] = Departure(event.after, fleet.ranks_told, set(servers), event.at + event.timeout)


def resume(fleet: FleetState, event: Resume) -> None:
    """Ranks that are held, or have not been stopped yet, stay."""
    for rank in event.ranks:
        departure = fleet.departures.get(rank)
        if departure is not None and departure.stage not in (LeavingStage.STOPPING, LeavingStage.RETURNING):
            del fleet.departures[rank]
            tell_ranks(fleet)


def has_vacated(fleet: FleetState, child: Child, event: HasVacated) -> None:
    for rank in event.ranks:
        departure = fleet.departures.get(rank)
        if departure is not None and event.number >= departure.announced_in:
            departure.used_by.discard(child.id)


def advance(fleet: FleetState) -> None:
    """Take each departure as far as it can go now."""
    for rank, departure in list(fleet.departures.items()):
        if departure.stage is LeavingStage.EMPTYING or departure.stage is LeavingStage.MOVING:
            _empty(fleet, rank, departure)
        if departure.stage is LeavingStage.EMPTY and departure.after is not AfterLeaving.HELD:
            departure.stage = LeavingStage.STOPPING
            members = fleet.members((Role.ENGINE, rank))
            for member in members:
                ending.stop_child(fleet, member)
            if all(member.over for member in members):
                conclude(fleet, rank)


def _empty(fleet: FleetState, rank: RankId, departure: Departure) -> None:
    users = [server for server in departure.used_by if (child := fleet.current(server)) and _routes(child)]
    if not fleet.serves((Role.ENGINE, rank)) or not users:
        departure.stage, departure.deadline = LeavingStage.EMPTY, None
    elif departure.deadline is not None and departure.deadline <= fleet.now:
        if departure.stage is LeavingStage.EMPTYING:
            departure.stage, departure.deadline = LeavingStage.MOVING, fleet.now + MOVING
            tell_ranks(fleet)
        else:
            departure.stage, departure.deadline = LeavingStage.EMPTY, None


def is_leaving(fleet: FleetState, unit: Unit) -> bool:
    """Whether the end of a rank is what an operator asked for, and not a fall."""
    role, index = unit
    departure = fleet.departures.get(RankId(index)) if role is Role.ENGINE else None
    return (
        departure is not None
        and departure.after is not AfterLeaving.HELD
        and departure.stage is not LeavingStage.RETURNING
    )


def conclude(fleet: FleetState, rank: RankId) -> None:
    """All of a rank that leaves is over: start it again, or strike it off, as was asked."""
    departure, unit = fleet.departures[rank], (Role.ENGINE, rank)
    members = fleet.members(unit)
    if any(member.state is ChildState.LOST for member in members):
        # Nobody knows what it still holds. It stays in the books, and is named when the service ends.
        for member in members:
            member.state = ChildState.FALLEN if member.state is ChildState.GONE else member.state
        del fleet.departures[rank]
    elif departure.after is AfterLeaving.RENEWED:
        departure.stage = LeavingStage.RETURNING
        fleet.restarts.forget(unit)
        for member in members:
            fleet.renew(member)
    else:
        fleet.restarts.forget(unit)
        for member in members:
            fleet.former[member.id.place] = member.id.incarnation
            del fleet.children[member.id.place]
        del fleet.departures[rank]
        fleet.actions.append(AnnounceLeft(rank, tuple(member.id for member in members)))
    tell_ranks(fleet)


def returned(fleet: FleetState, child: Child) -> None:
    """A rank serves again after its planned restart."""
    rank = RankId(child.id.place.index)
    departure = fleet.departures.get(rank) if child.id.place.role is Role.ENGINE else None
    if departure is not None and departure.stage is LeavingStage.RETURNING:
        del fleet.departures[rank]
        tell_ranks(fleet)


def tell_ranks(fleet: FleetState) -> None:
    fleet.ranks_told += 1
    fleet.actions.append(TellRanks())


def _routes(child: Child) -> bool:
    """Whether it is an API server that can have requests in a rank, and says when it has none."""
    return child.id.place.role is Role.API and child.state is ChildState.READY and child.drains


def ranks_now(fleet: FleetState) -> Ranks:
    """The ranks there are, as API servers are told them."""
    gone = {rank for rank, departure in fleet.departures.items() if departure.after is not AfterLeaving.RENEWED}
    moving = [rank for rank, departure in fleet.departures.items() if departure.stage is not LeavingStage.EMPTYING]
    ranks = fleet.ranks() - gone
    return Ranks(fleet.ranks_told, tuple(sorted(ranks)), tuple(sorted(fleet.departures)), tuple(sorted(moving)))
