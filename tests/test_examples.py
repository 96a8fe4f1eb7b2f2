"""Every example runs as its page says, against a service that was started with the example's own file."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from support.service import Service

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service("--config", str(EXAMPLES / "service.toml"), "--port", "0") as started:
        yield started.wait_ready()


def output_of(name: str, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments], check=True, capture_output=True, text=True, timeout=120
    ).stdout


def test_the_file_starts_a_service_as_it_says(service: Service) -> None:
    ready = httpx.get(f"{service.address}/ready", timeout=60).json()
    assert [rank["max_num_seqs"] for rank in ready["ranks"]] == [64, 64]


def test_one_question_is_answered(service: Service) -> None:
    assert "Paris" in output_of("chat.py", service.address)


def test_a_stream_ends_with_what_it_used(service: Service) -> None:
    text = output_of("stream.py", service.address, "What is the capital of France?")
    assert "Paris" in text
    assert " tokens in, " in text.splitlines()[-1]


def test_many_requests_are_all_answered(service: Service) -> None:
    assert output_of("many.py", service.address, "20").startswith("20 answers, ")


def test_prometheus_is_told_where_the_metrics_are(service: Service) -> None:
    scrape: dict[str, Any] = yaml.safe_load((EXAMPLES / "prometheus.yml").read_text())["scrape_configs"][0]
    answer = httpx.get(f"{service.address}{scrape['metrics_path']}", timeout=60)
    assert answer.status_code == 200
    assert "vllm:num_requests_running" in answer.text


def test_the_page_names_every_file() -> None:
    page = (EXAMPLES / "README.md").read_text()
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} - {"README.md"} == {
        name for name in (path.name for path in EXAMPLES.iterdir()) if f"({name})" in page
    }
