"""The engine's scheduler and runner together give what transformers gives, token by token, whatever else runs.

Prompts are longer than a step, so they are chunked; each is asked twice, so the second time starts from the prefix
cache; 15 other requests run beside.
"""

import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import transformers

from phalanx.checkpoint.facts import read
from phalanx.config import Config, EngineOptions, HttpOptions, ModelOptions, ParallelOptions, ServiceOptions
from phalanx.engine.kv_cache import KvCache
from phalanx.engine.runner import ModelRunner
from phalanx.engine.scheduler import Scheduler
from phalanx.engine.sequence import RequestKey, Sequence
from phalanx.protocol import ApiServerId, RequestId, RequestOutput, SamplingParams

OUTPUT = 64
SHAPE: dict[str, Any] = {
    "vocab_size": 384,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "max_position_embeddings": 512,
    # Larger than the usual 0.02: sharp distributions, in which a wrong number shows as a wrong token.
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
FAMILIES = {
    "llama, 6:2 heads, untied": ("Llama", {"num_attention_heads": 6, "num_key_value_heads": 2}),
    "llama, 4:1 heads, tied, llama3 rope": (
        "Llama",
        {
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
            "rope_parameters": {**LLAMA3, "original_max_position_embeddings": 64, "rope_theta": 10000.0},
        },
    ),
    "mistral, 4:2 heads, sliding window": (
        "Mistral",
        {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 40},
    ),
    "qwen2, 6:6 heads, tied, linear rope": (
        "Qwen2",
        {
            "num_attention_heads": 6,
            "num_key_value_heads": 6,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
        },
    ),
    "qwen3, 8:2 heads, untied, yarn rope": (
        "Qwen3",
        {
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 24,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 128,
                "rope_theta": 10000.0,
            },
        },
    ),
}


class Rank:
    """A rank without its sockets: requests in, steps, outputs."""

    def __init__(self, folder: Path) -> None:
        options = {
            "model": ModelOptions(model=str(folder)),
            "engine": EngineOptions(max_num_seqs=16, max_num_batched_tokens=64, kv_cache_tokens=8192, cpu_threads=1),
        }
        config = Config(
            parallel=ParallelOptions(),
            http=HttpOptions(),
            service=ServiceOptions(),
            facts=read(folder, None),
            **options,
        )
        self.runner = ModelRunner(config)
        self.runner.load(lambda *_: None)
        self.scheduler = Scheduler(
            KvCache(self.runner.num_blocks, self.runner.block_size),
            max_num_seqs=16,
            max_num_batched_tokens=64,
            max_model_len=512,
            eos_token_ids=(),
        )
        self._ids = map(RequestId, itertools.count())

    def add(self, prompt: list[int], sampling: SamplingParams) -> RequestId:
        key = RequestKey(ApiServerId(0), next(self._ids))
        self.scheduler.add(Sequence(key, list(prompt), len(prompt), sampling, arrival=key.request_id))
        return key.request_id

    def run(self) -> dict[RequestId, list[RequestOutput]]:
        """Step until nothing is left to do."""
        outputs: dict[RequestId, list[RequestOutput]] = {}
        while chunks := self.scheduler.plan():
            self.scheduler.complete(chunks, self.runner.execute(chunks))
            for output in self.scheduler.take_outputs().get(ApiServerId(0), []):
                outputs.setdefault(output.request_id, []).append(output)
        return outputs


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES.keys(), scope="module")
def reference(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[transformers.PreTrainedModel, Path]:
    family, extra = request.param
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SHAPE | {"tie_word_embeddings": False} | extra)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    folder = tmp_path_factory.mktemp("reference")
    model.save_pretrained(folder)
    return model, folder


def greedy(model: transformers.PreTrainedModel, prompt: list[int]) -> tuple[list[int], torch.Tensor]:
    """transformers' tokens, and its log probabilities of all tokens at each of them [OUTPUT, vocabulary]."""
    with torch.no_grad():
        tokens = list(prompt)
        for _ in range(OUTPUT):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        logits = model(torch.tensor([tokens])).logits[0, len(prompt) - 1 : -1]
    return tokens[len(prompt) :], torch.log_softmax(logits, -1)


def test_greedy_tokens_and_logprobs_equal_transformers_in_a_busy_rank(
    reference: tuple[transformers.PreTrainedModel, Path],
) -> None:
    model, folder = reference
    rank = Rank(folder)
    sampling = SamplingParams(max_tokens=OUTPUT, temperature=0.0, ignore_eos=True, logprobs=3)
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randint(384, (180,), generator=generator).tolist()
    expected, logprobs_TV = greedy(model, prompt)

    cached = []
    for _ in range(2):
        watched = rank.add(prompt, sampling)
        for n in range(15):
            other = torch.randint(384, (20 + 9 * n,), generator=generator).tolist()
            rank.add(other, msgspec.structs.replace(sampling, max_tokens=5 * n + 5, temperature=n % 3 / 2, seed=n))
        outputs = rank.run()[watched]
        assert [token for output in outputs for token in output.tokens] == expected
        found = [one for output in outputs for one in output.logprobs or []]
        for position, one in enumerate(found):
            assert one.logprob == pytest.approx(float(logprobs_TV[position, expected[position]]), abs=1e-4)
            top = logprobs_TV[position, one.top_ids]
            assert one.top_logprobs == pytest.approx(top.tolist(), abs=1e-4)
        cached.append(outputs[0].cached_tokens)
    assert cached[0] == 0
    assert cached[1] > 150
