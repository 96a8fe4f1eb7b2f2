"""What the fleet knows, and the steps that its handlers are made of, which call nobody. Pure.

`starting`, `falling`, `leaving`, `ending` and `deadlines` change this state; `fleet.py` calls them.
"""

import enum
from dataclasses import dataclass, field

from phalanx.protocol import ChildId, Incarnation, Place, RankId, Role
from phalanx.supervisor.child_states import Child, ChildState, Unit, Wait, all_ready
from phalanx.supervisor.events import AfterLeaving, CallOff, Failure, FleetAction, Kill, Spawn
from phalanx.supervisor.fleet_limits import FleetLimits
from phalanx.supervisor.restarts import Restarts


class FleetPhase(enum.Enum):
    STARTING = enum.auto()
    SERVING = enum.auto()
    DRAINING = enum.auto()
    """No new requests; STOPPING once those that run have finished."""
    STOPPING = enum.auto()
    FINISHED = enum.auto()


RESTARTING_PHASES = (FleetPhase.SERVING, FleetPhase.DRAINING)
"""The phases in which what falls is started again."""


class LeavingStage(enum.Enum):
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

    after: AfterLeaving
    announced_in: int
    """The number of the Ranks that told of it: what API servers answer to an earlier one is not about this."""
    used_by: set[ChildId]
    """API servers that have not yet said that nothing of theirs runs in it."""
    deadline: float | None
    """When the present stage is left; None where nothing limits it."""
    stage: LeavingStage = LeavingStage.EMPTYING


@dataclass(slots=True)
class FleetState:
    """Every child and what is planned for it. Anybody may read the fields; only the fleet's handlers change them."""

    limits: FleetLimits
    children: dict[Place, Child]
    phase: FleetPhase = FleetPhase.STARTING
    failure: Failure | None = None
    """Why the service ends, where it does so by itself."""
    began_at: float = 0.0
    now: float = 0.0
    restarts: Restarts = field(init=False)
    departures: dict[RankId, Departure] = field(default_factory=dict)
    """Ranks that get nothing new."""
    ranks_told: int = 0
    """The number of the last Ranks, which tells API servers which ranks there are and which of them leave."""
    former: dict[Place, Incarnation] = field(default_factory=dict)
    """The last of places that are no more: should they be filled again, incarnations go on from there."""
    drained_by: float = 0.0
    """While DRAINING: when whatever still runs is cut short."""
    actions: list[FleetAction] = field(default_factory=list)
    """What the step that is being taken has asked for so far."""

    def __post_init__(self) -> None:
        self.restarts = Restarts(self.limits)

    # --- questions ---

    def members(self, unit: Unit) -> list[Child]:
        """Who falls and comes back together: a rank's workers, worker 0 included, or one API server alone."""
        return [child for child in self.children.values() if child.unit == unit]

    def units(self, role: Role) -> dict[int, list[Child]]:
        """The members of every unit of a role, by the unit's number."""
        units: dict[int, list[Child]] = {}
        for place, child in self.children.items():
            if place.role is role:
                units.setdefault(place.index, []).append(child)
        return units

    def ranks(self) -> set[RankId]:
        """All ranks there are, whether they serve or not, leave or stay."""
        return {RankId(place.index) for place in self.children if place.role is Role.ENGINE}

    def serves(self, unit: Unit) -> bool:
        return all_ready(self.members(unit))

    def leaves_for_good(self, rank: RankId) -> bool:
        departure = self.departures.get(rank)
        return departure is not None and departure.after is AfterLeaving.GONE

    def current(self, child: ChildId) -> Child | None:
        """The child itself, unless it is no more or a later incarnation has its place."""
        found = self.children.get(child.place)
        return found if found is not None and found.id.incarnation == child.incarnation else None

    def wanted(self, child: Child) -> bool:
        """Whether it may still get to serve: nothing has decided its end."""
        return self.phase is not FleetPhase.STOPPING and child.failure is None and not child.ended_by_us

    # --- steps ---

    def wait_for(self, child: Child, name: str, limit: float) -> None:
        child.wait = Wait(name, self.now, self.now + limit)

    def spawn(self, child: Child) -> None:
        child.stage_since = self.now
        self.wait_for(child, "its launch", self.limits.startup)
        self.actions.append(Spawn(child.id))

    def renew(self, child: Child) -> None:
        """Start the next incarnation of a child."""
        incarnation = Incarnation(child.id.incarnation + 1)
        renewed = self.children[child.id.place] = Child(ChildId(child.id.place, incarnation))
        self.spawn(renewed)

    def call_off(self, child: Child) -> None:
        child.ended_by_us = True
        self.wait_for(child, "its launch, to end it", self.limits.kill)
        self.actions.append(CallOff(child.id))

    def wait_for_end(self, child: Child) -> None:
        more = self.limits.cluster if child.id.place.role is Role.RAY else 0.0
        self.wait_for(child, "its end", self.limits.shutdown + more)

    def kill(self, child: Child, reason: str = "") -> None:
        child.state, child.ended_by_us = ChildState.KILLED, True
        # On another machine that cannot be reached, its connections have to time out first.
        more = self.limits.link if child.where else 0.0
        self.wait_for(child, "its end after SIGKILL", self.limits.kill + more)
        self.actions.append(Kill(child.id, reason))
