"""How the fleet takes what children say on their way to READY. Pure; called by `fleet.py` alone."""

from phalanx.protocol import ChildId, Incarnation, Role, StartupStage
from phalanx.supervisor import ending, leaving
from phalanx.supervisor.child_states import Child, ChildState
from phalanx.supervisor.events import (
    Added,
    AnnounceBack,
    BecameReady,
    Begin,
    Greeted,
    Launched,
    Progressed,
    SendRefusal,
    SendWelcome,
    Waiting,
)
from phalanx.supervisor.state import FleetPhase, FleetState


def begin(fleet: FleetState, event: Begin) -> None:
    fleet.began_at = event.at
    for child in fleet.children.values():
        fleet.spawn(child)


def added(fleet: FleetState, event: Added) -> None:
    """Places that the service has from now on."""
    if fleet.phase not in (FleetPhase.STARTING, FleetPhase.SERVING):
        return  # It came up while the service goes down.
    for place in event.places:
        former = fleet.former.pop(place, None)
        incarnation = Incarnation(0 if former is None else former + 1)
        child = fleet.children[place] = Child(ChildId(place, incarnation))
        fleet.spawn(child)
    if any(place.role is Role.ENGINE for place in event.places):
        leaving.tell_ranks(fleet)


def waiting(fleet: FleetState, child: Child, event: Waiting) -> None:
    # What is waited for already gets no more time by being told again.
    if child.state is not ChildState.LAUNCHING or not fleet.wanted(child):
        return
    if child.wait is None or child.wait.name != event.name:
        child.detail = f"waits for {event.name}"
        fleet.wait_for(child, event.name, event.limit)


def launched(fleet: FleetState, child: Child, event: Launched) -> None:
    child.pid, child.where = event.pid, event.where
    if child.state in (ChildState.LAUNCHING, ChildState.LOST):
        _started(fleet, child)
        if not fleet.wanted(child):
            fleet.kill(child)


def _started(fleet: FleetState, child: Child) -> None:
    child.state, child.detail = ChildState.STARTING, ""
    child.output_open = True
    child.stage_since = fleet.now
    fleet.wait_for(child, "its first message", fleet.limits.startup)


def greeted(fleet: FleetState, event: Greeted) -> None:
    """Whoever says Hello gets an answer, also one that is not, or no more, a child of this service."""
    child = fleet.current(event.child)
    if child is None:
        reason = f"there is no {event.child} of incarnation {event.child.incarnation}"
        fleet.actions.append(SendRefusal(reason, event.connection))
        return
    if child.state is ChildState.LAUNCHING and not child.control_open and fleet.wanted(child):
        # On a node: its own connection was faster than the node's, which is about to tell of its launch.
        _started(fleet, child)
    if child.control_open:
        fleet.actions.append(SendRefusal(f"{event.child} is connected already", event.connection))
    elif child.state is ChildState.STARTING or child.state is ChildState.ENDED:
        # ENDED too: what it had to say may be behind its Hello.
        child.control_open = True
        if child.state is ChildState.STARTING:
            fleet.wait_for(child, "its next stage", fleet.limits.startup)
        fleet.actions.append(SendWelcome(child.id, event.connection))
    else:
        fleet.actions.append(SendRefusal(f"{event.child} is {child.state.name.lower()}", event.connection))


def progressed(fleet: FleetState, child: Child, event: Progressed) -> None:
    if child.state is not ChildState.STARTING or event.stage.position < child.stage.position:
        return
    if event.stage is not child.stage:
        child.stage, child.stage_since = event.stage, event.at
    elif event.progress == child.progress and event.detail == child.detail:
        return  # A beating heart is not progress: a stuck loop may well go on saying where it is stuck.
    child.progress, child.detail = event.progress, event.detail
    known = f" ({child.detail})" if child.detail else ""
    fleet.wait_for(child, f"progress in stage {child.stage}{known}", fleet.limits.startup)


def became_ready(fleet: FleetState, child: Child, event: BecameReady) -> None:
    if child.state is not ChildState.STARTING or not child.control_open:
        return
    child.state, child.served = ChildState.READY, True
    child.stage, child.stage_since = StartupStage.READY, event.at
    child.progress, child.detail = None, event.detail
    child.wait, child.drains = None, event.drains
    if fleet.phase is FleetPhase.DRAINING:
        ending.drain(fleet, child)
    if fleet.serves(child.unit):
        leaving.returned(fleet, child)
        after = fleet.restarts.came_back(child.unit, event.at)
        if after is not None:
            fleet.actions.append(AnnounceBack(child.id, after))
