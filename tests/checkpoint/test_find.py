"""Where a checkpoint is looked for, and what is said of one that is not there or not whole."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import errors
from support.checkpoints import write_checkpoint

from phalanx.checkpoint.errors import CheckpointError
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
