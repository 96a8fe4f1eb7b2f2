"""The service's counters only go up, whichever API server dies and whichever is asked."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families
from support.fake_engine import a_config
from support.service import DEADLINE, Service
from support.standing_alone import FrontEnd

import phalanx
from phalanx.api.metrics import Metrics
from phalanx.protocol import ApiServers, MetricsReport, Welcome

OF_RANKS = {
    "vllm:prefix_cache_queries",
    "vllm:prefix_cache_hits",
    "vllm:num_preemptions",
    "vllm:iteration_tokens_total",
    "phalanx:engine_steps",
}
"""What a rank counts itself begins anew with the rank, and is not there until an API server has heard of it."""
Values = dict[tuple[str, ...], float]


def scrape(service: Service) -> tuple[str, Values]:
    """Which API server answered, and every counter and histogram with its labels."""
    answer = httpx.get(f"{service.address}/metrics", timeout=DEADLINE)
    values = {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        if family.type in ("counter", "histogram") and family.name not in OF_RANKS
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
    return answer.headers["x-phalanx-api-server"], values


def value_of(values: Values, name: str) -> float:
    return sum(value for (found, *_), value in values.items() if found == name)


def complete(service: Service, tokens: int) -> str:
    body = {"prompt": [1, 2, 3], "max_tokens": tokens, "ignore_eos": True}
    answer = httpx.post(f"{service.address}/v1/completions", json=body, timeout=DEADLINE)
    assert answer.status_code == 200
    return answer.headers["x-phalanx-api-server"]


def test_no_counter_goes_back_when_an_api_server_is_killed(start_service: Callable[..., Service]) -> None:
    service = start_service("--engine", "synthetic", "--api-server-count", "2").wait_ready()
    by = {"0": 0, "1": 0}
    while not all(by.values()):
        by[complete(service, 10)] += 10
    before = scrape(service)[1]
    while scrape(service)[0] != "0":  # counts of its own that only a scrape of its own has shown
        before = scrape(service)[1]
    assert value_of(before, "vllm:generation_tokens_total") == sum(by.values())
    os.kill(service.pid_of("api 0"), signal.SIGKILL)
    seen: set[str] = set()
    while seen != {"0", "1"} or "api 0 serves again" not in service.stderr:
        server, after = scrape(service)
        backward = {name: (value, after.get(name)) for name, value in before.items() if after.get(name, -1.0) < value}
        assert backward == {}, server
        before = after
        if "api 0 serves again" in service.stderr:
            seen.add(server)
    assert value_of(before, "vllm:generation_tokens_total") == sum(by.values())
    assert before["phalanx:api_server_restarts_total", "api_server=0", "model_name=phalanx-demo"] == 1
    while True:  # the successor counts on
        by[server := complete(service, 5)] += 5
        if server == "0":
            break
    assert value_of(scrape(service)[1], "vllm:generation_tokens_total") == sum(by.values())


PROGRAM = f"""#!{sys.executable}
import sys
sys.path.insert(0, {str(Path(phalanx.__file__).parents[1])!r})
from phalanx.api.__main__ import main
sys.exit(main())
"""


def test_an_api_server_counts_on_from_its_predecessor_and_reports_unasked(
    checkpoint_folder: Path, tmp_path: Path
) -> None:
    program = tmp_path / "api"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    before = Metrics()
    before.generation_tokens.add(1000, "0")
    config = a_config(checkpoint_folder)
    welcome = Welcome(config, ApiServers(()), counted=before.samples())
    with FrontEnd(program, checkpoint_folder, answer=lambda: welcome) as api_server:
        api_server.serving()
        assert api_server.http.get("/v1/models").status_code == 200
        reported = Metrics()
        while not reported.http.values:
            report = api_server.supervisor.wait_for(MetricsReport)
            assert report.query is None
            reported = Metrics()
            reported.count_on(report.samples)
            assert reported.generation_tokens.values == {("0",): 1000.0}
        assert reported.http.values == {("/v1/models", "GET", "2xx"): 1.0}
