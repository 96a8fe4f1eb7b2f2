"""Sampling: each filter against a slow, plain reference; statistics; the same seed gives the same token anywhere."""

import math
from fractions import Fraction
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from phalanx.engine.sampler import Sampler
from phalanx.engine.sequence import RequestKey, Sampled, Sequence
from phalanx.kernels.device import kernels_for
from phalanx.protocol import ApiServerId, RequestId, SamplingParams

VOCABULARY = 1000
EOS = 2
SAMPLER = Sampler(kernels_for("cpu", 1), (EOS,))
PARAMS = SamplingParams(max_tokens=100)


def make_sequence(
    prompt: list[int] | None = None, output: list[int] | None = None, params: SamplingParams = PARAMS, **change: Any
) -> Sequence:
    prompt = prompt or [1]
    key = RequestKey(ApiServerId(0), RequestId(0))
    return Sequence(key, prompt + (output or []), len(prompt), msgspec.structs.replace(params, **change))


def make_logits(seed: int = 0, vocabulary: int = VOCABULARY, scale: float = 3.0) -> Tensor:
    return torch.randn(vocabulary, generator=torch.Generator().manual_seed(seed)) * scale


def sample_one(logits_V: Tensor, sequence: Sequence) -> Sampled:
    return SAMPLER.sample(logits_V[None].clone(), [sequence])[0]


def reference_probabilities(logits_V: Tensor, params: SamplingParams) -> Tensor:
    """min_p, then top_k, then top_p of what these leave, one token at a time; among equals the lower id goes first."""
    probabilities = torch.softmax(logits_V.double() / params.temperature, -1).tolist()
    order = sorted(range(len(probabilities)), key=lambda token: (-probabilities[token], token))
    kept = [token for token in order if probabilities[token] >= params.min_p * probabilities[order[0]]]
    if params.top_k:
        kept = kept[: params.top_k]
    mass, nucleus = 0.0, []
    whole = sum(probabilities[token] for token in kept)
    for token in kept:
        nucleus.append(token)
        mass += probabilities[token]
        if params.top_p < 1 and mass >= params.top_p * whole:
            break
    result = torch.zeros(len(probabilities), dtype=torch.float64)
    result[nucleus] = torch.tensor([probabilities[token] for token in nucleus], dtype=torch.float64)
    return result / result.sum()


FILTERS: list[dict[str, float]] = [
    {},
    {"temperature": 0.3},
    {"temperature": 5.0},
    {"top_k": 1},
    {"top_k": 10},
    {"top_k": 300},
    {"top_k": 5000},
    {"top_p": 0.5},
    {"top_p": 0.95},
    {"top_p": 1e-9},
    {"top_p": 0.9999},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"top_k": 20, "top_p": 0.8, "temperature": 0.7},
    {"top_k": 100, "top_p": 0.9, "min_p": 0.02, "temperature": 1.5},
]


def draws(logits_V: Tensor, count: int, **params: Any) -> Tensor:
    """How often each token comes, over `count` seeds."""
    sequences = [make_sequence(seed=seed, **params) for seed in range(count)]
    tokens = [sampled.token for sampled in SAMPLER.sample(logits_V.repeat(count, 1), sequences)]
    return torch.bincount(torch.tensor(tokens), minlength=len(logits_V))


@pytest.mark.parametrize("params", FILTERS, ids=str)
def test_tokens_come_as_often_as_their_probabilities_say(params: dict[str, Any]) -> None:
    """Chi-square over the tokens that are expected at least 5 times, the rest taken together."""
    logits_V, count = make_logits(vocabulary=300), 4000
    counts = draws(logits_V, count, **params)
    expected = reference_probabilities(logits_V, msgspec.structs.replace(PARAMS, **params)) * count
    assert int(counts[expected == 0].sum()) == 0
    often = expected >= 5
    seen = torch.cat((counts[often].double(), counts[~often].sum()[None].double()))
    wanted = torch.cat((expected[often], expected[~often].sum()[None]))
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    freedom = len(wanted) - 1
    statistic = float(((seen - wanted) ** 2 / wanted).sum())
    # Wilson and Hilferty: a normal variable, whose 4 sigma the fixed seeds stay within.
    if freedom:
        sigma = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
        assert sigma < 4
    else:
        assert statistic < 1e-9


