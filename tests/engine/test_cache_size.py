"""The KV cache's size: the option, or a share of what is free, and never without room for one whole sequence."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.reference import make_config

from phalanx.checkpoint.families import shape_of
from phalanx.config import Config
from phalanx.engine import cache_size
from phalanx.engine.cache_size import cache_blocks
from phalanx.engine.kv_cache import CacheTooSmall
from phalanx.machine import free_memory
from phalanx.protocol import Share

SHAPE = shape_of(
    {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 500,
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
)


def config(tmp_path: Path, **engine: Any) -> Config:
    return make_config(tmp_path, **engine)


def test_it_is_what_the_option_says(tmp_path: Path) -> None:
    assert cache_blocks(config(tmp_path, kv_cache_tokens=2000, block_size=32), SHAPE, torch.float32, Share()) == 62


def test_bytes_are_as_many_blocks_as_fit_them(tmp_path: Path) -> None:
    bytes_a_block = 16 * 3 * 2 * (16 + 32) * 4
    options = config(tmp_path, kv_cache_tokens=None, kv_cache_memory_bytes=100 * bytes_a_block - 1)
    assert cache_blocks(options, SHAPE, torch.float32, Share()) == 99


def test_it_is_no_larger_than_all_requests_can_fill(tmp_path: Path) -> None:
    few = config(tmp_path, kv_cache_tokens=10**9, max_num_seqs=3, block_size=16)
    assert cache_blocks(few, SHAPE, torch.float32, Share()) == 3 * 1024 // 16


def test_it_takes_its_share_of_free_memory(tmp_path: Path) -> None:
    """With a request limit that is out of the way: a tenth, and half as many bytes a token give twice the blocks."""
    options = config(tmp_path, kv_cache_tokens=None, max_num_seqs=10**7, kv_cache_memory_share=0.1)
    bytes_a_block = 16 * 3 * 2 * (16 + 32) * 4
    blocks = cache_blocks(options, SHAPE, torch.float32, Share())
    assert blocks * bytes_a_block == pytest.approx(free_memory() * 0.1, rel=0.3)
    assert cache_blocks(options, SHAPE, torch.bfloat16, Share()) == pytest.approx(2 * blocks, rel=0.3)


def test_ranks_that_divide_the_memory_take_no_more_together_than_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_size, "free_memory", lambda: 10**9)
    options = config(tmp_path, kv_cache_tokens=None, max_num_seqs=10**7, kv_cache_memory_share=0.1)
    alone = cache_blocks(options, SHAPE, torch.float32, Share(memory=1, cpus=4))
    assert cache_blocks(options, SHAPE, torch.float32, Share(memory=4, cpus=1)) == alone // 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_cache_tokens": 512}, r"holds 512 tokens \(--kv-cache-tokens 512.*less than one sequence of 1,024"),
        (
            {"kv_cache_tokens": None, "kv_cache_memory_bytes": 10**6},
            r"holds 864 tokens \(--kv-cache-memory-bytes 1000000.*--max-model-len of at most 864, or a larger --kv-c",
        ),
        ({"kv_cache_tokens": None, "kv_cache_memory_share": 1e-9}, r"holds 0 tokens .* of .* GiB free memory"),
    ],
)
def test_less_than_one_sequence_is_refused_in_numbers(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CacheTooSmall, match=message):
        cache_blocks(config(tmp_path, **options), SHAPE, torch.float32, Share())
