"""How large a rank's KV cache is: what the command line says, or its share of the memory that is free."""

from pathlib import Path

import torch

from phalanx.config import Config
from phalanx.kernels.cpu import padded_head_dim
from phalanx.models.shape import DecoderShape


def cache_blocks(config: Config, shape: DecoderShape, dtype: torch.dtype) -> int:
    """KV blocks of a rank: as many as `kv_cache_tokens` says, else as fit this rank's share of the free memory, and
    never more than max_num_seqs sequences of the full length can fill.

    Raises ValueError where not even one sequence of max_model_len fits.
    """
    block_size = config.engine.block_size
    longest = config.model.max_model_len or config.facts.max_model_len
    blocks_a_sequence = -(-longest // block_size)
    values = shape.layers * shape.kv_heads * (shape.head_dim + padded_head_dim(shape.head_dim))
    bytes_a_block = block_size * values * dtype.itemsize

    if config.engine.kv_cache_tokens is not None:
        blocks = config.engine.kv_cache_tokens // block_size
        source = f"--kv-cache-tokens {config.engine.kv_cache_tokens}"
    else:
        share = config.engine.gpu_memory_utilization / config.parallel.data_parallel_size
        free = free_memory()
        blocks = int(free * share) // bytes_a_block
        source = f"{share:.0%} of {free / 2**30:.1f} GiB free memory"
    if blocks < blocks_a_sequence:
        raise ValueError(
            f"the KV cache holds {blocks * block_size:,} tokens ({source}, {bytes_a_block / block_size:,.0f} bytes a "
            f"token), less than one sequence of {longest:,}: lower --max-model-len, or raise --kv-cache-tokens or "
            "--gpu-memory-utilization"
        )
    return min(blocks, config.engine.max_num_seqs * blocks_a_sequence)


def free_memory(root: Path = Path("/")) -> int:
    """Bytes to be had without swapping: by the kernel's estimate, and by the limits of the container it runs in.

    Args:
        root: where /proc and /sys/fs/cgroup are.
    """
    free = [
        int(line.split()[1]) * 1024
        for line in (root / "proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable:")
    ]
    if not free:
        raise RuntimeError("/proc/meminfo does not tell MemAvailable: give --kv-cache-tokens")
    return min(free + _free_in_cgroups(root))


def _free_in_cgroups(root: Path) -> list[int]:
    """What each limited control group (version 2) that this process is in has left; page cache counts as free."""
    mounted = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        if not line.startswith("0::/"):
            continue
        group = mounted / line.removeprefix("0::/")
        while group.is_relative_to(mounted):
            try:
                limit, used = (group / "memory.max").read_text().strip(), int((group / "memory.current").read_text())
                statistics = dict(field.split() for field in (group / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):
                limit = "max"
            if limit != "max":
                left.append(max(0, int(limit) - used + int(statistics.get("inactive_file", 0))))
            group = group.parent
    return left
