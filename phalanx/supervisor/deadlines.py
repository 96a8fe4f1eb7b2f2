"""What the fleet does when something it waits for has not happened in time. Pure; called by `fleet.py` alone."""

from operator import itemgetter

from phalanx.protocol import StartupStage
from phalanx.supervisor import ending, falling
from phalanx.supervisor.child_states import Child, ChildState, Wait
from phalanx.supervisor.events import Cause, Tick
from phalanx.supervisor.state import FleetPhase, FleetState


def tick(fleet: FleetState, event: Tick) -> None:
    if fleet.phase is FleetPhase.DRAINING and fleet.drained_by <= event.at:
        ending.stop_all(fleet)
    due = [(c.wait.deadline, c) for c in fleet.children.values() if c.wait and c.wait.deadline <= event.at]
    # By deadline: when several are late, the one that was late first is the culprit.
    for deadline, child in sorted(due, key=itemgetter(0)):
        if child.wait and child.wait.deadline == deadline and fleet.current(child.id) is child:
            _expired(fleet, child)


def _expired(fleet: FleetState, child: Child) -> None:
    match child.state:
        case ChildState.ENDED:
            falling.over(fleet, child, ChildState.GONE)
        case ChildState.KILLED:
            falling.over(fleet, child, ChildState.LOST)
        case ChildState.STOPPING:
            fleet.kill(child, "it did not end in time")
        case ChildState.LAUNCHING if not fleet.wanted(child):
            falling.over(fleet, child, ChildState.LOST)
        case ChildState.RESTING:
            fleet.renew(child)
        case ChildState.STARTING if (awaited := _awaited(fleet, child)) is not None and child.wait is not None:
            # After theirs, and not with them.
            child.wait = Wait(child.wait.name, child.wait.since, awaited + fleet.limits.dump)
        case _:
            falling.fail(fleet, child, Cause.STALLED)


def _awaited(fleet: FleetState, child: Child) -> float | None:
    """Until when the other workers of a rank have time to come, if it is them that its worker 0 waits for.

    It may have got there long before them, and be late before they are; it is not to be blamed for them.
    """
    if child.id.place.worker or child.stage is not StartupStage.ATTACHED or child.wait is None:
        return None
    others = [member for member in fleet.members(child.unit) if member is not child]
    waits = [other.wait.deadline for other in others if other.wait is not None]
    # A late tick finds theirs passed as well: it still passed after its own, and they are judged next.
    return max((deadline for deadline in waits if deadline >= child.wait.deadline), default=None)
