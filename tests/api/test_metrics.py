"""A scrape of any API server is the sum over all, and what ranks tell is in it once."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.fake_engine import ServedApi

from phalanx.api.engine_client import RankStatus
from phalanx.api.errors import ApiError
from phalanx.api.exposition import exposition
from phalanx.api.metrics import Metrics
from phalanx.api.supervisor_client import SupervisorClient
from phalanx.config import EngineOptions
from phalanx.protocol import (
    ApiServerId,
    EngineHello,
    Incarnation,
    Load,
    MetricsGathered,
    MetricsQuery,
    MetricsReport,
    MetricsRequest,
    RankId,
    ToSupervisor,
)

ALONE = MetricsGathered(1, ())
CACHE = EngineOptions(block_size=16)
ENGINE_0 = (("engine", "0"),)


def a_rank(number: int, running: int) -> RankStatus:
    hello = EngineHello(RankId(number), Incarnation(1), 2048, 64, 1000)
    return RankStatus(RankId(number), Incarnation(1), hello, Load(0, 0, 0, running, 2, 250, 1000, 80, 20, 3, 9), 0)


def samples_of(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted((key, value) for key, value in sample.labels.items() if key != "model_name"))): (
            sample.value
        )
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def counted(prompt: int, finished: str, first_token: float) -> Metrics:
    metrics = Metrics()
    metrics.prompt_tokens.add(prompt, "0")
    metrics.finished.add(1, "0", finished)
    metrics.first_token.observe(first_token, ("0",))
    return metrics


def test_counters_and_histograms_of_all_servers_add_up() -> None:
    here = counted(10, "stop", 0.015)
    siblings = [counted(5, "stop", 0.03), counted(7, "length", 100.0)]
    merged = here.merged([sibling.samples() for sibling in siblings])
    found = samples_of(exposition(merged, [], MetricsGathered(1, (b"", b"")), "m", 4, CACHE))
    assert found["vllm:prompt_tokens_total", ENGINE_0] == 22
    assert found["vllm:request_success_total", (*ENGINE_0, ("finished_reason", "stop"))] == 2
    assert found["vllm:request_success_total", (*ENGINE_0, ("finished_reason", "length"))] == 1
    assert found["vllm:time_to_first_token_seconds_count", ENGINE_0] == 3
    assert found["vllm:time_to_first_token_seconds_sum", ENGINE_0] == pytest.approx(100.045)
    buckets = [
        (dict(labels)["le"], value)
        for (name, labels), value in found.items()
        if name == "vllm:time_to_first_token_seconds_bucket"
    ]
    assert dict(buckets)["0.01"] == 0
    assert dict(buckets)["0.02"] == 1
    assert dict(buckets)["0.04"] == 2
    assert dict(buckets)["20.0"] == 2
    assert dict(buckets)["+Inf"] == 3
    assert found["phalanx:api_servers", ()] == 3


def test_merging_leaves_the_server_s_own_counts_alone() -> None:
    here = counted(10, "stop", 0.015)
    here.merged([here.samples()])
    assert here.prompt_tokens.values == {("0",): 10.0}
    assert sum(here.first_token.of(("0",)).counts) == 1


def test_ranks_are_labelled_and_in_it_once() -> None:
    merged = Metrics().merged([Metrics().samples()])
    found = samples_of(exposition(merged, [a_rank(0, 4), a_rank(1, 6)], ALONE, "m", 2, CACHE))
    assert found["vllm:num_requests_running", (("engine", "0"),)] == 4
    assert found["vllm:num_requests_running", (("engine", "1"),)] == 6
    assert found["vllm:num_requests_waiting", (("engine", "1"),)] == 2
    assert found["vllm:kv_cache_usage_perc", (("engine", "0"),)] == 0.25
    assert found["vllm:prefix_cache_queries_total", (("engine", "0"),)] == 80
    assert found["vllm:prefix_cache_hits_total", (("engine", "0"),)] == 20
    assert found["vllm:num_preemptions_total", (("engine", "0"),)] == 3
    assert found["phalanx:ranks", ()] == 2


def test_a_value_on_a_bound_belongs_below_it() -> None:
    metrics = Metrics()
    metrics.request_prompt.observe(5.0, ("0",))
    assert metrics.request_prompt.of(("0",)).counts[metrics.request_prompt.bounds.index(5.0)] == 1


def test_a_scrape_asks_the_supervisor_and_waits_for_its_answer() -> None:
    first, second = MetricsGathered(1, (b"first",)), MetricsGathered(2, (b"second",), (b"kept",))

    async def scrape() -> Any:
        sent: list[ToSupervisor] = []
        supervisor = SupervisorClient(sent.append, Metrics())
        both = [asyncio.create_task(supervisor.gather_metrics()) for _ in range(2)]
        await asyncio.sleep(0)
        assert sent == [MetricsQuery(1), MetricsQuery(2)]
        supervisor.receive(second)
        supervisor.receive(first)
        supervisor.receive(MetricsGathered(7, (b"unasked",)))
        return await asyncio.gather(*both)

    assert asyncio.run(scrape()) == [first, second]


def test_a_supervisor_that_does_not_answer_fails_the_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phalanx.api.supervisor_client.PATIENCE", 0.01)
    supervisor = SupervisorClient(lambda message: None, Metrics())
    with pytest.raises(ApiError, match="supervisor") as refusal:
        asyncio.run(supervisor.gather_metrics())
    assert refusal.value.status == 503


def test_a_sibling_that_is_scraped_gets_this_server_s_counts() -> None:
    sent: list[ToSupervisor] = []
    metrics = counted(3, "stop", 0.1)
    SupervisorClient(sent.append, metrics).receive(MetricsRequest(42))
    assert sent == [MetricsReport(42, metrics.samples())]


# --- a death takes no counts along -----------------------------------------------------------------


def test_what_a_scrape_shows_the_supervisor_knows_before() -> None:
    """Counted while the siblings were asked, too: else a death would take back what was shown."""

    async def scrape() -> tuple[list[ToSupervisor], bytes]:
        sent: list[ToSupervisor] = []
        metrics = counted(1, "stop", 0.1)
        supervisor = SupervisorClient(sent.append, metrics)
        asking = asyncio.create_task(supervisor.gather_metrics())
        await asyncio.sleep(0)
        metrics.prompt_tokens.add(5, "0")
        supervisor.receive(MetricsGathered(1, ()))
        await asking
        return sent, metrics.samples()

    sent, shown = asyncio.run(scrape())
    assert sent == [MetricsQuery(1), MetricsReport(None, shown)]


def test_counts_are_reported_when_they_have_changed() -> None:
    sent: list[ToSupervisor] = []
    metrics = counted(1, "stop", 0.1)
    supervisor = SupervisorClient(sent.append, metrics)
    supervisor.report_metrics()
    supervisor.report_metrics()
    first = metrics.samples()
    metrics.prompt_tokens.add(1, "0")
    supervisor.report_metrics()
    assert sent == [MetricsReport(None, first), MetricsReport(None, metrics.samples())]


def test_a_successor_counts_on_and_holds_nothing_that_its_predecessor_held() -> None:
    before = counted(10, "stop", 0.015)
    before.held_requests.read = lambda: 7.0
    before.replays.read = lambda: 3.0
    after = Metrics()
    after.count_on(before.samples())
    after.replays.read = lambda: 2.0
    after.prompt_tokens.add(1, "0")
    found = samples_of(exposition(after.merged(()), [], ALONE, "m", 1, CACHE))
    assert found["vllm:prompt_tokens_total", ENGINE_0] == 11
    assert found["vllm:request_success_total", (*ENGINE_0, ("finished_reason", "stop"))] == 1
    assert found["vllm:time_to_first_token_seconds_count", ENGINE_0] == 1
    assert found["phalanx:request_replays_total", ()] == 5
    assert found["phalanx:held_requests", ()] == 0


def test_counts_of_a_server_that_is_not_there_are_in_the_sum_and_what_it_held_is_not() -> None:
    gone = counted(10, "stop", 0.015)
    gone.held_requests.read = lambda: 7.0
    merged = counted(1, "stop", 0.1).merged((), kept=[gone.samples()])
    found = samples_of(exposition(merged, [], ALONE, "m", 1, CACHE))
    assert found["vllm:prompt_tokens_total", ENGINE_0] == 11
    assert found["phalanx:held_requests", ()] == 0
    assert found["phalanx:api_servers", ()] == 1


def test_what_another_release_counts_otherwise_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    metrics = counted(1, "stop", 0.1)
    theirs = {"vllm:prompt_tokens": [(("0",), 2.0)], "news": [(("x",), 1.0)]}
    histograms = {"vllm:time_to_first_token_seconds": [(("0",), [1, 2], 3.0)], "news": [((), [1], 1.0)]}
    merged = metrics.merged([msgspec.msgpack.encode([theirs, histograms]), b"\xc1"])
    assert merged.prompt_tokens.values == {("0",): 3.0}
    assert sum(merged.first_token.of(("0",)).counts) == 1
    assert "do not decode" in caplog.text


def test_restarts_are_told_by_rank_and_by_api_server() -> None:
    gathered = MetricsGathered(1, (), (), {RankId(0): 0, RankId(1): 4}, {ApiServerId(0): 2})
    found = samples_of(exposition(Metrics(), [], gathered, "m", 2, CACHE))
    assert found["phalanx:rank_restarts_total", (("engine", "0"),)] == 0
    assert found["phalanx:rank_restarts_total", (("engine", "1"),)] == 4
    assert found["phalanx:api_server_restarts_total", (("api_server", "0"),)] == 2


def test_replays_are_those_of_the_engine_client(serve_api: Callable[..., ServedApi]) -> None:
    api = serve_api()
    api.engine._dispatcher.replays = 4
    assert 'phalanx:request_replays_total{model_name="test-model"} 4.0\n' in api.http.get("/metrics").text
    assert 'phalanx:request_replays_total{model_name="test-model"} 4.0\n' in api.http.get("/metrics").text
