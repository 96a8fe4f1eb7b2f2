"""Where a checkpoint is looked for, and what is said of one that is not there or not whole."""

import json
import re
from pathlib import Path
from typing import Any

import numpy
import pytest
from huggingface_hub import errors
from safetensors.numpy import save_file
from support.checkpoints import write_checkpoint

import phalanx
from phalanx.checkpoint.errors import CheckpointError
from phalanx.checkpoint.files import METADATA
from phalanx.checkpoint.find import find, find_weights
from phalanx.config import ModelOptions


def refusal(model: str, **options: Any) -> str:
    with pytest.raises(CheckpointError) as refused:
        find(ModelOptions(model=model, **options))
    message = str(refused.value)
    assert "\n" not in message
    return message


def refusal_of_weights(folder: Path) -> str:
    with pytest.raises(CheckpointError) as refused:
        find_weights(ModelOptions(model=str(folder)), folder)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_a_folder_that_is_no_checkpoint_is_told_what_it_lacks(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    assert "no *.safetensors" in refusal_of_weights(folder)
    (folder / "tokenizer.json").unlink()
    assert "no tokenizer.json" in refusal(str(folder))
    (folder / "config.json").rename(folder / "c.json")
    assert "no config.json" in refusal(str(folder))
    assert "is a file" in refusal(str(folder / "c.json"))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1234567890\n"


def test_a_git_lfs_pointer_is_no_file(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    (folder / "model.safetensors").write_bytes(POINTER)
    words = f"is a git-lfs pointer, not the file itself: run `git lfs pull` in {folder}"
    assert f"model.safetensors {words}" in refusal_of_weights(folder)
    (folder / "tokenizer.json").write_bytes(POINTER)
    assert f"tokenizer.json {words}" in refusal(str(folder))


def test_weights_that_are_not_all_there_are_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    file = folder / "model.safetensors"
    save_file({"a": numpy.zeros(1000, dtype=numpy.float32)}, file)
    whole = file.read_bytes()
    assert find_weights(ModelOptions(model=str(folder)), folder) == [file]
    for length in (len(whole) - 1, 30, 0):
        file.write_bytes(whole[:length])
        assert f"{file} cannot be read: it ends after {length:,} of its " in refusal_of_weights(folder)
    for content in (b"PK" * 100, (2).to_bytes(8, "little") + b"[]", (2).to_bytes(8, "little") + b"{]"):
        file.write_bytes(content)
        assert f"{file} cannot be read: it is not a safetensors file" in refusal_of_weights(folder)


def test_weights_in_another_format_are_named_with_what_helps(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    assert "holds no *.safetensors file: convert its weights, or use --load-format dummy" in refusal_of_weights(folder)
    (folder / "training_args.bin").touch()
    (folder / "pytorch_model.bin").touch()
    assert "(pytorch_model.bin is in a format that is not read)" in refusal_of_weights(folder)
    (folder / "consolidated.safetensors").touch()
    assert "consolidated.safetensors, which is in Mistral's own format" in refusal_of_weights(folder)


def test_an_index_is_taken_at_its_word_and_no_further_than_its_folder(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {f"{n}": f"{n}.safetensors" for n in range(7)}}))
    save_file({"0": numpy.zeros(1)}, folder / "0.safetensors")
    (folder / "1.safetensors").symlink_to(folder / "gone")  # as a cache looks that was cleaned by hand
    assert "lacks 6 of the 7 files its index names: 1.safetensors, 2.safetensors" in refusal_of_weights(folder)
    for content in ({}, {"weight_map": {}}, {"weight_map": {"a": 1}}, {"weight_map": ["a"]}):
        index.write_text(json.dumps(content))
        assert "is not an index of safetensors files" in refusal_of_weights(folder)
    index.write_text(json.dumps({"weight_map": {"a": "../0.safetensors"}}))
    assert "'../0.safetensors', which is not a file beside it" in refusal_of_weights(folder)


def test_every_file_that_is_read_is_one_that_is_fetched_and_one_room_knows_their_names() -> None:
    package = Path(phalanx.__file__).parent
    rooms: dict[str, set[str]] = {}
    for path in package.rglob("*.py"):
        for name in re.findall(r'"(\w+\.(?:json|jinja|model|txt))"', path.read_text()):
            rooms.setdefault(name, set()).add(path.relative_to(package).parts[0])
    assert set(rooms) - set(METADATA) == set()
    assert set(rooms) >= {"tokenizer.json", "special_tokens_map.json", "chat_template.jinja"}
    assert set().union(*rooms.values()) == {"checkpoint"}


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
    assert find(ModelOptions(model="some/model", revision="v1")) == folder.resolve()
    assert (asked["name"], asked["revision"]) == ("some/model", "v1")
    assert "config.json" in asked["allow_patterns"]
    assert not [pattern for pattern in asked["allow_patterns"] if "*" in pattern or pattern.endswith(".safetensors")]
