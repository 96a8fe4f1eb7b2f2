"""The state of one API server: what every request handler works with."""

import time
from dataclasses import dataclass, field
from typing import Protocol

from phalanx.api.admission import Admission, Amount, bounds
from phalanx.api.engine_client import EngineClient
from phalanx.api.metrics import Metrics
from phalanx.api.service_ranks import ServiceRanks
from phalanx.api.supervisor_client import SupervisorClient
from phalanx.config import Config
from phalanx.protocol import RequestLimits
from phalanx.text.chat_template import ChatTemplate, NoChatTemplate
from phalanx.text.tokenizer import ModelTokenizer

UNKNOWN_CACHE = 65_536
"""Tokens that a rank's KV cache is taken to hold until one has said how many."""


class WatchedRequest(Protocol):
    """A request that has been admitted and has not ended."""

    def look(self) -> None:
        """Count what it holds by now; called once a second."""


@dataclass(slots=True)
class AppState:
    """What handlers share: the model's text, the ways to ranks and supervisor, and the count of what is held."""

    config: Config
    engine: EngineClient
    tokenizer: ModelTokenizer
    chat_template: ChatTemplate | NoChatTemplate
    metrics: Metrics
    supervisor: SupervisorClient
    ranks: ServiceRanks
    started: int
    """When this API server started, in Unix time."""
    draining: bool = field(default=False, kw_only=True)
    """Whether the service ends, so that no new requests are taken."""
    max_model_len: int
    """The most tokens that a prompt and its output may have: what the model takes, or less where the KV cache of an
    attached rank holds less."""
    admission: Admission = field(init=False)
    admitted_requests: set[WatchedRequest] = field(init=False, default_factory=set)

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
        """What a request may ask for, so that every attached rank takes it."""
        facts = self.config.facts
        return RequestLimits(facts.vocab_size, model_tokens=facts.max_model_len, cache_tokens=self.max_model_len)

    def ranks_changed(self) -> None:
        """Adjust the bounds to the attached ranks, some of which have just come or gone."""
        ranks = self.engine.ranks()
        if ranks:
            # While no rank is left, requests wait for the next one within the bounds there were.
            self.max_model_len = min(self.config.facts.max_model_len, *(rank.hello.max_model_len for rank in ranks))
            self.admission.bounds = self._bounds(
                sum(rank.hello.max_num_seqs for rank in ranks), sum(rank.hello.kv_cache_tokens for rank in ranks)
            )

    def others(self) -> Amount:
        """What the other API servers hold in requests and tokens, as the ranks last told it."""
        loads = [rank.load for rank in self.engine.ranks() if rank.load is not None]
        return Amount(
            sum(load.others_requests for load in loads),
            sum(load.others_prefill_tokens + load.others_decode_tokens for load in loads),
        )

    def look(self) -> None:
        """See after every admitted request; called once a second."""
        for admitted in list(self.admitted_requests):
            admitted.look()

    def _bounds(self, running: int, cache_tokens: int) -> Amount:
        http = self.config.http
        return bounds(running, cache_tokens, http.max_queued_requests, http.max_queued_tokens, http.max_held_bytes)
