"""A row's bits do not depend on what else runs: alone, in a batch, chunked anyhow, recomputed, on any threads."""

import itertools
from pathlib import Path

import msgspec
import pytest
from support.reference import GREEDY, VOCABULARY, Driver, load_runner, random_prompt, write_reference

from phalanx.engine.sequence import Sequence
from phalanx.protocol import SamplingParams

ALL = msgspec.structs.replace(GREEDY, logprobs=VOCABULARY)
STEPS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that a layer can have: grouped heads, head norms, biases, windows in some layers."""
    return write_reference(
        tmp_path_factory.mktemp("invariance"),
        "Qwen3",
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=24,
        attention_bias=True,
        use_sliding_window=True,
        sliding_window=60,
        max_window_layers=2,
    ).folder


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def driver(folder: Path, request: pytest.FixtureRequest) -> Driver:
    return Driver(load_runner(folder, dtype=request.param))


def bits(driver: Driver, sequence: Sequence) -> list[tuple[int, list[int], list[float]]]:
    """What was sampled, with the log probability of every token in the vocabulary."""
    return [
        (sampled.token, sampled.logprobs.top_ids, sampled.logprobs.top_logprobs)
        for sampled in driver.sampled[sequence]
        if sampled.logprobs is not None
    ]


def alone(
    driver: Driver, prompt: list[int], sampling: SamplingParams = ALL
) -> list[tuple[int, list[int], list[float]]]:
    sequence = driver.sequence(prompt, sampling)
    driver.prefill(sequence)
    driver.decode(sequence, steps=STEPS - 1)
    return bits(driver, sequence)


@pytest.mark.parametrize("lengths", [(1,), (64,), (7, 1, 90), (63, 2), (16,) * 9, (149,)], ids=str)
def test_chunks_of_a_prompt_do_not_show(driver: Driver, lengths: tuple[int, ...]) -> None:
    prompt = random_prompt(150)
    sequence = driver.sequence(prompt, ALL)
    driver.prefill(sequence, *lengths)
    driver.decode(sequence, steps=STEPS - 1)
    assert bits(driver, sequence) == alone(driver, prompt)


def test_neighbours_do_not_show(driver: Driver) -> None:
    prompt = random_prompt(90)
    others = [driver.sequence(random_prompt(5 + 11 * n, seed=n), ALL) for n in range(1, 20)]
    sequence = driver.sequence(prompt, ALL)
    for other in others[:10]:
        driver.prefill(other)
    driver.step(*((other, 1) for other in others[:10]), (sequence, 40))
    waiting = iter(others[10:])
    driver.step((next(waiting), 30), (sequence, 50), *((other, 1) for other in others[:7]))
    for _ in range(STEPS - 1):
        driver.step(*((other, 1) for other in others[:9]), (sequence, 1), (next(waiting), 27))
    assert bits(driver, sequence) == alone(driver, prompt)


def test_recomputing_after_preemption_does_not_show(driver: Driver) -> None:
    prompt = random_prompt(100)
    sequence = driver.sequence(prompt, ALL)
    driver.prefill(sequence)
    driver.decode(sequence, steps=3)
    driver.forget(sequence)
    driver.prefill(sequence, 70)
    driver.decode(sequence, steps=STEPS - 5)
    assert bits(driver, sequence) == alone(driver, prompt)


def test_a_prefix_computed_by_another_request_does_not_show(driver: Driver) -> None:
    prompt = random_prompt(100)
    first = driver.sequence(prompt[:80], ALL)
    driver.prefill(first)
    sequence = driver.sequence(prompt, ALL)
    sequence.blocks, sequence.computed = first.blocks[:5], 5 * driver.runner.block_size
    driver.prefill(sequence)
    driver.decode(sequence, steps=STEPS - 1)
    assert bits(driver, sequence) == alone(driver, prompt)


@pytest.mark.parametrize("options", [{"cpu_threads": 2}, {"cpu_threads": 3}, {"block_size": 32}, {"block_size": 64}])
def test_threads_and_block_size_do_not_show(folder: Path, options: dict[str, int]) -> None:
    prompt = random_prompt(150)
    expected = alone(Driver(load_runner(folder)), prompt)
    assert alone(Driver(load_runner(folder, **options)), prompt) == expected


def test_seeded_text_is_the_same_in_a_batch_and_after_preemption(driver: Driver) -> None:
    sampling = msgspec.structs.replace(ALL, temperature=1.3, top_p=0.95, top_k=100, min_p=0.001, seed=2**63 + 5)
    prompt = random_prompt(60)
    expected = alone(driver, prompt, sampling)
    assert len({token for token, *_ in expected}) > 1

    sequence = driver.sequence(prompt, sampling)
    others = [driver.sequence(random_prompt(20, seed=n), msgspec.structs.replace(sampling, seed=n)) for n in range(15)]
    driver.step((sequence, 60), *((other, 20) for other in others))
    driver.decode(sequence, *others, steps=3)
    driver.forget(sequence)
    driver.prefill(sequence)
    driver.decode(*others[:5], sequence, steps=STEPS - 5)
    assert bits(driver, sequence) == expected


def test_bfloat16_is_close_to_float32(folder: Path) -> None:
    exact, rounded = (Driver(load_runner(folder, dtype=dtype)).runner for dtype in ("float32", "bfloat16"))
    prompt = random_prompt(150)
    (_, ids, values), (_, other_ids, other_values) = (alone(Driver(runner), prompt)[0] for runner in (exact, rounded))
    ours, theirs = dict(zip(ids, values, strict=True)), dict(zip(other_ids, other_values, strict=True))
    spread = max(values) - min(values)
    assert max(abs(ours[token] - theirs[token]) for token in ours) < 0.05 * spread
    assert ours != theirs


def test_the_same_request_gives_the_same_bits_in_another_rank(folder: Path) -> None:
    prompt = random_prompt(40)
    ranks = [Driver(load_runner(folder)) for _ in range(2)]
    for rank, length in zip(ranks, (10, 500), strict=True):
        rank.prefill(rank.sequence(random_prompt(length, seed=9)))
    assert all(a == b for a, b in itertools.pairwise(alone(rank, prompt) for rank in ranks))
