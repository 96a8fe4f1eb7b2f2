"""What metrics hear of a completion, whichever way it goes."""

from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.fake_engine import ServedApi, an_output, answering

from phalanx.api.metrics import Histogram, Metrics
from phalanx.api.openai.completion_metrics import CompletionMetrics, count_prompt
from phalanx.api.rank_router import Placement
from phalanx.protocol import FinishReason, PhaseTimes, RankId

COMPLETE = "/v1/completions"
PHASES = ("queue", "prefill", "decode", "inference")


def at(rank: int) -> Placement:
    return Placement(RankId(rank), 0, 0, 0, 0)


def seen(histogram: Histogram, engine: str = "0") -> tuple[int, float]:
    """How many were observed of a rank, and their sum."""
    found = histogram.of((engine,))
    return sum(found.counts), found.total


def scraped(api: ServedApi) -> dict[tuple[str, ...], float]:
    """By name and the values of all labels but the model's."""
    return {
        (sample.name, *(value for name, value in sorted(sample.labels.items()) if name != "model_name")): sample.value
        for family in text_string_to_metric_families(api.http.get("/metrics").text)
        for sample in family.samples
    }


def test_each_phase_of_a_completion_is_counted_for_its_rank(serve_api: Callable[..., ServedApi]) -> None:
    api = serve_api(answering("four", end=None))
    body = {"prompt": "hello", "max_tokens": 4, "n": 2}
    assert api.http.post(COMPLETE, json=body).status_code == 200
    found = scraped(api)
    for phase in PHASES:
        assert found[f"vllm:request_{phase}_time_seconds_count", "0"] == 2
    times = {phase: found[f"vllm:request_{phase}_time_seconds_sum", "0"] for phase in PHASES}
    assert (times["queue"], times["prefill"]) == (0.5, 1.0)
    assert times["decode"] >= 0
    assert times["inference"] == pytest.approx(times["prefill"] + times["decode"])
    prompt = len("hello")
    assert found["vllm:prompt_tokens_total", "0"] == 2 * prompt
    assert found["vllm:prompt_tokens_cached_total", "0"] == 2 * 2
    assert found["vllm:prompt_tokens_by_source_total", "0", "local_cache_hit"] == 2 * 2
    assert found["vllm:prompt_tokens_by_source_total", "0", "local_compute"] == 2 * (prompt - 2)
    assert found["vllm:request_prefill_kv_computed_tokens_sum", "0"] == 2 * (prompt - 2)
    assert found["vllm:generation_tokens_total", "0"] == 8
    assert found["vllm:request_success_total", "0", "length"] == 2
    assert found["vllm:request_params_n_sum", "0"] == 2
    assert found["vllm:request_params_n_count", "0"] == 1
    assert found["vllm:request_max_num_generation_tokens_sum", "0"] == 4
    assert found["vllm:request_params_max_tokens_sum", "0"] == 8


def test_a_rank_that_nobody_has_used_is_there_with_noughts(serve_api: Callable[..., ServedApi]) -> None:
    found = scraped(serve_api())
    assert found["vllm:generation_tokens_total", "0"] == 0
    assert [found["vllm:request_success_total", "0", reason] for reason in ("stop", "length", "abort", "error")] == [
        0
    ] * 4
    assert found["vllm:time_to_first_token_seconds_bucket", "0", "2560.0"] == 0
    assert found["vllm:request_queue_time_seconds_count", "0"] == 0


def test_what_a_rank_tells_of_its_steps_and_its_cache_is_shown(serve_api: Callable[..., ServedApi]) -> None:
    found = scraped(serve_api())
    assert found["vllm:iteration_tokens_total_bucket", "0", "1.0"] == 60
    assert found["vllm:iteration_tokens_total_bucket", "0", "8192.0"] == 70
    assert found["vllm:iteration_tokens_total_bucket", "0", "16384.0"] == 75
    assert found["vllm:iteration_tokens_total_count", "0"] == 77
    assert found["vllm:iteration_tokens_total_sum", "0"] == 90_000
    assert found["vllm:cache_config_info", "16", "True", "0", "4096"] == 1


def test_what_the_engine_could_not_run_is_an_error_and_no_abort(serve_api: Callable[..., ServedApi]) -> None:
    api = serve_api(lambda prompt, sampling: [an_output([], FinishReason.ERROR, error="no")])
    assert api.http.post(COMPLETE, json={"prompt": "hello"}).status_code == 500
    found = scraped(api)
    assert found["vllm:request_success_total", "0", "error"] == 1
    assert found["vllm:request_success_total", "0", "abort"] == 0
    assert found["vllm:time_to_first_token_seconds_count", "0"] == 0


def test_one_that_found_no_rank_has_failed_at_none(serve_api: Callable[..., ServedApi]) -> None:
    api = serve_api(attach=False)
    assert api.http.post(COMPLETE, json={"prompt": "hello"}).status_code == 503
    assert api.metrics.finished.values == {("", "error"): 1.0}


def test_tokens_count_for_the_rank_they_came_from_and_the_end_for_the_last() -> None:
    metrics = Metrics()
    completion = CompletionMetrics(metrics, 0.0, 5, 9)
    completion.came(an_output([1], times=PhaseTimes(1.0, 2.0)), at(0))
    completion.came(an_output([2, 3]), at(1))
    completion.ended("stop", 3)
    assert metrics.generation_tokens.values == {("0",): 1.0, ("1",): 2.0}
    assert metrics.finished.values == {("1", "stop"): 1.0}
    assert seen(metrics.first_token, "0")[0] == 1
    assert seen(metrics.inter_token, "1")[0] == 2
    assert seen(metrics.queue_time, "1") == (1, 1.0)


def test_without_times_of_the_rank_there_are_none_of_its_phases() -> None:
    metrics = Metrics()
    completion = CompletionMetrics(metrics, 0.0, 5, 9)
    completion.came(an_output([1]), at(0))
    completion.ended("length", 1)
    assert seen(metrics.latency)[0] == 1
    assert [seen(each)[0] for each in (metrics.queue_time, metrics.prefill_time, metrics.decode_time)] == [0, 0, 0]


def test_a_prompt_counts_once_all_of_its_completions_have_ended() -> None:
    metrics = Metrics()
    completions = [CompletionMetrics(metrics, 0.0, 5, 9) for _ in range(3)]
    for tokens, completion in enumerate(completions[:2], 4):
        completion.came(an_output([1]), at(0))
        completion.ended("length", tokens)
    count_prompt(metrics, completions)
    assert seen(metrics.request_longest) == (0, 0.0)
    count_prompt(metrics, completions[:2])
    assert seen(metrics.request_longest) == (1, 5.0)
    assert seen(metrics.asked_choices) == (1, 2.0)
