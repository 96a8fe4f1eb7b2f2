"""Single decisions of the fleet; its long random histories are in tests/simulation."""

import pytest

from phalanx.protocol import ChildId, Incarnation, Place, Role, StartupStage
from phalanx.supervisor import report
from phalanx.supervisor.events import (
    AnnounceFailure,
    AnnounceReady,
    BecameReady,
    Begin,
    Cause,
    ControlEnded,
    Dump,
    ExitCode,
    Exited,
    Failure,
    Finish,
    Greeted,
    Kill,
    Launched,
    OutputEnded,
    Progressed,
    Pulsed,
    Reported,
    SendRefusal,
    SendStop,
    Spawn,
    StopRequested,
    Tick,
)
from phalanx.supervisor.fleet import Fleet
from phalanx.supervisor.fleet_limits import FleetLimits
from phalanx.supervisor.state import FleetPhase

API = ChildId(Place(Role.API, 0), Incarnation(0))
RANK = ChildId(Place(Role.ENGINE, 0), Incarnation(0))
LIMITS = FleetLimits(startup=10, shutdown=3, dump=1, kill=5, last_words=1)


def connected() -> Fleet:
    """An API server and a rank that have said Hello, at time 0."""
    fleet = Fleet.of([API.place, RANK.place], LIMITS)
    assert fleet.step(Begin(0)) == [Spawn(API), Spawn(RANK)]
    for child in (API, RANK):
        fleet.step(Launched(0, child, 7))
        fleet.step(Greeted(0, child))
    return fleet


def serving() -> Fleet:
    fleet = connected()
    assert fleet.step(BecameReady(1, API, "")) == []
    assert fleet.step(BecameReady(1, RANK, "")) == [AnnounceReady()]
    assert fleet.next_deadline() is None
    return fleet


def end(fleet: Fleet, child: ChildId, at: float, status: int = 0) -> list[object]:
    return [
        action
        for event in (Exited(at, child, status), ControlEnded(at, child, "closed"), OutputEnded(at, child))
        for action in fleet.step(event)
    ]


def test_progress_moves_the_deadline_and_repeating_oneself_does_not() -> None:
    fleet = connected()
    for at, share in ((2, 0.1), (4, 0.2), (5, 0.2)):
        fleet.step(Progressed(at, RANK, StartupStage.WEIGHTS, share, ""))
        fleet.step(Progressed(at, API, StartupStage.IMPORTED, None, str(at)))
    waits = {child.id: child.wait.deadline for child in fleet.children.values() if child.wait}
    assert waits == {RANK: 4 + LIMITS.startup, API: 5 + LIMITS.startup}


def test_the_first_to_fail_is_the_culprit_whatever_comes_later() -> None:
    fleet = serving()
    first = fleet.step(Exited(5, RANK, -9))
    assert isinstance(first[0], AnnounceFailure)
    assert first[1:] == [SendStop(API)]
    assert fleet.step(Reported(5.1, API, "the rank is gone", "")) == []
    fleet.step(ControlEnded(5.1, RANK, "closed"))
    fleet.step(OutputEnded(5.1, RANK))
    (finish,) = end(fleet, API, 5.2)
    assert isinstance(finish, Finish)
    assert finish.exit_code is ExitCode.FAILED
    assert finish.failure is not None
    assert (finish.failure.child, finish.failure.status, finish.failure.reason) == (RANK, -9, "")


def test_a_report_is_not_lost_to_an_exit_that_was_seen_before_it() -> None:
    fleet = connected()
    fleet.step(Exited(1, RANK, 1))
    fleet.step(OutputEnded(1, RANK))
    end(fleet, API, 1.1, -9)
    assert fleet.phase is FleetPhase.STOPPING, "it waits for what is left in the control connection"
    fleet.step(Reported(1.2, RANK, "out of blocks", "Traceback ..."))
    (finish,) = fleet.step(ControlEnded(1.2, RANK, "closed"))
    assert isinstance(finish, Finish)
    assert finish.failure is not None
    assert (finish.failure.reason, finish.failure.traceback) == ("out of blocks", "Traceback ...")


def test_a_stuck_child_is_made_to_say_where_it_is_then_killed_and_the_rest_killed_at_once() -> None:
    fleet = connected()
    fleet.step(Progressed(3, API, StartupStage.IMPORTED, None, ""))
    actions = fleet.step(Tick(10))
    assert isinstance(actions[0], AnnounceFailure)
    assert actions[0].failure.cause is Cause.STALLED
    assert actions[0].failure.waiting_for == "its next stage"
    assert actions[1:] == [Dump(RANK), Kill(API, "")]
    assert fleet.step(Tick(11)) == [Kill(RANK, "it did not end in time")]


