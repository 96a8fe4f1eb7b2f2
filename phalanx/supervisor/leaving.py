"""How ranks leave because an operator says so, for good, for a moment, or to stay idle. Pure; called by `fleet.py`
alone.

A rank that leaves gets nothing new from then on. What runs in it may finish until a deadline; what is left then goes
on at other ranks. Only when each API server has said that nothing of it runs there any more, or has had long enough
for that, is the rank stopped. So no request sees its end.
"""

from phalanx.protocol import Place, RankId, Ranks, Role
from phalanx.supervisor import ending
from phalanx.supervisor.events import After, AnnounceLeft, HasVacated, Leave, Resume, TellRanks
from phalanx.supervisor.lives import Child, Life, Phase, Seat
from phalanx.supervisor.state import Departure, Exit, FleetState

MOVING = 5.0
"""Seconds that API servers get to carry requests on elsewhere, which takes them a moment."""


def leave(fleet: FleetState, event: Leave) -> None:
    if fleet.phase is not Phase.SERVING:
        return
    tell_ranks(fleet)
    servers = {c.id for c in fleet.children.values() if _routes(c)}
    for rank in event.ranks:
        departure = fleet.departures.get(rank)
        if departure is not None and departure.exit is Exit.STOPPING:
            # It is on its way out already; what was asked for last is what comes after.
            departure.after = departure.after if event.after is After.HELD else event.after
        elif Place(Role.ENGINE, rank) in fleet.children:
            fleet.departures[rank] = Departure(event.after, fleet.ranks_told, set(servers), event.at + event.timeout)


def resume(fleet: FleetState, event: Resume) -> None:
    """Ranks that are held, or have not been stopped yet, stay."""
    for rank in event.ranks:
        departure = fleet.departures.get(rank)
        if departure is not None and departure.exit not in (Exit.STOPPING, Exit.RETURNING):
            del fleet.departures[rank]
            tell_ranks(fleet)


def has_vacated(fleet: FleetState, event: HasVacated) -> None:
    for rank in event.ranks:
        departure = fleet.departures.get(rank)
        if departure is not None and event.number >= departure.announced_in:
            departure.used_by.discard(event.child)


def advance(fleet: FleetState) -> None:
    """Take each departure as far as it can go now."""
    for rank, departure in list(fleet.departures.items()):
        if departure.exit is Exit.EMPTYING or departure.exit is Exit.MOVING:
            _empty(fleet, rank, departure)
        if departure.exit is Exit.EMPTY and departure.after is not After.HELD:
            departure.exit = Exit.STOPPING
            mates = fleet.mates((Role.ENGINE, rank))
            for mate in mates:
                ending.put_out(fleet, mate)
            if all(mate.over for mate in mates):
                conclude(fleet, rank)


def _empty(fleet: FleetState, rank: RankId, departure: Departure) -> None:
    serves = all(mate.life is Life.READY for mate in fleet.mates((Role.ENGINE, rank)))
    users = [server for server in departure.used_by if (child := fleet.current(server)) and _routes(child)]
    if not serves or not users:
        departure.exit, departure.deadline = Exit.EMPTY, None
    elif departure.deadline is not None and departure.deadline <= fleet.now:
        if departure.exit is Exit.EMPTYING:
            departure.exit, departure.deadline = Exit.MOVING, fleet.now + MOVING
            tell_ranks(fleet)
        else:
            departure.exit, departure.deadline = Exit.EMPTY, None


def is_leaving(fleet: FleetState, seat: Seat) -> bool:
    """Whether the end of a rank is what an operator asked for, and not a fall."""
    role, index = seat
    departure = fleet.departures.get(RankId(index)) if role is Role.ENGINE else None
    return departure is not None and departure.after is not After.HELD and departure.exit is not Exit.RETURNING


def conclude(fleet: FleetState, rank: RankId) -> None:
    """All of a rank that leaves is over: start it again, or strike it off, as was asked."""
    departure, seat = fleet.departures[rank], (Role.ENGINE, rank)
    mates = fleet.mates(seat)
    if any(mate.life is Life.LOST for mate in mates):
        # Nobody knows what it still holds. It stays in the books, and is named when the service ends.
        for mate in mates:
            mate.life = Life.FALLEN if mate.life is Life.GONE else mate.life
        del fleet.departures[rank]
    elif departure.after is After.RENEWED:
        departure.exit = Exit.RETURNING
        fleet.restarts.forget(seat)
        for mate in mates:
            fleet.renew(mate)
    else:
        fleet.restarts.forget(seat)
        for mate in mates:
            fleet.former[mate.id.place] = mate.id.incarnation
            del fleet.children[mate.id.place]
        del fleet.departures[rank]
        fleet.actions.append(AnnounceLeft(rank, tuple(mate.id for mate in mates)))
    tell_ranks(fleet)


def returned(fleet: FleetState, child: Child) -> None:
    """A rank serves again after its planned restart."""
    rank = RankId(child.id.place.index)
    departure = fleet.departures.get(rank) if child.id.place.role is Role.ENGINE else None
    if departure is not None and departure.exit is Exit.RETURNING:
        del fleet.departures[rank]
        tell_ranks(fleet)


def tell_ranks(fleet: FleetState) -> None:
    fleet.ranks_told += 1
    fleet.actions.append(TellRanks())


def _routes(child: Child) -> bool:
    """Whether it is an API server that can have requests in a rank, and says when it has none."""
    return child.id.place.role is Role.API and child.life is Life.READY and child.drains


def ranks_now(fleet: FleetState) -> Ranks:
    """For API servers."""
    gone = {rank for rank, departure in fleet.departures.items() if departure.after is not After.RENEWED}
    ranks = {RankId(place.index) for place in fleet.children if place.role is Role.ENGINE}
    moving = [rank for rank, departure in fleet.departures.items() if departure.exit is not Exit.EMPTYING]
    return Ranks(fleet.ranks_told, tuple(sorted(ranks - gone)), tuple(sorted(fleet.departures)), tuple(sorted(moving)))
