"""A clock that stands while its process stands."""

from phalanx.running_time import BEAT, STOPPED, RunningClock


def test_time_in_which_the_process_stood_does_not_count() -> None:
    clock = RunningClock(100.0)
    assert clock.tell(100.5) == 100.5
    assert clock.tell(100.5 + 3600.0) == 100.5
    assert clock.tell(101.0 + 3600.0) == 101.0


def test_a_process_that_is_only_slow_is_not_taken_for_one_that_stood() -> None:
    clock, read = RunningClock(0.0), 0.0
    for delay in (BEAT, 3 * BEAT, 0.0, STOPPED - 0.001):
        read += delay
        assert clock.tell(read) == read