def test_a_message_of_an_older_incarnation_is_ignored_and_its_connection_refused() -> None:
    fleet = serving()
    older = ChildId(RANK.place, Incarnation(-1))
    assert fleet.step(Exited(2, older, 1)) == []
    assert fleet.step(Reported(2, older, "late news", "")) == []
    assert isinstance(fleet.step(Greeted(2, older))[0], SendRefusal)
    assert fleet.phase is FleetPhase.SERVING


def test_a_process_that_survives_sigkill_is_named_and_does_not_hold_the_end_up_for_ever() -> None:
    fleet = serving()
    fleet.step(StopRequested(2, "SIGTERM"))
    end(fleet, API, 2.1)
    assert fleet.next_deadline() == 2 + LIMITS.shutdown
    assert fleet.step(Tick(5)) == [Kill(RANK, "it did not end in time")]
    assert fleet.step(Tick(10)) == [Finish(ExitCode.LEFT_BEHIND, None, (RANK,))]


@pytest.mark.parametrize(
    ("cause", "reason"), [(Cause.EXITED, ""), (Cause.DISCONNECTED, "the peer closed the connection")]
)
def test_a_report_on_an_exit_is_the_same_when_the_end_of_the_connection_was_seen_first(
    cause: Cause, reason: str
) -> None:
    failure = Failure(API, cause, StartupStage.IMPORTED, "its next stage", 1, 1, 99, reason=reason, status=0)
    assert report.full(failure, []).splitlines() == [
        "api 0 (pid 99) failed in stage imported, 1.0 s into it: it ended by itself, exit status 0",
        "",
        "It printed nothing.",
    ]


def test_a_report_tells_a_person_who_where_how_long_and_with_which_words() -> None:
    failure = Failure(RANK, Cause.EXITED, StartupStage.WEIGHTS, "progress in stage weights", 12.34, 0.5, 99, status=-9)
    assert report.full(failure, ["loading shard 3", "boom"]).splitlines() == [
        "engine 0 (pid 99) failed in stage weights, 12.3 s into it: killed by SIGKILL",
        "",
        "The last it printed (2 lines):",
        "    loading shard 3",
        "    boom",
        "",
        "The supervisor did not kill it. Often the kernel does, out of memory: see `dmesg`.",
    ]


def attached_leader(worker_came_at: float) -> tuple[Fleet, ChildId]:
    """A leader that says at 1 s that it waits for its worker, and that worker."""
    leader, worker = RANK, ChildId(Place(Role.ENGINE, 0, 1), Incarnation(0))
    fleet = Fleet.of([leader.place, worker.place], LIMITS)
    fleet.step(Begin(0))
    for child, at in ((leader, 0.0), (worker, worker_came_at)):
        fleet.step(Launched(at, child, 7))
        fleet.step(Greeted(at, child))
    fleet.step(Progressed(1, leader, StartupStage.ATTACHED, 0.0, "waits for worker 1"))
    return fleet, worker


@pytest.mark.parametrize("late", [0, 0.5, 60], ids="{0} s late".format)
@pytest.mark.parametrize("came_at", [6, 1.1, 1])
def test_a_leader_is_not_blamed_for_a_worker_that_came_no_earlier_and_hangs(came_at: float, late: float) -> None:
    fleet, worker = attached_leader(came_at)
    if came_at > 1 and not late:
        assert fleet.step(Tick(1 + LIMITS.startup)) == []
    [failed, *_] = fleet.step(Tick(came_at + LIMITS.startup + late))
    assert isinstance(failed, AnnounceFailure)
    assert failed.failure.child == worker


def test_a_leader_that_hangs_though_its_workers_are_ready_is_to_blame() -> None:
    fleet, worker = attached_leader(worker_came_at=6)
    fleet.step(BecameReady(7, worker, ""))
    # What a worker is waited for while it serves is nothing that its leader waits for.
    fleet.step(Pulsed(7, worker, 1, busy=True))
    [failed, *_] = fleet.step(Tick(9 + LIMITS.startup))
    assert isinstance(failed, AnnounceFailure)
    assert failed.failure.child == RANK
