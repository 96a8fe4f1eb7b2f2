"""A clock that stands while its process stands."""

import asyncio
import itertools
import threading

import pytest

from phalanx import running_time
from phalanx.running_time import BEAT, STOPPED, RunningClock, Timer


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


def test_a_timer_waits_for_time_in_which_the_process_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = itertools.count()
    called_at: list[int] = []

    async def wait() -> None:
        done = asyncio.Event()
        # It stands at the first ten readings.
        monkeypatch.setattr(running_time, "now", lambda: 0.0 if next(readings) < 10 else 1.0)

        def call() -> None:
            called_at.append(next(readings))
            done.set()

        Timer(0.01, call)
        await done.wait()

    asyncio.run(wait())
    assert called_at == [11]


def test_a_timer_that_is_cancelled_never_calls() -> None:
    called: list[str] = []

    async def wait() -> None:
        done = asyncio.Event()
        first = Timer(0.0, lambda: called.append("cancelled"))
        Timer(0.001, done.set)
        first.cancel()
        await done.wait()

    asyncio.run(wait())
    assert called == []


def test_a_block_may_take_time_in_which_the_process_stood(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait() -> None:
        readings = itertools.count()
        monkeypatch.setattr(running_time, "now", lambda: 0.0 if next(readings) < 10 else 1.0)
        with pytest.raises(TimeoutError):
            async with running_time.timeout(0.01):
                await asyncio.sleep(30)
        assert next(readings) > 10
        async with running_time.timeout(30):
            pass

    asyncio.run(wait())


def test_a_timer_counts_though_nobody_else_reads_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its readings no gap is as long as one of a process that stood."""
    monkeypatch.setattr(running_time, "BEAT", 0.001)
    monkeypatch.setattr(running_time, "STOPPED", 0.5)
    reading = running_time.now()

    async def wait() -> None:
        done = asyncio.Event()
        Timer(0.7, done.set)
        await done.wait()

    asyncio.run(wait())
    assert running_time.now() - reading >= 0.69


def test_a_sleep_lasts_for_time_in_which_the_process_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = itertools.count()
    monkeypatch.setattr(running_time, "now", lambda: 0.0 if next(readings) < 10 else 1.0)
    running_time.sleep(0.001)
    assert next(readings) == 11


def test_the_clock_is_kept_while_a_call_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_time, "BEAT", 0.001)
    read = threading.Event()
    monkeypatch.setattr(running_time, "now", read.set)
    with running_time.kept():
        assert read.wait(30)
