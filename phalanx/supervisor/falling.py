"""How the fleet takes failures: who fell and why, what falls with it, and whether it comes back. Pure; called by
`fleet.py` alone."""

from typing import Any

import msgspec

from phalanx.protocol import RankId, Role
from phalanx.supervisor import ending, leaving
from phalanx.supervisor.child_states import Child, ChildState
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
    SendStop,
    Vanished,
)
from phalanx.supervisor.state import RESTARTING_PHASES, FleetState

ALIVE = (ChildState.STARTING, ChildState.READY)


def launch_failed(fleet: FleetState, child: Child, event: LaunchFailed) -> None:
    if child.state is ChildState.LAUNCHING:
        _never_launched(fleet, child, event.reason)


def _never_launched(fleet: FleetState, child: Child, reason: str) -> None:
    if fleet.wanted(child):
        fail(fleet, child, Cause.NOT_LAUNCHED, reason=reason)
    over(fleet, child, ChildState.GONE)


def pulsed(fleet: FleetState, child: Child, event: Pulsed) -> None:
    if child.state is not ChildState.READY:
        return
    if not event.busy or event.steps != child.steps or child.wait is None:
        # Its first pulse is the first that is known of its work.
        child.steps = event.steps
        fleet.wait_for(child, "its next step" if event.busy else "a sign of life", fleet.limits.step)


def reported(fleet: FleetState, child: Child, event: Reported) -> None:
    if child.state in ALIVE:
        fail(fleet, child, Cause.REPORTED, reason=event.reason, traceback=event.traceback)
    else:
        _learn(fleet, child, reason=event.reason, traceback=event.traceback)


def control_ended(fleet: FleetState, child: Child, event: ControlEnded) -> None:
    if not child.control_open:
        return
    child.control_open = False
    if child.state in ALIVE:
        fail(fleet, child, Cause.DISCONNECTED, reason=event.reason)
    _heard_out(fleet, child)


def output_ended(fleet: FleetState, child: Child, event: OutputEnded) -> None:
    child.output_open = False
    _heard_out(fleet, child)


def exited(fleet: FleetState, child: Child, event: Exited) -> None:
    if child.state in (ChildState.LAUNCHING, ChildState.ENDED, ChildState.GONE):
        return
    if child.state in ALIVE:
        fail(fleet, child, Cause.EXITED, status=event.status)
    elif not child.ended_by_us:
        _learn(fleet, child, status=event.status)
    child.state = ChildState.ENDED
    fleet.wait_for(child, "its last words", fleet.limits.last_words)
    _heard_out(fleet, child)


def vanished(fleet: FleetState, child: Child, event: Vanished) -> None:
    match child.state:
        case ChildState.LAUNCHING:
            _never_launched(fleet, child, event.reason)
            return
        case ChildState.STARTING | ChildState.READY:
            fail(fleet, child, Cause.VANISHED, reason=event.reason)
        case _ if child.failure and child.failure.status is None:
            if child.failure.cause in (Cause.DISCONNECTED, Cause.VANISHED):
                _learn(fleet, child, cause=Cause.VANISHED, reason=event.reason)
    child.control_open = child.output_open = False
    if not child.over and child.state is not ChildState.RESTING:
        over(fleet, child, ChildState.GONE)


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
    replaceable = (
        fleet.phase in RESTARTING_PHASES and child.id.place.role is not Role.RAY and fleet.limits.max_restarts > 0
    )
    if replaceable:
        fleet.restarts.fell(child.unit, fleet.now)
        fleet.actions.append(AnnounceFall(failure))
    else:
        fleet.failure = failure
        fleet.actions.append(AnnounceFailure(failure))
    match cause:
        case Cause.STALLED if child.state in ALIVE:
            child.state = ChildState.STOPPING
            fleet.wait_for(child, "its stack", fleet.limits.dump)
            child.ended_by_us = True
            fleet.actions.append(Dump(child.id))
        case Cause.DISCONNECTED:
            # Its exit usually follows within the millisecond, and is added to the report.
            child.state = ChildState.STOPPING
            fleet.wait_for(child, "its exit", fleet.limits.last_words)
        case Cause.REPORTED:
            # It is on its way out; Stop is for one that is not.
            child.state = ChildState.STOPPING
            fleet.wait_for_end(child)
            fleet.actions.append(SendStop(child.id))
        case Cause.EXITED | Cause.NOT_LAUNCHED | Cause.VANISHED:
            child.state = ChildState.ENDED
    if not replaceable:
        ending.stop_all(fleet)
        return
    if child.state is ChildState.LAUNCHING:
        fleet.call_off(child)
    for member in fleet.members(child.unit):
        # A worker is of no use without the others of its rank.
        if member.state is ChildState.LAUNCHING and fleet.wanted(member):
            fleet.call_off(member)
        elif member.state in ALIVE:
            fleet.kill(member)


def over(fleet: FleetState, child: Child, state: ChildState) -> None:
    """A child is over: GONE or LOST. While the service goes on, a unit whose children are all over has left as it was
    asked to, or rests before its next start, or is given up."""
    child.state, child.wait = state, None
    members = fleet.members(child.unit)
    if fleet.phase not in RESTARTING_PHASES or not all(member.over for member in members):
        return
    if leaving.is_leaving(fleet, child.unit):
        leaving.conclude(fleet, RankId(child.id.place.index))
        return
    failure = next(member.failure for member in members if member.failure is not None)
    served = any(member.served for member in members)
    lost = any(member.state is ChildState.LOST for member in members)
    delay = None if lost else fleet.restarts.schedule(child.unit, fleet.now, served)
    if delay is None:
        _degrade(fleet, members, failure)
        return
    fleet.actions.append(AnnounceRestart(failure, delay))
    for member in members:
        member.state = ChildState.RESTING
        fleet.wait_for(member, "its restart", delay)
        if not delay:
            fleet.renew(member)


def _degrade(fleet: FleetState, members: list[Child], failure: Failure) -> None:
    """Go on without it, where enough are left."""
    lost = any(member.state is ChildState.LOST for member in members)
    for member in members:
        if member.state is ChildState.GONE:
            member.state = ChildState.FALLEN
    left = {child.unit for child in fleet.children.values()} - {
        child.unit for child in fleet.children.values() if child.over
    }
    ranks = sum(role is Role.ENGINE for role, _ in left)
    if ranks < fleet.limits.min_ranks or not any(role is Role.API for role, _ in left):
        fleet.failure = failure
        fleet.actions.append(AnnounceFailure(failure))
        ending.stop_all(fleet)
    else:
        why = "a process of it survived SIGKILL" if lost else fleet.restarts.why(members[0].unit)
        fleet.actions.append(AnnounceDegraded(failure, why))


def _learn(fleet: FleetState, child: Child, **known: Any) -> None:
    """More is known of how it fell."""
    if child.failure is None:
        return
    failure = child.failure = msgspec.structs.replace(child.failure, **known)
    if fleet.failure is not None and fleet.failure.child == child.id:
        fleet.failure = failure


def _heard_out(fleet: FleetState, child: Child) -> None:
    if child.state is ChildState.ENDED and not child.control_open and not child.output_open:
        over(fleet, child, ChildState.GONE)