@pytest.mark.parametrize("params", [filter for filter in FILTERS if filter], ids=str)
@pytest.mark.parametrize("vocabulary", [17, 1000, 20_011])
@pytest.mark.parametrize("scale", [0.001, 3.0, 40.0])
def test_filters_keep_exactly_the_reference_candidates(params: dict[str, Any], vocabulary: int, scale: float) -> None:
    """Random numbers swept over [0, 1) reach every candidate of a short list, and never anything else."""
    logits_V = make_logits(5, vocabulary, scale)
    candidates = reference_probabilities(logits_V, msgspec.structs.replace(PARAMS, **params))
    counts = draws(logits_V, 300, **params)
    assert int(counts[candidates == 0].sum()) == 0
    assert int((counts[candidates > 0.1] == 0).sum()) == 0


def test_equal_logits_are_cut_by_token_id() -> None:
    counts = draws(torch.zeros(VOCABULARY), 400, top_k=7)
    assert counts.nonzero().flatten().tolist() == list(range(7))
    counts = draws(torch.zeros(VOCABULARY), 400, top_p=0.0045)
    assert counts.nonzero().flatten().tolist() == list(range(5))
    counts = draws(torch.tensor([1.0, 1.0, 1.0, 2.0, 1.0]).log(), 3000, top_k=2)
    assert counts[[1, 2, 4]].tolist() == [0, 0, 0]
    assert int(counts[3]) == pytest.approx(2000, abs=120)


def test_temperature_zero_takes_the_most_likely_and_the_lowest_of_equals() -> None:
    logits_V = make_logits()
    assert sample_one(logits_V, make_sequence(temperature=0.0)).token == int(logits_V.argmax())
    logits_V[[400, 77, 900]] = 100.0
    assert sample_one(logits_V, make_sequence(temperature=0.0)).token == 77


def test_a_temperature_near_zero_takes_the_most_likely() -> None:
    logits_V = make_logits()
    assert sample_one(logits_V, make_sequence(temperature=1e-30)).token == int(logits_V.argmax())


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-46, 1e-45, 1e-40, 1e-38, 1e-30, 1e-12])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e30, 3e38])
def test_a_temperature_of_nearly_nothing_takes_the_most_likely(temperature: float, scale: float) -> None:
    """Where several are the most likely, each as often as the others, which is the limit; and never an unlikely one."""
    logits_V = make_logits(scale=1.0).tanh() * scale
    logits_V[[77, 900]] = scale
    counts = draws(logits_V, 100, temperature=temperature)
    assert counts.nonzero().flatten().tolist() == [77, 900]
    assert 25 < int(counts[77]) < 75


EXTREMES: dict[str, list[float]] = {
    "temperature": [0.0, 5e-324, 1e-300, 2.0, 100.0],
    "top_p": [1e-9, 5e-324, 1 - 2**-53, 1.0],
    "top_k": [0, 1, VOCABULARY, 2**31 - 1],
    "min_p": [0.0, 5e-324, 1e-300, 1 - 2**-53, 1.0],
    "presence_penalty": [-2.0, -5e-324, 5e-324, 2.0],
    "frequency_penalty": [-2.0, -5e-324, 5e-324, 2.0],
    "repetition_penalty": [5e-324, 1e-300, 1e-30, 100.0],
    "seed": [0, 2**63, 2**64 - 1],
}


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30, 3e38])
def test_every_pair_of_extremes_takes_a_token_that_the_reference_takes(scale: float) -> None:
    """Of all pairs of extreme values: what is drawn has a probability that is not nothing, computed without limits."""
    logits_V = make_logits(3, vocabulary=40, scale=1.0).tanh() * scale
    singles = [(name, value) for name, values in EXTREMES.items() for value in values]
    pairs = [dict([one, other]) for one in singles for other in singles if one[0] < other[0]]
    sequences = [
        make_sequence([1, 2], [3, 3, 4], seed=9, **pair)
        if "seed" not in pair
        else make_sequence([1, 2], [3, 3, 4], **pair)
        for pair in pairs
    ]
    found = SAMPLER.sample(logits_V.repeat(len(pairs), 1), sequences)
    for pair, sequence, sampled in zip(pairs, sequences, found, strict=True):
        assert not sampled.error, pair
        assert sampled.token in likely(logits_V, sequence), pair


