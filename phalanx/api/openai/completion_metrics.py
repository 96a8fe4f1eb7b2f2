"""What metrics hear of one completion, from its arrival to its end."""

from collections.abc import Sequence
from time import perf_counter

from phalanx.api.metrics import Labels, Metrics, Observations
from phalanx.api.rank_router import Placement
from phalanx.protocol import PhaseTimes, RequestOutput


class CompletionMetrics:
    """It counts one completion for the rank that runs it; where that changes, what comes counts for whom it came from.

    All times are this process's own, but for the two phases that a rank measures itself and tells as durations.
    """

    __slots__ = (
        "_arrival",
        "_cached",
        "_engine",
        "_first",
        "_gaps",
        "_last",
        "_max_tokens",
        "_metrics",
        "_placement",
        "_prompt",
        "_times",
        "_tokens",
    )

    def __init__(self, metrics: Metrics, arrival: float, prompt: int, max_tokens: int) -> None:
        """`prompt` is how many tokens that has; `max_tokens` is 0 for one that is only scored.

        `arrival`: of the HTTP request, on perf_counter's clock.
        """
        self._metrics = metrics
        self._arrival = arrival
        self._prompt = prompt
        self._max_tokens = max_tokens
        self._placement: Placement | None = None
        self._engine: Labels = ("",)
        self._gaps: Observations
        """The times between two tokens of this rank."""
        self._first = 0.0
        self._last = 0.0
        self._cached = 0
        self._times: PhaseTimes | None = None
        self._tokens: int | None = None
        """How many tokens its client gets, once it has ended."""

    @property
    def first_token(self) -> float | None:
        """Seconds from the request's arrival to its first token, or None where there is none yet."""
        return self._first - self._arrival if self._first else None

    def came(self, output: RequestOutput, placement: Placement | None) -> None:
        """Count what a rank has brought of it."""
        now = perf_counter()
        if placement is not self._placement:
            self._find_engine(placement)
        count = len(output.tokens)
        if not self._last:
            self._begin(output, now)
        elif count:
            self._gaps.add((now - self._last) / count, count)
        self._last = now
        if self._max_tokens:
            # The token that comes with a prompt's scores is shown to nobody.
            self._metrics.generation_tokens.values[self._engine] += count

    def _find_engine(self, placement: Placement | None) -> None:
        self._placement = placement
        self._engine = ("" if placement is None else str(placement.rank),)
        self._gaps = self._metrics.inter_token.of(self._engine)
        self._metrics.generation_tokens.values.setdefault(self._engine, 0.0)

    def _begin(self, output: RequestOutput, now: float) -> None:
        metrics, engine = self._metrics, self._engine
        self._first, self._cached, self._times = now, output.cached_tokens, output.times
        metrics.first_token.observe(now - self._arrival, engine)
        metrics.prompt_tokens.add(self._prompt, *engine)
        metrics.prompt_cached.add(self._cached, *engine)
        metrics.prompt_sources.add(self._prompt - self._cached, *engine, "local_compute")
        metrics.prompt_sources.add(self._cached, *engine, "local_cache_hit")

    def ended(self, reason: str, tokens: int) -> None:
        """Count that it is complete; `tokens` are those that its client gets."""
        metrics, engine = self._metrics, self._engine
        self._tokens = tokens
        decode = self._last - self._first
        metrics.finished.add(1, *engine, reason)
        metrics.latency.observe(self._last - self._arrival, engine)
        if self._times is not None:
            metrics.queue_time.observe(self._times.queue, engine)
            metrics.prefill_time.observe(self._times.prefill, engine)
            metrics.decode_time.observe(decode, engine)
            metrics.inference_time.observe(self._times.prefill + decode, engine)
        if tokens > 1:
            metrics.per_token.observe(decode / (tokens - 1), engine)
        metrics.request_prompt.observe(self._prompt, engine)
        metrics.request_computed.observe(self._prompt - self._cached, engine)
        metrics.request_output.observe(tokens, engine)
        metrics.asked_tokens.observe(self._max_tokens, engine)

    def broke_off(self, placement: Placement | None, *, failed: bool) -> None:
        """Count that it ends before it is complete: the engine `failed`, or else nobody wants the rest."""
        self._find_engine(placement)
        self._metrics.finished.add(1, *self._engine, "error" if failed else "abort")


def count_prompt(metrics: Metrics, completions: Sequence[CompletionMetrics]) -> None:
    """Count a prompt once all of its completions have ended, for the rank of the first of them."""
    lengths = [each._tokens for each in completions if each._tokens is not None]
    if len(lengths) == len(completions):
        engine = completions[0]._engine
        metrics.asked_choices.observe(len(completions), engine)
        metrics.request_longest.observe(max(lengths), engine)
