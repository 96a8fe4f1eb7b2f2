"""What a rank takes. Pure.

The same code asks twice: in an API server, so that what a client wrote is refused to the client, and in the rank, since
one bad request must not take the others down with it.
"""

from collections.abc import Sequence
from typing import NamedTuple

from phalanx.protocol.engine import SamplingParams


class Rejected(ValueError):
    """This request cannot run here; says why, for its author."""


class RequestLimits(NamedTuple):
    """What one rank can take."""

    vocab_size: int
    model_tokens: int
    """Longest prompt plus output that the model is configured for."""
    cache_tokens: int

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus output, in tokens: a sequence must fit into the KV cache alone."""
        return min(self.model_tokens, self.cache_tokens)

    def check(self, prompt: Sequence[int], sampling: SamplingParams, generated: Sequence[int] = ()) -> None:
        """Raises Rejected. `generated`: tokens that the request has already."""
        if not prompt:
            raise Rejected("the prompt has no tokens")
        self._check_vocabulary("prompt", prompt)
        self._check_vocabulary("generated", generated)
        self._check_vocabulary("logit_bias", tuple(sampling.logit_bias or ()))
        self._check_vocabulary("allowed_token_ids", sampling.allowed_token_ids)
        if not all(sampling.bad_words):
            raise Rejected("bad_words has a word without tokens")
        self._check_vocabulary("bad_words", [token for word in sampling.bad_words for token in word])
        if len(prompt) >= self.max_model_len:
            limit = (
                f"its KV cache holds {self.cache_tokens:,}"
                if self.cache_tokens < self.model_tokens
                else f"the model's limit is {self.model_tokens:,}"
            )
            raise Rejected(f"a prompt of {len(prompt):,} tokens and one of output do not fit into this rank: {limit}")

    def _check_vocabulary(self, name: str, tokens: Sequence[int]) -> None:
        for extreme in (min(tokens), max(tokens)) if tokens else ():
            if not 0 <= extreme < self.vocab_size:
                raise Rejected(f"{name} has token id {extreme:,}; the vocabulary ends at {self.vocab_size - 1:,}")
