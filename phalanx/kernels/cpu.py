"""Kernels for CPU: the C beside this file, called with the addresses of torch's memory.

Activations are float32. Weights and KV cache are float32 or bfloat16. Each output row is computed in an order of
additions that depends on nothing but the row itself, so a row's bits are the same in any batch, however its prompt was
chunked, with any number of threads. ctypes gives up the GIL during each call.
"""

import ctypes
from array import array
from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_char_p, c_double, c_int32, c_int64, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from phalanx.kernels.batch import Batch

PANEL = 32
"""Columns a panel of packed weights; as in linear.h."""
VALUE_MULTIPLE = 32
"""Rows of the value cache are padded to whole pairs of the widest vectors."""

_KINDS = {torch.float32: 0, torch.bfloat16: 1}


class _Linear(Structure):
    _fields_ = (
        ("panels", c_void_p),
        ("bias", c_void_p),
        ("inputs", c_int64),
        ("outputs", c_int64),
        ("kind", c_int64),
    )


class _Cache(Structure):
    _fields_ = (
        ("keys", c_void_p),
        ("values", c_void_p),
        ("kind", c_int64),
        ("query_heads", c_int64),
        ("kv_heads", c_int64),
        ("head_dim", c_int64),
        ("value_stride", c_int64),
        ("block_size", c_int64),
        ("window", c_int64),
        ("scale", c_double),
    )


class _Rotary(Structure):
    _fields_ = (("table", c_void_p), ("q_norm", c_void_p), ("k_norm", c_void_p), ("epsilon", c_double))


class _Batch(Structure):
    _fields_ = (("chunks", c_void_p), ("blocks", c_void_p), ("chunk_count", c_int64), ("rows", c_int64))


class RowSampling(Structure):
    """How one row's token is sampled; the random number is a function of seed and position."""

    _fields_ = (
        ("seed", c_uint64),
        ("position", c_uint64),
        ("temperature", c_double),
        ("top_p", c_double),
        ("min_p", c_double),
        ("top_k", c_int64),
    )


class LogProbabilities(NamedTuple):
    """The log probabilities of S rows' tokens, and of the K most likely tokens of each row."""

    logprobs_S: list[float]
    ranks_S: list[int]
    top_ids_SK: list[list[int]]
    top_logprobs_SK: list[list[float]]


