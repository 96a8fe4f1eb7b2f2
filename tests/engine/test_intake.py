"""A request as the scheduler gets it."""

from phalanx.engine.intake import sequence_of
from phalanx.engine.sequence import RequestKey
from phalanx.protocol import ApiServerId, RequestId, SamplingParams, Submit

KEY = RequestKey(ApiServerId(1), RequestId(2))


def submit(prompt: list[int], generated: list[int] | None = None, prompt_logprobs: int | None = None) -> Submit:
    sampling = SamplingParams(max_tokens=4, prompt_logprobs=prompt_logprobs)
    return Submit(RequestId(2), prompt, sampling, generated=generated or [], expected_tokens=3, priority=-1)


def test_prompt_logprobs_that_went_out_with_the_first_token_are_not_computed_again() -> None:
    assert sequence_of(submit([1, 2], prompt_logprobs=3), KEY, 1).sampling.prompt_logprobs == 3
    assert sequence_of(submit([1, 2], [5], prompt_logprobs=3), KEY, 1).sampling.prompt_logprobs is None


def test_a_sequence_carries_what_its_request_said() -> None:
    sequence = sequence_of(submit([1, 2], [5, 6, 7]), KEY, 11)
    assert (sequence.tokens, sequence.prompt_length, sequence.generated) == ([1, 2, 5, 6, 7], 2, 3)
    assert (sequence.priority, sequence.arrival, sequence.expected_tokens) == (-1, 11, 3)
