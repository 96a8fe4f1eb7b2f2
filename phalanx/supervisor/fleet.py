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
from typing import Any, TypeVar

from phalanx.protocol import ChildId, Incarnation, Place
from phalanx.supervisor import deadlines, ending, falling, leaving, starting
from phalanx.supervisor.child_states import Child, ChildState, all_ready
from phalanx.supervisor.events import (
    Added,
    AnnounceReady,
    BecameReady,
    Begin,
    ChildEvent,
    ControlEnded,
    Event,
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
            self._take(event)
            self._settle()
        return self.actions

    def next_deadline(self) -> float | None:
        """When `Tick` is due next; None: nothing is waited for."""
        deadlines = [child.wait.deadline for child in self.children.values() if child.wait]
        deadlines += [departure.deadline for departure in self.departures.values() if departure.deadline is not None]
        if self.phase is FleetPhase.DRAINING:
            deadlines.append(self.drained_by)
        return min(deadlines, default=None)

    def _take(self, event: FleetEvent) -> None:
        if not isinstance(event, ChildEvent) or isinstance(event, Greeted):
            _HANDLERS[type(event)](self, event)
        elif (child := self.current(event.child)) is not None:
            _CHILD_HANDLERS[type(event)](self, child, event)

    def _settle(self) -> None:
        if self.departures and self.phase in RESTARTING_PHASES:
            leaving.advance(self)
        if self.phase is FleetPhase.STARTING and all_ready(self.children.values()):
            self.phase = FleetPhase.SERVING
            self.actions.append(AnnounceReady())
        elif self.phase is FleetPhase.DRAINING and not ending.may_still_serve(self):
            ending.stop_all(self)
        elif self.phase is FleetPhase.STOPPING and all(c.over for c in self.children.values()):
            self.phase = FleetPhase.FINISHED
            lost = tuple(c.id for c in self.children.values() if c.state is ChildState.LOST)
            code = ExitCode.FAILED if self.failure else ExitCode.LEFT_BEHIND if lost else ExitCode.OK
            self.actions.append(Finish(code, self.failure, lost))


_E = TypeVar("_E", bound=Event)
_C = TypeVar("_C", bound=ChildEvent)
_Handler = Callable[[FleetState, Any], None]
_ChildHandler = Callable[[FleetState, Child, Any], None]


def _on(kind: type[_E], handler: Callable[[FleetState, _E], None]) -> tuple[type[Event], _Handler]:
    """A row of the table below, with a handler that takes just this kind of event."""
    return kind, handler


def _of(kind: type[_C], handler: Callable[[FleetState, Child, _C], None]) -> tuple[type[Event], _ChildHandler]:
    """The same for what a present child has said or done; of an earlier incarnation nothing is handled."""
    return kind, handler


_HANDLERS = dict(
    (
        _on(Begin, starting.begin),
        _on(Added, starting.added),
        _on(Greeted, starting.greeted),
        _on(Tick, deadlines.tick),
        _on(StopRequested, ending.stop_requested),
        _on(Leave, leaving.leave),
        _on(Resume, leaving.resume),
    )
)
_CHILD_HANDLERS = dict(
    (
        _of(Waiting, starting.waiting),
        _of(Launched, starting.launched),
        _of(LaunchFailed, falling.launch_failed),
        _of(Progressed, starting.progressed),
        _of(BecameReady, starting.became_ready),
        _of(Pulsed, falling.pulsed),
        _of(Reported, falling.reported),
        _of(ControlEnded, falling.control_ended),
        _of(Exited, falling.exited),
        _of(OutputEnded, falling.output_ended),
        _of(Vanished, falling.vanished),
        _of(HasDrained, ending.has_drained),
        _of(HasVacated, leaving.has_vacated),
    )
)
