"""Loading: every form of checkpoint gives the same model, and a broken one is refused with what is wrong."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.reference import (
    GREEDY,
    Driver,
    edit_config,
    load_runner,
    make_config,
    random_prompt,
    write_reference,
)

from phalanx.checkpoint.errors import CheckpointError
from phalanx.engine import threads
from phalanx.engine.runner import ModelRunner
from phalanx.protocol import StartupStage

HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
PROMPT = random_prompt(40)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_reference(tmp_path, "Llama", **HEADS).folder


def first_logprobs(folder: Path, **options: Any) -> list[float]:
    driver = Driver(load_runner(folder, **options))
    sequence = driver.sequence(PROMPT, GREEDY)
    driver.prefill(sequence)
    found = driver.sampled[sequence][0].logprobs
    assert found is not None
    return found.top_logprobs


def rewrite(folder: Path, change: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_shards_are_found_by_their_index(folder: Path) -> None:
    expected = first_logprobs(folder)
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {name: file for file, part in halves.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert first_logprobs(folder) == expected

    (folder / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks 1 of the 2 files its index names: b\.safetensors"):
        load_runner(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"),
            r"lacks the tensor model\.layers\.1\.mlp\.up",
        ),
        (
            lambda tensors: tensors.update({"model.norm.weight": torch.ones(63)}),
            r"model\.norm\.weight has shape \[63\], and config\.json asks for \[64\]",
        ),
        (
            lambda tensors: tensors.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(64)}),
            r"1 tensors that its config\.json does not account for: model\.layers\.0\.self_attn\.q_proj\.bias",
        ),
        (
            lambda tensors: tensors.update({"model.norm.weight": torch.ones(64, dtype=torch.int8)}),
            r"model\.norm\.weight is torch\.int8",
        ),
    ],
)
def test_a_checkpoint_that_is_not_the_model_of_its_config_is_refused(folder: Path, change: Any, message: str) -> None:
    rewrite(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load_runner(folder)


def test_tensors_that_are_no_part_of_the_model_are_named_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = first_logprobs(folder)
    extra = [f"vision_tower.blocks.{index}.weight" for index in range(5)]
    further = ["model.layers.3.mlp.up_proj.weight", "v_head.summary.bias", "position_ids"]
    rewrite(folder, lambda tensors: tensors.update({name: torch.ones(2) for name in (*extra, *further)}))
    caplog.clear()
    assert first_logprobs(folder) == expected
    assert caplog.messages == [
        "the checkpoint has tensors that are no part of the model and stay unused (8): "
        "model.layers.3.mlp.up_proj.weight, position_ids, v_head.summary.bias, "
        "vision_tower.blocks.0.weight, vision_tower.blocks.1.weight, ..."
    ]
    ModelRunner(make_config(folder), warns=False).load(lambda *stage: None)
    assert len(caplog.messages) == 1


def test_names_may_lack_the_prefix_that_a_base_model_is_saved_without(folder: Path) -> None:
    expected = first_logprobs(folder)
    save_file(
        {name.removeprefix("model."): tensor for name, tensor in load_file(folder / "model.safetensors").items()},
        folder / "model.safetensors",
    )
    assert first_logprobs(folder) == expected


def test_other_forms_of_the_weights_beside_the_file_are_left_alone(folder: Path) -> None:
    expected = first_logprobs(folder)
    save_file({"layers.0.attention.wq.weight": torch.zeros(3)}, folder / "consolidated.safetensors")
    assert first_logprobs(folder) == expected
    shutil.move(folder / "model.safetensors", folder / "weights.safetensors")
    (folder / "consolidated.safetensors").unlink()
    assert first_logprobs(folder) == expected


def test_files_that_cannot_be_read_are_named(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load_runner(folder)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"holds no \*\.safetensors file"):
        load_runner(folder)


def test_tied_and_derived_tensors_in_old_files_are_no_surprise(tmp_path: Path) -> None:
    folder = write_reference(tmp_path, "Llama", **HEADS, tie_word_embeddings=True).folder
    expected = first_logprobs(folder)
    rewrite(
        folder,
        lambda tensors: tensors.update(
            {"lm_head.weight": torch.zeros(1), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8)}
        ),
    )
    assert first_logprobs(folder) == expected


def test_float32_keeps_stored_bfloat16_weights_and_computes_the_same(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({name: t.bfloat16() for name, t in tensors.items()}))
    narrow = load_runner(folder, dtype="float32")
    assert narrow.model.layers[0].qkv.panels.dtype == torch.bfloat16
    assert narrow.caches[0].keys.dtype == torch.float32
    kept = first_logprobs(folder, dtype="float32")
    rewrite(folder, lambda tensors: tensors.update({name: t.float() for name, t in tensors.items()}))
    assert first_logprobs(folder, dtype="float32") == kept


@pytest.mark.parametrize(
    ("stored", "option", "weights", "cache"),
    [
        (torch.bfloat16, "auto", torch.bfloat16, torch.bfloat16),
        (torch.float16, "auto", torch.float32, torch.float32),
        (torch.float32, "auto", torch.float32, torch.float32),
        (torch.float32, "bfloat16", torch.bfloat16, torch.bfloat16),
    ],
)
def test_precision_follows_the_checkpoint_or_the_option(
    folder: Path, stored: torch.dtype, option: str, weights: torch.dtype, cache: torch.dtype
) -> None:
    expected = first_logprobs(folder)
    rewrite(folder, lambda tensors: tensors.update({name: t.to(stored) for name, t in tensors.items()}))
    edit_config(folder, lambda config: config.update(dtype=str(stored).removeprefix("torch.")))
    runner = load_runner(folder, dtype=option)
    assert runner.model.layers[0].down.panels.dtype == weights
    assert runner.caches[0].values.dtype == cache
    assert first_logprobs(folder, dtype=option) == pytest.approx(expected, abs=0.5)


def test_dummy_weights_are_a_function_of_the_seed(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    first, again, other = (first_logprobs(folder, load_format="dummy", seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert all(math.isfinite(value) for value in first)


def test_progress_is_told_stage_by_stage(folder: Path) -> None:
    told: list[tuple[StartupStage, float | None, str]] = []
    runner = ModelRunner(make_config(folder, block_size=32, cpu_threads=2))
    runner.load(lambda *stage: told.append(stage))
    stages = [stage for stage, *_ in told]
    assert list(dict.fromkeys(stages)) == [StartupStage.WEIGHTS, StartupStage.CACHE, StartupStage.WARM_UP]
    shares = [share for stage, share, _ in told if stage is StartupStage.WEIGHTS and share is not None]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len(shares) > 3
    assert runner.describe() == "KV cache 8,192 tokens, float32, 2 threads"


def test_threads_are_what_the_machine_allows_unless_the_option_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "usable_cpus", lambda: 3)
    assert load_runner(folder, cpu_threads=None).describe().endswith(" 3 threads")
    assert load_runner(folder, cpu_threads=2).describe().endswith(" 2 threads")


def test_torch_is_imported_without_a_word_where_there_is_no_numpy(tmp_path: Path) -> None:
    """An install brings none; torch says so by a warning at import, which would stand in every rank's output."""
    (tmp_path / "numpy.py").write_text("raise ModuleNotFoundError(\"No module named 'numpy'\", name='numpy')\n")
    script = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
from phalanx.engine.__main__ import make_runner
from support.rank_process import config
try:
    make_runner(config(engine="model", folder={str(tmp_path)!r}), None, first=True)
except Exception:
    pass  # there is no checkpoint
print("torch" in sys.modules)
"""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=env)
    assert (found.stdout.split(), found.stderr) == (["True"], "")
