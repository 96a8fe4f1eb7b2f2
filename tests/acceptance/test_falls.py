"""Processes of a serving service die, and requests do not."""

import os
import signal
import socket
import time
from collections.abc import Callable

import httpx
import pytest
from support.service import DEADLINE, Service
from support.streams import SLOW, Stream, streams, undisturbed


def test_ranks_are_killed_one_after_the_other_and_every_stream_ends_with_its_own_text(
    start_service: Callable[..., Service],
) -> None:
    service = start_service(*SLOW, "-dp", "2", "--api-server-count", "2").wait_ready()
    wanted = undisturbed(service.address, 24)
    assert {tokens for _, tokens in wanted} == {120}
    with streams(service.address, 24) as started:
        os.kill(service.pid_of("engine 1"), signal.SIGKILL)
        service.wait_for("engine 1 serves again")
        os.kill(service.pid_of("engine 0"), signal.SIGKILL)
        assert [stream.result() for stream in started] == wanted
    service.wait_for("engine 0 serves again")
    assert httpx.get(f"{service.address}/ready").json()["status"] == "ready"
    assert service.stderr.count("killed by SIGKILL") >= 2
    metrics = httpx.get(f"{service.address}/metrics").text
    for rank in (0, 1):
        assert f'phalanx:rank_restarts_total{{engine="{rank}",model_name="phalanx-demo"}} 1.0\n' in metrics


def test_the_only_rank_is_killed_and_requests_wait_for_its_successor(start_service: Callable[..., Service]) -> None:
    service = start_service(*SLOW, "-dp", "1").wait_ready()
    wanted = undisturbed(service.address, 2)
    with streams(service.address, 2) as started:
        os.kill(service.pid_of("engine 0"), signal.SIGKILL)
        assert [stream.result() for stream in started] == wanted


def test_a_rank_that_is_stuck_is_replaced_and_its_requests_go_on(start_service: Callable[..., Service]) -> None:
    service = start_service(*SLOW, "-dp", "2", "--step-timeout", "3").wait_ready()
    wanted = undisturbed(service.address, 8)
    with streams(service.address, 8) as started:
        os.kill(service.pid_of("engine 0"), signal.SIGSTOP)
        assert [stream.result() for stream in started] == wanted
    assert "engine 0 " in service.stderr
    assert "is stuck in stage ready" in service.stderr
    service.wait_for("engine 0 serves again")


def test_a_machine_that_was_suspended_loses_nobody_whoever_runs_first_again(
    start_service: Callable[..., Service],
) -> None:
    """The supervisor is the first to run, and finds everybody late by more than every limit."""
    limits = ("--step-timeout", "4", "--header-timeout", "2")
    service = start_service(*SLOW, "-dp", "2", "--api-server-count", "2", *limits).wait_ready()
    wanted = undisturbed(service.address, 8)
    processes = service.processes()
    url = httpx.URL(service.address)
    with streams(service.address, 8) as started, socket.create_connection((url.host, url.port), DEADLINE) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n")
        first_to_run = sorted(processes.values(), key=lambda pid: pid != service.pid)
        for pid in first_to_run:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(5.0)
        client.sendall(b"Connection: close\r\n\r\n")
        for pid in first_to_run:
            os.kill(pid, signal.SIGCONT)
            if pid == service.pid:
                time.sleep(1.0)  # Time for it to judge the others, which still stand.
        assert client.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"
        assert [stream.result() for stream in started] == wanted
    assert service.processes() == processes
    assert "ERROR" not in service.stderr


def test_an_api_server_is_killed_and_the_port_refuses_nobody(start_service: Callable[..., Service]) -> None:
    service = start_service(*SLOW, "-dp", "2", "--api-server-count", "2").wait_ready()
    os.kill(service.pid_of("api 1"), signal.SIGKILL)
    seen = set()
    while len(seen) < 2 or "api 1 serves again" not in service.stderr:
        # What the kernel gives to the dead one's socket waits there for its successor.
        answer = httpx.post(
            f"{service.address}/v1/completions", json={"prompt": "x", "max_tokens": 1}, timeout=DEADLINE
        )
        assert answer.status_code == 200
        seen.add(answer.headers["x-phalanx-api-server"])
    with streams(service.address, 4) as started:
        assert [stream.result()[1] for stream in started] == [120] * 4


