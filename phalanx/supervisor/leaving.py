"""How ranks leave because an operator says so, for good, for a moment, or to stay idle. Pure; called by `fleet.py`
alone.

A rank that leaves gets nothing new from then on. What runs in it may finish until a deadline; what is left then goes
on at other ranks. Only when each API server has said that nothing of it runs there any more, or has had long enough
for that, is the rank stopped. So no request sees its end.
"""

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phalanx.protocol import ChildId, Place, RankId, Role, Roster
from phalanx.supervisor import ending
from phalanx.supervisor.events import After, AnnounceLeft, HasVacated, Leave, Resume, TellRoster
from phalanx.supervisor.lives import Child, Life, Phase, Seat

if TYPE_CHECKING:
    from phalanx.supervisor.fleet import Fleet

MOVING = 5.0
"""Seconds that API servers get to carry requests on elsewhere, which takes them a moment."""


class Exit(enum.Enum):
    """How far a rank's leaving has come."""

    EMPTYING = enum.auto()
    """What runs in it may finish."""
    MOVING = enum.auto()
    """What still runs in it goes on elsewhere."""
    EMPTY = enum.auto()
    STOPPING = enum.auto()
    RETURNING = enum.auto()
    """Its next incarnation starts."""


@dataclass(slots=True)
class Departure:
    """One rank that leaves."""

    after: After
    roster: int
    """The one that told of it: what API servers say on earlier ones is not about this."""
    used_by: set[ChildId]
    """API servers that have not yet said that nothing of theirs runs in it."""
    deadline: float | None
    """When the present state is left."""
    exit: Exit = Exit.EMPTYING


def leave(fleet: "Fleet", event: Leave) -> None:
    if fleet.phase is not Phase.SERVING:
        return
    tell_roster(fleet)
    servers = {c.id for c in fleet.children.values() if _routes(c)}
    for rank in event.ranks:
        departure = fleet.departures.get(rank)
        if departure is not None and departure.exit is Exit.STOPPING:
            # It is on its way out already; what was asked for last is what comes after.
            departure.after = departure.after if event.after is After.HELD else event.after
        elif Place(Role.ENGINE, rank) in fleet.children:
            fleet.departures[rank] = Departure(event.after, fleet.roster, set(servers), event.at + event.timeout)


def resume(fleet: "Fleet", event: Resume) -> None:
    """Ranks that are held, or have not been stopped yet, stay."""
    for rank in event.ranks:
        departure = fleet.departures.get(rank)
        if departure is not None and departure.exit not in (Exit.STOPPING, Exit.RETURNING):
            del fleet.departures[rank]
            tell_roster(fleet)


def has_vacated(fleet: "Fleet", event: HasVacated) -> None:
    for rank in event.ranks:
        departure = fleet.departures.get(rank)
        if departure is not None and event.roster >= departure.roster:
            departure.used_by.discard(event.child)


def advance(fleet: "Fleet") -> None:
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
                left(fleet, (Role.ENGINE, rank))


def _empty(fleet: "Fleet", rank: RankId, departure: Departure) -> None:
    serves = all(mate.life is Life.READY for mate in fleet.mates((Role.ENGINE, rank)))
    users = [server for server in departure.used_by if (child := fleet.current(server)) and _routes(child)]
    if not serves or not users:
        departure.exit, departure.deadline = Exit.EMPTY, None
    elif departure.deadline is not None and departure.deadline <= fleet.now:
        if departure.exit is Exit.EMPTYING:
            departure.exit, departure.deadline = Exit.MOVING, fleet.now + MOVING
            tell_roster(fleet)
        else:
            departure.exit, departure.deadline = Exit.EMPTY, None


def left(fleet: "Fleet", seat: Seat) -> bool:
    """All of a seat is over. Whether that was its leaving, and is dealt with."""
    role, index = seat
    rank = RankId(index)
    departure = fleet.departures.get(rank) if role is Role.ENGINE else None
    if departure is None or departure.after is After.HELD or departure.exit is Exit.RETURNING:
        return False
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
    tell_roster(fleet)
    return True


def returned(fleet: "Fleet", child: Child) -> None:
    """A rank serves again after its planned restart."""
    rank = RankId(child.id.place.index)
    departure = fleet.departures.get(rank) if child.id.place.role is Role.ENGINE else None
    if departure is not None and departure.exit is Exit.RETURNING:
        del fleet.departures[rank]
        tell_roster(fleet)


def tell_roster(fleet: "Fleet") -> None:
    fleet.roster += 1
    fleet.actions.append(TellRoster())


def _routes(child: Child) -> bool:
    """Whether it is an API server that can have requests in a rank, and says when it has none."""
    return child.id.place.role is Role.API and child.life is Life.READY and child.drains


def roster(fleet: "Fleet") -> Roster:
    """For API servers."""
    gone = {rank for rank, departure in fleet.departures.items() if departure.after is not After.RENEWED}
    ranks = {RankId(place.index) for place in fleet.children if place.role is Role.ENGINE}
    moving = [rank for rank, departure in fleet.departures.items() if departure.exit is not Exit.EMPTYING]
    return Roster(fleet.roster, tuple(sorted(ranks - gone)), tuple(sorted(fleet.departures)), tuple(sorted(moving)))
