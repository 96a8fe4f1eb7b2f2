"""How large a rank's KV cache is: what the command line says, or its share of the memory that is free."""

import torch

from phalanx.checkpoint.shape import DecoderShape
from phalanx.config import Config
from phalanx.engine.kv_cache import CacheTooSmall
from phalanx.kernels.cpu import padded_head_dim
from phalanx.machine import free_memory
from phalanx.protocol import Share


def cache_blocks(config: Config, shape: DecoderShape, dtype: torch.dtype, share: Share) -> int:
    """KV blocks of a rank: as many as `kv_cache_tokens` or `kv_cache_memory_bytes` says, else as fit this rank's share
    of the free memory of its machine, and never more than max_num_seqs sequences of the full length can fill.

    Raises CacheTooSmall where not even one sequence of max_model_len fits.
    """
    block_size = config.engine.block_size
    longest = config.facts.max_model_len
    blocks_a_sequence = -(-longest // block_size)
    values = shape.layers * shape.kv_heads * (shape.head_dim + padded_head_dim(shape.head_dim))
    bytes_a_block = block_size * values * dtype.itemsize

    if config.engine.kv_cache_tokens is not None:
        blocks = config.engine.kv_cache_tokens // block_size
        flag = "--kv-cache-tokens"
        source = f"{flag} {config.engine.kv_cache_tokens}"
    elif config.engine.kv_cache_memory_bytes is not None:
        blocks = config.engine.kv_cache_memory_bytes // bytes_a_block
        flag = "--kv-cache-memory-bytes"
        source = f"{flag} {config.engine.kv_cache_memory_bytes}"
    else:
        flag = "--kv-cache-memory-share"
        part = config.engine.kv_cache_memory_share / share.memory
        free = free_memory()
        blocks = int(free * part) // bytes_a_block
        source = f"{part:.0%} of {free / 2**30:.1f} GiB free memory"
    if blocks < blocks_a_sequence:
        # How much memory is free may be another number when the advice is followed.
        exact = blocks > 0 and flag != "--kv-cache-memory-share"
        shorter = f"--max-model-len of at most {blocks * block_size}" if exact else "shorter --max-model-len"
        raise CacheTooSmall(
            f"the KV cache holds {blocks * block_size:,} tokens ({source}, {bytes_a_block / block_size:,.0f} bytes a "
            f"token), less than one sequence of {longest:,}: give a {shorter}, or a larger {flag}"
        )
    return min(blocks, config.engine.max_num_seqs * blocks_a_sequence)
