"""How the fleet ends: at once, or once the requests that run have finished. Pure; called by `fleet.py` alone."""

from phalanx.protocol import Role
from phalanx.supervisor.events import AnnounceStop, Drain, HasDrained, Stop, StopRequested
from phalanx.supervisor.lives import Child, Life, Phase
from phalanx.supervisor.state import FleetState


def stop_requested(fleet: FleetState, event: StopRequested) -> None:
    if fleet.phase is Phase.SERVING and event.drain and fleet.limits.drain:
        fleet.phase, fleet.drained_by = Phase.DRAINING, event.at + fleet.limits.drain
        fleet.actions.append(AnnounceStop(event.reason, fleet.limits.drain))
        for child in fleet.children.values():
            drain(fleet, child)
    elif fleet.phase is not Phase.STOPPING:
        fleet.actions.append(AnnounceStop(event.reason))
        stop_all(fleet)
    else:
        for child in fleet.children.values():
            if child.life is Life.STOPPING:
                fleet.kill(child, f"{event.reason}, again")


def drain(fleet: FleetState, child: Child) -> None:
    if child.life is Life.READY and child.drains:
        fleet.actions.append(Drain(child.id))


def has_drained(fleet: FleetState, event: HasDrained) -> None:
    child = fleet.current(event.child)
    if child is not None:
        child.drained = True


def may_still_serve(fleet: FleetState) -> bool:
    """Whether a client's request may be running in one of the API servers."""
    servers = [c for c in fleet.children.values() if c.id.place.role is Role.API and c.life is Life.READY]
    return any(server.drains and not server.drained for server in servers)


def stop_all(fleet: FleetState) -> None:
    fleet.phase = Phase.STOPPING
    for child in fleet.children.values():
        put_out(fleet, child)


def put_out(fleet: FleetState, child: Child) -> None:
    """End it, in order where it has something to end."""
    match child.life:
        case Life.LAUNCHING:
            fleet.call_off(child)
        case Life.RESTING:
            child.life, child.wait = Life.GONE, None
        case Life.STARTING if child.id.place.role is not Role.RAY:
            # It serves nobody, so there is nothing to end in order; and it may be deaf while it loads.
            fleet.kill(child)
        case Life.STARTING | Life.READY:
            child.life = Life.STOPPING
            fleet.wait_for_end(child)
            fleet.actions.append(Stop(child.id))
