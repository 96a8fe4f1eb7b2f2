"""Whichever child fails, in whichever stage and way: it is named with its last words, and everything ends."""

import contextlib
import os
import signal
from pathlib import Path

import pytest
from support.reports import stuck
from support.services import stand_in_service

from phalanx.supervisor.events import ExitCode

STAGES = (("api 1", "imported"), ("engine 1", "attached"), ("api 1", "ready"))
WORDS = {
    "exit": ("exit status 3", "I am leaving"),
    "raise": ("ValueError: a reason of its own", 'raise ValueError("a reason of its own")'),
    "abort": ("killed by SIGABRT", "in do"),
    "exit 0": ("ended by itself, exit status 0", "It printed nothing"),
}


@pytest.mark.parametrize("deed", WORDS)
@pytest.mark.parametrize(("culprit", "stage"), STAGES)
def test_a_child_that_fails_is_named_with_its_stage_and_last_words(
    culprit: str, stage: str, deed: str, checkpoint_folder: Path
) -> None:
    with stand_in_service(checkpoint_folder, {culprit: (stage, deed)}) as service:
        assert service.wait() == ExitCode.FAILED
        report = service.stderr[service.stderr.rindex("\n\n" + culprit) :] if deed == "exit 0" else service.stderr
        assert f"{culprit} (pid " in report
        assert "failed after serving for" in report if stage == "ready" else f"failed in stage {stage}, " in report
        for words in WORDS[deed]:
            assert words in report
        service.assert_nothing_left()


def test_a_child_that_hangs_is_named_with_the_place_where_it_stands(checkpoint_folder: Path) -> None:
    with contextlib.ExitStack() as stack:
        services = {}
        for stage in ("imported", "attached"):  # one after another into their stages, then all wait together
            plan = {"engine 0": (stage, "hang")}
            service = stack.enter_context(stand_in_service(checkpoint_folder, plan, "--startup-timeout", "4"))
            services[stage] = service.wait_for(f"engine 0   {stage}")
        for stage, service in services.items():
            assert service.wait() == ExitCode.FAILED
            who, where, what = stuck(service.stderr, 4)
            assert (who, where) == ("engine 0", stage)
            assert what.startswith(f"progress in stage {stage}")
            assert 'stand_in.py", line' in service.stderr[service.stderr.index("Where it stood") :]
            service.assert_nothing_left()


def test_a_child_that_cannot_even_print_its_stack_is_killed(checkpoint_folder: Path) -> None:
    plan = {"engine 0": ("weights", "hang silently"), "engine 1": ("never", "ignore stop")}
    flags = ("--startup-timeout", "4", "--shutdown-timeout", "0.5")
    with stand_in_service(checkpoint_folder, plan, *flags) as service:
        assert service.wait() == ExitCode.FAILED
        assert "engine 0 (pid" in service.stderr
        assert "killing engine 1: it did not end in time" in service.stderr
        service.assert_nothing_left()


def test_a_failing_import_shows_its_traceback(checkpoint_folder: Path) -> None:
    with stand_in_service(checkpoint_folder, {"api 0": ("before hello", "import")}) as service:
        assert service.wait() == ExitCode.FAILED
        assert "api 0 (pid" in service.stderr
        assert "No module named 'no_such_module_anywhere'" in service.stderr[service.stderr.rindex("failed in stage") :]


def test_a_child_that_never_says_hello_is_named(checkpoint_folder: Path) -> None:
    plan = {"engine 1": ("before hello", "hang")}
    with stand_in_service(checkpoint_folder, plan, "--startup-timeout", "4") as service:
        assert service.wait() == ExitCode.FAILED
        assert "engine 1 (pid" in service.stderr
        assert "for its first message" in service.stderr
        service.assert_nothing_left()


def test_a_child_that_drops_its_control_connection_ends_the_service(checkpoint_folder: Path) -> None:
    with stand_in_service(checkpoint_folder, {"engine 1": ("cache", "disconnect")}) as service:
        assert service.wait() == ExitCode.FAILED
        assert "engine 1 (pid" in service.stderr
        assert "in stage cache" in service.stderr
        service.assert_nothing_left()


def test_what_a_child_left_running_ends_with_it(checkpoint_folder: Path) -> None:
    with stand_in_service(checkpoint_folder, {"engine 1": ("cache", "grandchild")}) as service:
        assert service.wait() == ExitCode.FAILED
        assert "exit status 4" in service.stderr
        service.assert_nothing_left()


@pytest.mark.parametrize("stage", ["before hello", "weights", "ready"])
def test_nothing_outlives_a_killed_supervisor_for_a_second(stage: str, checkpoint_folder: Path) -> None:
    everybody = dict.fromkeys(("api 0", "api 1", "engine 0", "engine 1"), (stage, "hang"))
    with stand_in_service(checkpoint_folder, everybody) as service:
        if stage == "ready":
            service.wait_ready()
        elif stage == "weights":
            for name in everybody:
                service.wait_for(f"{name:<10} weights")
        else:
            service.wait_for("engine 1   started")
        assert len(service.processes()) == 5
        service.signal(signal.SIGKILL)
        assert service.wait() == -signal.SIGKILL
        assert service.seconds_until_no_process_is_left() < 1.0


def test_a_killed_rank_ends_the_service_that_restarts_nothing_and_the_report_says_by_what(
    checkpoint_folder: Path,
) -> None:
    with stand_in_service(checkpoint_folder) as service:
        service.wait_ready()
        victim = service.pid_of("engine 0")
        os.kill(victim, signal.SIGKILL)
        assert service.wait() == ExitCode.FAILED
        assert f"engine 0 (pid {victim}) failed after serving for" in service.stderr
        assert "killed by SIGKILL" in service.stderr
        assert "out of memory" in service.stderr
        service.assert_nothing_left()
