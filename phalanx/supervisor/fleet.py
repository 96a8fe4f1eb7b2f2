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
from typing import Any

from phalanx.protocol import ChildId, Incarnation, Place
from phalanx.supervisor import deadlines, ending, falling, leaving, starting
from phalanx.supervisor.child_states import Child, ChildState
from phalanx.supervisor.events import (
    Added,
    AnnounceReady,
    BecameReady,
    Begin,
    ControlEnded,
    ExitCode,
    Exited,
    Finish,
    FleetAction,
    FleetEvent,
    Greeted,
    HasDrained,
    HasVacated,
    Launched,
    LaunchFailed,
    Leave,
    OutputEnded,
    Progressed,
    Pulsed,
    Reported,
    Resume,
    StopRequested,
    Tick,
    Vanished,
    Waiting,
)
from phalanx.supervisor.fleet_limits import FleetLimits
from phalanx.supervisor.state import RESTARTING_PHASES, FleetPhase, FleetState


class Fleet(FleetState):
    """The state machine. `step` is its only door; the fields may be read."""

    __slots__ = ()

    @staticmethod
    def of(places: Iterable[Place], limits: FleetLimits) -> "Fleet":
        return Fleet(limits, {place: Child(ChildId(place, Incarnation(0))) for place in places})

    def step(self, event: FleetEvent) -> list[FleetAction]:
        """Take one event; what to do about it. A message of an older incarnation is ignored."""
        self.actions = []
        self.now = event.at
        if self.phase is not FleetPhase.FINISHED:
            _HANDLERS[type(event)](self, event)
            self._settle()
        return self.actions

    def next_deadline(self) -> float | None:
        """When `Tick` is due next; None: nothing is waited for."""
        deadlines = [child.wait.deadline for child in self.children.values() if child.wait]
        deadlines += [departure.deadline for departure in self.departures.values() if departure.deadline is not None]
        if self.phase is FleetPhase.DRAINING:
            deadlines.append(self.drained_by)
        return min(deadlines, default=None)

    def _settle(self) -> None:
        if self.departures and self.phase in RESTARTING_PHASES:
            leaving.advance(self)
        if self.phase is FleetPhase.STARTING and all(c.state is ChildState.READY for c in self.children.values()):
            self.phase = FleetPhase.SERVING
            self.actions.append(AnnounceReady())
        elif self.phase is FleetPhase.DRAINING and not ending.may_still_serve(self):
            ending.stop_all(self)
        elif self.phase is FleetPhase.STOPPING and all(c.over for c in self.children.values()):
            self.phase = FleetPhase.FINISHED
            lost = tuple(c.id for c in self.children.values() if c.state is ChildState.LOST)
            code = ExitCode.FAILED if self.failure else ExitCode.LEFT_BEHIND if lost else ExitCode.OK
            self.actions.append(Finish(code, self.failure, lost))


_HANDLERS: dict[type[FleetEvent], Callable[[FleetState, Any], None]] = {
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
