"""The way of the supervisor's messages from the thread that reads the control connection into the event loop."""

import asyncio
import threading
from collections.abc import Callable

from phalanx.protocol import ToChild


class SupervisorInbox:
    """It keeps the supervisor's messages until the event loop runs, and hands each over to the loop from then on."""

    def __init__(self) -> None:
        self._early: list[ToChild] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handle: Callable[[ToChild], None] | None = None
        self._lock = threading.Lock()

    def put(self, message: ToChild) -> None:
        """Take a message; any thread may call this."""
        with self._lock:
            if self._loop is None or self._handle is None:
                self._early.append(message)
            elif not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._handle, message)

    def open(self, handle: Callable[[ToChild], None]) -> None:
        """From now on messages are handled in the running loop, beginning with those that have come already."""
        loop = asyncio.get_running_loop()
        with self._lock:
            self._loop, self._handle = loop, handle
            for message in self._early:
                loop.call_soon(handle, message)
            self._early.clear()
