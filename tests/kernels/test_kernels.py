"""The CPU kernels of every instruction-set level this machine runs, against plain torch in float64."""

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from phalanx.checkpoint.rope import RopeShape
from phalanx.kernels.batch import Batch
from phalanx.kernels.cpu import CpuKernels, HeadShape, LayerCache, Linear, Rotary
from phalanx.models.rotary import rotary_table

LEVELS = ("baseline", "avx2", "avx512")
BEST = CpuKernels(1).level


@pytest.fixture(params=LEVELS[: LEVELS.index(BEST) + 1])
def kernels(request: pytest.FixtureRequest) -> CpuKernels:
    return CpuKernels(1, request.param)


@pytest.fixture(autouse=True)
def _one_thread_afterwards() -> Iterator[None]:
    yield
    CpuKernels(1)


def packed(kernels: CpuKernels, weight_NK: Tensor, bias_N: Tensor | None = None) -> Linear:
    linear = Linear(weight_NK.shape[1], weight_NK.shape[0], weight_NK.dtype, bias_N is not None)
    kernels.pack(linear, weight_NK, 0)
    if linear.bias_N is not None and bias_N is not None:
        linear.bias_N.copy_(bias_N)
    return linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (7, 31), (64, 33), (96, 160), (2100, 64)])
