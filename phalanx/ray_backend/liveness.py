"""Liveness of the cluster's processes: whether the Ray head and each raylet still listen, and still answer.

Ray itself takes up to a minute to say that its head or one of its nodes is dead. The end-of-file of a TCP connection
that is held to it takes no time.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable

from phalanx.transport.listener import tune

DIAL_TIMEOUT = 3.0
"""Seconds that a machine of the cluster gets to take a connection."""
PATIENCE = 2.0
"""Seconds in which a process may be replaced by another at the same port, as a Ray head with external storage is."""


def dial(host: str, port: int, timeout: float = DIAL_TIMEOUT) -> socket.socket:
    """Connect to a port of the cluster. Raises OSError."""
    sock = socket.create_connection((host, port), timeout)
    tune(sock)
    sock.settimeout(None)
    return sock


PERIOD = 5.0
"""Seconds between two questions, and the longest that an answer may take."""
MISSED = 3
"""Questions in a row without an answer, after which the process counts as gone."""


def poll_liveness(ask: Callable[[float], None], gone: Callable[[str], None], period: float = PERIOD) -> None:
    """Call `gone` once `ask(timeout)` keeps failing, as for a process that is stuck while its connections stand."""

    def beat() -> None:
        missed = 0
        while missed < MISSED:
            started = time.monotonic()
            try:
                ask(period)
                missed = 0
            except Exception:
                missed += 1
            time.sleep(max(0.0, started + period - time.monotonic()))
        gone(f"it has not answered for {MISSED * period:g} s")

    threading.Thread(target=beat, name="liveness", daemon=True).start()


class ListenerWatch:
    """Calls `gone` with a reason, on a thread of its own, once nobody listens at `host:port` any more.

    A connection that ends proves nothing yet (a gRPC server closes one that says nothing): that there is no other
    within `patience` seconds does.
    """

    def __init__(self, host: str, port: int, patience: float, gone: Callable[[str], None]) -> None:
        self._target = (host, port)
        self._patience = patience
        self._gone = gone
        threading.Thread(target=self._hold, name=f"watch {host}:{port}", daemon=True).start()

    def _hold(self) -> None:
        while True:
            try:
                with contextlib.closing(self._redial()) as sock, contextlib.suppress(OSError):
                    while sock.recv(4096):
                        pass
            except OSError as error:
                host, port = self._target
                self._gone(f"nobody answers at {host}:{port} any more ({error.strerror or error})")
                return

    def _redial(self) -> socket.socket:
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return dial(*self._target)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
