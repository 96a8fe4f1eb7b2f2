"""What one API server counts, and how the counts of several add up. Names are vLLM's where the meaning is the same."""

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterable

import msgspec

from phalanx.protocol import RankId

log = logging.getLogger(__name__)

# Each has all bounds that vLLM has, so that what asks for one of them finds it, and finer ones below: small models are
# faster than vLLM's first bound.
_FIRST_TOKEN = (
    *(0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_ONE_TOKEN = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_REQUEST = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.3, 0.5, 0.8),
    *(1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_TOKENS = (
    *(1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3),
    *(1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6),
)
_CHOICES = (1.0, 2.0, 5.0, 10.0, 20.0)

Labels = tuple[str, ...]

ENGINE = "engine"
"""The label with the number of a rank, which is empty where no rank has run the request."""
FINISHED = ("stop", "length", "abort", "error")
SOURCES = ("local_compute", "local_cache_hit")


class Counter:
    """A count that only goes up, with a value for each combination of label values that was met."""

    __slots__ = ("further", "help", "labels", "name", "values")

    def __init__(self, name: str, help: str, labels: Labels = (), further: Labels = ()) -> None:
        """`further` are the values of the label behind `engine`, which every rank has from its start."""
        self.name = name
        self.help = help
        self.labels = labels
        self.further = further
        self.values: dict[Labels, float] = {} if labels else {(): 0.0}

    def add(self, amount: float, *labels: str) -> None:
        self.values[labels] = self.values.get(labels, 0.0) + amount

    def refresh(self) -> None:
        """Bring its values up to date; this is called before they are read."""


class PolledCounter(Counter):
    """A count that is kept elsewhere in this process, and read when it is asked for."""

    __slots__ = ("_seen", "read")

    def __init__(self, name: str, help: str) -> None:
        super().__init__(name, help)
        self.read: Callable[[], float] = lambda: 0.0
        self._seen = 0.0

    def refresh(self) -> None:
        now = self.read()
        self.add(now - self._seen)
        self._seen = now


class Gauge(Counter):
    """A value of the moment, which is read when it is asked for; those of several API servers add up."""

    __slots__ = ("read",)

    def __init__(self, name: str, help: str) -> None:
        super().__init__(name, help)
        self.read: Callable[[], float] = lambda: 0.0

    def refresh(self) -> None:
        self.values[()] = self.read()


class Observations:
    """`counts[i]` are the observations in (bounds[i - 1], bounds[i]]; the last are all those above the last bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


class Histogram:
    """What was observed of each rank, told apart by upper bounds."""

    __slots__ = ("bounds", "help", "name", "values")

    labels: Labels = (ENGINE,)

    def __init__(self, name: str, help: str, bounds: tuple[float, ...]) -> None:
        self.name = name
        self.help = help
        self.bounds = bounds
        self.values: dict[Labels, Observations] = {}

    def of(self, labels: Labels) -> Observations:
        found = self.values.get(labels)
        if found is None:
            found = self.values[labels] = Observations(self.bounds)
        return found

    def observe(self, value: float, labels: Labels) -> None:
        self.of(labels).add(value)


class Samples(msgspec.Struct, array_like=True):
    """One API server's values at one moment; what MetricsReport carries."""

    counters: dict[str, list[tuple[Labels, float]]]
    histograms: dict[str, list[tuple[Labels, list[int], float]]]


_decoder = msgspec.msgpack.Decoder(Samples)


class Metrics:
    """What one API server counts."""

    def __init__(self) -> None:
        self.prompt_tokens = Counter(
            "vllm:prompt_tokens", "Prompt tokens of requests that got a first token.", (ENGINE,)
        )
        self.prompt_sources = Counter(
            "vllm:prompt_tokens_by_source", "The same, by where keys and values came from.", (ENGINE, "source"), SOURCES
        )
        self.prompt_cached = Counter(
            "vllm:prompt_tokens_cached", "The same, as far as the prefix cache held them.", (ENGINE,)
        )
        self.generation_tokens = Counter("vllm:generation_tokens", "Tokens generated.", (ENGINE,))
        self.finished = Counter(
            "vllm:request_success",
            "Completions that ended, by reason; abort: the client left; error: the engine failed.",
            (ENGINE, "finished_reason"),
            FINISHED,
        )
        self.refused = Counter(
            "phalanx:requests_refused", "Requests and connections refused for overload, by reason.", ("reason",)
        )
        self.cut = Counter(
            "phalanx:connections_cut",
            "Connections ended for what their client did not do: read, or send a head or a body in time.",
            ("reason",),
        )
        self.replays = PolledCounter("phalanx:request_replays", "Times a request was carried on at another rank.")
        self.timed_out = Counter("phalanx:requests_timed_out", "Requests ended by their own `timeout`.")
        self.held_requests = Gauge("phalanx:held_requests", "Completions that API servers have taken and not ended.")
        self.held_tokens = Gauge("phalanx:held_tokens", "Prompt and expected output tokens of those.")
        self.held_bytes = Gauge("phalanx:held_bytes", "Memory that those hold in API servers, estimated.")
        self.connections = Gauge("phalanx:connections", "Open HTTP connections.")
        self.http = Counter("http_requests", "HTTP requests answered.", ("handler", "method", "status"))
        self.first_token = Histogram(
            "vllm:time_to_first_token_seconds", "From the request's arrival to its first token.", _FIRST_TOKEN
        )
        self.inter_token = Histogram("vllm:inter_token_latency_seconds", "Time between two tokens.", _ONE_TOKEN)
        self.per_token = Histogram(
            "vllm:request_time_per_output_token_seconds", "A request's mean time a token after the first.", _ONE_TOKEN
        )
        self.latency = Histogram(
            "vllm:e2e_request_latency_seconds", "From the request's arrival to its last token.", _REQUEST
        )
        self.queue_time = Histogram(
            "vllm:request_queue_time_seconds", "From a request's arrival in its rank until a step ran it.", _REQUEST
        )
        self.prefill_time = Histogram("vllm:request_prefill_time_seconds", "From then to its first token.", _REQUEST)
        self.decode_time = Histogram("vllm:request_decode_time_seconds", "From its first to its last token.", _REQUEST)
        self.inference_time = Histogram(
            "vllm:request_inference_time_seconds", "Prefill and decode time together.", _REQUEST
        )
        self.request_prompt = Histogram("vllm:request_prompt_tokens", "Prompt tokens a completion.", _TOKENS)
        self.request_computed = Histogram(
            "vllm:request_prefill_kv_computed_tokens", "Of these, those that no prefix cache held.", _TOKENS
        )
        self.request_output = Histogram("vllm:request_generation_tokens", "Generated tokens a completion.", _TOKENS)
        self.request_longest = Histogram(
            "vllm:request_max_num_generation_tokens", "Generated tokens of a prompt's longest completion.", _TOKENS
        )
        self.asked_tokens = Histogram("vllm:request_params_max_tokens", "max_tokens a completion.", _TOKENS)
        self.asked_choices = Histogram("vllm:request_params_n", "Completions a prompt.", _CHOICES)

    @property
    def counters(self) -> list[Counter]:
        return [metric for metric in vars(self).values() if isinstance(metric, Counter)]

    @property
    def histograms(self) -> list[Histogram]:
        return [metric for metric in vars(self).values() if isinstance(metric, Histogram)]

    def samples(self) -> bytes:
        """All values, for another API server that is being scraped."""
        for counter in self.counters:
            counter.refresh()
        return msgspec.msgpack.encode(
            Samples(
                {counter.name: list(counter.values.items()) for counter in self.counters},
                {
                    histogram.name: [(labels, found.counts, found.total) for labels, found in histogram.values.items()]
                    for histogram in self.histograms
                },
            )
        )

    def merged(self, siblings: Iterable[bytes], kept: Iterable[bytes] = ()) -> "Metrics":
        """The sum of this server's values, those of its `siblings`, and those `kept` of servers that are not there."""
        merged = Metrics()
        for data in (self.samples(), *siblings):
            merged._take(data, gauges=True)
        for data in kept:
            merged._take(data, gauges=False)
        return merged

    def count_on(self, data: bytes) -> None:
        """Begin with what the predecessor in this server's place had counted."""
        self._take(data, gauges=False)

    def begin(self, rank: RankId) -> None:
        """Show a rank from its start, and not only once it has counted something: a rate needs the zero before."""
        engine = str(rank)
        for counter in self.counters:
            if counter.labels[:1] == (ENGINE,):
                for further in counter.further or (None,):
                    counter.values.setdefault((engine,) if further is None else (engine, further), 0.0)
        for histogram in self.histograms:
            histogram.of((engine,))

    def _take(self, data: bytes, *, gauges: bool) -> None:
        """Add samples. What this release does not know, or counts in other buckets, is left out."""
        try:
            samples = _decoder.decode(data)
        except msgspec.DecodeError as error:
            log.warning("samples of another API server do not decode, and are left out: %s", error)
            return
        for counter in self.counters:
            if gauges or not isinstance(counter, Gauge):
                for labels, value in samples.counters.get(counter.name, ()):
                    counter.add(value, *labels)
        for histogram in self.histograms:
            for engine, counts, total in samples.histograms.get(histogram.name, ()):
                if len(counts) == len(histogram.bounds) + 1:
                    found = histogram.of(engine)
                    found.counts = [a + b for a, b in zip(found.counts, counts, strict=True)]
                    found.total += total
