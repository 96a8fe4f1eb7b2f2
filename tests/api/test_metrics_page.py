"""`docs/metrics.md` lists every metric that a scrape shows, with its type and labels, and no other."""

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from phalanx.api.engine_client import RankStatus
from phalanx.api.exposition import exposition
from phalanx.api.metrics import ENGINE, Metrics
from phalanx.config import EngineOptions
from phalanx.protocol import (
    STEP_SIZES,
    ApiServerId,
    EngineHello,
    Incarnation,
    Load,
    MetricsGathered,
    RankId,
    StepTokens,
)

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
Row = tuple[str, str, tuple[str, ...]]


def on_the_page() -> list[Row]:
    section = PAGE.split("## Every metric")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| (\w+) \| (.*?)\| (.+) \|$", section, re.MULTILINE)
    assert all(meaning.strip() for *_, meaning in rows)
    return [(name, kind, tuple(sorted(re.findall(r"`(\w+)`", labels)))) for name, kind, labels, _ in rows]


def in_a_scrape() -> list[Row]:
    """Of a service in which everything has been counted that can be."""
    metrics = Metrics()
    metrics.begin(RankId(0))
    for counter in metrics.counters:
        if counter.labels and counter.labels[0] != ENGINE:
            counter.add(1, *counter.labels)
    hello = EngineHello(RankId(0), Incarnation(0), 2048, 64, 4096)
    steps = StepTokens((0,) * (len(STEP_SIZES) + 1), 0)
    rank = RankStatus(RankId(0), Incarnation(0), hello, Load(*[0] * 11), 0, steps)
    gathered = MetricsGathered(1, (), (), {RankId(0): 1}, {ApiServerId(0): 1})
    found: list[Row] = []
    for family in text_string_to_metric_families(
        exposition(metrics, [rank], gathered, "m", 1, EngineOptions()).decode()
    ):
        shown = [sample for sample in family.samples if not sample.name.endswith("_created")]
        assert shown, f"{family.name} is shown without a value"
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found.append((name, family.type, tuple(sorted(shown[0].labels.keys() - {"le"}))))
    return found


def test_the_page_lists_what_a_scrape_shows() -> None:
    told, shown = on_the_page(), in_a_scrape()
    assert sorted(told) == sorted(shown)
    assert len(set(told)) == len(told)


def test_histograms_have_every_bound_that_dashboards_of_vllm_ask_for() -> None:
    metrics = Metrics()
    token = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80}
    first = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640}
    request = {0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680}
    tokens = {mantissa * 10**exponent for mantissa in (1, 2, 5) for exponent in range(6)}
    assert token <= set(metrics.inter_token.bounds)
    assert token <= set(metrics.per_token.bounds)
    assert first | {2560} <= set(metrics.first_token.bounds)
    phases = (metrics.queue_time, metrics.prefill_time, metrics.decode_time, metrics.inference_time)
    for histogram in (metrics.latency, *phases):
        assert request <= set(histogram.bounds)
    sizes = (metrics.request_prompt, metrics.request_output, metrics.request_longest, metrics.request_computed)
    for histogram in (*sizes, metrics.asked_tokens):
        assert tokens <= set(histogram.bounds)
    assert set(metrics.asked_choices.bounds) == {1, 2, 5, 10, 20}
    assert all(sorted(each.bounds) == list(each.bounds) for each in metrics.histograms)
    assert STEP_SIZES == (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
