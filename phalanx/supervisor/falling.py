"""How the fleet takes failures: who fell and why, what falls with it, and whether it comes back. Pure; called by
`fleet.py` alone."""

from typing import Any

import msgspec

from phalanx.protocol import RankId, Role
from phalanx.supervisor import ending, leaving
from phalanx.supervisor.events import (
    AnnounceDegraded,
    AnnounceFailure,
    AnnounceFall,
    AnnounceRestart,
    Cause,
    ControlEnded,
    Dump,
    Exited,
    Failure,
    LaunchFailed,
    OutputEnded,
    Pulsed,
    Reported,
    Stop,
    Vanished,
)
from phalanx.supervisor.lives import GOING, Child, Life
from phalanx.supervisor.state import FleetState

ALIVE = (Life.STARTING, Life.READY)


def launch_failed(fleet: FleetState, event: LaunchFailed) -> None:
    child = fleet.current(event.child)
    if child is None or child.life is not Life.LAUNCHING:
        return
    if fleet.wanted(child):
        fail(fleet, child, Cause.NOT_LAUNCHED, reason=event.reason)
    over(fleet, child, Life.GONE)


def pulsed(fleet: FleetState, event: Pulsed) -> None:
    child = fleet.current(event.child)
    if child is None or child.life is not Life.READY:
        return
    if not event.busy or event.steps != child.steps or child.wait is None:
        # Its first pulse is the first that is known of its work.
        child.steps = event.steps
        fleet.wait_for(child, "its next step" if event.busy else "a sign of life", fleet.limits.step)


def reported(fleet: FleetState, event: Reported) -> None:
    child = fleet.current(event.child)
    if child is None:
        return
    if child.life in ALIVE:
        fail(fleet, child, Cause.REPORTED, reason=event.reason, traceback=event.traceback)
    else:
        _learn(fleet, child, reason=event.reason, traceback=event.traceback)


def control_ended(fleet: FleetState, event: ControlEnded) -> None:
    child = fleet.current(event.child)
    if child is None or not child.control_open:
        return
    child.control_open = False
    if child.life in ALIVE:
        fail(fleet, child, Cause.DISCONNECTED, reason=event.reason)
    _heard_out(fleet, child)


def output_ended(fleet: FleetState, event: OutputEnded) -> None:
    child = fleet.current(event.child)
    if child is not None:
        child.output_open = False
        _heard_out(fleet, child)


def exited(fleet: FleetState, event: Exited) -> None:
    child = fleet.current(event.child)
    if child is None or child.life in (Life.LAUNCHING, Life.ENDED, Life.GONE):
        return
    if child.life in ALIVE:
        fail(fleet, child, Cause.EXITED, status=event.status)
    elif not child.ended_by_us:
        _learn(fleet, child, status=event.status)
    child.life = Life.ENDED
    fleet.wait_for(child, "its last words", fleet.limits.last_words)
    _heard_out(fleet, child)


def vanished(fleet: FleetState, event: Vanished) -> None:
    child = fleet.current(event.child)
    if child is None:
        return
    match child.life:
        case Life.LAUNCHING:
            launch_failed(fleet, LaunchFailed(event.at, event.child, event.reason))
            return
        case Life.STARTING | Life.READY:
            fail(fleet, child, Cause.VANISHED, reason=event.reason)
        case _ if child.failure and child.failure.status is None:
            if child.failure.cause in (Cause.DISCONNECTED, Cause.VANISHED):
                _learn(fleet, child, cause=Cause.VANISHED, reason=event.reason)
    child.control_open = child.output_open = False
    if not child.over and child.life is not Life.RESTING:
        over(fleet, child, Life.GONE)


