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
        case ChildState.STARTING if child.wait is not None and (waits := _waits_for_others(fleet, child)):
            # After theirs, and not with them: one that is late as well is judged in this very tick.
            last = max(fleet.now, *(wait.deadline for wait in waits))
            child.wait = Wait(child.wait.name, child.wait.since, last + fleet.limits.dump)
        case _:
            falling.fail(fleet, child, Cause.STALLED)


def _waits_for_others(fleet: FleetState, child: Child) -> list[Wait]:
    """What the fleet waits for from the other workers of a rank, if it is them that its worker 0 waits for.

    It may have got there long before them, and be late before they are; it is not to be blamed for them.
    """
    if child.id.place.worker or child.stage is not StartupStage.ATTACHED:
        return []
    on_their_way = (ChildState.LAUNCHING, ChildState.STARTING)
    others = [member for member in fleet.members(child.unit) if member is not child and member.state in on_their_way]
    return [other.wait for other in others if other.wait is not None]