def likely(logits_V: Tensor, sequence: Sequence) -> set[int]:
    """Tokens that may be drawn, in exact arithmetic but for the rounding of floats."""
    params = sequence.sampling
    output = sequence.tokens[sequence.prompt_length :]
    values = [Fraction(value) for value in logits_V.tolist()]
    repetition = Fraction(params.repetition_penalty)
    for token in set(sequence.tokens):
        value = values[token] / repetition if values[token] > 0 else values[token] * repetition
        if token in output:
            value -= output.count(token) * Fraction(params.frequency_penalty) + Fraction(params.presence_penalty)
        values[token] = value
    most = max(values)
    temperature = Fraction(params.temperature)
    # What a float cannot tell from the largest may be drawn in its place, be it the logit or the weight.
    near = (abs(most) + temperature) * Fraction(1, 2**20) + Fraction(1, 2**148)
    within = near + 90 * temperature
    order = sorted(range(len(values)), key=lambda token: -values[token])
    kept = order[: params.top_k] if params.top_k else order
    if params.min_p > 0.5 or params.top_p < 0.01:
        within = near + temperature
    return {token for token in kept if most - values[token] <= within} | {
        token for token in order if most - values[token] <= near
    }


def test_penalties_beyond_the_largest_float_keep_their_order() -> None:
    logits_V = torch.full((VOCABULARY,), 5.0)
    logits_V[[10, 11, 12]] = torch.tensor([1.0, 2.0, -3.0])
    for repetition in (5e-324, 1e-300, 1e-39):
        for temperature in (0.0, 1e-300, 2.0):
            change = {"repetition_penalty": repetition, "temperature": temperature}
            assert sample_one(logits_V, make_sequence([10, 11, 12], **change)).token == 11
    logits_V = torch.full((VOCABULARY,), -3e38)
    logits_V[20] = -3.1e38
    seen = make_sequence(list(range(20)), repetition_penalty=100.0, temperature=0.0)
    assert sample_one(logits_V, seen).token == 21


