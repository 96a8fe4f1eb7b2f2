"""A service from its start to its end, as the person who runs it sees it."""

import contextlib
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.dispositions import blocked_by, ignored_by, ignoring
from support.service import SERVE, Service
from support.services import FLEET, SCRIPT, stand_in_service

from phalanx.supervisor.events import ExitCode


def test_the_start_is_told_stage_by_stage_then_the_address(checkpoint_folder: Path) -> None:
    with stand_in_service(checkpoint_folder) as service:
        service.wait_ready()
        assert service.stop() == ExitCode.OK
        for child in ("api 0", "api 1", "engine 0", "engine 1"):
            told = re.findall(rf"^{child} +(\S+) +\d+\.\d\d s", service.stderr, re.MULTILINE)
            assert told == ["started", "imported", "weights", "cache", "warm-up", "attached", "ready"]
        assert re.search(r"^engine 1 +ready .* at your service$", service.stderr, re.MULTILINE)
        assert service.stdout.splitlines()[1].startswith(f"Phalanx serves {checkpoint_folder} at http://127.0.0.1:")
        assert f"curl {service.address}/v1/chat/completions" in service.stdout
        assert not service.address.endswith(":0")


def test_processes_are_named_for_ps_and_top(checkpoint_folder: Path) -> None:
    with stand_in_service(checkpoint_folder) as service:
        service.wait_ready()
        names = {"phalanx api 0", "phalanx api 1", "phalanx engine 0", "phalanx engine 1", "phalanx supervisor"}
        assert set(service.processes()) == names


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything_with_exit_code_0(number: signal.Signals, checkpoint_folder: Path) -> None:
    with stand_in_service(checkpoint_folder) as service:
        service.wait_ready()
        assert service.stop(number) == ExitCode.OK


def test_what_the_service_was_started_to_ignore_every_process_of_it_ignores() -> None:
    """SIGHUP is what nohup ignores, SIGINT what a script's shell does; the other two nobody can have wanted."""
    unwanted = {signal.SIGHUP, signal.SIGINT}
    command = ignoring({*unwanted, signal.SIGCHLD}, SERVE, blocked={signal.SIGTERM})
    with Service("--engine", "synthetic", command=command) as service:
        service.wait_ready()
        for number in unwanted:
            service.signal(number)
        for name, pid in service.processes().items():
            assert unwanted <= ignored_by(pid), name
            assert signal.SIGCHLD not in ignored_by(pid), name
            assert not {signal.SIGTERM, signal.SIGCHLD} & blocked_by(pid), name
        os.kill(service.pid_of("engine 0"), signal.SIGKILL)
        service.wait_for("failed after serving").wait_for("killed by SIGKILL").wait_for("serves again")
        assert "stopping" not in service.stderr
        assert service.stop() == ExitCode.OK


def test_a_signal_ends_a_start_that_is_under_way_with_exit_code_0(checkpoint_folder: Path) -> None:
    for moment in ("engine 1   started", "api 0      weights"):
        with stand_in_service(checkpoint_folder, {"engine 0": ("imported", "hang")}) as service:
            service.wait_for(moment)
            assert service.stop() == ExitCode.OK


def test_a_second_signal_does_not_wait(checkpoint_folder: Path) -> None:
    plan = {"engine 0": ("never", "ignore stop")}
    with stand_in_service(checkpoint_folder, plan, "--shutdown-timeout", "1000") as service:
        service.wait_ready()
        service.signal(signal.SIGINT)
        service.wait_for("SIGINT: stopping")
        assert service.stop(signal.SIGINT) == ExitCode.OK
        assert "killing engine 0" in service.stderr


def test_a_child_that_ignores_stop_is_killed_after_the_shutdown_timeout(checkpoint_folder: Path) -> None:
    plan = {"engine 0": ("never", "ignore stop")}
    with stand_in_service(checkpoint_folder, plan, "--shutdown-timeout", "0.3") as service:
        service.wait_ready()
        assert service.stop() == ExitCode.OK
        assert "killing engine 0: it did not end in time" in service.stderr


