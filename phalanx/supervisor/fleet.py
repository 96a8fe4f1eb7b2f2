"""Decides everything about the children: events in, actions out; no I/O, no clock, no chance (law 5).

A child's way:

    LAUNCHING -> STARTING -> READY
        |            |         |
        +------------+---------+--> STOPPING -> KILLED -> LOST     (survived SIGKILL)
                     |         |        |          |
                     +---------+--------+----------+--> ENDED -> GONE

Every state but READY, GONE and LOST is a wait with a name and a deadline (law 4). The first child that fails is
the culprit; all others are stopped. ENDED waits for what a dead child still has in its pipes, so that its own
report is never lost to its exit status.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import msgspec

from phalanx.protocol import ChildId, Incarnation, Place, Role, StageName
from phalanx.supervisor.events import (
    Added,
    AnnounceFailure,
    AnnounceReady,
    AnnounceStop,
    BecameReady,
    Begin,
    CallOff,
    Cause,
    ControlEnded,
    Dump,
    ExitCode,
    Exited,
    Failure,
    Finish,
    FleetAction,
    FleetEvent,
    Greeted,
    Kill,
    Launched,
    LaunchFailed,
    OutputEnded,
    Progressed,
    Refuse,
    Reported,
    Spawn,
    Stop,
    StopRequested,
    Tick,
    Vanished,
    Waiting,
    Welcome,
)
from phalanx.supervisor.lives import Child, Life, Limits, Phase, Wait

_ORDER = {stage: order for order, stage in enumerate(StageName)}


@dataclass(slots=True)
class Fleet:
    """The state machine. `step` is its only door; the fields may be read."""

    limits: Limits
    children: dict[Place, Child]
    phase: Phase = Phase.STARTING
    failure: Failure | None = None
    began_at: float = 0.0
    _actions: list[FleetAction] = field(default_factory=list)

    @staticmethod
    def of(places: Iterable[Place], limits: Limits) -> "Fleet":
        return Fleet(limits, {place: Child(ChildId(place, Incarnation(0))) for place in places})

    def step(self, event: FleetEvent) -> list[FleetAction]:
        """Take one event; what to do about it. A message of an older incarnation is ignored."""
        self._actions = []
        if self.phase is not Phase.FINISHED:
            _HANDLERS[type(event)](self, event)
            self._settle()
        return self._actions

    def next_deadline(self) -> float | None:
        """When `Tick` is due next; None: nothing is waited for."""
        return min((child.wait.deadline for child in self.children.values() if child.wait), default=None)

    # --- the whole fleet ---

    def _begin(self, event: Begin) -> None:
        self.began_at = event.at
        for child in self.children.values():
            self._spawn(child, event.at)

    def _added(self, event: Added) -> None:
        if self.phase is not Phase.STARTING:
            return  # It came up while the service goes down.
        for place in event.places:
            child = self.children[place] = Child(ChildId(place, Incarnation(0)))
            self._spawn(child, event.at)

    def _spawn(self, child: Child, at: float) -> None:
        child.stage_since = at
        self._await(child, "its launch", at, self.limits.startup)
        self._actions.append(Spawn(child.id))

    def _tick(self, event: Tick) -> None:
        due = [(c.wait.deadline, c) for c in self.children.values() if c.wait and c.wait.deadline <= event.at]
        # By deadline: when several are late, the one that was late first is the culprit.
        for deadline, child in sorted(due, key=itemgetter(0)):
            if child.wait and child.wait.deadline == deadline:
                self._expired(child, event.at)

    def _expired(self, child: Child, at: float) -> None:
        match child.life:
            case Life.ENDED:
                self._gone(child)
            case Life.KILLED:
                self._lost(child)
            case Life.STOPPING:
                self._kill(child, at, "it did not end in time")
            case Life.LAUNCHING if self.phase is Phase.STOPPING:
                self._lost(child)
            case _:
                self._fail(child, at, Cause.STALLED)

    def _stop_requested(self, event: StopRequested) -> None:
        if self.phase is not Phase.STOPPING:
            self._actions.append(AnnounceStop(event.reason))
            self._stop_all(event.at)
        else:
            for child in self.children.values():
                if child.life is Life.STOPPING:
                    self._kill(child, event.at, f"{event.reason}, again")

    def _stop_all(self, at: float) -> None:
        self.phase = Phase.STOPPING
        for child in self.children.values():
            match child.life:
                case Life.LAUNCHING:
                    self._await(child, "its launch, to end it", at, self.limits.kill)
                    self._actions.append(CallOff(child.id))
                case Life.STARTING if child.id.place.role is not Role.RAY:
                    # It serves nobody, so there is nothing to end in order; and it may be deaf while it loads.
                    self._kill(child, at, "")
                case Life.STARTING | Life.READY:
                    child.life = Life.STOPPING
                    self._await_end(child, at)
                    self._actions.append(Stop(child.id))

    def _settle(self) -> None:
        if self.phase is Phase.STARTING and all(c.life is Life.READY for c in self.children.values()):
            self.phase = Phase.SERVING
            self._actions.append(AnnounceReady())
        elif self.phase is Phase.STOPPING and all(c.over for c in self.children.values()):
            self.phase = Phase.FINISHED
            lost = tuple(c.id for c in self.children.values() if c.life is Life.LOST)
            code = ExitCode.FAILED if self.failure else ExitCode.LEFT_BEHIND if lost else ExitCode.OK
            self._actions.append(Finish(code, self.failure, lost))

    # --- one child ---

    def _waiting(self, event: Waiting) -> None:
        child = self._current(event.child)
        # What is waited for already gets no more time by being told again.
        if child is None or child.life is not Life.LAUNCHING or self.phase is Phase.STOPPING:
            return
        if child.wait is None or child.wait.name != event.name:
            child.detail = f"waits for {event.name}"
            self._await(child, event.name, event.at, event.limit)

    def _launched(self, event: Launched) -> None:
        child = self._current(event.child)
        if child is None:
            return
        child.pid, child.where = event.pid, event.where
        if child.life in (Life.LAUNCHING, Life.LOST):
            self._started(child, event.at)
            if self.phase is Phase.STOPPING:
                self._kill(child, event.at, "")

    def _started(self, child: Child, at: float) -> None:
        child.life, child.detail = Life.STARTING, ""
        child.output_open = True
        child.stage_since = at
        self._await(child, "its first message", at, self.limits.startup)

    def _launch_failed(self, event: LaunchFailed) -> None:
        child = self._current(event.child)
        if child is None or child.life is not Life.LAUNCHING:
            return
        if self.phase is not Phase.STOPPING:
            self._fail(child, event.at, Cause.NOT_LAUNCHED, reason=event.reason)
        self._gone(child)

    def _greeted(self, event: Greeted) -> None:
        child = self._current(event.child)
        if child is None:
            self._actions.append(Refuse(f"there is no {event.child} of incarnation {event.child.incarnation}"))
        elif child.control_open:
            self._actions.append(Refuse(f"{event.child} is connected already"))
        elif child.life is Life.LAUNCHING and self.phase is not Phase.STOPPING:
            # On a node: its own connection was faster than the node's, which is about to tell of its launch.
            self._started(child, event.at)
            self._greeted(event)
        elif child.life is Life.STARTING or child.life is Life.ENDED:
            # ENDED too: what it had to say may be behind its Hello.
            child.control_open = True
            if child.life is Life.STARTING:
                self._await(child, "its next stage", event.at, self.limits.startup)
            self._actions.append(Welcome(child.id))
        else:
            self._actions.append(Refuse(f"{event.child} is {child.life.name.lower()}"))

    def _progressed(self, event: Progressed) -> None:
        child = self._current(event.child)
        if child is None or child.life is not Life.STARTING or _ORDER[event.stage] < _ORDER[child.stage]:
            return
        if event.stage is not child.stage:
            child.stage, child.stage_since = event.stage, event.at
        elif event.progress == child.progress and event.detail == child.detail:
            return  # A beating heart is not progress: a stuck loop may well go on saying where it is stuck.
        child.progress, child.detail = event.progress, event.detail
        known = f" ({child.detail})" if child.detail else ""
        self._await(child, f"progress in stage {child.stage}{known}", event.at, self.limits.startup)

    def _became_ready(self, event: BecameReady) -> None:
        child = self._current(event.child)
        if child is None or child.life is not Life.STARTING or not child.control_open:
            return
        child.life, child.wait = Life.READY, None
        child.stage, child.stage_since = StageName.READY, event.at
        child.progress, child.detail = None, event.detail

    def _reported(self, event: Reported) -> None:
        child = self._current(event.child)
        if child is None:
            return
        if child.life is Life.STARTING or child.life is Life.READY:
            self._fail(child, event.at, Cause.REPORTED, reason=event.reason, traceback=event.traceback)
        elif self.failure and self.failure.child == child.id:
            self.failure = msgspec.structs.replace(self.failure, reason=event.reason, traceback=event.traceback)

    def _control_ended(self, event: ControlEnded) -> None:
        child = self._current(event.child)
        if child is None or not child.control_open:
            return
        child.control_open = False
        if child.life is Life.STARTING or child.life is Life.READY:
            self._fail(child, event.at, Cause.DISCONNECTED, reason=event.reason)
        self._heard_out(child)

    def _output_ended(self, event: OutputEnded) -> None:
        child = self._current(event.child)
        if child is not None:
            child.output_open = False
            self._heard_out(child)

    def _exited(self, event: Exited) -> None:
        child = self._current(event.child)
        if child is None or child.life in (Life.LAUNCHING, Life.ENDED, Life.GONE):
            return
        if child.life is Life.STARTING or child.life is Life.READY:
            self._fail(child, event.at, Cause.EXITED, status=event.status)
        elif self.failure and self.failure.child == child.id and not child.ended_by_us:
            self.failure = msgspec.structs.replace(self.failure, status=event.status)
        child.life = Life.ENDED
        self._await(child, "its last words", event.at, self.limits.last_words)
        self._heard_out(child)

    def _vanished(self, event: Vanished) -> None:
        child = self._current(event.child)
        if child is None:
            return
        match child.life:
            case Life.LAUNCHING:
                self._launch_failed(LaunchFailed(event.at, event.child, event.reason))
                return
            case Life.STARTING | Life.READY:
                self._fail(child, event.at, Cause.VANISHED, reason=event.reason)
            case _ if self.failure and self.failure.child == child.id and self.failure.status is None:
                if self.failure.cause in (Cause.DISCONNECTED, Cause.VANISHED):
                    self.failure = msgspec.structs.replace(self.failure, cause=Cause.VANISHED, reason=event.reason)
        child.control_open = child.output_open = False
        self._gone(child)

    def _fail(
        self,
        child: Child,
        at: float,
        cause: Cause,
        *,
        reason: str = "",
        traceback: str = "",
        status: int | None = None,
    ) -> None:
        assert self.failure is None, "only a starting or serving child can fail, and a failure stops all"
        self.failure = Failure(
            child=child.id,
            cause=cause,
            stage=child.stage,
            waiting_for=child.wait.name if child.wait else "",
            in_stage=at - child.stage_since,
            without_progress=at - (child.wait.since if child.wait else child.stage_since),
            pid=child.pid,
            where=child.where,
            reason=reason,
            traceback=traceback,
            status=status,
        )
        self._actions.append(AnnounceFailure(self.failure))
        match cause:
            case Cause.STALLED if child.life is Life.STARTING:
                child.life = Life.STOPPING
                self._await(child, "its stack", at, self.limits.dump)
                child.ended_by_us = True
                self._actions.append(Dump(child.id))
            case Cause.DISCONNECTED:
                # Its exit usually follows within the millisecond, and is added to the report.
                child.life = Life.STOPPING
                self._await(child, "its exit", at, self.limits.last_words)
            case Cause.REPORTED:
                # It is on its way out; Stop is for one that is not.
                child.life = Life.STOPPING
                self._await_end(child, at)
                self._actions.append(Stop(child.id))
            case Cause.EXITED | Cause.NOT_LAUNCHED | Cause.VANISHED:
                child.life = Life.ENDED
        self._stop_all(at)

    def _await_end(self, child: Child, at: float) -> None:
        more = self.limits.cluster if child.id.place.role is Role.RAY else 0.0
        self._await(child, "its end", at, self.limits.shutdown + more)

    def _kill(self, child: Child, at: float, reason: str) -> None:
        child.life = Life.KILLED
        child.ended_by_us = True
        # On another machine that cannot be reached, its connections have to time out first.
        more = self.limits.link if child.where else 0.0
        self._await(child, "its end after SIGKILL", at, self.limits.kill + more)
        self._actions.append(Kill(child.id, reason))

    def _heard_out(self, child: Child) -> None:
        if child.life is Life.ENDED and not child.control_open and not child.output_open:
            self._gone(child)

    def _gone(self, child: Child) -> None:
        child.life, child.wait = Life.GONE, None

    def _lost(self, child: Child) -> None:
        child.life, child.wait = Life.LOST, None

    def _await(self, child: Child, name: str, since: float, limit: float) -> None:
        child.wait = Wait(name, since, since + limit)

    def _current(self, child: ChildId) -> Child | None:
        found = self.children.get(child.place)
        return found if found is not None and found.id.incarnation == child.incarnation else None


_HANDLERS: dict[type[FleetEvent], Callable[[Fleet, Any], None]] = {
    Begin: Fleet._begin,
    Tick: Fleet._tick,
    StopRequested: Fleet._stop_requested,
    Waiting: Fleet._waiting,
    Launched: Fleet._launched,
    LaunchFailed: Fleet._launch_failed,
    Greeted: Fleet._greeted,
    Progressed: Fleet._progressed,
    BecameReady: Fleet._became_ready,
    Reported: Fleet._reported,
    ControlEnded: Fleet._control_ended,
    OutputEnded: Fleet._output_ended,
    Exited: Fleet._exited,
    Vanished: Fleet._vanished,
    Added: Fleet._added,
}
