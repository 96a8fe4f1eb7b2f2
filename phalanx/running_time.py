"""A clock that stands while this process stands, so that nobody is judged by time in which nobody ran.

A machine may be suspended, a container frozen, a service stopped and continued, each process when it comes to it. What
others did not do meanwhile they could not do. The clock belongs to the process, as its CPU time does.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

BEAT = 0.5
"""Seconds between two readings by a process that runs, at most."""
STOPPED = 2.0
"""Seconds without a reading that no process lets pass which runs: such a gap does not count."""


ROUNDING = 0.002
"""Seconds that an event loop may call too early."""


class RunningClock:
    """Counts what a monotonic clock tells, without the gaps; it has to be read at every beat."""

    def __init__(self, read: float) -> None:
        """`read`: what the monotonic clock tells now, in seconds; this one begins with it."""
        self._read = self._counted = read

    def tell(self, read: float) -> float:
        """Seconds. `read`: what the monotonic clock tells now."""
        passed, self._read = read - self._read, read
        if passed < STOPPED:
            self._counted += passed
        return self._counted


_clock = RunningClock(time.monotonic())
_reading = threading.Lock()


def now() -> float:
    """Seconds on this process's clock; on any thread."""
    with _reading:
        return _clock.tell(time.monotonic())


async def keep() -> None:
    """Read the clock at every beat, until cancelled."""
    while True:
        now()
        await asyncio.sleep(BEAT)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Read the clock at every beat, on a thread, during a block whose calls may each last longer than one."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            now()

    threading.Thread(target=beat, name="running time", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def sleep(seconds: float) -> None:
    """Block until so many seconds have passed in which this process ran."""
    due = now() + seconds
    while (left := due - now()) > 0:
        time.sleep(min(left, BEAT))


@contextlib.asynccontextmanager
async def timeout(seconds: float) -> AsyncIterator[None]:
    """As asyncio.timeout: end the block with a TimeoutError once so many seconds have passed in which this process
    ran."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as limit:
        timer = Timer(seconds, lambda: limit.reschedule(loop.time()))
        try:
            yield
        finally:
            timer.cancel()


class Timer:
    """Calls once so many seconds have passed in which this process ran; in a running event loop.

    It reads the clock at every beat, for those processes in which nobody else does.
    """

    def __init__(self, delay: float, call: Callable[[], None]) -> None:
        self._due = now() + delay
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_later(min(delay, BEAT), self._look)

    def cancel(self) -> None:
        self._handle.cancel()

    def _look(self) -> None:
        left = self._due - now()
        if left > ROUNDING:
            self._handle = self._loop.call_later(min(left, BEAT), self._look)
        else:
            self._call()