class Linear:
    """Weights [N, K] of a linear layer, packed for streaming, and its bias [N]."""

    def __init__(self, inputs: int, outputs: int, dtype: torch.dtype, bias: bool) -> None:
        panels = -(-outputs // PANEL)
        self.inputs, self.outputs = inputs, outputs
        self.panels = torch.empty((panels, inputs, PANEL), dtype=dtype)
        self.panels[-1].zero_()
        self.bias_N = torch.zeros(outputs) if bias else None
        bias_address = None if self.bias_N is None else self.bias_N.data_ptr()
        self.struct = _Linear(self.panels.data_ptr(), bias_address, inputs, outputs, _KINDS[dtype])
        self.reference = byref(self.struct)


@dataclass(frozen=True, slots=True)
class HeadShape:
    """Heads of one attention layer. `window`: tokens a row sees, itself included; None is all."""

    query_heads: int
    kv_heads: int
    head_dim: int
    scale: float
    window: int | None


class LayerCache:
    """Keys and values of one layer: [blocks, kv_heads, head_dim, block_size] and [blocks, kv_heads, block_size,
    head_dim padded to VALUE_MULTIPLE]. Memory is taken by the system only as blocks are first written."""

    def __init__(self, shape: HeadShape, blocks: int, block_size: int, dtype: torch.dtype) -> None:
        stride = padded_head_dim(shape.head_dim)
        self.keys = torch.empty((blocks, shape.kv_heads, shape.head_dim, block_size), dtype=dtype)
        self.values = torch.empty((blocks, shape.kv_heads, block_size, stride), dtype=dtype)
        self.shape = shape
        self.struct = _Cache(
            self.keys.data_ptr(),
            self.values.data_ptr(),
            _KINDS[dtype],
            shape.query_heads,
            shape.kv_heads,
            shape.head_dim,
            stride,
            block_size,
            shape.window or 0,
            shape.scale,
        )
        self.reference = byref(self.struct)


class Rotary:
    """Rotary table [positions, head_dim] (cosines, then sines), with the norms that some families apply to each
    query and key head before they are rotated."""

    def __init__(self, table_PD: Tensor, q_norm_D: Tensor | None, k_norm_D: Tensor | None, epsilon: float) -> None:
        self.held = (table_PD, q_norm_D, k_norm_D)
        q_norm, k_norm = (None if norm is None else norm.data_ptr() for norm in (q_norm_D, k_norm_D))
        self.struct = _Rotary(table_PD.data_ptr(), q_norm, k_norm, epsilon)
        self.reference = byref(self.struct)


class StagedBatch:
    """A step's rows where the kernels read them."""

    def __init__(self, batch: Batch) -> None:
        self.held = batch
        self.rows = batch.rows
        self.tokens_address = batch.tokens.buffer_info()[0]
        chunks, blocks = batch.chunks.buffer_info(), batch.blocks.buffer_info()
        self.struct = _Batch(chunks[0], blocks[0], chunks[1] // 4, batch.rows)
        self.reference = byref(self.struct)


def padded_head_dim(head_dim: int) -> int:
    return -(-head_dim // VALUE_MULTIPLE) * VALUE_MULTIPLE


class CpuKernels:
    """The operations a model is written in. Shapes: T rows, S rows that are sampled, D hidden, N outputs."""

    def __init__(self, threads: int, level: str | None = None) -> None:
        """`level`: instruction set ("avx512", "avx2", "baseline"); None is the best this machine has.

        Raises ImportError where the package was installed without its compiled part.
        """
        library = _library()
        self.level = level or library.phalanx_level().decode()
        self._set_threads = library.phalanx_set_threads
        self.use_threads(threads)
        # Its own pool would only contend with ours, and nothing large is left to torch.
        torch.set_num_threads(1)

        def bind(name: str, *arguments: Any, result: Any = None) -> Any:
            function = getattr(library, f"{name}_{self.level}")
            function.argtypes, function.restype = arguments, result
            return function

        address, count, real = c_void_p, c_int64, c_double
        self._pack = bind("pack", POINTER(_Linear), address, count, count)
        self._linear = bind("linear", POINTER(_Linear), address, address, count, count)
        self._embed = bind("embed", POINTER(_Linear), address, address, count)
        self._rms_norm = bind("rms_norm", address, address, address, count, count, real)
        self._silu_and_multiply = bind("silu_and_multiply", address, address, count, count)
        self._rotate_and_store = bind("rotate_and_store", POINTER(_Cache), POINTER(_Batch), POINTER(_Rotary), address)
        self._attention = bind("attention", POINTER(_Cache), POINTER(_Batch), address, address)
        self._sample = bind("sample", address, count, count, address, address)
        self._log_probabilities = bind(
            "log_probabilities", address, count, count, address, count, address, address, address, address
        )
        self._penalise = bind("penalise", address, count, address, count, count, real, real, real, result=c_int64)

        self._philox = bind("philox", address, address, address)

    def use_threads(self, threads: int) -> None:
        """Use so many threads from the next operation on. No result depends on it."""
        self.threads = threads
        self._set_threads(threads)

    # --- weights

    def pack(self, linear: Linear, weight_MK: Tensor, first: int) -> None:
        """Copy weight rows into columns first ... first + M of a packed layer of the same dtype."""
        weight_MK = weight_MK.contiguous()
        assert weight_MK.dtype == linear.panels.dtype
        assert weight_MK.shape[1] == linear.inputs
        self._pack(linear.reference, weight_MK.data_ptr(), first, weight_MK.shape[0])

    # --- layers

    def stage(self, batch: Batch) -> StagedBatch:
        return StagedBatch(batch)

    def embed(self, batch: StagedBatch, table: Linear) -> Tensor:
        """Rows of a packed table, which may be the output layer's own (tied embeddings)."""
        x_TD = torch.empty((batch.rows, table.inputs))
        self._embed(table.reference, x_TD.data_ptr(), batch.tokens_address, batch.rows)
        return x_TD

    def linear(self, x_TK: Tensor, weight: Linear) -> Tensor:
        y_TN = torch.empty((x_TK.shape[0], weight.outputs))
        self._linear(weight.reference, y_TN.data_ptr(), x_TK.data_ptr(), x_TK.shape[0], 0)
        return y_TN

    def linear_add(self, residual_TN: Tensor, x_TK: Tensor, weight: Linear) -> None:
        """residual += linear(x), in place."""
        self._linear(weight.reference, residual_TN.data_ptr(), x_TK.data_ptr(), x_TK.shape[0], 1)

    def rms_norm(self, x_TD: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
        out_TD = torch.empty_like(x_TD)
        self._rms_norm(out_TD.data_ptr(), x_TD.data_ptr(), weight_D.data_ptr(), *x_TD.shape, epsilon)
        return out_TD

    def silu_and_multiply(self, gate_up_TF: Tensor) -> Tensor:
        """silu(gate) * up, of [T, 2 * F] that holds gate, then up."""
        rows, size = gate_up_TF.shape[0], gate_up_TF.shape[1] // 2
        out_TF = torch.empty((rows, size))
        self._silu_and_multiply(out_TF.data_ptr(), gate_up_TF.data_ptr(), rows, size)
        return out_TF

    def attention(self, qkv_TE: Tensor, batch: StagedBatch, cache: LayerCache, rotary: Rotary) -> Tensor:
        """Rotate queries and keys, store keys and values, attend. qkv is overwritten."""
        shape = cache.shape
        out_TA = torch.empty((batch.rows, shape.query_heads * shape.head_dim))
        qkv = qkv_TE.data_ptr()
        self._rotate_and_store(cache.reference, batch.reference, rotary.reference, qkv)
        self._attention(cache.reference, batch.reference, qkv, out_TA.data_ptr())
        return out_TA

    # --- choosing tokens

    def philox(self, counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
        """Philox 4x32-10: the four words that `sample` makes a row's random number of."""
        words = (c_uint32 * 4)()
        self._philox(byref((c_uint32 * 4)(*counter)), byref((c_uint32 * 2)(*key)), byref(words))
        return tuple(words)

    def sample(self, logits_SV: Tensor, samplings: Sequence[RowSampling]) -> list[int]:
        """A token a row; -1 for a row that holds NaN or infinity, or whose every token is excluded."""
        rows, size = logits_SV.shape
        tokens = (c_int64 * rows)()
        self._sample(logits_SV.data_ptr(), rows, size, byref((RowSampling * rows)(*samplings)), byref(tokens))
        if -2 in tokens:
            raise MemoryError(f"no memory for sampling from {size} logits")
        return list(tokens)

    def log_probabilities(self, logits_SV: Tensor, tokens: Sequence[int], top: int) -> LogProbabilities:
        """log-softmax of each row: of its token, with the token's rank, and of the `top` most likely ones."""
        rows, size = logits_SV.shape
        top = min(top, size)
        logprobs, ranks = (c_double * rows)(), (c_int64 * rows)()
        ids, values = (c_int64 * (rows * top))(), (c_double * (rows * top))()
        self._log_probabilities(
            logits_SV.data_ptr(),
            rows,
            size,
            byref((c_int64 * rows)(*tokens)),
            top,
            byref(logprobs),
            byref(ranks),
            byref(ids),
            byref(values),
        )
        return LogProbabilities(
            list(logprobs),
            list(ranks),
            [ids[row * top : (row + 1) * top] for row in range(rows)],
            [values[row * top : (row + 1) * top] for row in range(rows)],
        )

    def penalise(
        self,
        logits_V: Tensor,
        tokens: Sequence[int],
        prompt_length: int,
        repetition: float,
        frequency: float,
        presence: float,
    ) -> None:
        """Lower, in place, the logits of tokens seen: repetition over all, frequency and presence over the output."""
        seen = array("i", tokens)
        failed = self._penalise(
            logits_V.data_ptr(),
            logits_V.shape[0],
            seen.buffer_info()[0],
            len(seen),
            prompt_length,
            repetition,
            frequency,
            presence,
        )
        if failed:
            raise MemoryError(f"no memory for penalties over {logits_V.shape[0]} logits")


def _library() -> Any:
    folder = Path(__file__).parent
    path = folder / "_cpu.so"
    if not path.exists():
        raise ImportError(f"{path} is missing: install the package again with gcc at hand (pip install .)")
    library = ctypes.CDLL(str(path))
    library.phalanx_level.restype = library.phalanx_sources.restype = c_char_p
    library.phalanx_set_threads.argtypes = (c_int32,)
    sources = sorted(source for source in folder.iterdir() if source.suffix in (".c", ".h"))
    if sha256(b"".join(source.read_bytes() for source in sources)).hexdigest() != library.phalanx_sources().decode():
        raise ImportError(f"{path} was compiled from other sources than those beside it: install the package again")
    return library
