"""A scrape of any API server is the sum over all, and what ranks tell is in it once."""

import asyncio
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from phalanx.api.engine_client import RankStatus
from phalanx.api.errors import ApiError
from phalanx.api.exposition import exposition
from phalanx.api.metrics import Metrics
from phalanx.api.siblings import Siblings
from phalanx.protocol import (
    ApiServerId,
    Endpoint,
    EngineHello,
    Incarnation,
    Load,
    Membership,
    MetricsGathered,
    MetricsQuery,
    MetricsReport,
    MetricsRequest,
    RankId,
    ToSupervisor,
)


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
    metrics.prompt_tokens.add(prompt)
    metrics.finished.add(1, finished)
    metrics.first_token.observe(first_token)
    return metrics


def test_counters_and_histograms_of_all_servers_add_up() -> None:
    here = counted(10, "stop", 0.015)
    siblings = [counted(5, "stop", 0.03), counted(7, "length", 100.0)]
    merged = here.merged([sibling.samples() for sibling in siblings])
    found = samples_of(exposition(merged, [], 3, "m", 4))
    assert found["vllm:prompt_tokens_total", ()] == 22
    assert found["vllm:request_success_total", (("finished_reason", "stop"),)] == 2
    assert found["vllm:request_success_total", (("finished_reason", "length"),)] == 1
    assert found["vllm:time_to_first_token_seconds_count", ()] == 3
    assert found["vllm:time_to_first_token_seconds_sum", ()] == pytest.approx(100.045)
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
    assert here.prompt_tokens.values == {(): 10.0}
    assert sum(here.first_token.counts) == 1


def test_ranks_are_labelled_and_in_it_once() -> None:
    merged = Metrics().merged([Metrics().samples()])
    found = samples_of(exposition(merged, [a_rank(0, 4), a_rank(1, 6)], 2, "m", 2))
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
    metrics.request_prompt.observe(5.0)
    assert metrics.request_prompt.counts[metrics.request_prompt.bounds.index(5.0)] == 1


def of(count: int) -> Membership:
    return Membership(tuple(Endpoint(ApiServerId(index), f"unix:/{index}") for index in range(count)))


def test_a_scrape_asks_the_supervisor_and_waits_for_its_answer() -> None:
    async def scrape() -> Any:
        sent: list[ToSupervisor] = []
        siblings = Siblings(sent.append, Metrics(), of(3))
        both = [asyncio.create_task(siblings.gather()) for _ in range(2)]
        await asyncio.sleep(0)
        assert sent == [MetricsQuery(1), MetricsQuery(2)]
        siblings.gathered(MetricsGathered(2, (b"second",)))
        siblings.gathered(MetricsGathered(1, (b"first",)))
        siblings.gathered(MetricsGathered(7, (b"unasked",)))
        return await asyncio.gather(*both)

    assert asyncio.run(scrape()) == [(b"first",), (b"second",)]


def test_an_only_server_asks_nobody() -> None:
    siblings = Siblings(pytest.fail, Metrics(), of(1))
    assert asyncio.run(siblings.gather()) == ()


def test_a_server_that_is_joined_by_another_asks_from_then_on() -> None:
    async def scrape() -> list[ToSupervisor]:
        sent: list[ToSupervisor] = []
        siblings = Siblings(sent.append, Metrics(), of(1))
        siblings.joined(of(2))
        asking = asyncio.create_task(siblings.gather())
        await asyncio.sleep(0)
        asking.cancel()
        return sent

    assert asyncio.run(scrape()) == [MetricsQuery(1)]


def test_a_supervisor_that_does_not_answer_fails_the_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phalanx.api.siblings.PATIENCE", 0.01)
    siblings = Siblings(lambda message: None, Metrics(), of(2))
    with pytest.raises(ApiError, match="supervisor") as refusal:
        asyncio.run(siblings.gather())
    assert refusal.value.status == 503


def test_a_sibling_that_is_scraped_gets_this_server_s_counts() -> None:
    sent: list[ToSupervisor] = []
    metrics = counted(3, "stop", 0.1)
    Siblings(sent.append, metrics, of(2)).asked(MetricsRequest(42))
    assert sent == [MetricsReport(42, metrics.samples())]
