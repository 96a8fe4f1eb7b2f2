"""The runner without a model: what it says is readable, ends in order and can be continued."""

import json
import math
from pathlib import Path

import pytest
from support.rank_process import config

from phalanx.engine.sequence import BlockId, Chunk, RequestKey, Sequence
from phalanx.engine.synthetic import LONGEST, SHORTEST, SyntheticRunner, ordinary_words
from phalanx.protocol import ApiServerId, RequestId, SamplingParams, TokenLogprobs

EOS = 2


def loaded(**engine: object) -> SyntheticRunner:
    runner = SyntheticRunner(config(**engine))  # type: ignore[arg-type]
    runner.load(lambda stage, share, detail: None)
    return runner


def generate(
    runner: SyntheticRunner, prompt: list[int], had: int = 0, tokens: list[int] | None = None, **sampling: object
) -> Sequence:
    """Run a request to its end, or from its first `had` tokens on."""
    parameters = SamplingParams(**{"max_tokens": 200, **sampling})  # type: ignore[arg-type]
    start = prompt + (tokens or [])[:had]
    sequence = Sequence(
        RequestKey(ApiServerId(0), RequestId(0)), list(start), len(prompt), parameters, blocks=[BlockId(0)]
    )
    while sequence.generated < parameters.max_tokens:
        [sampled] = runner.execute([Chunk(sequence, 0, len(sequence.tokens))])
        assert sampled is not None
        sequence.tokens.append(sampled.token)
        if sampled.token == EOS:
            break
    return sequence


def test_tokens_follow_from_prompt_seed_and_position_alone() -> None:
    whole = generate(loaded(), [5, 6], seed=3).tokens[2:]
    assert generate(loaded(), [5, 6], had=9, tokens=whole, seed=3).tokens[2:] == whole
    assert generate(loaded(), [5, 6], seed=4).tokens[2:] != whole
    assert generate(loaded(), [5, 7], seed=3).tokens[2:] != whole


def test_it_ends_by_itself_within_its_bounds_unless_told_to_go_on() -> None:
    runner = loaded()
    lengths = {generate(runner, [5, 6], seed=seed).generated for seed in range(200)}
    assert SHORTEST <= min(lengths) < max(lengths) <= LONGEST
    endless = generate(runner, [5, 6], ignore_eos=True)
    assert endless.generated == 200
    assert EOS not in endless.tokens


def test_neither_eos_nor_a_stop_token_comes_before_min_tokens() -> None:
    runner = loaded()
    sequence = generate(runner, [5, 6], min_tokens=150, stop_token_ids=tuple(range(3, 500)))
    assert sequence.generated == 151
    assert min(sequence.tokens[2:152]) >= 500
    assert sequence.tokens[-1] == EOS


def test_a_chunk_that_is_not_the_end_brings_no_token() -> None:
    sequence = Sequence(RequestKey(ApiServerId(0), RequestId(0)), [5, 6, 7], 3, SamplingParams(max_tokens=4))
    assert loaded().execute([Chunk(sequence, 0, 2)]) == [None]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_logprobs_are_those_of_a_distribution(count: int) -> None:
    runner = loaded()
    sequence = Sequence(
        RequestKey(ApiServerId(0), RequestId(0)), [5], 1, SamplingParams(max_tokens=4, logprobs=count, seed=1)
    )
    [sampled] = runner.execute([Chunk(sequence, 0, 1)])
    assert sampled is not None
    told = sampled.logprobs
    assert isinstance(told, TokenLogprobs)
    assert told.rank == 1
    assert math.exp(told.logprob) == pytest.approx(0.5)
    assert len(told.top_ids) == len(set(told.top_ids)) == len(told.top_logprobs) == count
    assert told.top_ids[:1] == [sampled.token][:count]
    assert told.top_logprobs == sorted(told.top_logprobs, reverse=True)
    assert sum(map(math.exp, told.top_logprobs)) < 1


def test_prompt_logprobs_are_filled_chunk_by_chunk() -> None:
    runner = loaded()
    prompt = [5, 6, 7, 8, 9]
    sequence = Sequence(
        RequestKey(ApiServerId(0), RequestId(0)), prompt, 5, SamplingParams(max_tokens=4, prompt_logprobs=2)
    )
    for start, length in ((0, 2), (2, 2), (4, 1)):
        runner.execute([Chunk(sequence, start, length)])
    first, *rest = sequence.prompt_logprobs
    assert first is None
    assert [told.top_ids[0] for told in rest if told] == prompt[1:]


def test_its_words_are_words_of_the_checkpoints_vocabulary(tmp_path: Path) -> None:
    vocab = {"</s>": 0, "Ġ": 1, "Ġhello": 2, "Ġ12": 3, "word": 4, "Ġworld": 5, "ĠÃ©": 6, "Ġlate": 99}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": vocab, "merges": []}}))
    facts = {"vocab_size": 50, "eos_token_ids": (0,)}
    assert ordinary_words(config(folder=str(tmp_path), facts=facts)) == [2, 5]
    pieces = [["<unk>", 0.0], ["▁a", -1.0], ["b", -2.0]]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram", "vocab": pieces}}))
    assert ordinary_words(config(folder=str(tmp_path), facts=facts)) == [1]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": {"!": 0, "a": 1, "é": 2}}}))
    assert ordinary_words(config(folder=str(tmp_path), facts=facts)) == [1]


def test_without_a_tokenizer_any_id_will_do_that_does_not_end_a_sequence() -> None:
    assert ordinary_words(config(facts={"vocab_size": 5, "eos_token_ids": (2,)})) == [0, 1, 3, 4]


def test_its_cache_has_the_size_that_was_asked_for() -> None:
    assert loaded(kv_cache_tokens=100, block_size=32).num_blocks == 3
    assert loaded().num_blocks * 16 == 262_144
