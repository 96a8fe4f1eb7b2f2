"""Which rank gets a request: the one with the least expected work, as this API server sees it.

Pure: no I/O, no clock; the random source is handed in. What a rank has to do is this server's own live requests,
counted at once and exactly, plus what the rank last reported of all others' (`Load.others_*`). A report therefore
never overwrites a count of ours, and a burst is seen by the server that sends it before any report comes back.

Several API servers route at the same time on reports that are a step old. If each took the very best of all
ranks they would all take the same one, so each looks at a few ranks drawn at random and takes the best of those:
with old information two choices spread nearly as well as a full view and cannot herd (M. Mitzenmacher, "How
Useful Is Old Information?", IEEE TPDS 2000). `benchmarks/routing.py` prints the spread by number of choices.
"""

import random
from dataclasses import dataclass

from phalanx.protocol import Load, RankId, expected_remaining

CHOICES = 3
"""So many ranks are compared for a request; with three ranks or fewer, all of them are."""

PREFILL_WEIGHT = 0.2
"""The work of a prompt token, in output tokens: prompt tokens are computed many at a time."""

FIRST_GUESS = 128.0
"""The output tokens that are expected of a request before any has finished."""

LEARNING_RATE = 0.05
"""Weight of the newest finished request in the running mean of output lengths."""


@dataclass(slots=True)
class RankLoad:
    """What this API server knows of the work of one rank, which is counted in output tokens."""

    own_requests: int = 0
    own_prefill_tokens: int = 0
    own_decode_tokens: int = 0
    load: Load | None = None

    @property
    def work(self) -> float:
        prefill, decode = self.own_prefill_tokens, self.own_decode_tokens
        if self.load is not None:
            prefill += self.load.others_prefill_tokens
            decode += self.load.others_decode_tokens
        return prefill * PREFILL_WEIGHT + decode


@dataclass(slots=True, eq=False)
class Placement:
    """The share of one live request in the work of its rank."""

    rank: RankId
    prefill_tokens: int
    decode_tokens: int
    """Output tokens that are still expected."""
    expected_tokens: int
    """Output tokens that were expected at the start; `Submit` tells the rank of them."""
    max_tokens: int
    produced: int = 0


class RankRouter:
    """It counts what each rank has to do, and chooses the rank of a request."""

    def __init__(self, chance: random.Random, choices: int = CHOICES) -> None:
        self._chance = chance
        self._choices = choices
        self._mean_output = FIRST_GUESS
        self.ranks: dict[RankId, RankLoad] = {}
        self._leaving: frozenset[RankId] = frozenset()
        self._order: list[RankId] = []
        """The ranks that may be chosen."""

    def attach(self, rank: RankId) -> None:
        """Let a rank or a new incarnation of it take requests; it starts with nothing to do."""
        self.ranks[rank] = RankLoad()
        self._reorder()

    def detach(self, rank: RankId) -> None:
        """Give a rank no more requests, and forget its placements: releasing one later does nothing."""
        self.ranks.pop(rank, None)
        self._reorder()

    def leave(self, ranks: frozenset[RankId]) -> None:
        """Give nothing new to these ranks and no others, which finish what they have."""
        self._leaving = ranks
        self._reorder()

    def _reorder(self) -> None:
        self._order = [rank for rank in self.ranks if rank not in self._leaving]

    @property
    def open(self) -> bool:
        """Whether there is a rank to choose."""
        return bool(self._order)

    def report(self, rank: RankId, load: Load) -> None:
        view = self.ranks.get(rank)
        if view is not None:
            view.load = load

    def place(self, prompt_tokens: int, max_tokens: int, produced: int = 0) -> Placement | None:
        """Choose a rank and count the request there at once; None if none that stays is attached.

        `produced`: output tokens it has already, from a rank that is gone; they are computed anew like a prompt.
        """
        if not self._order:
            return None
        candidates = self._order
        if len(candidates) > self._choices:
            candidates = self._chance.sample(candidates, self._choices)
        # The draw breaks ties: equal ranks must not be taken in the same order by every API server.
        rank = min(candidates, key=lambda r: (self.ranks[r].work, self._chance.random()))
        expected = self.expected(max_tokens)
        left = expected_remaining(expected, max_tokens, produced)
        placement = Placement(rank, prompt_tokens + produced, left, expected, max_tokens, produced)
        view = self.ranks[rank]
        view.own_requests += 1
        view.own_prefill_tokens += placement.prefill_tokens
        view.own_decode_tokens += placement.decode_tokens
        return placement

    def expected(self, max_tokens: int) -> int:
        """How many output tokens a new request is likely to take."""
        return max(1, min(max_tokens, round(self._mean_output)))

    def progress(self, placement: Placement, tokens: int) -> None:
        """Count `tokens` new tokens of a request: its prompt is computed, and so many less are expected."""
        view = self.ranks.get(placement.rank)
        if view is None:
            return
        if placement.prefill_tokens:
            view.own_prefill_tokens -= placement.prefill_tokens
            placement.prefill_tokens = 0
        placement.produced += tokens
        left = expected_remaining(placement.expected_tokens, placement.max_tokens, placement.produced)
        view.own_decode_tokens -= placement.decode_tokens - left
        placement.decode_tokens = left

    def release(self, placement: Placement, finished: bool) -> None:
        """Forget a request that is over. Only one that `finished` by itself teaches what length to expect."""
        if finished:
            self._mean_output += LEARNING_RATE * (placement.produced - self._mean_output)
        view = self.ranks.get(placement.rank)
        if view is None:
            return
        view.own_requests -= 1
        view.own_prefill_tokens -= placement.prefill_tokens
        view.own_decode_tokens -= placement.decode_tokens
