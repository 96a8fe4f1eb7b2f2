"""What a checkpoint's own files say."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import write_checkpoint

from phalanx.checkpoint.errors import CheckpointError
from phalanx.checkpoint.facts import read
from phalanx.checkpoint.find import find
from phalanx.config import ModelOptions


def change(folder: Path, file: str, **fields: Any) -> None:
    path = folder / file
    before = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**before, **fields}))


def test_facts_come_from_the_files(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    facts = read(find(ModelOptions(model=str(folder))), None)
    assert facts.folder == str(folder)
    assert facts.architecture == "LlamaForCausalLM"
    assert facts.vocab_size == 260
    assert facts.max_model_len == 2048
    assert facts.eos_token_ids == (256,)
    assert facts.default_sampling == {}


@pytest.mark.parametrize(
    ("scaling", "length"),
    [
        (None, 1000),
        ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, 4000),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, 2000),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 250}}, 1000),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 4000),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 125}}, 1000),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, 2000),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, 1000),
    ],
)
def test_the_length_counts_rope_scaling_in(scaling: dict[str, Any] | None, length: int, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, max_position_embeddings=1000, **(scaling or {}))
    assert read(folder, None).max_model_len == length


def test_a_length_may_be_shortened_and_not_stretched(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, max_position_embeddings=1000)
    assert read(folder, 64).max_model_len == 64
    with pytest.raises(CheckpointError, match=r"--max-model-len 1001 is above .*: 1000"):
        read(folder, 1001)


def test_an_answer_ends_with_what_generation_config_config_and_tokenizer_name_together(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, eos_token_id=7)
    change(folder, "generation_config.json", eos_token_id=[8, 9])
    assert read(folder, None).eos_token_ids == (8, 9, 7, 256)
    (folder / "generation_config.json").unlink()
    assert read(folder, None).eos_token_ids == (7, 256)
    write_checkpoint(folder, eos_token_id=None)
    (folder / "generation_config.json").unlink()
    assert read(folder, None).eos_token_ids == (256,)


def test_an_end_of_sequence_that_the_model_has_no_row_for_is_left_out(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, eos_token_id=[256, 5000, -1], vocab_size=257)
    assert read(folder, None).eos_token_ids == (256,)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", {"eos_token": "<|user|>"}),
        ("tokenizer_config.json", {"eos_token": {"content": "<|user|>", "lstrip": False}}),
        ("special_tokens_map.json", {"eos_token": "<|user|>"}),
        ("tokenizer_config.json", {"eos_token": "<|x|>", "added_tokens_decoder": {"258": {"content": "<|x|>"}}}),
        ("added_tokens.json", {"<|end of this|>": 258}),
    ],
    ids=str,
)
def test_the_tokenizers_end_of_sequence_is_found_wherever_it_is_declared(
    name: str, content: dict[str, Any], tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path, eos_token_id=7)
    (folder / "generation_config.json").unlink()
    change(folder, "tokenizer_config.json", eos_token="<|end of this|>")
    change(folder, name, **content)
    assert read(folder, None).eos_token_ids == (7, 258)


def test_the_tokenizers_end_of_sequence_may_be_an_ordinary_piece_of_its_vocabulary(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, eos_token_id=None)
    (folder / "generation_config.json").unlink()
    change(folder, "tokenizer_config.json", eos_token="c")
    vocabularies: list[Any] = [{"a": 0, "b": 1, "c": 5}, [["a", -1.0], ["b", -2.0], ["c", -3.0]]]
    found = []
    for vocabulary in vocabularies:
        change(folder, "tokenizer.json", model={"type": "Unigram", "vocab": vocabulary}, added_tokens=[])
        found.append(read(folder, None).eos_token_ids)
    assert found == [(5,), (2,)]


def test_a_checkpoint_that_says_no_length_takes_the_options(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, max_position_embeddings=None)
    with pytest.raises(CheckpointError, match="has no max_position_embeddings: give --max-model-len"):
        read(folder, None)
    assert read(folder, 4096).max_model_len == 4096


def test_default_sampling_is_what_generation_config_gives(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    fields = {
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 20,
        "repetition_penalty": 1.05,
        "min_p": None,
    }
    change(folder, "generation_config.json", **fields)
    expected = {"temperature": 0.7, "top_p": 0.8, "top_k": 20.0, "repetition_penalty": 1.05}
    assert read(folder, None).default_sampling == expected
    for field, value in (("temperature", -1), ("repetition_penalty", 0), ("top_p", 1.5), ("min_p", math.nan)):
        change(folder, "generation_config.json", **{field: value})
        with pytest.raises(CheckpointError, match=f"{field} is {value}; it can be"):
            read(folder, None)
        change(folder, "generation_config.json", **fields)
    change(folder, "generation_config.json", temperature="warm")
    with pytest.raises(CheckpointError, match="temperature is 'warm', not a number"):
        read(folder, None)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"architectures": None}, "names no architecture"),
        ({"vocab_size": "many"}, "vocab_size is 'many', not a whole number"),
        ({"max_position_embeddings": None}, "has no max_position_embeddings"),
    ],
)
def test_a_config_that_lacks_something_is_refused_by_name(fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, **fields)
    with pytest.raises(CheckpointError, match=words):
        read(folder, None)


def test_broken_files_are_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"generation_config\.json is not JSON"):
        read(folder, None)
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"config\.json holds a list"):
        read(folder, None)