def test_a_port_in_use_is_told_with_its_holder_and_nothing_is_started(checkpoint_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with stand_in_service(checkpoint_folder, None, "--port", str(port)) as service:
            assert service.wait() == ExitCode.ADDRESS
            assert f"127.0.0.1:{port} is in use by" in service.stderr
            assert f"(pid {os.getpid()})" in service.stderr
            assert "started" not in service.stderr
            service.assert_nothing_left()


def test_a_second_service_on_the_same_port_is_refused_and_the_first_undisturbed(checkpoint_folder: Path) -> None:
    with stand_in_service(checkpoint_folder) as first:
        first.wait_ready()
        port = first.address.rpartition(":")[2]
        with stand_in_service(checkpoint_folder, None, "--port", port) as second:
            assert second.wait() == ExitCode.ADDRESS
            assert f"in use by phalanx supervisor (pid {first.pid})" in second.stderr
        assert len(first.processes()) == 5


def test_two_services_beside_each_other_do_not_disturb_each_other(checkpoint_folder: Path) -> None:
    with stand_in_service(checkpoint_folder) as first, stand_in_service(checkpoint_folder) as second:
        first.wait_ready()
        second.wait_ready()
        assert first.address != second.address
        os.kill(first.pid_of("engine 1"), signal.SIGKILL)
        assert first.wait() == ExitCode.FAILED
        first.assert_nothing_left()
        assert len(second.processes()) == 5


def test_output_of_children_is_passed_on_line_by_line_with_their_name(checkpoint_folder: Path) -> None:
    with stand_in_service(checkpoint_folder, {"engine 1": ("cache", "talk")}) as service:
        service.wait_ready()
        assert service.stop() == ExitCode.OK
        assert "[engine 1] no end\n" in service.stderr
        said = [line for line in service.stderr.splitlines() if line.startswith("[engine 1]")]
        assert "".join(line.removeprefix("[engine 1] ") for line in said if "zz" in line) == "z" * 10_000
        assert max(len(line) for line in said) < 5000
        assert any("no text" in line for line in said)


def test_an_api_server_gets_its_siblings_samples_through_the_supervisor(checkpoint_folder: Path) -> None:
    with stand_in_service(checkpoint_folder, None, "-asc", "3") as service:
        service.wait_ready()
        os.kill(service.pid_of("api 0"), signal.SIGUSR1)
        service.wait_for("[api 0] gathered 7 samples of 1 samples of 2\n")


def test_a_sibling_that_does_not_answer_makes_the_samples_fewer_not_late(checkpoint_folder: Path) -> None:
    with stand_in_service(checkpoint_folder, {"api 2": ("never", "keep metrics")}, "-asc", "3") as service:
        service.wait_ready()
        os.kill(service.pid_of("api 0"), signal.SIGUSR1)
        service.wait_for("[api 0] gathered 7 samples of 1\n")


def test_on_a_terminal_the_start_is_a_live_picture_and_ctrl_c_ends_it(checkpoint_folder: Path) -> None:
    main, terminal = pty.openpty()
    command = [sys.executable, str(SCRIPT), "{}", str(checkpoint_folder), *FLEET, "--port", "0"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}

    def own_terminal() -> None:
        os.setsid()
        os.close(os.open(os.ttyname(terminal), os.O_RDWR))  # the first terminal opened becomes the controlling one

    process = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment, preexec_fn=own_terminal
    )
    os.close(terminal)
    screen = b""
    asked = False
    with contextlib.suppress(OSError):  # EIO: the last process closed the terminal
        while select.select([main], [], [], 60)[0] and (data := os.read(main, 65536)):
            screen += data
            if b"Phalanx serves" in screen and b"Capital" in screen.title() and not asked:
                asked = True
                os.write(main, b"\x03")
    os.close(main)
    assert process.wait(60) == ExitCode.OK
    text = screen.decode()
    assert "\x1b[" in text  # lines were redrawn in place
    for child in ("api 0", "api 1", "engine 0", "engine 1"):
        assert re.search(rf"{child}\S* .*ready", text)
    assert "SIGINT: stopping" in text


def test_a_service_whose_output_nobody_reads_any_more_runs_on_and_keeps_its_exit_code(
    checkpoint_folder: Path,
) -> None:
    command = [sys.executable, str(SCRIPT), "{}", str(checkpoint_folder), *FLEET, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    while "Phalanx serves" not in process.stdout.readline():
        pass
    process.stdout.close()
    process.stderr.close()
    process.send_signal(signal.SIGTERM)  # it says that it stops
    assert process.wait(60) == ExitCode.OK
