"""From a Submit to a Sequence, or the reason why not. Pure.

API servers check requests before they send them; a rank checks again, since one bad request must not take the
others down with it.
"""

from typing import NamedTuple

import msgspec

from phalanx.engine.sequence import RequestKey, Sequence
from phalanx.protocol import Submit


class Rejected(ValueError):
    """This request cannot run here; says why, for its author."""


class Limits(NamedTuple):
    """What one rank can take."""

    vocab_size: int
    model_tokens: int
    """Longest prompt plus output that the model is configured for."""
    cache_tokens: int

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus output, in tokens: a sequence must fit into the KV cache alone."""
        return min(self.model_tokens, self.cache_tokens)

    def check(self, submit: Submit) -> None:
        """Raises Rejected."""
        if not submit.prompt:
            raise Rejected("the prompt has no tokens")
        for name, tokens in (("prompt", submit.prompt), ("generated", submit.generated)):
            for extreme in (min(tokens), max(tokens)) if tokens else ():
                if not 0 <= extreme < self.vocab_size:
                    raise Rejected(f"{name} has token id {extreme:,}; the vocabulary ends at {self.vocab_size - 1:,}")
        if len(submit.prompt) >= self.max_model_len:
            limit = (
                f"its KV cache holds {self.cache_tokens:,}"
                if self.cache_tokens < self.model_tokens
                else f"the model's limit is {self.model_tokens:,}"
            )
            raise Rejected(
                f"a prompt of {len(submit.prompt):,} tokens and one of output do not fit into this rank: {limit}"
            )


def sequence_of(submit: Submit, key: RequestKey, arrival: int) -> Sequence:
    """A request on its way into the scheduler; tokens it has generated elsewhere count as output already."""
    sampling = submit.sampling
    if submit.generated and sampling.prompt_logprobs is not None:
        # They went out with its first token.
        sampling = msgspec.structs.replace(sampling, prompt_logprobs=None)
    return Sequence(
        key=key,
        tokens=submit.prompt + submit.generated,
        prompt_length=len(submit.prompt),
        sampling=sampling,
        priority=submit.priority,
        arrival=arrival,
        expected_tokens=submit.expected_tokens,
    )
