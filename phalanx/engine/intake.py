"""From a Submit to a Sequence. Pure."""

import msgspec

from phalanx.engine.sequence import RequestKey, Sequence
from phalanx.protocol import Submit


def sequence_of(submit: Submit, key: RequestKey, arrival: int, now: float = 0.0) -> Sequence:
    """A request on its way into the scheduler; tokens it has generated elsewhere count as output already.

    `now`: seconds, on the clock that the scheduler is told.
    """
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
        queued_at=now,
        expected_tokens=submit.expected_tokens,
    )
