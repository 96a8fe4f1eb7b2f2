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
    AnnounceBack,
    AnnounceDegraded,
    AnnounceFailure,
    AnnounceFall,
    AnnounceReady,
    AnnounceRestart,
    AnnounceStop,
    BecameReady,
    Begin,
    CallOff,
    Cause,
    ControlEnded,
    Drain,
    Dump,
    ExitCode,
    Exited,
    Failure,
    Finish,
    FleetAction,
    FleetEvent,
    Greeted,
    HasDrained,
    Kill,
    Launched,
    LaunchFailed,
    OutputEnded,
    Progressed,
    Pulsed,
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
from phalanx.supervisor.restarts import Restarts, Seat

GOING = (Phase.SERVING, Phase.DRAINING)
"""What falls is started again."""

_ORDER = {stage: order for order, stage in enumerate(StageName)}


@dataclass(slots=True)
class Fleet:
    """The state machine. `step` is its only door; the fields may be read."""

    limits: Limits
    children: dict[Place, Child]
    phase: Phase = Phase.STARTING
    failure: Failure | None = None
    began_at: float = 0.0
    _now: float = 0.0
    _restarts: Restarts = field(init=False)
    _drained_by: float = 0.0
    """While DRAINING: when whatever still runs is cut short."""
    _actions: list[FleetAction] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._restarts = Restarts(self.limits)

    @staticmethod
    def of(places: Iterable[Place], limits: Limits) -> "Fleet":
        return Fleet(limits, {place: Child(ChildId(place, Incarnation(0))) for place in places})

    def step(self, event: FleetEvent) -> list[FleetAction]:
        """Take one event; what to do about it. A message of an older incarnation is ignored."""
        self._actions = []
        self._now = event.at
        if self.phase is not Phase.FINISHED:
            _HANDLERS[type(event)](self, event)
            self._settle()
        return self._actions

    def next_deadline(self) -> float | None:
        """When `Tick` is due next; None: nothing is waited for."""
        deadlines = [child.wait.deadline for child in self.children.values() if child.wait]
        if self.phase is Phase.DRAINING:
            deadlines.append(self._drained_by)
        return min(deadlines, default=None)

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
        if self.phase is Phase.DRAINING and self._drained_by <= event.at:
            self._stop_all(event.at)
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
            case Life.LAUNCHING if self.phase is Phase.STOPPING or child.failure is not None or child.ended_by_us:
                self._lost(child)
            case Life.RESTING:
                self._renew(child)
            case _:
                self._fail(child, at, Cause.STALLED)

    def _stop_requested(self, event: StopRequested) -> None:
        if self.phase is Phase.SERVING and event.drain and self.limits.drain:
            self.phase, self._drained_by = Phase.DRAINING, event.at + self.limits.drain
            self._actions.append(AnnounceStop(event.reason, self.limits.drain))
            for child in self.children.values():
                self._drain(child)
        elif self.phase is not Phase.STOPPING:
            self._actions.append(AnnounceStop(event.reason))
            self._stop_all(event.at)
        else:
            for child in self.children.values():
                if child.life is Life.STOPPING:
                    self._kill(child, event.at, f"{event.reason}, again")

    def _drain(self, child: Child) -> None:
        if child.life is Life.READY and child.drains:
            self._actions.append(Drain(child.id))

    def _has_drained(self, event: HasDrained) -> None:
        child = self._current(event.child)
        if child is not None:
            child.drained = True

    @property
    def _may_still_serve(self) -> bool:
        """A client's request may be running in one of the API servers."""
        servers = [c for c in self.children.values() if c.id.place.role is Role.API and c.life is Life.READY]
        return any(server.drains and not server.drained for server in servers)

    def _stop_all(self, at: float) -> None:
        self.phase = Phase.STOPPING
        for child in self.children.values():
            match child.life:
                case Life.LAUNCHING:
                    self._call_off(child, at)
                case Life.RESTING:
                    child.life, child.wait = Life.GONE, None
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
        elif self.phase is Phase.DRAINING and not self._may_still_serve:
            self._stop_all(self._now)
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
            if self.phase is Phase.STOPPING or child.failure is not None or child.ended_by_us:
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
        if self.phase is not Phase.STOPPING and child.failure is None and not child.ended_by_us:
            self._fail(child, event.at, Cause.NOT_LAUNCHED, reason=event.reason)
        self._gone(child)

    def _greeted(self, event: Greeted) -> None:
        child = self._current(event.child)
        if child is None:
            self._actions.append(Refuse(f"there is no {event.child} of incarnation {event.child.incarnation}"))
        elif child.control_open:
            self._actions.append(Refuse(f"{event.child} is connected already"))
        elif child.life is Life.LAUNCHING and not (self.phase is Phase.STOPPING or child.failure or child.ended_by_us):
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
        child.life, child.served = Life.READY, True
        child.stage, child.stage_since = StageName.READY, event.at
        child.progress, child.detail = None, event.detail
        child.wait, child.drains = None, event.drains
        if self.phase is Phase.DRAINING:
            self._drain(child)
        if all(mate.life is Life.READY for mate in self._mates(child)):
            after = self._restarts.back(seat_of(child), event.at)
            if after is not None:
                self._actions.append(AnnounceBack(child.id, after))

    def _pulsed(self, event: Pulsed) -> None:
        child = self._current(event.child)
        if child is None or child.life is not Life.READY:
            return
        if not event.busy or event.steps != child.steps or child.wait is None:
            # Its first pulse is the first that is known of its work.
            child.steps = event.steps
            self._await(child, "its next step" if event.busy else "a sign of life", event.at, self.limits.step)

    def _reported(self, event: Reported) -> None:
        child = self._current(event.child)
        if child is None:
            return
        if child.life is Life.STARTING or child.life is Life.READY:
            self._fail(child, event.at, Cause.REPORTED, reason=event.reason, traceback=event.traceback)
        else:
            self._add_to_failure(child, reason=event.reason, traceback=event.traceback)

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
        elif not child.ended_by_us:
            self._add_to_failure(child, status=event.status)
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
            case _ if child.failure and child.failure.status is None:
                if child.failure.cause in (Cause.DISCONNECTED, Cause.VANISHED):
                    self._add_to_failure(child, cause=Cause.VANISHED, reason=event.reason)
        child.control_open = child.output_open = False
        if not child.over and child.life is not Life.RESTING:
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
        failure = child.failure = Failure(
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
        replaceable = self.phase in GOING and child.id.place.role is not Role.RAY and self.limits.max_restarts
        if replaceable:
            self._restarts.fell(seat_of(child), at)
            self._actions.append(AnnounceFall(failure))
        else:
            self.failure = failure
            self._actions.append(AnnounceFailure(failure))
        match cause:
            case Cause.STALLED if child.life in (Life.STARTING, Life.READY):
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
        if not replaceable:
            self._stop_all(at)
            return
        if child.life is Life.LAUNCHING:
            self._call_off(child, at)
        for mate in self._mates(child):
            self._put_down(mate, at)

    def _add_to_failure(self, child: Child, **known: Any) -> None:
        """More is known of how it fell."""
        if child.failure is None:
            return
        failure = child.failure = msgspec.structs.replace(child.failure, **known)
        if self.failure is not None and self.failure.child == child.id:
            self.failure = failure

    # --- falling, and coming back ---

    def _mates(self, child: Child) -> list[Child]:
        """The rank's workers, worker 0 included: they fall and come back together."""
        seat = seat_of(child)
        return [mate for mate in self.children.values() if seat_of(mate) == seat]

    def _put_down(self, mate: Child, at: float) -> None:
        """A worker is of no use without the others of its rank."""
        match mate.life:
            case Life.LAUNCHING if mate.failure is None:
                mate.ended_by_us = True
                self._call_off(mate, at)
            case Life.STARTING | Life.READY:
                self._kill(mate, at, "")

    def _over(self, child: Child) -> None:
        """It is over while the service goes on: it rests before its next start, or has fallen for good."""
        mates = self._mates(child)
        if self.phase not in GOING or not all(mate.over for mate in mates):
            return
        failure = next(mate.failure for mate in mates if mate.failure is not None)
        served = any(mate.served for mate in mates)
        lost = any(mate.life is Life.LOST for mate in mates)
        delay = None if lost else self._restarts.delay(seat_of(child), self._now, served)
        if delay is None:
            for mate in mates:
                if mate.life is Life.GONE:
                    mate.life = Life.FALLEN
            self._degrade(failure)
            return
        self._actions.append(AnnounceRestart(failure, delay))
        for mate in mates:
            mate.life = Life.RESTING
            self._await(mate, "its restart", self._now, delay)
            if not delay:
                self._renew(mate)

    def _renew(self, child: Child) -> None:
        incarnation = Incarnation(child.id.incarnation + 1)
        renewed = self.children[child.id.place] = Child(ChildId(child.id.place, incarnation))
        self._spawn(renewed, self._now)

    def _degrade(self, failure: Failure) -> None:
        """Go on without it, where enough are left."""
        ranks = {seat_of(child) for child in self.children.values() if child.id.place.role is Role.ENGINE}
        fallen = {seat_of(child) for child in self.children.values() if child.over}
        servers = {seat_of(child) for child in self.children.values() if child.id.place.role is Role.API}
        if len(ranks - fallen) < self.limits.min_ranks or not servers - fallen:
            self.failure = failure
            self._actions.append(AnnounceFailure(failure))
            self._stop_all(self._now)
        else:
            self._actions.append(AnnounceDegraded(failure))

    def _call_off(self, child: Child, at: float) -> None:
        self._await(child, "its launch, to end it", at, self.limits.kill)
        self._actions.append(CallOff(child.id))

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
        self._over(child)

    def _lost(self, child: Child) -> None:
        child.life, child.wait = Life.LOST, None
        self._over(child)

    def _await(self, child: Child, name: str, since: float, limit: float) -> None:
        child.wait = Wait(name, since, since + limit)

    def _current(self, child: ChildId) -> Child | None:
        found = self.children.get(child.place)
        return found if found is not None and found.id.incarnation == child.incarnation else None


def seat_of(child: Child) -> Seat:
    place = child.id.place
    return place.role, place.index


_HANDLERS: dict[type[FleetEvent], Callable[[Fleet, Any], None]] = {
    Begin: Fleet._begin,
    Tick: Fleet._tick,
    StopRequested: Fleet._stop_requested,
    Waiting: Fleet._waiting,
    Launched: Fleet._launched,
    LaunchFailed: Fleet._launch_failed,
    Greeted: Fleet._greeted,
    Progressed: Fleet._progressed,
    Pulsed: Fleet._pulsed,
    BecameReady: Fleet._became_ready,
    HasDrained: Fleet._has_drained,
    Reported: Fleet._reported,
    ControlEnded: Fleet._control_ended,
    OutputEnded: Fleet._output_ended,
    Exited: Fleet._exited,
    Vanished: Fleet._vanished,
    Added: Fleet._added,
}
