"""Liveness of the cluster's processes: whether the Ray head and each raylet still listen, and still answer.

Ray itself takes up to a minute to say that its head or one of its nodes is dead. The end-of-file of a TCP connection
that is held to it takes no time.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from phalanx import running_time
from phalanx.ray_backend.placement_plan import ClusterNode
from phalanx.transport.deadline import Deadline
from phalanx.transport.listener import look_up, tune

DIAL_TIMEOUT = 3.0
"""Seconds that a machine of the cluster gets to take a connection."""
PATIENCE = 2.0
"""Seconds in which a process may be replaced by another at the same port, as a Ray head with external storage is."""


def dial(host: str, port: int, timeout: float = DIAL_TIMEOUT) -> socket.socket:
    """Connect to a port of the cluster. Raises OSError."""
    deadline = Deadline(timeout)
    family, target = look_up(host, port)[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        deadline.connect(sock, target)
    except OSError:
        sock.close()
        raise
    tune(sock)
    return sock


def no_answer(host: str, port: int) -> str | None:
    """Dial a port of the cluster. Returns why nobody answers there, or None if somebody does."""
    try:
        dial(host, port).close()
    except OSError as error:
        return _in_words(host, port, error)
    return None


def _in_words(host: str, port: int, error: OSError) -> str:
    return f"nobody answers at {host}:{port} any more ({error.strerror or error})"


@dataclass(frozen=True)
class NodeGone:
    """A node of the cluster does not answer any more."""

    node: ClusterNode
    why: str

    @property
    def reason(self) -> str:
        return f"the Ray node {self.node.address} is gone: {self.why}"


def death_of(node: ClusterNode) -> NodeGone | None:
    """Dial a node's raylet. Returns None if it listens: for a while Ray says so of a dead node too."""
    why = no_answer(node.address, node.raylet_port)
    return None if why is None else NodeGone(node, why)


PERIOD = 5.0
"""Seconds between two questions, and the longest that an answer may take."""
MISSED = 3
"""Questions in a row without an answer, after which the process counts as gone."""


def poll_liveness(ask: Callable[[float], None], gone: Callable[[str], None], period: float = PERIOD) -> None:
    """Call `gone` once `ask(timeout)` keeps failing, as for a process that is stuck while its connections stand."""

    def beat() -> None:
        missed = 0
        while missed < MISSED:
            asked, asked_as_run = time.monotonic(), running_time.now()
            try:
                ask(period)
                missed = 0
            except Exception:
                # An answer cannot have come in time where this process stood.
                stood = time.monotonic() - asked - (running_time.now() - asked_as_run) >= running_time.STOPPED
                missed += not stood
            running_time.sleep(asked_as_run + period - running_time.now())
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
                self._gone(_in_words(*self._target, error))
                return

    def _redial(self) -> socket.socket:
        deadline = running_time.now() + self._patience
        while True:
            try:
                return dial(*self._target)
            except OSError:
                if running_time.now() > deadline:
                    raise
                time.sleep(0.1)
