"""What every request handler works with."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from phalanx.api.admission import Admission, Amount, bounds
from phalanx.api.engine_client import EngineClient
from phalanx.api.metrics import Metrics
from phalanx.api.operator import Operator
from phalanx.api.roster import Attendance
from phalanx.config import Config
from phalanx.protocol import MetricsGathered, RequestLimits
from phalanx.text.chat_template import ChatTemplate, NoChatTemplate
from phalanx.text.tokenizer import ModelTokenizer

UNKNOWN_CACHE = 65_536
"""Tokens that a rank's KV cache is taken to hold until one has said how many."""


class Watched(Protocol):
    """A request that has been admitted and not ended."""

    def look(self) -> None:
        """Called once a second."""


@dataclass(slots=True)
class Service:
    config: Config
    engine: EngineClient
    tokenizer: ModelTokenizer
    chat_template: ChatTemplate | NoChatTemplate
    metrics: Metrics
    gather: Callable[[], Awaitable[MetricsGathered]]
    """What siblings have counted, and the supervisor."""
    operator: Operator
    roster: Attendance
    started: int
    """Unix time."""
    draining: bool = field(default=False, kw_only=True)
    """The service ends: no new requests."""
    max_model_len: int
    """Longest prompt plus output in tokens: the model's, or less where an attached rank's KV cache holds less."""
    admission: Admission = field(init=False)
    flights: set[Watched] = field(init=False, default_factory=set)

    clock = staticmethod(time.monotonic)

    def __post_init__(self) -> None:
        ranks, engine = self.config.parallel.data_parallel_size, self.config.engine
        tokens = engine.kv_cache_tokens or max(UNKNOWN_CACHE, self.max_model_len)
        self.admission = Admission(self._bounds(ranks * engine.max_num_seqs, ranks * tokens))
        metrics, admission = self.metrics, self.admission
        metrics.held_requests.read = lambda: admission.held.requests
        metrics.held_tokens.read = lambda: admission.held.tokens
        metrics.held_bytes.read = lambda: admission.held.bytes
        metrics.replays.read = lambda: self.engine.replays

    @property
    def limits(self) -> RequestLimits:
        """What every attached rank takes."""
        facts = self.config.facts
        return RequestLimits(facts.vocab_size, model_tokens=facts.max_model_len, cache_tokens=self.max_model_len)

    def ranks_changed(self) -> None:
        """Ranks have come or gone."""
        ranks = self.engine.ranks()
        if ranks:
            # Where none is left, requests wait for the next one in the room there was.
            self.max_model_len = min(self.config.facts.max_model_len, *(rank.hello.max_model_len for rank in ranks))
            self.admission.bounds = self._bounds(
                sum(rank.hello.max_num_seqs for rank in ranks), sum(rank.hello.kv_cache_tokens for rank in ranks)
            )

    def others(self) -> Amount:
        """What the ranks last told of the other API servers' requests."""
        loads = [rank.load for rank in self.engine.ranks() if rank.load is not None]
        return Amount(
            sum(load.others_requests for load in loads),
            sum(load.others_prefill_tokens + load.others_decode_tokens for load in loads),
        )

    def look(self) -> None:
        """Once a second: see after every request."""
        for flight in list(self.flights):
            flight.look()

    def _bounds(self, seats: int, cache_tokens: int) -> Amount:
        http = self.config.http
        return bounds(seats, cache_tokens, http.max_queued_requests, http.max_queued_tokens, http.max_held_bytes)
