"""The short form of `benchmarks/start_stop.py`: a thief beside takes every port that becomes free."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from support.service import Service

GRABBER = Path(__file__).parents[2] / "benchmarks" / "port_grabber.py"


@pytest.fixture
def port_grabber() -> Iterator[None]:
    thief = subprocess.Popen([sys.executable, GRABBER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert thief.stdout is not None
    assert "holding" in thief.stdout.readline()
    yield
    taken = thief.communicate("\n")[0]
    assert int(taken.split()[1]) > 0


@pytest.mark.usefixtures("port_grabber")
def test_services_start_answer_and_stop_while_every_free_port_is_stolen(start_service: Callable[..., Service]) -> None:
    for _ in range(5):
        service = start_service("--engine", "synthetic", "-dp", "2", "--api-server-count", "2").wait_ready()
        body = {"prompt": "hello", "max_tokens": 4}
        assert httpx.post(f"{service.address}/v1/completions", json=body, timeout=60).status_code == 200
        assert service.stop(signal.SIGINT) == 0
