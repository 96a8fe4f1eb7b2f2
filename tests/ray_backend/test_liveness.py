"""The end of a process is told at once and only once it is certain."""

import queue
import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from phalanx.ray_backend import liveness
from phalanx.ray_backend.liveness import MISSED, ListenerWatch, poll_liveness
from phalanx.transport.listener import bind_tcp

DEADLINE = 30.0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    sock = bind_tcp("127.0.0.1")
    sock.settimeout(DEADLINE)
    try:
        yield sock
    finally:
        sock.close()


def test_a_connection_that_ends_is_replaced_while_somebody_listens(listener: socket.socket) -> None:
    gone: queue.Queue[str] = queue.Queue()
    ListenerWatch(*listener.getsockname(), 0, gone.put)
    for _ in range(3):
        listener.accept()[0].close()
    last = listener.accept()[0]
    assert gone.empty()
    address, port = listener.getsockname()
    listener.close()
    last.close()
    assert gone.get(timeout=DEADLINE) == f"nobody answers at {address}:{port} any more (Connection refused)"


def test_a_process_may_be_replaced_by_another_at_its_port(listener: socket.socket) -> None:
    gone: queue.Queue[str] = queue.Queue()
    address, port = listener.getsockname()
    ListenerWatch(address, port, DEADLINE, gone.put)
    connection = listener.accept()[0]
    listener.close()
    connection.close()
    with bind_tcp(address, port) as successor:
        successor.settimeout(DEADLINE)
        successor.accept()[0].close()
        assert gone.empty()
        successor.accept()[0].close()  # and is held on to


def test_a_process_that_is_stuck_is_gone_after_some_questions_in_a_row() -> None:
    gone: queue.Queue[str] = queue.Queue()
    answers = iter([True, False, True, *[False] * MISSED])

    def ask(timeout: float) -> None:
        if not next(answers):
            raise TimeoutError

    poll_liveness(ask, gone.put, period=0.01)
    assert gone.get(timeout=DEADLINE) == "it has not answered for 0.03 s"
    assert next(answers, None) is None


def test_a_question_during_which_this_process_stood_is_not_held_against_the_process_that_was_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone: queue.Queue[str] = queue.Queue()
    asked: list[float] = []
    # What a clock shows before and after each question; the machine is suspended during two of them.
    suspended = iter([0.0, 100.0, 100.0, 200.0])
    monkeypatch.setattr(liveness, "time", SimpleNamespace(monotonic=lambda: next(suspended, 200.0), sleep=time.sleep))

    def ask(timeout: float) -> None:
        asked.append(timeout)
        raise TimeoutError

    poll_liveness(ask, gone.put, period=0.01)
    gone.get(timeout=DEADLINE)
    assert len(asked) == 2 + MISSED
