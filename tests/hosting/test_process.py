"""What a started program finds: its sockets, its environment, its session, and nothing else."""

import contextlib
import os
import select
import signal
import socket
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from support.dispositions import blocked_by, ignored_by, ignored_here

from phalanx.hosting.process import LaunchError, LocalProcess, launch


@contextlib.contextmanager
def launched(program: str, sockets: Mapping[str, socket.socket] | None = None, **env: str) -> Iterator[LocalProcess]:
    command = [sys.executable, "-c", textwrap.dedent(program)]
    process = launch(command, [*(sockets or {}).items()], {**os.environ, "PYTHONUNBUFFERED": "1", **env})
    try:
        yield process
    finally:
        process.kill()
        if process.reap() is None:
            select.select([process.ended], [], [])
            process.reap()
        process.close()


def all_output(process: LocalProcess) -> str:
    data = b""
    os.set_blocking(process.output, True)
    while chunk := os.read(process.output, 65536):
        data += chunk
    return data.decode()


def status(process: LocalProcess) -> int:
    select.select([process.ended], [], [])
    ended = process.reap()
    assert ended is not None
    return ended


def test_a_child_holds_its_sockets_from_3_on_and_no_other_descriptor() -> None:
    program = """
        import os, socket
        print(*sorted(int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")))
        print(os.environ["LISTEN_FDS"], os.environ["LISTEN_FDNAMES"], os.environ["LISTEN_PID"] == str(os.getpid()))
        print(*(socket.socket(fileno=fd).getsockname()[1] for fd in (3, 4)))
        print(os.readlink("/proc/self/fd/0"))
    """
    with contextlib.ExitStack() as stack:
        http = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        engine = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        # Descriptors that are not close-on-exec, as a careless parent of the supervisor would leave them.
        stray = os.dup(http.fileno())
        os.set_inheritable(stray, True)
        stack.callback(os.close, stray)
        process = stack.enter_context(launched(program, {"engine": engine, "http": http}))
        descriptors, convention, ports, stdin = all_output(process).splitlines()
        assert descriptors == "0 1 2 3 4"
        assert convention == "2 engine:http True"
        assert ports == f"{engine.getsockname()[1]} {http.getsockname()[1]}"
        assert stdin == "/dev/null"
        assert status(process) == 0


def test_sockets_arrive_whatever_numbers_they_have_here() -> None:
    """A source may sit where another's target is."""
    program = "import socket; print(*(socket.socket(fileno=fd).getsockname()[1] for fd in range(3, 9)))"
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(6)]
        servers.reverse()
        process = stack.enter_context(launched(program, {f"s{i}": server for i, server in enumerate(servers)}))
        assert all_output(process).split() == [str(server.getsockname()[1]) for server in servers]


def test_a_child_without_sockets_is_told_of_none() -> None:
    program = "import os; print([name for name in os.environ if name.startswith('LISTEN_')])"
    with launched(program, LISTEN_FDS="3", LISTEN_PID="1", LISTEN_FDNAMES="a:b:c") as process:
        assert all_output(process).strip() == "[]"


def test_a_child_leads_its_own_session_and_a_terminals_ctrl_c_does_not_reach_it() -> None:
    program = """
        import os, signal
        print(os.getsid(0) == os.getpid(), signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
        print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    """
    with launched(program) as process:
        session, mask = all_output(process).splitlines()
        assert session == "True True"
        assert mask == "set()"


def test_a_child_ignores_what_its_starter_was_told_to_ignore_and_starts_afresh_otherwise() -> None:
    handler = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with ignored_here(signal.SIGHUP, signal.SIGABRT):
            child = launch(["sleep", "1000"], [], os.environ)
    finally:
        signal.signal(signal.SIGTERM, handler)
    try:
        assert ignored_by(child.pid) == {signal.SIGHUP, signal.SIGINT}
        assert blocked_by(child.pid) == set()
    finally:
        child.kill()
        assert status(child) == -signal.SIGKILL
        child.close()


def test_the_exit_status_is_the_childs_own() -> None:
    with launched("import sys; sys.exit(3)") as process:
        assert status(process) == 3
    with launched("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)") as process:
        assert status(process) == -signal.SIGSEGV


def test_what_a_child_started_ends_with_it() -> None:
    program = """
        import os, sys, time
        if os.fork() == 0:
            time.sleep(1000)
        sys.exit(0)
    """
    with launched(program) as process:
        assert status(process) == 0
        # The end of the output: the grandchild, which holds the pipe too, is gone.
        assert all_output(process) == ""


def test_a_child_dies_with_the_process_that_started_it() -> None:
    starter = """
        import os, signal, sys
        from phalanx.hosting.process import launch
        process = launch([sys.executable, "-c", "import time; time.sleep(1000)"], {}, os.environ)
        print(process.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    with launched(starter) as process:
        grandchild = int(all_output(process))
        assert status(process) == -signal.SIGKILL
        with contextlib.suppress(ProcessLookupError):
            ended = os.pidfd_open(grandchild)
            assert select.select([ended], [], [], 10)[0], "it outlived its starter"
            os.close(ended)


def test_a_program_that_cannot_be_started_is_told_at_once(tmp_path: Path) -> None:
    rubbish = tmp_path / "front-end"
    rubbish.write_bytes(b"\x00\x01 no program")
    rubbish.chmod(0o700)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(LaunchError, match="there is no such program"):
        launch(["/nowhere/front-end"], {}, {})
    with pytest.raises(LaunchError, match=r"cannot start .*: .*Exec format error"):
        launch([str(rubbish)], {}, {})
    assert os.listdir("/proc/self/fd") == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
