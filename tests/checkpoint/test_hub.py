"""Of a repository on the hub only what is read is fetched, and of one that cannot be run no weights at all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file
from support.checkpoints import write_checkpoint
from support.fake_hub import FakeHub

METADATA = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
FIND = """
from phalanx.checkpoint.find import find, find_weights
from phalanx.config import ModelOptions
options = ModelOptions(model="org/model")
print(*(path.name for path in find_weights(options, find(options))))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository as they are: with the same weights in other formats, subfolders, and what nobody reads."""
    path = tmp_path / "repository"
    for part in (path, path / "onnx", path / "original"):
        part.mkdir()
    write_checkpoint(path)
    for name in ("consolidated.safetensors", "onnx/model.safetensors", "onnx/config.json", "original/params.json"):
        (path / name).write_bytes(b"{}")
    for name in ("README.md", "pytorch_model.bin", "tokenizer.model", "merges.txt", "params.json", ".gitattributes"):
        (path / name).write_bytes(b"{}")
    return path


def weights(folder: Path, *names: str) -> None:
    for name in names:
        save_file({"a": numpy.zeros(4, dtype=numpy.float32)}, folder / name)


def fetch(hub: FakeHub, cache: Path) -> list[str]:
    """Names of the files that hold the weights, as a process of its own finds them."""
    command, environment = [sys.executable, "-c", FIND], os.environ | hub.environment(cache)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()


def test_the_index_decides_which_files_of_the_weights_are_fetched(folder: Path, tmp_path: Path) -> None:
    weights(folder, "model-1.safetensors", "model-2.safetensors", "model-3.safetensors", "model.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with FakeHub(model=folder) as hub:
        assert fetch(hub, tmp_path / "cache") == ["model-1.safetensors", "model-2.safetensors"]
        assert set(hub.fetched) == METADATA | {
            *("model.safetensors.index.json", "model-1.safetensors", "model-2.safetensors")
        }
        hub.fetched.clear()
        assert fetch(hub, tmp_path / "cache") == ["model-1.safetensors", "model-2.safetensors"]
        assert hub.fetched == []


@pytest.mark.parametrize(
    ("there", "fetched"),
    [
        (("model.safetensors", "model.fp16.safetensors"), ["model.safetensors"]),
        (("weights.safetensors",), ["weights.safetensors"]),
    ],
)
def test_without_an_index_one_file_is_fetched_or_all_that_there_are(
    there: tuple[str, ...], fetched: list[str], folder: Path, tmp_path: Path
) -> None:
    weights(folder, *there)
    with FakeHub(model=folder) as hub:
        assert fetch(hub, tmp_path / "cache") == fetched
    assert set(hub.fetched) == METADATA | set(fetched)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "architecture GPT2LMHeadModel is not supported; known are Llama"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config (gptq) is not supported"),
        ({"torch_dtype": "float8_e4m3fn"}, "dtype float8_e4m3fn is not supported; known are float32, bfloat16"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
    ],
)
def test_what_cannot_be_run_is_told_before_weights_are_fetched_and_children_started(
    config: dict[str, object], words: str, folder: Path, tmp_path: Path
) -> None:
    write_checkpoint(folder, **config)
    weights(folder, "model.safetensors")
    with FakeHub(model=folder) as hub:
        command = [sys.executable, "-m", "phalanx", "serve", "org/model", "--port", "0"]
        environment = os.environ | hub.environment(tmp_path / "cache") | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    first, second = ended.stderr.splitlines()
    assert first == "phalanx serve: org/model cannot be run: nothing was started, no weights were fetched"
    assert words in second
    assert ended.stdout == ""
    assert set(hub.fetched) == METADATA


def test_a_cache_that_an_offline_machine_lacks_a_part_of_is_told(folder: Path, tmp_path: Path) -> None:
    weights(folder, "model-1.safetensors", "model-2.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with FakeHub(model=folder) as hub:
        fetch(hub, tmp_path / "cache")
        next((tmp_path / "cache").rglob("snapshots/*/model-2.safetensors")).unlink()
        quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        environment = os.environ | hub.environment(tmp_path / "cache") | quiet
    command = [sys.executable, "-m", "phalanx", "serve", "org/model", "--port", "0"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "org/model is no folder, is not wholly in the local cache, and the hub cannot be reached" in line