def test_the_same_seed_and_position_give_the_same_token_in_any_batch() -> None:
    logits_V = make_logits(vocabulary=20_011, scale=1.0)
    changes: list[dict[str, Any]] = [
        {"seed": 2**64 - 1},
        {"seed": 5, "top_p": 0.9},
        {"seed": 5, "top_k": 50, "logprobs": 4},
        {"seed": 7, "repetition_penalty": 1.3, "logprobs": 4},
    ]
    for size in (1, 2, 5, 16):
        for change in changes:
            watched = make_sequence([3, 4], [5] * 6, **change)
            alone = sample_one(logits_V, watched)
            for place in {0, size // 2, size - 1}:
                rows = torch.stack([make_logits(n, 20_011) for n in range(size)])
                rows[place] = logits_V
                sequences = [make_sequence(seed=n, logprobs=n % 3 or None, min_p=n / 40) for n in range(size)]
                sequences[place] = watched
                assert SAMPLER.sample(rows, sequences)[place] == alone


def test_each_position_and_each_seed_has_a_random_number_of_its_own() -> None:
    logits_V = torch.zeros(20_011)
    by_position = [sample_one(logits_V, make_sequence([1], [3] * n, seed=9)).token for n in range(60)]
    by_seed = [sample_one(logits_V, make_sequence(seed=n)).token for n in range(60)]
    assert len(set(by_position)) > 55
    assert len(set(by_seed)) > 55


def test_the_prompt_length_does_not_count_as_position() -> None:
    """A request that another rank continues gets its output tokens back as output, and draws the same numbers."""
    logits_V = make_logits()
    tokens = {sample_one(logits_V, make_sequence([1] * n, [3, 4], seed=11)).token for n in range(1, 30)}
    assert len(tokens) == 1


def reference_penalties(logits_V: Tensor, sequence: Sequence) -> Tensor:
    result, params = logits_V.clone(), sequence.sampling
    output = sequence.tokens[sequence.prompt_length :]
    for token in set(sequence.tokens):
        value = result[token]
        result[token] = value / params.repetition_penalty if value > 0 else value * params.repetition_penalty
    for token in set(output):
        result[token] -= params.frequency_penalty * output.count(token) + params.presence_penalty
    return result


@pytest.mark.parametrize(
    "change",
    [
        {"repetition_penalty": 1.7},
        {"repetition_penalty": 0.5},
        {"frequency_penalty": 0.9},
        {"presence_penalty": 1.1},
        {"presence_penalty": -2.0, "frequency_penalty": 0.3, "repetition_penalty": 1.2},
    ],
    ids=str,
)
def test_penalties_equal_the_reference(change: dict[str, Any]) -> None:
    prompt, output = [5, 6, 6, 7], [7, 8, 8, 8, 9]
    for seed in range(20):
        logits_V = make_logits(seed, vocabulary=12, scale=1.0)
        sequence = make_sequence(prompt, output, temperature=1.0, seed=seed, **change)
        changed_V = reference_penalties(logits_V, sequence)
        plain = make_sequence(prompt, output, temperature=1.0, seed=seed)
        assert sample_one(logits_V, sequence) == sample_one(changed_V, plain)
        greedy = make_sequence(prompt, output, temperature=0.0, **change)
        assert sample_one(logits_V, greedy).token == int(changed_V.argmax())


def test_a_stop_token_without_a_logit_is_no_harm() -> None:
    sequence = make_sequence(min_tokens=2, stop_token_ids=(VOCABULARY, 2**40), temperature=0.0)
    logits_V = make_logits()
    assert sample_one(logits_V, sequence).token == int(logits_V.argmax())


def test_logit_bias_forces_and_forbids() -> None:
    logits_V = make_logits()
    best = int(logits_V.argmax())
    assert sample_one(logits_V, make_sequence(temperature=0.0, logit_bias={best: -100.0})).token != best
    assert sample_one(logits_V, make_sequence(logit_bias={123: 100.0})).token == 123


@pytest.mark.parametrize(
    ("ignore_eos", "masked"), [(False, [EOS, 11]), (True, [11])], ids=["eos ends", "eos is a token like others"]
)
def test_min_tokens_keeps_what_would_end_the_request_out(ignore_eos: bool, masked: list[int]) -> None:
    logits_V = torch.zeros(VOCABULARY)
    for rank, token in enumerate((EOS, 11, 12)):
        logits_V[token] = 50 - rank
    change = {"temperature": 0.0, "min_tokens": 3, "stop_token_ids": (11,), "ignore_eos": ignore_eos}
    early = sample_one(logits_V, make_sequence([1], [4, 4], **change)).token
    assert early == next(token for token in (EOS, 11, 12) if token not in masked)
    assert sample_one(logits_V, make_sequence([1], [4, 4, 4], **change)).token == EOS


def test_only_allowed_tokens_are_chosen() -> None:
    allowed = (7, 500, 999)
    counts = draws(make_logits(scale=0.1), 300, allowed_token_ids=allowed)
    assert counts.nonzero().flatten().tolist() == list(allowed)
    # They keep their probabilities among themselves; penalties and the bias count as ever.
    logits_V = make_logits()
    best = max(allowed, key=lambda token: float(logits_V[token]))
    change = {"allowed_token_ids": allowed, "temperature": 0.0}
    assert sample_one(logits_V, make_sequence(**change)).token == best
    other = next(token for token in allowed if token != best)
    assert sample_one(logits_V, make_sequence(logit_bias={other: 50.0}, **change)).token == other


def test_the_logprobs_of_an_allowed_token_are_those_of_the_whole_vocabulary() -> None:
    logits_V = make_logits()
    sampled = sample_one(logits_V, make_sequence(allowed_token_ids=(7,), logprobs=3))
    assert sampled.logprobs is not None
    assert sampled.logprobs.logprob == pytest.approx(float(torch.log_softmax(logits_V.double(), -1)[7]), abs=1e-5)


def test_a_bad_word_is_left_out_where_its_beginning_stands() -> None:
    logits_V = torch.zeros(VOCABULARY)
    logits_V[[10, 11, 12]] = torch.tensor([50.0, 40.0, 30.0])

    def chosen(output: list[int], *words: tuple[int, ...], prompt: list[int] | None = None) -> int:
        return sample_one(logits_V, make_sequence(prompt or [1], output, temperature=0.0, bad_words=words)).token

    assert chosen([], (10,)) == 11
    assert chosen([], (10,), (11,)) == 12
    assert chosen([5], (5, 10)) == 11
    assert chosen([6], (5, 10)) == 10
    assert chosen([4, 5, 10], (4, 5, 10)) == 10
    assert chosen([4, 5], (4, 5, 10), (5, 11)) == 12
    # What the prompt says is no beginning of the answer.
    assert chosen([], (5, 10), prompt=[5]) == 10
    assert chosen([5], (4, 5, 10), prompt=[4]) == 10


def test_bad_words_that_leave_no_token_are_not_applied() -> None:
    change = {"allowed_token_ids": (7, 8), "temperature": 0.0}
    logits_V = make_logits()
    logits_V[7] = 50.0
    assert sample_one(logits_V, make_sequence(bad_words=((7,), (8,)), **change)) == Sampled(7)
    assert sample_one(logits_V, make_sequence(bad_words=((7,),), **change)) == Sampled(8)


@pytest.mark.parametrize("vocabulary", [1, 5, 1000, 20_011])
def test_logprobs_are_the_log_softmax_of_the_raw_logits(vocabulary: int) -> None:
    logits_V = make_logits(vocabulary=vocabulary)
    sequence = make_sequence(
        [0], [0], temperature=0.4, logprobs=7, repetition_penalty=3.0, logit_bias={0: -5.0}, top_k=40
    )
    sampled = sample_one(logits_V, sequence)
    expected_V = torch.log_softmax(logits_V.double(), -1)
    found = sampled.logprobs
    assert found is not None
    assert found.logprob == pytest.approx(float(expected_V[sampled.token]), abs=1e-5)
    assert found.rank == int((logits_V > logits_V[sampled.token]).sum()) + 1
    top = expected_V.topk(min(7, vocabulary))
    assert found.top_ids == top.indices.tolist()
    assert found.top_logprobs == pytest.approx(top.values.tolist(), abs=1e-5)


def test_logprobs_zero_gives_the_token_alone() -> None:
    found = sample_one(make_logits(), make_sequence(logprobs=0)).logprobs
    assert found is not None
    assert (found.top_ids, found.top_logprobs) == ([], [])
    assert sample_one(make_logits(), make_sequence()).logprobs is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 500, VOCABULARY - 1])
def test_a_row_that_is_not_a_number_is_an_error_of_that_row_alone(value: float, place: int) -> None:
    rows = torch.stack([make_logits(n) for n in range(3)])
    expected = SAMPLER.sample(rows.clone(), [make_sequence(logprobs=2)] * 3)
    rows[1, place] = value
    for change in ({"logprobs": 2}, {"temperature": 0.0}, {"top_k": 5}):
        results = SAMPLER.sample(
            rows.clone(), [make_sequence(logprobs=2), make_sequence(**change), make_sequence(logprobs=2)]
        )
        assert "not a number" in results[1].error
        assert results[1].logprobs is None
        assert [results[0], results[2]] == [expected[0], expected[2]]


def test_tokens_that_are_excluded_everywhere_leave_an_error() -> None:
    assert sample_one(torch.full((VOCABULARY,), -math.inf), make_sequence()).error
