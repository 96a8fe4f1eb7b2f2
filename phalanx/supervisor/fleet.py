"""Decides everything about the children: events in, actions out; no I/O, no clock, no chance (law 5).

A child's way:

    LAUNCHING -> STARTING -> READY
        |            |         |
        +------------+---------+--> STOPPING -> KILLED -> LOST     (survived SIGKILL)
                     |         |        |          |
                     +---------+--------+----------+--> ENDED -> GONE -> RESTING -> LAUNCHING, an incarnation on
                                                                  +----> FALLEN   (too often)

Every state but READY, GONE, LOST and FALLEN is a wait with a name and a deadline (law 4). ENDED waits for what a dead
child still has in its pipes, so that its own report is never lost to its exit status.

While the service starts, the first child that fails is the culprit, and all others are stopped. Once it serves, what
falls is started again (`falling.py`), and ranks leave and come as an operator asks (`leaving.py`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from phalanx.protocol import ChildId, Incarnation, Place, RankId, Role
from phalanx.supervisor import deadlines, ending, falling, leaving, starting
from phalanx.supervisor.events import (
    Added,
    AnnounceReady,
    BecameReady,
    Begin,
    CallOff,
    ControlEnded,
    ExitCode,
    Exited,
    Failure,
    Finish,
    FleetAction,
    FleetEvent,
    Greeted,
    HasDrained,
    HasVacated,
    Kill,
    Launched,
    LaunchFailed,
    Leave,
    OutputEnded,
    Progressed,
    Pulsed,
    Reported,
    Resume,
    Spawn,
    StopRequested,
    Tick,
    Vanished,
    Waiting,
)
from phalanx.supervisor.leaving import Departure
from phalanx.supervisor.lives import GOING, Child, Life, Limits, Phase, Seat, Wait
from phalanx.supervisor.restarts import Restarts


@dataclass(slots=True)
class Fleet:
    """The state machine. `step` is its only door; the fields may be read."""

    limits: Limits
    children: dict[Place, Child]
    phase: Phase = Phase.STARTING
    failure: Failure | None = None
    """Why the service ends, where it does so by itself."""
    began_at: float = 0.0
    now: float = 0.0
    restarts: Restarts = field(init=False)
    departures: dict[RankId, Departure] = field(default_factory=dict)
    """Ranks that get nothing new."""
    roster: int = 0
    """Counts changes of which ranks there are, and which of them leave."""
    former: dict[Place, Incarnation] = field(default_factory=dict)
    """The last of places that are no more: should they be filled again, incarnations go on from there."""
    drained_by: float = 0.0
    """While DRAINING: when whatever still runs is cut short."""
    actions: list[FleetAction] = field(default_factory=list)
    """Of the step that is being taken."""

    def __post_init__(self) -> None:
        self.restarts = Restarts(self.limits)

    @staticmethod
    def of(places: Iterable[Place], limits: Limits) -> "Fleet":
        return Fleet(limits, {place: Child(ChildId(place, Incarnation(0))) for place in places})

    def step(self, event: FleetEvent) -> list[FleetAction]:
        """Take one event; what to do about it. A message of an older incarnation is ignored."""
        self.actions = []
        self.now = event.at
        if self.phase is not Phase.FINISHED:
            _HANDLERS[type(event)](self, event)
            self._settle()
        return self.actions

    def next_deadline(self) -> float | None:
        """When `Tick` is due next; None: nothing is waited for."""
        deadlines = [child.wait.deadline for child in self.children.values() if child.wait]
        deadlines += [departure.deadline for departure in self.departures.values() if departure.deadline is not None]
        if self.phase is Phase.DRAINING:
            deadlines.append(self.drained_by)
        return min(deadlines, default=None)

    def mates(self, seat: Seat) -> list[Child]:
        """Who falls and comes back together: a rank's workers, worker 0 included, or one API server alone."""
        return [child for child in self.children.values() if child.seat == seat]

    def _settle(self) -> None:
        if self.departures and self.phase in GOING:
            leaving.advance(self)
        if self.phase is Phase.STARTING and all(c.life is Life.READY for c in self.children.values()):
            self.phase = Phase.SERVING
            self.actions.append(AnnounceReady())
        elif self.phase is Phase.DRAINING and not ending.may_still_serve(self):
            ending.stop_all(self)
        elif self.phase is Phase.STOPPING and all(c.over for c in self.children.values()):
            self.phase = Phase.FINISHED
            lost = tuple(c.id for c in self.children.values() if c.life is Life.LOST)
            code = ExitCode.FAILED if self.failure else ExitCode.LEFT_BEHIND if lost else ExitCode.OK
            self.actions.append(Finish(code, self.failure, lost))

    # --- what the handlers in the other files are made of ---

    def current(self, child: ChildId) -> Child | None:
        """It, unless it is no more or a later incarnation has its place."""
        found = self.children.get(child.place)
        return found if found is not None and found.id.incarnation == child.incarnation else None

    def wanted(self, child: Child) -> bool:
        """Whether it may still get to serve: nothing has decided its end."""
        return self.phase is not Phase.STOPPING and child.failure is None and not child.ended_by_us

    def wait_for(self, child: Child, name: str, limit: float) -> None:
        child.wait = Wait(name, self.now, self.now + limit)

    def spawn(self, child: Child) -> None:
        child.stage_since = self.now
        self.wait_for(child, "its launch", self.limits.startup)
        self.actions.append(Spawn(child.id))

    def renew(self, child: Child) -> None:
        """Start its next incarnation."""
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
        child.life, child.ended_by_us = Life.KILLED, True
        # On another machine that cannot be reached, its connections have to time out first.
        more = self.limits.link if child.where else 0.0
        self.wait_for(child, "its end after SIGKILL", self.limits.kill + more)
        self.actions.append(Kill(child.id, reason))

    def over(self, child: Child, life: Life) -> None:
        """GONE or LOST."""
        child.life, child.wait = life, None
        falling.over(self, child)


_HANDLERS: dict[type[FleetEvent], Callable[[Fleet, Any], None]] = {
    Begin: starting.begin,
    Added: starting.added,
    Waiting: starting.waiting,
    Launched: starting.launched,
    LaunchFailed: falling.launch_failed,
    Greeted: starting.greeted,
    Progressed: starting.progressed,
    BecameReady: starting.became_ready,
    Pulsed: falling.pulsed,
    Reported: falling.reported,
    ControlEnded: falling.control_ended,
    Exited: falling.exited,
    OutputEnded: falling.output_ended,
    Vanished: falling.vanished,
    Tick: deadlines.tick,
    StopRequested: ending.stop_requested,
    HasDrained: ending.has_drained,
    Leave: leaving.leave,
    Resume: leaving.resume,
    HasVacated: leaving.has_vacated,
}
