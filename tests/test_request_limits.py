"""What a rank refuses, and with which words; API servers ask the same code first."""

import pytest

from phalanx.protocol import Rejected, RequestLimits, SamplingParams

SAMPLING = SamplingParams(max_tokens=4)


def test_a_limit_of_the_cache_is_told_from_one_of_the_model() -> None:
    with pytest.raises(Rejected, match=r"a prompt of 20 tokens and one .*: its KV cache holds 16$"):
        RequestLimits(vocab_size=100, model_tokens=4096, cache_tokens=16).check([1] * 20, SAMPLING)
    with pytest.raises(Rejected, match=r"the model's limit is 10$"):
        RequestLimits(vocab_size=100, model_tokens=10, cache_tokens=16).check([1] * 10, SAMPLING)
    RequestLimits(vocab_size=100, model_tokens=10, cache_tokens=16).check([1] * 9, SAMPLING)


def test_tokens_outside_the_vocabulary_are_refused_wherever_they_are() -> None:
    limits = RequestLimits(vocab_size=100, model_tokens=4096, cache_tokens=4096)
    limits.check([0, 99], SamplingParams(max_tokens=4, logit_bias={0: 1.0, 99: 1.0}), [99])
    with pytest.raises(Rejected, match="generated has token id 100; the vocabulary ends at 99"):
        limits.check([1], SAMPLING, [5, 100])
    with pytest.raises(Rejected, match="prompt has token id -1"):
        limits.check([-1], SAMPLING)
    with pytest.raises(Rejected, match="logit_bias has token id 100"):
        limits.check([1], SamplingParams(max_tokens=4, logit_bias={100: 1.0}))
    with pytest.raises(Rejected, match="allowed_token_ids has token id 100"):
        limits.check([1], SamplingParams(max_tokens=4, allowed_token_ids=(5, 100)))
    with pytest.raises(Rejected, match="bad_words has token id 100"):
        limits.check([1], SamplingParams(max_tokens=4, bad_words=((5,), (5, 100))))
    with pytest.raises(Rejected, match="bad_words has a word without tokens"):
        limits.check([1], SamplingParams(max_tokens=4, bad_words=((),)))


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(Rejected, match="no tokens"):
        RequestLimits(vocab_size=100, model_tokens=10, cache_tokens=10).check([], SAMPLING)
