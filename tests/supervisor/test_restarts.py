"""Whether what fell is started again, and when."""

from phalanx.protocol import Role
from phalanx.supervisor.fleet_limits import FleetLimits
from phalanx.supervisor.restarts import Restarts

UNIT = (Role.ENGINE, 3)
LIMITS = FleetLimits(
    startup=10, shutdown=3, max_restarts=4, window=60, failed_starts=3, backoff=0.5, longest_backoff=1.5
)


def falls(restarts: Restarts, at: float, served: bool) -> float | None:
    restarts.fell(UNIT, at)
    return restarts.schedule(UNIT, at, served)


def test_what_has_served_is_started_again_at_once_until_it_falls_too_often_within_the_window() -> None:
    restarts = Restarts(LIMITS)
    assert [falls(restarts, at, True) for at in (0, 1, 2, 3)] == [0, 0, 0, 0]
    assert falls(restarts, 59, True) is None
    assert restarts.why(UNIT) == "4 restarts within 60 s"
    assert falls(restarts, 61, True) == 0, "the first two are forgotten"
    assert restarts.count(UNIT) == 5


def test_what_does_not_get_there_is_tried_ever_more_slowly_and_given_up_however_long_each_try_takes() -> None:
    restarts = Restarts(LIMITS)
    assert falls(restarts, 0, True) == 0
    assert [falls(restarts, at, False) for at in (100, 200)] == [0.5, 1.0]
    assert falls(restarts, 300, False) is None
    assert restarts.why(UNIT) == "3 starts in a row that came to nothing"


def test_a_start_that_succeeds_ends_the_row() -> None:
    restarts = Restarts(LIMITS)
    delays = [falls(restarts, at, served) for at, served in ((0, False), (100, False), (200, True), (300, False))]
    assert delays == [0.5, 1.0, 0.0, 0.5]


def test_it_tells_how_long_it_was_down() -> None:
    restarts = Restarts(LIMITS)
    assert restarts.came_back(UNIT, 1) is None
    falls(restarts, 2, True)
    falls(restarts, 4, False)
    assert restarts.came_back(UNIT, 7) == 5
    assert restarts.came_back(UNIT, 8) is None