def fail(
    fleet: FleetState, child: Child, cause: Cause, *, reason: str = "", traceback: str = "", status: int | None = None
) -> None:
    """A child has failed by itself, while it started or served."""
    assert fleet.failure is None, "only a starting or serving child can fail, and a failure stops all"
    failure = child.failure = Failure(
        child=child.id,
        cause=cause,
        stage=child.stage,
        waiting_for=child.wait.name if child.wait else "",
        in_stage=fleet.now - child.stage_since,
        without_progress=fleet.now - (child.wait.since if child.wait else child.stage_since),
        pid=child.pid,
        where=child.where,
        reason=reason,
        traceback=traceback,
        status=status,
    )
    replaceable = fleet.phase in GOING and child.id.place.role is not Role.RAY and fleet.limits.max_restarts > 0
    if replaceable:
        fleet.restarts.fell(child.seat, fleet.now)
        fleet.actions.append(AnnounceFall(failure))
    else:
        fleet.failure = failure
        fleet.actions.append(AnnounceFailure(failure))
    match cause:
        case Cause.STALLED if child.life in ALIVE:
            child.life = Life.STOPPING
            fleet.wait_for(child, "its stack", fleet.limits.dump)
            child.ended_by_us = True
            fleet.actions.append(Dump(child.id))
        case Cause.DISCONNECTED:
            # Its exit usually follows within the millisecond, and is added to the report.
            child.life = Life.STOPPING
            fleet.wait_for(child, "its exit", fleet.limits.last_words)
        case Cause.REPORTED:
            # It is on its way out; Stop is for one that is not.
            child.life = Life.STOPPING
            fleet.wait_for_end(child)
            fleet.actions.append(Stop(child.id))
        case Cause.EXITED | Cause.NOT_LAUNCHED | Cause.VANISHED:
            child.life = Life.ENDED
    if not replaceable:
        ending.stop_all(fleet)
        return
    if child.life is Life.LAUNCHING:
        fleet.call_off(child)
    for mate in fleet.mates(child.seat):
        # A worker is of no use without the others of its rank.
        if mate.life is Life.LAUNCHING and fleet.wanted(mate):
            fleet.call_off(mate)
        elif mate.life in ALIVE:
            fleet.kill(mate)


def over(fleet: FleetState, child: Child, life: Life) -> None:
    """A child is over: GONE or LOST. While the service goes on, a seat whose children are all over has left as it was
    asked to, or rests before its next start, or is given up."""
    child.life, child.wait = life, None
    mates = fleet.mates(child.seat)
    if fleet.phase not in GOING or not all(mate.over for mate in mates):
        return
    if leaving.is_leaving(fleet, child.seat):
        leaving.conclude(fleet, RankId(child.id.place.index))
        return
    failure = next(mate.failure for mate in mates if mate.failure is not None)
    served = any(mate.served for mate in mates)
    lost = any(mate.life is Life.LOST for mate in mates)
    delay = None if lost else fleet.restarts.delay(child.seat, fleet.now, served)
    if delay is None:
        _degrade(fleet, mates, failure)
        return
    fleet.actions.append(AnnounceRestart(failure, delay))
    for mate in mates:
        mate.life = Life.RESTING
        fleet.wait_for(mate, "its restart", delay)
        if not delay:
            fleet.renew(mate)


def _degrade(fleet: FleetState, mates: list[Child], failure: Failure) -> None:
    """Go on without it, where enough are left."""
    lost = any(mate.life is Life.LOST for mate in mates)
    for mate in mates:
        if mate.life is Life.GONE:
            mate.life = Life.FALLEN
    left = {child.seat for child in fleet.children.values()} - {
        child.seat for child in fleet.children.values() if child.over
    }
    ranks = sum(role is Role.ENGINE for role, _ in left)
    if ranks < fleet.limits.min_ranks or not any(role is Role.API for role, _ in left):
        fleet.failure = failure
        fleet.actions.append(AnnounceFailure(failure))
        ending.stop_all(fleet)
    else:
        why = "a process of it survived SIGKILL" if lost else fleet.restarts.why(mates[0].seat)
        fleet.actions.append(AnnounceDegraded(failure, why))


def _learn(fleet: FleetState, child: Child, **known: Any) -> None:
    """More is known of how it fell."""
    if child.failure is None:
        return
    failure = child.failure = msgspec.structs.replace(child.failure, **known)
    if fleet.failure is not None and fleet.failure.child == child.id:
        fleet.failure = failure


def _heard_out(fleet: FleetState, child: Child) -> None:
    if child.life is Life.ENDED and not child.control_open and not child.output_open:
        over(fleet, child, Life.GONE)
