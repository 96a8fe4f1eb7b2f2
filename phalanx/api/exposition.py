"""The whole service's metrics in Prometheus' text form.

A scrape reaches any one API server. It gathers its siblings' samples through the supervisor and adds up those that
count requests; what ranks report of themselves (`Load`) every API server hears, so it comes from the scraped one
alone and nothing is counted twice.

Imported with the first scrape: prometheus_client brings an HTTP server and client of its own.
"""

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import core, registry
from prometheus_client.exposition import generate_latest

from phalanx.api.engine_client import RankStatus
from phalanx.api.metrics import Gauge, Labels, Metrics
from phalanx.config import EngineOptions
from phalanx.protocol import STEP_SIZES, MetricsGathered

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


def exposition(
    merged: Metrics,
    ranks: list[RankStatus],
    gathered: MetricsGathered,
    model: str,
    expected_ranks: int,
    engine: EngineOptions,
) -> bytes:
    """The text that Prometheus reads.

    `merged`: the sum over all API servers; `gathered`: what the supervisor said of the others; `ranks`: as the scraped
    one sees them.
    """

    def families() -> Iterator[core.Metric]:
        for counter in merged.counters:
            family_type = core.GaugeMetricFamily if isinstance(counter, Gauge) else core.CounterMetricFamily
            labelled = family_type(counter.name, counter.help, labels=("model_name", *counter.labels))
            for labels, value in counter.values.items():
                labelled.add_metric((model, *labels), value)
            yield labelled
        for histogram in merged.histograms:
            family = core.HistogramMetricFamily(
                histogram.name, histogram.help, labels=("model_name", *histogram.labels)
            )
            for labels, found in histogram.values.items():
                _add_histogram(family, (model, *labels), histogram.bounds, found.counts, found.total)
            yield family
        yield from _rank_families(ranks, model)
        yield _cache_family(ranks, model, engine)
        yield from _restart_families(gathered, model)
        servers = 1 + len(gathered.samples)
        yield core.GaugeMetricFamily("phalanx:api_servers", "API servers that answered this scrape.", servers)
        yield core.GaugeMetricFamily("phalanx:ranks", "Engine ranks attached.", len(ranks))
        yield core.GaugeMetricFamily("phalanx:ranks_expected", "Engine ranks of the service.", expected_ranks)

    class Once(registry.Collector):
        def collect(self) -> Iterable[core.Metric]:
            return families()

    collected = registry.CollectorRegistry(auto_describe=False)
    collected.register(Once())
    return generate_latest(collected)


def _add_histogram(
    family: core.HistogramMetricFamily, labels: Labels, bounds: Sequence[float], counts: Sequence[int], total: float
) -> None:
    """`counts`: not summed up, one more than `bounds`."""
    buckets, seen = [], 0
    for bound, count in zip((*(str(float(bound)) for bound in bounds), "+Inf"), counts, strict=True):
        seen += count
        buckets.append((bound, float(seen)))
    family.add_metric(labels, buckets, total)


_RANK_GAUGES = (
    ("vllm:num_requests_running", "Requests that the rank runs."),
    ("vllm:num_requests_waiting", "Requests that wait in the rank."),
    ("vllm:kv_cache_usage_perc", "Share of the rank's KV cache in use; 1 is all of it."),
)
_RANK_COUNTERS = (
    ("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache."),
    ("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache."),
    ("vllm:num_preemptions", "Running requests put back to free KV cache."),
    ("phalanx:engine_steps", "Steps of the rank."),
)


def _restart_families(gathered: MetricsGathered, model: str) -> Iterator[core.Metric]:
    ranks = core.CounterMetricFamily(
        "phalanx:rank_restarts", "Times the rank was started again after a fall.", labels=("model_name", "engine")
    )
    for rank, count in gathered.rank_restarts.items():
        ranks.add_metric((model, str(rank)), count)
    yield ranks
    servers = core.CounterMetricFamily(
        "phalanx:api_server_restarts",
        "Times the API server was started again after a fall.",
        labels=("model_name", "api_server"),
    )
    for index, count in gathered.api_server_restarts.items():
        servers.add_metric((model, str(index)), count)
    yield servers


def _rank_families(ranks: list[RankStatus], model: str) -> Iterator[core.Metric]:
    labels = ("model_name", "engine")
    gauges = [core.GaugeMetricFamily(*named, labels=labels) for named in _RANK_GAUGES]
    counters = [core.CounterMetricFamily(*named, labels=labels) for named in _RANK_COUNTERS]
    for status in ranks:
        load = status.load
        if load is None:
            continue
        of = (model, str(status.rank))
        shares = (load.running, load.waiting, load.kv_used_tokens / max(load.kv_total_tokens, 1))
        for gauge, value in zip(gauges, shares, strict=True):
            gauge.add_metric(of, value)
        counts = (load.prefix_query_tokens, load.prefix_hit_tokens, load.preemptions, load.steps)
        for counter, count in zip(counters, counts, strict=True):
            counter.add_metric(of, count)
    yield from gauges
    yield from counters
    steps = core.HistogramMetricFamily(
        "vllm:iteration_tokens_total", "Tokens that a step of the rank ran.", labels=labels
    )
    for status in ranks:
        told = status.step_tokens
        # A rank of another release may tell the sizes of its steps by other bounds.
        if told is not None and len(told.steps) == len(STEP_SIZES) + 1:
            _add_histogram(steps, (model, str(status.rank)), STEP_SIZES, told.steps, told.tokens)
    yield steps


def _cache_family(ranks: list[RankStatus], model: str, engine: EngineOptions) -> core.Metric:
    """Always 1: what it tells stands in its labels. The names are vLLM's, also where there is no GPU."""
    info = core.GaugeMetricFamily(
        "vllm:cache_config_info",
        "The rank's KV cache, in its labels.",
        labels=("model_name", "engine", "block_size", "num_gpu_blocks", "enable_prefix_caching"),
    )
    for status in ranks:
        size = engine.block_size
        blocks = status.hello.kv_cache_tokens // size
        info.add_metric((model, str(status.rank), str(size), str(blocks), str(engine.enable_prefix_caching)), 1)
    return info