def test_a_rank_that_falls_too_often_is_given_up_and_the_service_says_that_it_is_degraded(
    start_service: Callable[..., Service],
) -> None:
    service = start_service(*SLOW, "-dp", "2", "--max-restarts", "1").wait_ready()
    os.kill(service.pid_of("engine 1"), signal.SIGKILL)
    service.wait_for("engine 1 serves again")
    os.kill(service.pid_of("engine 1"), signal.SIGKILL)
    service.wait_for("engine 1 is given up: 1 restarts within 60 s; the service goes on without it")
    ready = httpx.get(f"{service.address}/ready")
    assert (ready.status_code, ready.json()["status"], ready.json()["missing_ranks"]) == (200, "degraded", [1])
    metrics = httpx.get(f"{service.address}/metrics").text
    assert "\nphalanx:ranks 1.0\n" in metrics
    assert "\nphalanx:ranks_expected 2.0\n" in metrics
    assert undisturbed(service.address, 4)


def test_below_its_least_number_of_ranks_the_service_ends(start_service: Callable[..., Service]) -> None:
    service = start_service(*SLOW, "-dp", "2", "--max-restarts", "1", "--min-ranks", "2").wait_ready()
    os.kill(service.pid_of("engine 1"), signal.SIGKILL)
    service.wait_for("engine 1 serves again")
    os.kill(service.pid_of("engine 1"), signal.SIGKILL)
    assert service.wait() == 1
    assert "engine 1 (pid" in service.stderr
    service.assert_nothing_left()


@pytest.mark.parametrize("stage", ["imported", "warm-up"])
def test_a_successor_that_does_not_get_there_is_tried_again_ever_more_slowly(
    stage: str, start_service: Callable[..., Service]
) -> None:
    flags = ("--max-failed-starts", "2", "--synthetic-stage", f"1:{stage}=2")
    service = start_service(*SLOW, "-dp", "2", *flags).wait_ready()
    os.kill(service.pid_of("engine 1"), signal.SIGKILL)
    for attempt, again in enumerate(("is started again now", "is started again in 0.5 s"), 1):
        service.wait_for(f"engine 1 {again}")
        # Its lines of the start, once for each time that it has got there.
        service.wait_until(lambda: service.stderr.count(f"engine 1   {stage}") > attempt, f"start {attempt}")  # noqa: B023
        os.kill(service.pid_of("engine 1"), signal.SIGKILL)
    service.wait_for("engine 1 is given up: 2 starts in a row that came to nothing")


def test_sigterm_lets_what_runs_finish_and_takes_nothing_new(start_service: Callable[..., Service]) -> None:
    service = start_service(*SLOW, "-dp", "2", "--api-server-count", "2").wait_ready()
    with streams(service.address, 6) as started:
        service.signal(signal.SIGTERM)
        service.wait_for("running requests get 30 s to finish")
        told: dict[str, int] = {}
        while set(told.values()) != {503} or len(told) < 2:  # each has heard of it
            ready = httpx.get(f"{service.address}/ready")
            told[ready.headers["x-phalanx-api-server"]] = ready.status_code
            assert ready.json()["status"] in ("ready", "draining")
        refused = httpx.post(f"{service.address}/v1/completions", json={"prompt": "x"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "stopping")
        assert refused.headers["retry-after"] == "1"
        assert [stream.result()[1] for stream in started] == [120] * 6
    assert service.wait() == 0
    service.assert_nothing_left()


@pytest.mark.parametrize("cut_short", ["by a second signal", "by the timeout"])
def test_what_has_not_finished_in_time_is_told_so(cut_short: str, start_service: Callable[..., Service]) -> None:
    limit = "1" if cut_short == "by the timeout" else "300"
    service = start_service(*SLOW, "-dp", "1", "--drain-timeout", limit).wait_ready()
    stream = Stream(service.address, 1, tokens=450)
    assert stream.began.wait(DEADLINE)
    service.signal(signal.SIGTERM)
    service.wait_for(f"running requests get {limit} s to finish")
    if cut_short == "by a second signal":
        service.signal(signal.SIGTERM)
    assert service.wait() == 0
    stream.join(DEADLINE)
    assert stream.error is not None
    assert stream.error["code"] == "stopping"
    service.assert_nothing_left()
