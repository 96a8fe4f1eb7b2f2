"""A machine is suspended while its service starts: nobody is killed for time in which nobody ran."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
from acceptance.test_join import control_of, serve
from support import impatient_service
from support.impatient_service import PATIENCE
from support.nodes import join
from support.service import DEADLINE, Service

LONGER = PATIENCE + 1.5
"""Seconds that all stand: longer than any deadline of these services, and than the gap that a running process lets
pass."""
LIMITS = ("--startup-timeout", "4", "--synthetic-stage", "weights=1")


def stop(pids: Iterable[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)


def let_run(pids: Iterable[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def children_of(service: Service) -> list[int]:
    return [child.pid for child in psutil.Process(service.pid).children(recursive=True)]


def is_rank_that_has_dialled(pid: int) -> bool:
    """A rank inherits no socket: one that it has is its own."""
    entries = Path(f"/proc/{pid}/fd")
    with contextlib.suppress(FileNotFoundError):  # A descriptor that was just closed.
        if " engine " in " ".join(psutil.Process(pid).cmdline()):
            return any(os.readlink(entry).startswith("socket:") for entry in entries.iterdir())
    return False


def test_children_that_wait_for_the_supervisors_answer_may_run_again_long_before_it(checkpoint_folder: Path) -> None:
    flags = ("--engine", "synthetic", "-dp", "1", "--api-server-count", "1", *LIMITS)
    with Service(str(checkpoint_folder), *flags, command=(sys.executable, impatient_service.__file__)) as service:
        until(lambda: len(children_of(service)) == 2)
        stop([service.pid])
        children = children_of(service)
        until(lambda: any(map(is_rank_that_has_dialled, children)))
        stop(children)
        time.sleep(LONGER)
        let_run(children)
        time.sleep(0.5)  # Time for them to give up.
        let_run([service.pid])
        service.wait_ready()
        assert children_of(service) == children
        assert "ERROR" not in service.stderr


def test_a_service_that_starts_on_two_machines_may_stand_and_run_again_in_any_order(checkpoint_folder: Path) -> None:
    with serve(checkpoint_folder, 2, 1, *LIMITS) as service:
        control = control_of(service)
        ours = [service.pid, *children_of(service)]
        stop(ours)
        with join(control, 1, 1, "--timeout", str(PATIENCE)) as joined:
            node = psutil.Process(joined.pid)
            until(lambda: any(connection.raddr for connection in node.net_connections("tcp")))
            # The node waits for an answer, and runs again first.
            stop([joined.pid])
            time.sleep(LONGER)
            let_run([joined.pid])
            time.sleep(0.5)
            let_run(ours)
            # Its rank loads, and the supervisor runs again last.
            joined.wait_for("engine 1 started")
            everybody = [*children_of(joined), joined.pid, *reversed(ours)]
            stop(everybody)
            time.sleep(LONGER)
            let_run(pid for pid in everybody if pid != service.pid)
            time.sleep(0.5)
            let_run([service.pid])
            service.wait_ready()
            assert sorted(everybody) == sorted([*ours, joined.pid, *children_of(joined)])
            assert "ERROR" not in service.stderr + joined.stderr
            assert service.stop() == 0
            assert joined.wait() == 0
