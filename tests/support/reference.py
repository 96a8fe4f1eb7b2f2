"""Random checkpoints made with transformers, and a driver that runs chunks through a ModelRunner by hand."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

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
from phalanx.engine.sequence import BlockId, Chunk, RequestKey, Sampled, Sequence
from phalanx.protocol import ApiServerId, RequestId, SamplingParams

VOCABULARY = 500
BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
    # Larger than the usual 0.02: sharp distributions, in which a wrong number shows as a wrong token.
    "initializer_range": 0.25,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
THETA = {"rope_theta": 10000.0}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama: 4 heads of 4, untied": ("Llama", {"num_attention_heads": 4, "num_key_value_heads": 4}),
    "llama: 8 heads of 2, tied, biases everywhere, heads of 20": (
        "Llama",
        {
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 20,
            "tie_word_embeddings": True,
            "attention_bias": True,
            "mlp_bias": True,
        },
    ),
    "llama: one key-value head, llama3 rope": (
        "Llama",
        {
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "rope_parameters": {
                "rope_type": "llama3",
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
                **THETA,
            },
        },
    ),
    "llama: linear rope": (
        "Llama",
        {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "linear", "factor": 3.0, **THETA},
        },
    ),
    "mistral: window of 50 in all layers, 8 heads of 2": (
        "Mistral",
        {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 50},
    ),
    "mistral: no window, yarn rope with mscale": (
        "Mistral",
        {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "sliding_window": None,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 128,
                "mscale": 1.0,
                "mscale_all_dim": 0.5,
                **THETA,
            },
        },
    ),
    "qwen2: tied, window of 40 from the second layer on": (
        "Qwen2",
        {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "use_sliding_window": True,
            "sliding_window": 40,
            "max_window_layers": 1,
        },
    ),
    "qwen3: heads of 32, 6 of 2, yarn rope": (
        "Qwen3",
        {
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 2.0,
                "original_max_position_embeddings": 256,
                "beta_fast": 16.0,
                "truncate": False,
                **THETA,
            },
        },
    ),
    "qwen3: tied, biases": (
        "Qwen3",
        {
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 24,
            "tie_word_embeddings": True,
            "attention_bias": True,
        },
    ),
}


@dataclass(frozen=True)
class Reference:
    """A checkpoint's folder, and transformers' model of the same weights."""

    folder: Path
    model: transformers.PreTrainedModel

    def log_probabilities(self, tokens: list[int]) -> torch.Tensor:
        """[tokens, vocabulary] of what follows each token."""
        with torch.no_grad():
            return torch.log_softmax(self.model(torch.tensor([tokens])).logits[0], -1)


def write_reference(folder: Path, family: str, **shape: Any) -> Reference:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**BASE | shape)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases are made as zeros and norms as ones, which would hide a missing one
                parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return Reference(folder, model)


def edit_config(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    edit(config)
    path.write_text(json.dumps(config))


def make_config(folder: Path, load_format: str = "auto", dtype: str = "auto", seed: int = 0, **engine: Any) -> Config:
    return Config(
        ModelOptions(model=str(folder), load_format=load_format, dtype=dtype, seed=seed),  # type: ignore[arg-type]
        ParallelOptions(),
        EngineOptions(**{"kv_cache_tokens": 8192, "cpu_threads": 1} | engine),
        HttpOptions(),
        ServiceOptions(),
        ModelFacts(str(folder), "", VOCABULARY, 1024, (2,), {}),
    )


def load_runner(folder: Path, **options: Any) -> ModelRunner:
    runner = ModelRunner(make_config(folder, **options))
    runner.load(lambda stage, share, detail: None)
    return runner


GREEDY = SamplingParams(max_tokens=64, temperature=0.0, ignore_eos=True, logprobs=5)


@dataclass
class Driver:
    """Runs sequences by hand: allocates blocks, cuts prompts as it is told, mixes prompts and decodes in a step."""

    runner: ModelRunner
    sampled: dict[Sequence, list[Sampled]] = field(default_factory=dict)
    next_block: int = 0

    def sequence(self, prompt: list[int], sampling: SamplingParams = GREEDY) -> Sequence:
        key = RequestKey(ApiServerId(0), RequestId(len(self.sampled)))
        sequence = Sequence(key, list(prompt), len(prompt), sampling)
        self.sampled[sequence] = []
        return sequence

    def step(self, *parts: tuple[Sequence, int]) -> None:
        """Run the next `length` tokens of each sequence, and append what is sampled."""
        chunks = []
        for sequence, length in parts:
            end = sequence.computed + length
            while len(sequence.blocks) * self.runner.block_size < end:
                # Not in order, so that a block table that is ignored shows.
                sequence.blocks.append(BlockId((self.next_block * 7919) % self.runner.num_blocks))
                self.next_block += 1
            chunks.append(Chunk(sequence, sequence.computed, length))
        for chunk, result in zip(chunks, self.runner.execute(chunks), strict=True):
            chunk.sequence.computed = chunk.start + chunk.length
            assert (result is not None) == chunk.samples
            if result is not None:
                chunk.sequence.tokens.append(result.token)
                self.sampled[chunk.sequence].append(result)

    def prefill(self, sequence: Sequence, *lengths: int) -> None:
        """Run what is not computed yet: chunks of these lengths, then the rest."""
        for length in lengths:
            self.step((sequence, length))
        self.step((sequence, len(sequence.tokens) - sequence.computed))

    def decode(self, *sequences: Sequence, steps: int) -> None:
        for _ in range(steps):
            self.step(*((sequence, 1) for sequence in sequences))

    def forget(self, sequence: Sequence) -> None:
        """Preempt: its cache is lost, its tokens are kept."""
        sequence.computed = 0
        sequence.blocks = []


def random_prompt(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    tokens: list[int] = torch.randint(VOCABULARY, (length,), generator=generator).tolist()
    return tokens
