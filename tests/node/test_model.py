"""The same model on two machines: what is compared, and where it is looked for."""

import shutil
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import save_file
from support.checkpoints import write_checkpoint
from support.fake_supervisor import configuration

from phalanx.checkpoint import fingerprints
from phalanx.checkpoint.files import weight_files
from phalanx.checkpoint.find import DEMO
from phalanx.node import model
from phalanx.node.errors import NodeError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "there"
    path.mkdir()
    write_checkpoint(path)
    save_file({"a": torch.arange(2**18, dtype=torch.float32)}, path / "model.safetensors")
    return path


def digests(folder: Path) -> dict[str, str]:
    return fingerprints.of_metadata(folder) | fingerprints.of_weights(weight_files(folder))


def changed(folder: Path, name: str) -> Path:
    """A copy with a byte of a file changed, near its end."""
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    content = bytearray((copy / name).read_bytes())
    content[-3] ^= 1
    (copy / name).write_bytes(content)
    return copy


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
)
def test_every_file_that_decides_an_answer_is_compared(name: str, folder: Path) -> None:
    before, after = (digests(path) for path in (folder, changed(folder, name)))
    assert {file for file in before if before[file] != after[file]} == {name}
    assert before == digests(folder)
    (words,) = model.differences(before, after)
    assert words.startswith(f"{name} differs (")


def test_other_weights_of_the_same_shape_are_told_apart(folder: Path) -> None:
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    tuned = torch.arange(2**18, dtype=torch.float32)
    tuned[2**16 : 2**17] *= 1.01  # One layer; the file begins and ends as before.
    save_file({"a": tuned}, copy / "model.safetensors")
    assert (copy / "model.safetensors").stat().st_size == (folder / "model.safetensors").stat().st_size
    before, after = (digests(path) for path in (folder, copy))
    assert [file for file in before if before[file] != after[file]] == ["model.safetensors"]


def test_weights_count_only_where_a_rank_loads_them(folder: Path) -> None:
    config = configuration(folder, engine="model")
    copy = changed(folder, "model.safetensors")
    assert "model.safetensors" in config.facts.fingerprints
    with pytest.raises(NodeError, match=r"in .*/copy model\.safetensors differs"):
        model.find(config, str(copy), holds_ranks=True)
    assert model.find(config, str(copy), holds_ranks=False) == copy
    assert model.find(configuration(folder), str(copy), holds_ranks=True) == copy  # the synthetic engine


def test_the_services_own_folder_is_taken_where_it_is_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = configuration(folder)
    relative = msgspec.structs.replace(config, model=msgspec.structs.replace(config.model, model="elsewhere/there"))
    assert model.find(relative, None, holds_ranks=True) == folder


def test_a_hub_name_or_the_demo_model_is_looked_for_here() -> None:
    config = configuration(DEMO)
    demo = msgspec.structs.replace(
        config,
        model=msgspec.structs.replace(config.model, model=None),
        facts=msgspec.structs.replace(config.facts, folder="/not/on/this/machine"),
    )
    assert model.find(demo, None, holds_ranks=True) == DEMO


def test_weights_that_are_broken_here_are_told_with_their_own_sentence(folder: Path) -> None:
    config = configuration(folder, engine="model")
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(NodeError, match=rf"no model: {folder}/model.safetensors is a git-lfs pointer.*; --model F"):
        model.find(config, None, holds_ranks=True)
    assert model.find(config, None, holds_ranks=False) == folder
    (folder / "model.safetensors").unlink()
    ray = msgspec.structs.replace(config.parallel, data_parallel_backend="ray")
    with pytest.raises(
        NodeError, match=r"holds no \*\.safetensors file.*; each node needs the model in the folder"
    ) as told:
        model.find(msgspec.structs.replace(config, parallel=ray), None, holds_ranks=True)
    assert "--model" not in str(told.value)


def test_a_node_compares_everything_else_before_it_fetches_weights(folder: Path, tmp_path: Path) -> None:
    config = configuration(folder, engine="model")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_checkpoint(elsewhere, rope_theta=5.0)  # without weights, which are not asked for
    with pytest.raises(NodeError, match=r"another model than the service's: in .*/elsewhere config\.json differs"):
        model.find(config, str(elsewhere), holds_ranks=True)


def test_a_model_that_is_not_here_is_told_with_the_option_that_helps(folder: Path) -> None:
    config = configuration(folder)
    shutil.rmtree(folder)
    with pytest.raises(NodeError, match=rf"no model: there is no folder {folder}.*; --model FOLDER says where"):
        model.find(config, None, holds_ranks=True)


def test_a_file_that_is_missing_or_too_many_is_named() -> None:
    assert model.differences({"a": "1", "b": "2"}, {"b": "2", "c": "3"}) == [
        "a is missing",
        "c is not among the service's files",
    ]
