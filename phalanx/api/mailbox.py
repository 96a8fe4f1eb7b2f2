"""From the thread that reads the control connection into the event loop."""

import asyncio
import threading
from collections.abc import Callable

from phalanx.protocol import ToChild


class Mailbox:
    """Holds the supervisor's messages until the event loop runs, then hands each over to it."""

    def __init__(self) -> None:
        self._early: list[ToChild] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handle: Callable[[ToChild], None] | None = None
        self._lock = threading.Lock()

    def put(self, message: ToChild) -> None:
        with self._lock:
            if self._loop is None or self._handle is None:
                self._early.append(message)
            elif not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._handle, message)

    def open(self, handle: Callable[[ToChild], None]) -> None:
        """From now on messages are handled in the running loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            self._loop, self._handle = loop, handle
            for message in self._early:
                loop.call_soon(handle, message)
            self._early.clear()