@pytest.mark.parametrize("rows", [1, 5, 12, 13, 200])
def test_linear_equals_torch(kernels: CpuKernels, dtype: torch.dtype, inputs: int, outputs: int, rows: int) -> None:
    torch.manual_seed(0)
    weight_NK, bias_N = (torch.randn(outputs, inputs) / inputs**0.5).to(dtype), torch.randn(outputs)
    x_TK = torch.randn(rows, inputs)
    linear = packed(kernels, weight_NK, bias_N)
    expected_TN = x_TK.double() @ weight_NK.double().T + bias_N.double()
    torch.testing.assert_close(kernels.linear(x_TK, linear).double(), expected_TN, atol=1e-5, rtol=1e-5)
    residual_TN = torch.randn(rows, outputs)
    expected_TN += residual_TN
    kernels.linear_add(residual_TN, x_TK, linear)
    torch.testing.assert_close(residual_TN.double(), expected_TN, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_that_are_packed_one_by_one_lie_side_by_side(kernels: CpuKernels, dtype: torch.dtype) -> None:
    parts = [torch.randn(size, 20).to(dtype) for size in (45, 3, 70)]
    linear = Linear(20, 118, dtype, bias=False)
    for part, first in zip(parts, (0, 45, 48), strict=True):
        kernels.pack(linear, part, first)
    x_TK = torch.randn(3, 20)
    assert torch.equal(kernels.linear(x_TK, linear), kernels.linear(x_TK, packed(kernels, torch.cat(parts))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_of_a_product_does_not_depend_on_the_other_rows(kernels: CpuKernels, dtype: torch.dtype) -> None:
    linear = packed(kernels, torch.randn(100, 1500).to(dtype))
    x_TK = torch.randn(250, 1500)
    whole_TN = kernels.linear(x_TK, linear)
    for first, end in ((0, 1), (3, 8), (190, 203), (249, 250)):
        assert torch.equal(kernels.linear(x_TK[first:end].contiguous(), linear), whole_TN[first:end])
    assert torch.equal(CpuKernels(3, kernels.level).linear(x_TK, linear), whole_TN)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embedding_rows_are_exact(kernels: CpuKernels, dtype: torch.dtype) -> None:
    table_VD = torch.randn(70, 24).to(dtype)
    batch = Batch()
    batch.add([0, 69, 31, 32, 16, 15], 0, [0])
    found_TD = kernels.embed(kernels.stage(batch), packed(kernels, table_VD))
    assert torch.equal(found_TD, table_VD[[0, 69, 31, 32, 16, 15]].float())


@pytest.mark.parametrize("size", [1, 15, 64, 100])
def test_norm_and_gate_equal_torch(kernels: CpuKernels, size: int) -> None:
    x_TD, weight_D = torch.randn(9, size) * 10, torch.randn(size)
    expected_TD = x_TD / (x_TD.double().pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight_D
    torch.testing.assert_close(kernels.rms_norm(x_TD, weight_D, 1e-5).double(), expected_TD, atol=1e-6, rtol=1e-5)
    gate_up = torch.randn(9, 2 * size) * 30
    gate_up[0, 0], gate_up[1, 0] = -200.0, 200.0
    gate, up = gate_up.double().split(size, -1)
    expected_TF = torch.nn.functional.silu(gate) * up
    torch.testing.assert_close(kernels.silu_and_multiply(gate_up).double(), expected_TF, atol=1e-5, rtol=1e-5)


def attend(
    kernels: CpuKernels, shape: HeadShape, dtype: torch.dtype, block_size: int, lengths: list[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """Sequences of (context, rows): the context is computed in one step, the rows after it in a second one.

    Returns what the second step gives and what float64 gives. The cache starts as NaN: a slot that nothing was
    written to must not show.
    """
    torch.manual_seed(0)
    blocks_each = max(-(-(context + rows) // block_size) for context, rows in lengths)
    order = torch.randperm(len(lengths) * blocks_each).tolist()
    tables = [order[index * blocks_each : (index + 1) * blocks_each] for index in range(len(lengths))]
    cache = LayerCache(shape, len(order), block_size, dtype)
    cache.keys.fill_(math.nan)
    cache.values.fill_(math.nan)
    heads, kv_heads, dim = shape.query_heads, shape.kv_heads, shape.head_dim
    table_PD = rotary_table(RopeShape("default", 100.0), dim, 1024)
    q_norm_D, k_norm_D = torch.rand(dim) + 0.5, torch.rand(dim) + 0.5
    rotary = Rotary(table_PD, q_norm_D, k_norm_D, 1e-6)
    inputs = [torch.randn(context + rows, heads + 2 * kv_heads, dim) for context, rows in lengths]

    first, second = Batch(), Batch()
    for (context, rows), table in zip(lengths, tables, strict=True):
        if context:
            first.add([0] * context, 0, table)
        second.add([0] * rows, context, table)
    if first.rows:
        before = torch.cat([x[:context] for x, (context, _) in zip(inputs, lengths, strict=True)])
        kernels.attention(before.flatten(1).clone(), kernels.stage(first), cache, rotary)
    after = torch.cat([x[context:] for x, (context, _) in zip(inputs, lengths, strict=True)])
    found = kernels.attention(after.flatten(1).clone(), kernels.stage(second), cache, rotary)

    expected = []
    for x, (context, _) in zip(inputs, lengths, strict=True):
        x = x.double()
        q, k, v = x.split((heads, kv_heads, kv_heads), 1)
        q, k = (
            y / (y.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * norm for y, norm in ((q, q_norm_D), (k, k_norm_D))
        )
        cosine, sine = table_PD[: len(x), None].double().split(dim // 2, -1)

        def rotate(y: Tensor, cosine: Tensor = cosine, sine: Tensor = sine) -> Tensor:
            a, b = y.split(dim // 2, -1)
            return torch.cat((a * cosine - b * sine, b * cosine + a * sine), -1)

        q, k = rotate(q), rotate(k)
        if dtype == torch.bfloat16:
            k, v = (y.float().to(dtype).double() for y in (k, v))
        k, v = (y.repeat_interleave(heads // kv_heads, 1) for y in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * shape.scale
        distance = torch.arange(len(x))[:, None] - torch.arange(len(x))
        hidden = distance < 0 if shape.window is None else (distance < 0) | (distance >= shape.window)
        weights = scores.masked_fill(hidden, -math.inf).softmax(-1)
        expected.append(torch.einsum("hqk,khd->qhd", weights, v)[context:].flatten(1))
    return found.double(), torch.cat(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block_size", [16, 32, 64])
@pytest.mark.parametrize("window", [None, 1, 40, 100])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(1, 1, 8), (6, 2, 24), (4, 4, 64), (7, 1, 80)])
def test_attention_equals_torch(
    kernels: CpuKernels, dtype: torch.dtype, block_size: int, window: int | None, heads: int, kv_heads: int, dim: int
) -> None:
    shape = HeadShape(heads, kv_heads, dim, dim**-0.5, window)
    lengths = [(0, 1), (0, 70), (63, 1), (64, 1), (130, 30), (5, 200), (200, 1)]
    found, expected = attend(kernels, shape, dtype, block_size, lengths)
    # A key that falls between two bfloat16 numbers may be rounded either way.
    torch.testing.assert_close(found, expected, atol=1e-5 if dtype == torch.float32 else 2e-2, rtol=1e-4)


def test_large_scores_do_not_overflow(kernels: CpuKernels) -> None:
    found, expected = attend(kernels, HeadShape(2, 1, 16, 100.0, None), torch.float32, 16, [(0, 90), (70, 3)])
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_random_numbers_are_philox(kernels: CpuKernels) -> None:
    """Known answers of Random123 (kat_vectors, philox4x32 10)."""
    library = kernels.philox
    assert library((0,) * 4, (0,) * 2) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert library((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
    counter = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    assert library(counter, (0xA4093822, 0x299F31D0)) == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)


def test_threads_that_call_at_once_get_their_own_results() -> None:
    """One of them has the pool; the others do their work themselves."""
    kernels = CpuKernels(3)
    linear = packed(kernels, torch.randn(300, 200))
    inputs = [torch.randn(20, 200) for _ in range(4)]
    expected = [kernels.linear(x_TK, linear) for x_TK in inputs]
    right = [False] * len(inputs)

    def work(index: int) -> None:
        right[index] = all(torch.equal(kernels.linear(inputs[index], linear), expected[index]) for _ in range(300))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(right)


def test_the_number_of_threads_may_change_at_any_time() -> None:
    x_TK, weight_NK = torch.randn(30, 64), torch.randn(500, 64)
    expected = CpuKernels(1).linear(x_TK, packed(CpuKernels(1), weight_NK))
    for threads in (4, 2, 1, 5, 3) * 20:
        kernels = CpuKernels(threads)
        assert torch.equal(kernels.linear(x_TK, packed(kernels, weight_NK)), expected)


def test_a_thread_that_is_not_wanted_any_more_takes_no_cpu() -> None:
    kernels = CpuKernels(4)
    linear, x_TK = packed(kernels, torch.randn(600, 400)), torch.randn(30, 400)

    def busy() -> set[str]:
        """The threads of this process that run while it computes."""
        before = nanoseconds_run()
        for _ in range(200):
            kernels.linear(x_TK, linear)
        after = nanoseconds_run()
        return {thread for thread, spent in after.items() if spent > before.get(thread, 0)}

    for wanted in (2, 1):
        kernels.use_threads(wanted)
        # Each that is to rest learns of it from an operation that it wakes up for, once it gets a CPU for that.
        deadline = time.monotonic() + 30
        while len(busy()) > wanted:
            assert time.monotonic() < deadline


def nanoseconds_run() -> dict[str, int]:
    tasks = Path("/proc/self/task")
    return {task.name: int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()}
