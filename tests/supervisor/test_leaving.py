"""What an operator may ask of the fleet, and how ranks leave; the long random histories are in tests/simulation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phalanx.protocol import (
    AdminOutcome,
    AdminRequest,
    AdminVerb,
    ChildId,
    Incarnation,
    Place,
    PlaceState,
    RankId,
    Role,
)
from phalanx.supervisor.administration import AdminRefused, decide, ranks_of
from phalanx.supervisor.events import (
    Added,
    AfterLeaving,
    AnnounceLeft,
    AnnounceRestart,
    BecameReady,
    Begin,
    CallOff,
    ControlEnded,
    Exited,
    FleetAction,
    Greeted,
    HasVacated,
    Kill,
    Launched,
    LaunchFailed,
    Leave,
    OutputEnded,
    Resume,
    SendStop,
    Spawn,
    StopRequested,
    TellRanks,
    Tick,
)
from phalanx.supervisor.fleet import Fleet
from phalanx.supervisor.fleet_limits import FleetLimits
from phalanx.supervisor.leaving import MOVING, ranks_now
from phalanx.supervisor.state import FleetPhase

LIMITS = FleetLimits(startup=10, shutdown=3, max_restarts=2, min_ranks=1)


def child(role: Role, index: int, incarnation: int = 0, worker: int = 0) -> ChildId:
    return ChildId(Place(role, index, worker), Incarnation(incarnation))


def api(index: int) -> ChildId:
    return child(Role.API, index)


def engine(index: int, incarnation: int = 0) -> ChildId:
    return child(Role.ENGINE, index, incarnation)


def start(fleet: Fleet, each: ChildId, at: float) -> list[FleetAction]:
    for event in (Launched(at, each, 7), Greeted(at, each), BecameReady(at, each, "", each.place.role is Role.API)):
        actions = fleet.step(event)
    return actions


def serving(ranks: int = 2, servers: int = 2, limits: FleetLimits = LIMITS) -> Fleet:
    """At time 1."""
    children = [*(api(index) for index in range(servers)), *(engine(index) for index in range(ranks))]
    fleet = Fleet.of([each.place for each in children], limits)
    fleet.step(Begin(0))
    for each in children:
        start(fleet, each, 1)
    assert fleet.phase is FleetPhase.SERVING
    return fleet


def end(fleet: Fleet, each: ChildId, at: float, status: int = 0) -> list[FleetAction]:
    happens = (Exited(at, each, status), ControlEnded(at, each, "closed"), OutputEnded(at, each))
    return [action for event in happens for action in fleet.step(event)]


def vacated(fleet: Fleet, at: float, *ranks: int, by: tuple[int, ...] = (0, 1)) -> list[FleetAction]:
    empty = tuple(RankId(rank) for rank in ranks)
    return [action for index in by for action in fleet.step(HasVacated(at, api(index), fleet.ranks_told, empty))]


def leave(fleet: Fleet, at: float, after: AfterLeaving, *ranks: int, timeout: float = 30) -> list[FleetAction]:
    return fleet.step(Leave(at, tuple(RankId(rank) for rank in ranks), after, timeout))


def states(fleet: Fleet) -> dict[int, PlaceState]:
    return {int(state.rank): state.state for state in ranks_of(fleet, fleet.now)}


def ask(
    fleet: Fleet, verb: AdminVerb, *ranks: int, size: int | None = None, timeout: float | None = None
) -> list[object]:
    return list(decide(fleet, AdminRequest(1, verb, tuple(RankId(rank) for rank in ranks), size, timeout), 5, 1, 30))


# --- how ranks leave ---


def test_a_rank_is_stopped_when_every_api_server_says_that_nothing_runs_in_it() -> None:
    fleet = serving()
    assert leave(fleet, 2, AfterLeaving.GONE, 1) == [TellRanks()]
    assert (ranks_now(fleet).ranks, ranks_now(fleet).leaving, ranks_now(fleet).moving) == ((0,), (1,), ())
    assert vacated(fleet, 3, 1, by=(0,)) == []
    assert vacated(fleet, 3, 1, by=(1,)) == [SendStop(engine(1))]
    assert end(fleet, engine(1), 4) == [AnnounceLeft(RankId(1), (engine(1),)), TellRanks()]
    assert (ranks_now(fleet).ranks, ranks_now(fleet).leaving) == ((0,), ())
    assert states(fleet) == {0: PlaceState.SERVING}


def test_what_was_said_of_an_earlier_roster_does_not_count() -> None:
    fleet = serving()
    before = fleet.ranks_told
    leave(fleet, 2, AfterLeaving.GONE, 1)
    assert [fleet.step(HasVacated(3, api(index), before, (RankId(1),))) for index in (0, 1)] == [[], []]


def test_what_has_not_finished_in_time_goes_on_elsewhere_and_only_then_is_the_rank_stopped() -> None:
    fleet = serving()
    leave(fleet, 2, AfterLeaving.GONE, 1, timeout=10)
    assert fleet.next_deadline() == 12
    assert fleet.step(Tick(12)) == [TellRanks()]
    assert ranks_now(fleet).moving == (1,)
    assert vacated(fleet, 12.1, 1) == [SendStop(engine(1))]


def test_an_api_server_that_says_nothing_keeps_no_rank_for_ever() -> None:
    fleet = serving()
    leave(fleet, 2, AfterLeaving.GONE, 1, timeout=0)
    fleet.step(Tick(2))
    assert fleet.step(Tick(2 + MOVING)) == [SendStop(engine(1))]


def test_an_api_server_that_dies_is_not_waited_for() -> None:
    fleet = serving()
    leave(fleet, 2, AfterLeaving.GONE, 1)
    vacated(fleet, 3, 1, by=(0,))
    assert SendStop(engine(1)) in fleet.step(Exited(4, api(1), -9))


def test_a_restart_that_was_asked_for_counts_as_no_fall() -> None:
    fleet = serving()
    for time, incarnation in ((2, 0), (5, 1), (8, 2), (11, 3)):
        leave(fleet, time, AfterLeaving.RENEWED, 1)
        assert ranks_now(fleet).ranks == (0, 1), "it is expected back"
        assert vacated(fleet, time, 1) == [SendStop(engine(1, incarnation))]
        assert end(fleet, engine(1, incarnation), time + 1) == [Spawn(engine(1, incarnation + 1)), TellRanks()]
        assert ranks_now(fleet).leaving == (1,), "until it serves"
        assert start(fleet, engine(1, incarnation + 1), time + 2) == [TellRanks()]
        assert ranks_now(fleet).leaving == ()
    assert [state.restarts for state in ranks_of(fleet, 12)] == [0, 0]


def test_a_successor_that_falls_on_its_way_is_tried_again_as_after_any_fall() -> None:
    fleet = serving()
    leave(fleet, 2, AfterLeaving.RENEWED, 1)
    vacated(fleet, 2, 1)
    end(fleet, engine(1), 3)
    fleet.step(Launched(3, engine(1, 1), 8))
    assert any(isinstance(action, AnnounceRestart) for action in end(fleet, engine(1, 1), 4, 1))
    assert states(fleet)[1] is PlaceState.RESTARTING


@pytest.mark.parametrize("after", [AfterLeaving.GONE, AfterLeaving.RENEWED])
def test_a_rank_that_falls_while_it_leaves_is_not_started_again_for_its_fall(after: AfterLeaving) -> None:
    fleet = serving()
    leave(fleet, 2, after, 1)
    actions = end(fleet, engine(1), 3, -9)
    assert not any(isinstance(action, AnnounceRestart) for action in actions)
    assert (Spawn(engine(1, 1)) in actions) == (after is AfterLeaving.RENEWED)


def test_a_drained_rank_stays_without_work_and_may_be_resumed() -> None:
    fleet = serving()
    leave(fleet, 2, AfterLeaving.HELD, 1)
    assert states(fleet)[1] is PlaceState.DRAINING
    assert vacated(fleet, 3, 1) == []
    assert states(fleet)[1] is PlaceState.DRAINED
    assert fleet.next_deadline() is None
    assert fleet.step(Resume(4, (RankId(1),))) == [TellRanks()]
    assert states(fleet)[1] is PlaceState.SERVING
    assert ranks_now(fleet).leaving == ()


def test_a_rank_that_has_been_told_to_stop_cannot_be_resumed() -> None:
    fleet = serving()
    leave(fleet, 2, AfterLeaving.GONE, 1)
    vacated(fleet, 3, 1)
    assert fleet.step(Resume(3, (RankId(1),))) == []


def test_ranks_on_their_way_are_called_off_at_once() -> None:
    fleet = serving()
    fleet.step(Added(2, (engine(2).place, engine(3).place)))
    fleet.step(Launched(2, engine(2), 9))
    actions = leave(fleet, 3, AfterLeaving.GONE, 2, 3)
    assert Kill(engine(2), "") in actions
    assert CallOff(engine(3)) in actions


def test_a_number_that_is_used_again_goes_on_with_its_incarnations() -> None:
    fleet = serving()
    leave(fleet, 2, AfterLeaving.GONE, 1)
    vacated(fleet, 2, 1)
    end(fleet, engine(1), 3)
    assert Spawn(engine(1, 1)) in fleet.step(Added(4, (engine(1).place,)))


def test_the_service_ends_in_order_while_ranks_come_and_go() -> None:
    fleet = serving(3)
    leave(fleet, 2, AfterLeaving.GONE, 1)
    leave(fleet, 2, AfterLeaving.RENEWED, 2)
    vacated(fleet, 2, 2)
    fleet.step(Added(2, (engine(3).place,)))
    fleet.step(StopRequested(3, "SIGINT"))
    fleet.step(LaunchFailed(3, engine(3), "called off"))
    for each in (api(0), api(1), engine(0), engine(1), engine(2)):
        end(fleet, each, 4)
    assert fleet.phase is FleetPhase.FINISHED
    assert fleet.failure is None


# --- what an operator may ask ---


def test_scaling_adds_the_lowest_free_numbers_and_retires_the_highest() -> None:
    fleet = serving(3)
    [added] = ask(fleet, AdminVerb.SCALE, size=5)
    assert isinstance(added, Added)
    assert [place.index for place in added.places] == [3, 4]
    assert ask(fleet, AdminVerb.SCALE, size=1) == [Leave(5, (RankId(1), RankId(2)), AfterLeaving.GONE, 30)]
    assert ask(fleet, AdminVerb.SCALE, size=3) == []


def test_those_named_go_and_others_come_where_more_are_wanted() -> None:
    fleet = serving(3)
    added, left = ask(fleet, AdminVerb.SCALE, 0, size=4, timeout=7)
    assert isinstance(added, Added)
    assert [place.index for place in added.places] == [3, 4]
    assert left == Leave(5, (RankId(0),), AfterLeaving.GONE, 7)
    assert ask(fleet, AdminVerb.SCALE, 0, 2) == [Leave(5, (RankId(0), RankId(2)), AfterLeaving.GONE, 30)]


def test_of_those_that_may_go_the_ones_that_do_not_serve_go_first() -> None:
    fleet = serving(3)
    end(fleet, engine(0), 2, -9)
    assert ask(fleet, AdminVerb.SCALE, size=2) == [Leave(5, (RankId(0),), AfterLeaving.GONE, 30)]


def test_ranks_that_leave_already_count_no_more() -> None:
    fleet = serving(3)
    leave(fleet, 2, AfterLeaving.GONE, 2)
    assert ask(fleet, AdminVerb.SCALE, size=2) == []
    [added] = ask(fleet, AdminVerb.SCALE, size=3)
    assert isinstance(added, Added)
    assert [place.index for place in added.places] == [3], "its number is not free yet"
    with pytest.raises(AdminRefused, match="no rank 2 to retire"):
        ask(fleet, AdminVerb.SCALE, 2)
    with pytest.raises(AdminRefused, match="leaving for good"):
        ask(fleet, AdminVerb.RESTART, 2)


@pytest.mark.parametrize(
    ("verb", "ranks", "size", "outcome"),
    [
        (AdminVerb.DRAIN, (7,), None, AdminOutcome.NO_SUCH_RANK),
        (AdminVerb.RESTART, (7,), None, AdminOutcome.NO_SUCH_RANK),
        (AdminVerb.RESUME, (7,), None, AdminOutcome.NO_SUCH_RANK),
        (AdminVerb.SCALE, (7,), None, AdminOutcome.NO_SUCH_RANK),
        (AdminVerb.DRAIN, (0, 1), None, AdminOutcome.IMPOSSIBLE_NOW),
        (AdminVerb.SCALE, (), 0, AdminOutcome.IMPOSSIBLE_NOW),
        (AdminVerb.SCALE, (), 1025, AdminOutcome.IMPOSSIBLE_NOW),
        (AdminVerb.SCALE, (0, 1), None, AdminOutcome.IMPOSSIBLE_NOW),
    ],
)
def test_what_cannot_be_is_refused(
    verb: AdminVerb, ranks: tuple[int, ...], size: int | None, outcome: AdminOutcome
) -> None:
    with pytest.raises(AdminRefused) as refusal:
        ask(serving(), verb, *ranks, size=size)
    assert refusal.value.outcome is outcome


def test_nothing_is_moved_before_the_service_serves_or_while_it_ends() -> None:
    fleet = serving()
    fleet.step(StopRequested(2, "SIGTERM"))
    assert ask(fleet, AdminVerb.SHOW) == []
    with pytest.raises(AdminRefused, match="stopping"):
        ask(fleet, AdminVerb.SCALE, size=3)


def test_fewer_than_the_least_number_of_ranks_is_refused() -> None:
    fleet = serving(3, limits=FleetLimits(startup=10, shutdown=3, max_restarts=2, min_ranks=2))
    with pytest.raises(AdminRefused, match="--min-ranks"):
        ask(fleet, AdminVerb.SCALE, size=1)
    assert ask(fleet, AdminVerb.SCALE, size=2)


@given(st.sets(st.integers(0, 5), max_size=4), st.integers(1, 9))
def test_what_is_decided_makes_as_many_ranks_as_were_asked_for(retire: set[int], size: int) -> None:
    fleet = serving(6, 1)
    try:
        asked = ask(fleet, AdminVerb.SCALE, *retire, size=size)
    except AdminRefused:
        assert not set(range(6)) - retire
        return
    ranks = set(range(6))
    for event in asked:
        if isinstance(event, Added):
            assert not ranks & {place.index for place in event.places}
            ranks |= {place.index for place in event.places}
        elif isinstance(event, Leave):
            assert set(event.ranks) >= retire
            ranks -= set(event.ranks)
    assert len(ranks) == size
    assert not ranks & retire


def test_the_last_rank_that_takes_requests_is_not_drained() -> None:
    fleet = serving(2)
    leave(fleet, 2, AfterLeaving.HELD, 0)
    with pytest.raises(AdminRefused, match="No other rank takes requests"):
        ask(fleet, AdminVerb.DRAIN, 1)
    assert ask(fleet, AdminVerb.RESTART, 1)


def test_a_drained_rank_that_falls_is_started_again_and_stays_drained() -> None:
    fleet = serving()
    leave(fleet, 2, AfterLeaving.HELD, 1)
    vacated(fleet, 2, 1)
    assert Spawn(engine(1, 1)) in end(fleet, engine(1), 3, -9)
    start(fleet, engine(1, 1), 4)
    assert states(fleet)[1] is PlaceState.DRAINED
    assert ranks_now(fleet).leaving == (1,)


def test_a_restart_that_was_asked_for_wipes_the_slate() -> None:
    fleet = serving()
    for time, incarnation in ((2, 0), (3, 1)):
        end(fleet, engine(1, incarnation), time, -9)
        start(fleet, engine(1, incarnation + 1), time)
    leave(fleet, 4, AfterLeaving.RENEWED, 1)
    vacated(fleet, 4, 1)
    end(fleet, engine(1, 2), 5)
    start(fleet, engine(1, 3), 6)
    assert Spawn(engine(1, 4)) in end(fleet, engine(1, 3), 7, -9), "else its limit of 2 had been reached"


def test_a_rank_that_is_on_its_way_out_becomes_what_was_asked_for_last() -> None:
    fleet = serving()
    leave(fleet, 2, AfterLeaving.RENEWED, 1)
    vacated(fleet, 2, 1)
    with pytest.raises(AdminRefused, match="Rank 1 is being restarted"):
        ask(fleet, AdminVerb.DRAIN, 1)
    leave(fleet, 3, AfterLeaving.HELD, 1)
    assert Spawn(engine(1, 1)) in end(fleet, engine(1), 4)
    start(fleet, engine(1, 1), 5)
    leave(fleet, 6, AfterLeaving.RENEWED, 1)
    vacated(fleet, 6, 1)
    leave(fleet, 7, AfterLeaving.GONE, 1)
    assert AnnounceLeft(RankId(1), (engine(1, 1),)) in end(fleet, engine(1, 1), 8)
