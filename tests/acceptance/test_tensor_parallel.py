"""A service whose ranks are several processes each: it answers as with one, and a worker's end is named as such."""

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from support.reports import stuck
from support.service import DEADLINE, Service

from phalanx.supervisor.events import ExitCode

FLEET = ("--engine", "synthetic", "-dp", "2", "-tp", "2", "-asc", "2")
ONE_RANK = ("--engine", "synthetic", "-tp", "2")
STAGES = ["started", "imported", "weights", "cache", "warm-up", "attached"]


def ask(service: Service, **further: Any) -> list[dict[str, Any]]:
    """Answers to as many prompts as one step of two ranks has room to share out."""
    body = {"prompt": [f"question {number}" for number in range(12)], "max_tokens": 40, "seed": 5, "logprobs": 2}
    answer = httpx.post(f"{service.address}/v1/completions", json={**body, **further}, timeout=DEADLINE)
    assert answer.status_code == 200, answer.text
    choices: list[dict[str, Any]] = answer.json()["choices"]
    return choices


def wait_for_worker(service: Service) -> int:
    """The pid of worker 1 of rank 0, as soon as it lives: it has no title before it has enlisted."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        for command, pid in service.processes().items():
            if command == "phalanx engine 0 tp 1" or "--worker 1" in command:
                return pid
        time.sleep(0.005)
    raise AssertionError(f"no worker came:\n{service.output}")


def report(service: Service) -> str:
    """What it said of its failure, last of all; it must have failed, in bounded time, and have left nothing."""
    assert service.wait() == ExitCode.FAILED
    service.assert_nothing_left()
    return service.stderr[service.stderr.rindex("\nengine ") + 1 :]


def test_answers_are_those_of_ranks_with_one_worker_and_every_worker_is_a_process(
    start_service: Callable[..., Service],
) -> None:
    alone, shared = start_service(*FLEET, "-tp", "1"), start_service(*FLEET)
    alone.wait_ready()
    shared.wait_ready()
    names = ["supervisor", "api 0", "api 1", "engine 0", "engine 0 tp 1", "engine 1", "engine 1 tp 1"]
    assert sorted(shared.processes()) == [f"phalanx {name}" for name in sorted(names)]
    assert "2 workers" in shared.stderr
    for _ in range(3):  # whichever API server takes them
        assert ask(shared) == ask(alone)
    assert shared.stop(signal.SIGINT) == 0


@pytest.mark.parametrize("name", ["engine 1 tp 1", "engine 1"])
def test_a_worker_that_is_killed_while_serving_is_named(name: str, start_service: Callable[..., Service]) -> None:
    service = start_service(*FLEET, "--synthetic-rate", "20", "--max-restarts", "0").wait_ready()
    url, body = f"{service.address}/v1/completions", {"prompt": "go on", "max_tokens": 1000, "stream": True}
    body |= {"ignore_eos": True, "n": 8}
    with contextlib.suppress(httpx.TransportError), httpx.stream("POST", url, json=body, timeout=DEADLINE) as stream:
        lines = stream.iter_lines()
        for _ in range(32):
            next(lines)
        os.kill(service.pid_of(name), signal.SIGKILL)
        for _ in lines:
            pass
    assert re.match(rf"{name} \(pid \d+\) failed after serving for .* s: killed by SIGKILL\n", report(service))


def test_a_worker_that_is_killed_in_a_stage_is_named() -> None:
    for stage in STAGES:
        with Service(*ONE_RANK, "--synthetic-stage", f"0.1:{stage}=hang") as service:
            if stage != "started":
                service.wait_for(f"engine 0 tp 1 {stage}")
            os.kill(wait_for_worker(service), signal.SIGKILL)
            named = rf"engine 0 tp 1 \(pid \d+\) failed in stage {stage}, .*: killed by SIGKILL\n"
            assert re.match(named, report(service))


def test_a_worker_that_hangs_is_named_and_not_the_leader_that_waits_for_it() -> None:
    with contextlib.ExitStack() as stack:
        services = {}
        for stage in ("started", "weights", "attached"):  # one after another into their stages, then all wait together
            flags = ("--synthetic-stage", f"0.1:{stage}=hang", "--startup-timeout", "3")
            service = stack.enter_context(Service(*ONE_RANK, *flags))
            services[stage] = service.wait_for("engine 0      attached")
        for stage, service in services.items():
            assert stuck(report(service), 3)[:2] == ("engine 0 tp 1", stage)
