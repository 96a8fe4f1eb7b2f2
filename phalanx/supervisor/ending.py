"""How the fleet ends: at once, or once the requests that run have finished. Pure; called by `fleet.py` alone."""

from phalanx.protocol import Role
from phalanx.supervisor.child_states import Child, ChildState
from phalanx.supervisor.events import AnnounceStop, HasDrained, SendDrain, SendStop, StopRequested
from phalanx.supervisor.state import FleetPhase, FleetState


def stop_requested(fleet: FleetState, event: StopRequested) -> None:
    if fleet.phase is FleetPhase.SERVING and event.drain and fleet.limits.drain:
        fleet.phase, fleet.drained_by = FleetPhase.DRAINING, event.at + fleet.limits.drain
        fleet.actions.append(AnnounceStop(event.reason, fleet.limits.drain))
        for child in fleet.children.values():
            drain(fleet, child)
    elif fleet.phase is not FleetPhase.STOPPING:
        fleet.actions.append(AnnounceStop(event.reason))
        stop_all(fleet)
    else:
        for child in fleet.children.values():
            if child.state is ChildState.STOPPING:
                fleet.kill(child, f"{event.reason}, again")


def drain(fleet: FleetState, child: Child) -> None:
    if child.state is ChildState.READY and child.drains:
        fleet.actions.append(SendDrain(child.id))


def has_drained(fleet: FleetState, child: Child, event: HasDrained) -> None:
    child.drained = True


def may_still_serve(fleet: FleetState) -> bool:
    """Whether a client's request may be running in one of the API servers."""
    servers = [c for c in fleet.children.values() if c.id.place.role is Role.API and c.state is ChildState.READY]
    return any(server.drains and not server.drained for server in servers)


def stop_all(fleet: FleetState) -> None:
    fleet.phase = FleetPhase.STOPPING
    for child in fleet.children.values():
        stop_child(fleet, child)


def stop_child(fleet: FleetState, child: Child) -> None:
    """End it, in order where it has something to end."""
    match child.state:
        case ChildState.LAUNCHING:
            fleet.call_off(child)
        case ChildState.RESTING:
            child.state, child.wait = ChildState.GONE, None
        case ChildState.STARTING if child.id.place.role is not Role.RAY:
            # It serves nobody, so there is nothing to end in order; and it may be deaf while it loads.
            fleet.kill(child)
        case ChildState.STARTING | ChildState.READY:
            child.state = ChildState.STOPPING
            fleet.wait_for_end(child)
            fleet.actions.append(SendStop(child.id))
