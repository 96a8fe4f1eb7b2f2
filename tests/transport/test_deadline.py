"""Blocking waits end by a deadline, and by none that only passed while the process stood."""

import itertools
import socket
import threading
from pathlib import Path

import pytest

from phalanx import running_time
from phalanx.transport.channel import accept, dial
from phalanx.transport.deadline import Deadline
from phalanx.transport.listener import address_of, bind_tcp
from phalanx.transport.security import Security

SECURITY = Security(b"a launch secret")
WAIT = 30.0


@pytest.fixture
def standing(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The clock stands, as after a suspension longer than every deadline. Set once it was read ten times."""
    read_often, readings = threading.Event(), itertools.count()

    def now() -> float:
        if next(readings) == 10:
            read_often.set()
        return 100.0

    monkeypatch.setattr(running_time, "now", now)
    monkeypatch.setattr(running_time, "BEAT", 0.001)
    return read_often


def test_neither_end_of_a_handshake_gives_the_other_up_for_time_in_which_it_stood(standing: threading.Event) -> None:
    with bind_tcp("127.0.0.1") as listener:
        outcome: list[object] = []

        def listen() -> None:
            standing.wait(WAIT)
            outcome.append(accept(listener.accept()[0], SECURITY, 0.001, "a peer"))

        thread = threading.Thread(target=listen)
        thread.start()
        dial(address_of(listener), SECURITY, 0.001).close()
        thread.join(WAIT)
        (channel,) = outcome
        channel.close()  # type: ignore[attr-defined]


def test_a_full_backlog_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        with socket.socket(socket.AF_UNIX) as second, pytest.raises(TimeoutError):
            Deadline(0.1).connect(second, path)
        with socket.socket(socket.AF_UNIX) as third:
            threading.Timer(0.1, lambda: listener.accept()[0].close()).start()
            Deadline(WAIT).connect(third, path)
            listener.accept()[0].close()
            assert third.recv(1) == b""


def test_what_no_one_listens_at_is_told_at_once(tmp_path: Path) -> None:
    with socket.socket() as nobody, socket.socket() as sock:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            Deadline(WAIT).connect(sock, nobody.getsockname())
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(FileNotFoundError):
        Deadline(WAIT).connect(sock, str(tmp_path / "nothing"))


def test_what_is_sent_arrives_whole_or_ends_at_the_deadline() -> None:
    data = bytes(range(256)) * 2**13
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(TimeoutError):
        Deadline(0.1).send(ours, data)
    ours, theirs = socket.socketpair()
    received = bytearray()

    def read() -> None:
        while part := theirs.recv(2**16):
            received.extend(part)

    with ours, theirs:
        reader = threading.Thread(target=read)
        reader.start()
        Deadline(WAIT).send(ours, data)
        ours.shutdown(socket.SHUT_WR)
        reader.join(WAIT)
        assert received == data


def test_a_send_is_not_given_up_for_time_in_which_the_process_stood(standing: threading.Event) -> None:
    data = bytes(2**21)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        received: list[int] = []

        def read() -> None:
            standing.wait(WAIT)
            received.append(len(theirs.recv(len(data), socket.MSG_WAITALL)))

        reader = threading.Thread(target=read)
        reader.start()
        Deadline(0.001).send(ours, data)
        reader.join(WAIT)
        assert received == [len(data)]
