"""Blocking waits for sockets, which end by a deadline that counts only time in which this process ran."""

import errno
import os
import select
import socket
import time
from typing import Any

from phalanx import running_time

PAUSE = 0.05
"""Seconds between two attempts to get into a full backlog."""


class Deadline:
    """A limit to one wait, or to several together.

    A kernel's own timeout runs on while a process is stopped, and has passed when the process is continued.
    """

    def __init__(self, seconds: float) -> None:
        """`seconds` from now, on the clock of `running_time`."""
        self._at = running_time.now() + seconds

    def poll(self, watched: "select.poll") -> list[tuple[int, int]]:
        """Block until something is ready of what is watched; returns descriptors and events, as poll(2) does.

        Raises:
            TimeoutError: the deadline has passed.
        """
        while not (ready := watched.poll(self._beat() * 1000)):
            pass
        return ready

    def wait_for(self, sock: socket.socket, events: int) -> None:
        """Block until one of `events` of poll(2) is there for a socket, or its end. Raises TimeoutError."""
        watched = select.poll()
        watched.register(sock, events)
        self.poll(watched)

    def connect(self, sock: socket.socket, target: tuple[Any, ...] | str) -> None:
        """Connect a socket, which blocks from then on.

        Raises:
            TimeoutError: the deadline has passed.
            OSError: there is no connection; says why.
        """
        sock.setblocking(False)
        while (error := sock.connect_ex(target)) == errno.EAGAIN:
            # The backlog of a socket file is full. No event tells of room in it.
            time.sleep(min(PAUSE, self._beat()))
        if error == errno.EINPROGRESS:
            self.wait_for(sock, select.POLLOUT)
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        sock.setblocking(True)

    def send(self, sock: socket.socket, data: bytes | bytearray) -> None:
        """Send all of it over a socket that blocks.

        Raises:
            TimeoutError: the deadline has passed; how much has gone out is not known.
        """
        left = memoryview(data)
        while left:
            try:
                left = left[sock.send(left, socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                self.wait_for(sock, select.POLLOUT)

    def _beat(self) -> float:
        """Seconds to wait before the clock is read again."""
        left = self._at - running_time.now()
        if left <= 0:
            raise TimeoutError
        return min(left, running_time.BEAT)
