"""What a rank refuses, and with which words."""

import pytest

from phalanx.engine.intake import Limits, Rejected, sequence_of
from phalanx.engine.sequence import RequestKey
from phalanx.protocol import ApiServerId, RequestId, SamplingParams, Submit

KEY = RequestKey(ApiServerId(1), RequestId(2))


def submit(prompt: list[int], generated: list[int] | None = None, prompt_logprobs: int | None = None) -> Submit:
    sampling = SamplingParams(max_tokens=4, prompt_logprobs=prompt_logprobs)
    return Submit(RequestId(2), prompt, sampling, generated=generated or [], expected_tokens=3, priority=-1)


def test_a_limit_of_the_cache_is_told_from_one_of_the_model() -> None:
    with pytest.raises(Rejected, match=r"a prompt of 20 tokens and one .*: its KV cache holds 16$"):
        Limits(vocab_size=100, model_tokens=4096, cache_tokens=16).check(submit([1] * 20))
    with pytest.raises(Rejected, match=r"the model's limit is 10$"):
        Limits(vocab_size=100, model_tokens=10, cache_tokens=16).check(submit([1] * 10))
    Limits(vocab_size=100, model_tokens=10, cache_tokens=16).check(submit([1] * 9))


def test_tokens_outside_the_vocabulary_are_refused_wherever_they_are() -> None:
    limits = Limits(vocab_size=100, model_tokens=4096, cache_tokens=4096)
    limits.check(submit([0, 99], [99]))
    with pytest.raises(Rejected, match="generated has token id 100; the vocabulary ends at 99"):
        limits.check(submit([1], [5, 100]))


def test_prompt_logprobs_that_went_out_with_the_first_token_are_not_computed_again() -> None:
    assert sequence_of(submit([1, 2], prompt_logprobs=3), KEY, 1).sampling.prompt_logprobs == 3
    assert sequence_of(submit([1, 2], [5], prompt_logprobs=3), KEY, 1).sampling.prompt_logprobs is None


def test_a_sequence_carries_what_its_request_said() -> None:
    sequence = sequence_of(submit([1, 2], [5, 6, 7]), KEY, 11)
    assert (sequence.tokens, sequence.prompt_length, sequence.generated) == ([1, 2, 5, 6, 7], 2, 3)
    assert (sequence.priority, sequence.arrival, sequence.expected_tokens) == (-1, 11, 3)
