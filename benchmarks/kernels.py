"""The CPU kernels and whole steps, beside torch's own operators: `python benchmarks/kernels.py [--threads N]`.

Every figure is the median of repeated runs on this machine; "torch" is the nearest operator torch has
(functional.linear in the weights' dtype, scaled_dot_product_attention on contiguous keys and values, sort).

What profiling taught: a step is its matrix products (85 % of a decode step of `tiny`, 95 % of a prompt of `small`), one
row is the memory's speed and 12 rows are the multipliers'; Python and ctypes cost about 30 us a layer; huge pages bring
nothing; and where a core is shared with another process, OpenMP's barriers cost 8 ms each, hundreds of times a step,
which is why kernels/threads.c has no barrier.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

from phalanx.checkpoint.rope import RopeShape
from phalanx.config import (
    Config,
    EngineOptions,
    HttpOptions,
    ModelFacts,
    ModelOptions,
    ParallelOptions,
    ServiceOptions,
)
from phalanx.engine.runner import ModelRunner
from phalanx.engine.sequence import BlockId, Chunk, RequestKey, Sequence
from phalanx.kernels.batch import Batch
from phalanx.kernels.cpu import RowSampling
from phalanx.kernels.device import HeadShape, Kernels, LayerCache, Linear, Rotary, kernels_for
from phalanx.models.rotary import rotary_table
from phalanx.protocol import ApiServerId, RequestId, SamplingParams

SHAPES = {
    "tiny": {
        "vocab_size": 8192,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    },
    "small": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
}


def median_seconds(call: Callable[[], object], budget: float = 0.4) -> float:
    """Median over as many calls as fit in `budget` seconds, at least 5, after one that is not counted."""
    call()
    taken: list[float] = []
    while len(taken) < 5 or (sum(taken) < budget and len(taken) < 1000):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def linear_layers(kernels: Kernels) -> None:
    print("linear            rows      ms   GFLOP/s   GB/s   torch ms")
    for name, inputs, outputs in (("576 -> 49152", 576, 49152), ("4096 -> 4096", 4096, 4096), ("576 -> 960", 576, 960)):
        for dtype in (torch.bfloat16, torch.float32):
            weight_NK = (torch.randn(outputs, inputs) / inputs**0.5).to(dtype)
            linear = Linear(inputs, outputs, dtype, bias=False)
            kernels.pack(linear, weight_NK, 0)
            for rows in (1, 16, 512):
                x_TK = torch.randn(rows, inputs)
                ours = median_seconds(lambda: kernels.linear(x_TK, linear))  # noqa: B023
                x_torch = x_TK.to(dtype)
                theirs = median_seconds(lambda: functional.linear(x_torch, weight_NK))  # noqa: B023
                flops, read = 2 * rows * inputs * outputs, weight_NK.nbytes
                kind = str(dtype).removeprefix("torch.")
                print(
                    f"{name:13} {kind:8} {rows:4} {ours * 1e3:7.3f} {flops / ours / 1e9:9.0f} {read / ours / 1e9:6.1f} "
                    f"{theirs * 1e3:10.3f}"
                )


def attention_layers(kernels: Kernels) -> None:
    print("\nattention, 9 query heads, 3 kv heads of 64       ms   torch ms")
    shape = HeadShape(query_heads=9, kv_heads=3, head_dim=64, scale=0.125, window=None)
    rotary = Rotary(rotary_table(RopeShape("default", 1e4), 64, 2048), None, None, 1e-6)
    for dtype in (torch.float32, torch.bfloat16):
        for sequences, rows, context in ((1, 1, 2048), (16, 1, 512), (1, 512, 512), (1, 512, 2048)):
            cache = LayerCache(shape, sequences * context // 16, 16, dtype)
            cache.keys.normal_()
            cache.values.normal_()
            batch = Batch()
            for index in range(sequences):
                blocks = range(index * context // 16, (index + 1) * context // 16)
                batch.add([0] * rows, context - rows, blocks)
            staged = kernels.stage(batch)
            qkv_TE = torch.randn(sequences * rows, 15 * 64)
            ours = median_seconds(lambda: kernels.attention(qkv_TE, staged, cache, rotary))  # noqa: B023
            q = torch.randn(sequences, 9, rows, 64, dtype=dtype)
            k, v = (torch.randn(sequences, 3, context, 64, dtype=dtype) for _ in "kv")
            mask = torch.ones(rows, context, dtype=torch.bool).tril(context - rows)
            theirs = median_seconds(
                lambda: functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)  # noqa: B023
            )
            kind = str(dtype).removeprefix("torch.")
            print(
                f"{kind:8} {sequences:2} x {rows:3} rows, context {context:4}       {ours * 1e3:12.3f} "
                f"{theirs * 1e3:10.3f}"
            )


def sampling(kernels: Kernels) -> None:
    print("\n16 rows of 49,152 logits              ms   torch ms")
    logits_SV = torch.randn(16, 49152) * 3
    for name, choice in (
        ("greedy", RowSampling(1, 2, 0.0, 1.0, 0.0, 0)),
        ("temperature", RowSampling(1, 2, 1.0, 1.0, 0.0, 0)),
        ("top_k 20, top_p 0.8", RowSampling(1, 2, 0.7, 0.8, 0.0, 20)),
        ("top_p 0.9", RowSampling(1, 2, 1.0, 0.9, 0.0, 0)),
    ):
        ours = median_seconds(lambda: kernels.sample(logits_SV, [choice] * 16))  # noqa: B023
        if choice.top_p < 1:
            theirs = f"{median_seconds(logits_SV.sort) * 1e3:10.3f} (sort)"
        elif choice.temperature:
            theirs = f"{median_seconds(lambda: logits_SV.softmax(-1).multinomial(1)) * 1e3:10.3f}"
        else:
            theirs = f"{median_seconds(lambda: logits_SV.argmax(-1)) * 1e3:10.3f}"
        print(f"{name:30} {ours * 1e3:9.3f} {theirs}")
    ours = median_seconds(lambda: kernels.log_probabilities(logits_SV, [5] * 16, 20))
    theirs = f"{median_seconds(lambda: logits_SV.log_softmax(-1).topk(20)) * 1e3:10.3f}"
    print(f"{'20 log probabilities':30} {ours * 1e3:9.3f} {theirs}")


def dummy_runner(name: str, dtype: str, threads: int) -> ModelRunner:
    shape = SHAPES[name]
    with tempfile.TemporaryDirectory() as folder:
        config = {"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True, **shape}
        (Path(folder) / "config.json").write_text(json.dumps(config))
        facts = ModelFacts(folder, "LlamaForCausalLM", int(shape["vocab_size"]), 4096, (2,), {})
        runner = ModelRunner(
            Config(
                ModelOptions(load_format="dummy", dtype=dtype),  # type: ignore[arg-type]
                ParallelOptions(),
                EngineOptions(cpu_threads=threads, kv_cache_tokens=2**16),
                HttpOptions(),
                ServiceOptions(),
                facts,
            )
        )
        runner.load(lambda stage, share, detail: None)
    return runner


def steps(threads: int) -> None:
    print("\nstep                                ms   tokens/s")
    for name in SHAPES:
        for dtype in ("bfloat16", "float32"):
            runner = dummy_runner(name, dtype, threads)
            for rows, context in ((1, 128), (16, 128), (16, 1024)):
                sequences = [_sequence(index, context) for index in range(rows)]
                chunks = [Chunk(sequence, context - 1, 1) for sequence in sequences]
                _report(name, dtype, f"decode {rows:2} at {context}", rows, lambda: runner.execute(chunks))  # noqa: B023
            prompt = Chunk(_sequence(0, 512), 0, 512)
            _report(name, dtype, "prefill 512", 512, lambda: runner.execute([prompt]))  # noqa: B023


def _sequence(index: int, tokens: int) -> Sequence:
    blocks = [BlockId(block) for block in range(index * tokens // 16, (index + 1) * tokens // 16)]
    key = RequestKey(ApiServerId(0), RequestId(index))
    return Sequence(key, [5] * tokens, tokens, SamplingParams(max_tokens=1, temperature=0), blocks=blocks)


def _report(name: str, dtype: str, what: str, tokens: int, call: Callable[[], object]) -> None:
    taken = median_seconds(call, budget=1.0)
    print(f"{name:5} {dtype:8} {what:17} {taken * 1e3:8.2f} {tokens / taken:10.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=("linear", "attention", "sampling", "steps"))
    options = parser.parse_args()
    kernels = kernels_for("cpu", options.threads)
    print(f"{kernels.level}, {options.threads} threads, torch {torch.__version__}\n")
    torch.set_num_threads(options.threads)  # for its columns; the runner leaves torch one
    if options.only in (None, "linear"):
        linear_layers(kernels)
    if options.only in (None, "attention"):
        attention_layers(kernels)
    if options.only in (None, "sampling"):
        sampling(kernels)
    if options.only in (None, "steps"):
        steps(options.threads)


if __name__ == "__main__":
    main()
