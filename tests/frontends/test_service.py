"""The whole service with the compiled front-end in place of the Python API servers."""

import contextlib
import json
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import SIGKILL
from typing import Any

import httpx
import pytest
from support.service import DEADLINE, Service

Start = Callable[..., Service]
SYNTHETIC = ("--engine", "synthetic")


@pytest.fixture
def start_compiled(start_service: Start, program: Path) -> Start:
    def start(*flags: str) -> Service:
        return start_service(*SYNTHETIC, "--frontend-command", str(program), *flags)

    return start


def client(service: Service) -> httpx.Client:
    # A connection a request: they spread over the API servers.
    headers = {"connection": "close"}
    return httpx.Client(base_url=service.address, timeout=DEADLINE, verify=False, headers=headers)


def token_ids(http: httpx.Client, wish: dict[str, Any]) -> list[list[int]]:
    """By choice, streaming or not."""
    answer = http.post("/v1/completions", json={**wish, "return_token_ids": True})
    assert answer.status_code == 200, answer.text
    if not wish.get("stream"):
        return [choice["token_ids"] for choice in answer.json()["choices"]]
    found: dict[int, list[int]] = {}
    for event in answer.text.split("\n\n"):
        if event and event != "data: [DONE]":
            for choice in json.loads(event.removeprefix("data: "))["choices"]:
                found.setdefault(choice["index"], []).extend(choice["token_ids"])
    return [found[index] for index in sorted(found)]


WISHES: list[dict[str, Any]] = [
    {"prompt": [1, 2, 3], "max_tokens": 200, "seed": 7},
    {"prompt": [1, 2, 3], "max_tokens": 20, "seed": -7, "n": 3, "min_tokens": 5},
    {"prompt": [[5], [6, 7, 8]], "max_tokens": 30, "seed": 2**63 - 1, "n": 2, "ignore_eos": True, "stream": True},
    {
        "prompt": [9] * 300,
        "max_tokens": 64,
        "seed": 0,
        "temperature": 0,
        "stop_token_ids": [11],
        "logit_bias": {"5": 1},
    },
]


def test_its_tokens_are_those_of_the_python_api_server(start_service: Start, start_compiled: Start) -> None:
    python = start_service(*SYNTHETIC)
    compiled = start_compiled("-dp", "2", "--api-server-count", "2")
    with client(python.wait_ready()) as one, client(compiled.wait_ready()) as other:
        for wish in WISHES:
            assert token_ids(other, wish) == token_ids(one, wish)
        # The two endpoints agree as well.
        wish = {"input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 200, "sampling_seed": 7}}
        assert other.post("/generate", json=wish).json()["output_ids"] == token_ids(one, WISHES[0])[0]


def test_every_front_end_reaches_every_rank_and_counts_for_all(start_compiled: Start) -> None:
    service = start_compiled("-dp", "3", "--api-server-count", "3").wait_ready()
    met = set()
    with client(service) as http:
        asked = 0
        while len(met) < 9:
            answer = http.post("/generate", json={"input_ids": [asked], "sampling_params": {"max_new_tokens": 2}})
            met.add((answer.headers["x-phalanx-api-server"], answer.headers["x-phalanx-ranks"]))
            asked += 1
            assert asked < 1000, met
        text = http.get("/metrics").text
    assert "phalanx:api_servers 3.0\n" in text
    generated = re.findall(r'^vllm:generation_tokens_total\{model_name="phalanx-demo",engine="\d"\} (.+)$', text, re.M)
    assert sum(map(float, generated)) == 2 * asked


def test_a_front_end_that_is_killed_is_named(start_compiled: Start) -> None:
    service = start_compiled("--api-server-count", "2", "--max-restarts", "0").wait_ready()
    (api_1,) = (pid for line, pid in service.processes().items() if "--index 1" in line)
    os.kill(api_1, SIGKILL)
    assert service.wait() == 1
    assert f"api 1 (pid {api_1}) failed" in service.stderr
    service.assert_nothing_left()


def test_requests_of_a_rank_that_is_killed_end_in_an_error(start_compiled: Start) -> None:
    service = start_compiled("--synthetic-rate", "20", "--max-restarts", "0").wait_ready()
    wish = {"input_ids": [1], "stream": True, "sampling_params": {"max_new_tokens": 2000, "ignore_eos": True}}
    with client(service) as http, http.stream("POST", "/generate", json=wish) as stream:
        parts = stream.iter_text()
        next(parts)
        os.kill(service.pid_of("engine 0"), SIGKILL)
        assert '"type":"server_error"' in "".join(parts)
    assert service.wait() == 1


def test_it_ends_with_a_supervisor_that_is_killed(start_compiled: Start) -> None:
    service = start_compiled("--api-server-count", "2", "--synthetic-rate", "20").wait_ready()
    wish = {"prompt": [1], "max_tokens": 2000, "ignore_eos": True}
    with client(service) as http, ThreadPoolExecutor() as pool:
        answer = pool.submit(http.post, "/v1/completions", json=wish)
        while not any(rank["running"] for rank in http.get("/ready").json()["ranks"]):
            pass
        service.signal(SIGKILL)
        # Whichever goes first, the front-end or the rank, the client does not wait.
        with contextlib.suppress(httpx.TransportError):
            assert answer.result().status_code == 500
    service.wait()
    service.seconds_until_no_process_is_left()


def test_stopping_the_service_says_nothing_of_lost_connections(start_compiled: Start) -> None:
    service = start_compiled("-dp", "2", "--api-server-count", "2").wait_ready()
    assert service.stop() == 0
    assert "WARNING" not in service.output
