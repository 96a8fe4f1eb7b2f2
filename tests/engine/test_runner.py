"""One step of the runner: who is sampled, log probabilities of prompts, and a request whose numbers break."""

from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.reference import GREEDY, Driver, Reference, load_runner, random_prompt, write_reference

from phalanx.engine.sequence import Chunk

PROMPT_LOGPROBS = msgspec.structs.replace(GREEDY, prompt_logprobs=3)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return write_reference(tmp_path_factory.mktemp("runner"), "Llama", num_attention_heads=4, num_key_value_heads=2)


def assert_prompt_logprobs(reference: Reference, prompt: list[int], driver: Driver, *lengths: int) -> None:
    sequence = driver.sequence(prompt, PROMPT_LOGPROBS)
    driver.prefill(sequence, *lengths)
    driver.decode(sequence, steps=2)
    expected_TV = reference.log_probabilities(prompt)
    assert len(sequence.prompt_logprobs) == len(prompt)
    assert sequence.prompt_logprobs[0] is None
    for row_V, token, found in zip(expected_TV, prompt[1:], sequence.prompt_logprobs[1:], strict=False):
        assert found is not None
        assert found.logprob == pytest.approx(float(row_V[token]), abs=1e-4)
        assert found.rank == int((row_V > row_V[token]).sum()) + 1
        assert found.top_ids == row_V.topk(3).indices.tolist()
        assert found.top_logprobs == pytest.approx(row_V.topk(3).values.tolist(), abs=1e-4)


@pytest.mark.parametrize("lengths", [(), (64,), (1, 1, 100), (149,)], ids=str)
def test_prompt_logprobs_equal_transformers_however_the_prompt_is_chunked(
    reference: Reference, lengths: tuple[int, ...]
) -> None:
    assert_prompt_logprobs(reference, random_prompt(150), Driver(load_runner(reference.folder)), *lengths)


def test_prompt_logprobs_of_a_recomputed_prompt_come_once(reference: Reference) -> None:
    driver = Driver(load_runner(reference.folder))
    prompt = random_prompt(90)
    sequence = driver.sequence(prompt, PROMPT_LOGPROBS)
    driver.step((sequence, 50))
    driver.forget(sequence)
    driver.prefill(sequence, 30)
    undisturbed = driver.sequence(prompt, PROMPT_LOGPROBS)
    driver.prefill(undisturbed)
    assert sequence.prompt_logprobs == undisturbed.prompt_logprobs
    assert len(sequence.prompt_logprobs) == 90


def test_prompt_logprobs_of_a_prompt_that_was_not_all_run_are_refused(reference: Reference) -> None:
    driver = Driver(load_runner(reference.folder))
    sequence = driver.sequence(random_prompt(90), PROMPT_LOGPROBS)
    sequence.computed = 16
    with pytest.raises(ValueError, match=r"prompt_logprobs needs every prompt token run, and those from 1 to 16 were"):
        driver.step((sequence, 20))


def test_a_chunk_samples_only_where_it_reaches_the_end(reference: Reference) -> None:
    driver = Driver(load_runner(reference.folder))
    runner = driver.runner
    middle, end = driver.sequence(random_prompt(40)), driver.sequence(random_prompt(30))
    for sequence, first in ((middle, 0), (end, 10)):
        sequence.blocks = list(range(first, first + 3))  # type: ignore[arg-type]
    results = runner.execute([Chunk(middle, 0, 39), Chunk(end, 0, 30)])
    assert results[0] is None
    assert results[1] is not None
    assert results[1].logprobs is not None


def test_a_request_whose_numbers_break_gets_an_error_and_its_neighbour_its_text(
    reference: Reference, tmp_path: Path
) -> None:
    for file in reference.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.embed_tokens.weight"][7] = torch.nan
    save_file(tensors, tmp_path / "model.safetensors")

    healthy = [token for token in random_prompt(60) if token != 7]
    expected = Driver(load_runner(reference.folder))
    undisturbed = expected.sequence(healthy)
    expected.prefill(undisturbed)

    driver = Driver(load_runner(tmp_path))
    broken, neighbour = driver.sequence([1, 7, 3]), driver.sequence(healthy)
    driver.step((broken, 3), (neighbour, len(healthy)))
    assert "not a number" in driver.sampled[broken][0].error
    assert driver.sampled[neighbour] == expected.sampled[undisturbed]
    assert driver.sampled[neighbour][0].error == ""
