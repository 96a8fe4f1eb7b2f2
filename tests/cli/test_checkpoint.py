"""What a checkpoint's own files say, and what is said of one that is not there."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import errors
from support.checkpoints import write_checkpoint

from phalanx import checkpoint
from phalanx.checkpoint import CheckpointError
from phalanx.config import ModelOptions


def change(folder: Path, file: str, **fields: Any) -> None:
    path = folder / file
    before = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**before, **fields}))


def refusal(model: str, weights: bool = False, **options: Any) -> str:
    with pytest.raises(CheckpointError) as refused:
        checkpoint.find(ModelOptions(model=model, **options), weights=weights)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_facts_come_from_the_files(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    facts = checkpoint.read(checkpoint.find(ModelOptions(model=str(folder)), weights=False), None)
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
    assert checkpoint.read(folder, None).max_model_len == length


def test_a_length_may_be_shortened_and_not_stretched(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, max_position_embeddings=1000)
    assert checkpoint.read(folder, 64).max_model_len == 64
    with pytest.raises(CheckpointError, match=r"--max-model-len 1001 is above .*: 1000"):
        checkpoint.read(folder, 1001)


def test_an_answer_ends_with_what_generation_config_config_and_tokenizer_name_together(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, eos_token_id=7)
    change(folder, "generation_config.json", eos_token_id=[8, 9])
    assert checkpoint.read(folder, None).eos_token_ids == (8, 9, 7, 256)
    (folder / "generation_config.json").unlink()
    assert checkpoint.read(folder, None).eos_token_ids == (7, 256)
    write_checkpoint(folder, eos_token_id=None)
    (folder / "generation_config.json").unlink()
    assert checkpoint.read(folder, None).eos_token_ids == (256,)


def test_an_end_of_sequence_that_the_model_has_no_row_for_is_left_out(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, eos_token_id=[256, 5000, -1], vocab_size=257)
    assert checkpoint.read(folder, None).eos_token_ids == (256,)


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
    assert checkpoint.read(folder, None).eos_token_ids == (7, 258)


def test_the_tokenizers_end_of_sequence_may_be_an_ordinary_piece_of_its_vocabulary(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, eos_token_id=None)
    (folder / "generation_config.json").unlink()
    change(folder, "tokenizer_config.json", eos_token="c")
    vocabularies: list[Any] = [{"a": 0, "b": 1, "c": 5}, [["a", -1.0], ["b", -2.0], ["c", -3.0]]]
    found = []
    for vocabulary in vocabularies:
        change(folder, "tokenizer.json", model={"type": "Unigram", "vocab": vocabulary}, added_tokens=[])
        found.append(checkpoint.read(folder, None).eos_token_ids)
    assert found == [(5,), (2,)]


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
    assert checkpoint.read(folder, None).default_sampling == expected
    change(folder, "generation_config.json", temperature="warm")
    with pytest.raises(CheckpointError, match="temperature is 'warm', not a number"):
        checkpoint.read(folder, None)


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
        checkpoint.read(folder, None)


def test_broken_files_are_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"generation_config\.json is not JSON"):
        checkpoint.read(folder, None)
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"config\.json holds a list"):
        checkpoint.read(folder, None)


def test_a_folder_that_is_no_checkpoint_is_told_what_it_lacks(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    assert "no *.safetensors" in refusal(str(folder), weights=True)
    (folder / "tokenizer.json").unlink()
    assert "no tokenizer.json" in refusal(str(folder))
    (folder / "config.json").rename(folder / "c.json")
    assert "no config.json" in refusal(str(folder))
    assert "is a file" in refusal(str(folder / "c.json"))


def test_a_mistyped_path_is_told_with_the_nearest_folder(tmp_path: Path) -> None:
    (tmp_path / "llama-small").mkdir()
    assert f"did you mean {tmp_path / 'llama-small'}?" in refusal(str(tmp_path / "lama-small"))


class Response:
    """As much of an HTTP response as the hub's errors look at."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.request = None
        self.status_code = 404


def hub_that(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is the one thing here that is not real."""

    def refuse(*arguments: object, **options: object) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.GatedRepoError("gated", response=Response()), "some/model is gated: ask for access"),  # type: ignore[arg-type]
        (errors.RepositoryNotFoundError("404", response=Response()), "neither a folder nor a model on the hub"),  # type: ignore[arg-type]
        (errors.RevisionNotFoundError("404", response=Response()), "some/model has no revision v9"),  # type: ignore[arg-type]
        (errors.LocalEntryNotFoundError("offline"), "the hub cannot be reached"),
        (ConnectionError("no route to host"), "no route to host"),
    ],
)
def test_what_the_hub_refuses_is_told_in_words(error: Exception, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_that(error, monkeypatch)
    assert words in refusal("some/model", revision="v9")


def test_a_name_that_cannot_be_one_is_told() -> None:
    assert "neither a folder nor a possible hub name" in refusal("spaces are not allowed")


def test_the_hub_is_asked_for_needed_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint(tmp_path)
    asked: dict[str, Any] = {}

    def snapshot(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert checkpoint.find(ModelOptions(model="some/model", revision="v1"), weights=False) == folder.resolve()
    assert (asked["name"], asked["revision"]) == ("some/model", "v1")
    assert "*.safetensors" not in asked["allow_patterns"]
    assert "*.json" in asked["allow_patterns"]
