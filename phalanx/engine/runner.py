"""The device's side of a rank: a checkpoint's weights, the KV cache, and one step at a time."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from phalanx.checkpoint.families import read_shape
from phalanx.checkpoint.shape import DecoderShape
from phalanx.checkpoint.tensors import StoredWeights
from phalanx.config import Config
from phalanx.engine.cache_size import cache_blocks
from phalanx.engine.sampler import Sampler, token_logprobs
from phalanx.engine.sequence import BlockId, Chunk, Progress, RequestKey, Sampled, Sequence
from phalanx.engine.threads import threads_of
from phalanx.kernels.batch import Batch
from phalanx.kernels.device import kernels_for
from phalanx.models.dense import DenseDecoder
from phalanx.models.weights import DummyWeights, Weights
from phalanx.protocol import ApiServerId, RequestId, SamplingParams, Share, StartupStage

log = logging.getLogger(__name__)

UNUSED_NAMED = 5
"""Tensors that are named at most, of those that the model has no use for."""
PROMPT_LOGPROB_ROWS = 64
"""Rows whose logits are held at once for prompt_logprobs: 64 * vocabulary * 4 bytes."""
WARM_UP_TOKENS = 64


class ModelRunner:
    """Implements `phalanx.engine.sequence.Runner`. Only `load` reads files or allocates much memory."""

    num_blocks: int

    def __init__(self, config: Config, share: Callable[[], Share] = Share, *, warns: bool = True) -> None:
        """`share`: this rank's part of its machine, asked for when something is taken of it; absent: it is alone there.
        `warns`: it says what is odd about the checkpoint, in its log.

        Raises UnsupportedModel or CheckpointError where config.json asks for what is not implemented.
        """
        self.config = config
        self._share = share
        self.folder = Path(config.facts.folder)
        self.shape: DecoderShape = read_shape(self.folder)
        self.block_size = config.engine.block_size
        self.vocab_size = self.shape.vocab_size
        self.eos_token_ids = config.facts.eos_token_ids
        self.max_model_len = config.facts.max_model_len
        self._warns = warns
        self.dtype = _dtype(config.model.dtype, self.shape.dtype)

    def load(self, progress: Progress) -> None:
        self.kernels = kernels_for(self.config.engine.device, threads_of(self._share(), self.config.engine))
        self.sampler = Sampler(self.kernels, self.eos_token_ids)
        progress(StartupStage.WEIGHTS, 0.0, "")
        self._load_weights(progress)
        progress(StartupStage.CACHE, None, "")
        self.num_blocks = cache_blocks(self.config, self.shape, self.dtype, self._share())
        self.caches = self.model.new_caches(self.num_blocks, self.block_size, self.dtype)
        progress(StartupStage.WARM_UP, None, self.describe())
        self._warm_up()

    def _load_weights(self, progress: Progress) -> None:
        def report(done: int, total: int) -> None:
            progress(StartupStage.WEIGHTS, done / total, f"{done} of {total} layers")

        def build(weights: Weights) -> DenseDecoder:
            return DenseDecoder(self.shape, self.kernels, weights, self.dtype, self.max_model_len, report)

        if self.config.model.load_format == "dummy":
            self.model = build(DummyWeights(self.config.model.seed, self.dtype))
        else:
            with StoredWeights(self.folder) as stored:
                self.model = build(stored)
        if self._warns and (unused := self.model.unused_tensors):
            named = ", ".join(unused[:UNUSED_NAMED]) + (", ..." if unused[UNUSED_NAMED:] else "")
            log.warning(
                "the checkpoint has tensors that are no part of the model and stay unused (%d): %s", len(unused), named
            )

    def _warm_up(self) -> None:
        """One prompt and one decode step: faults in what every step touches. Blocks are free again afterwards."""
        tokens = min(WARM_UP_TOKENS, self.max_model_len - 1, self.num_blocks * self.block_size)
        blocks = [BlockId(block) for block in range(-(-tokens // self.block_size))]
        key = RequestKey(ApiServerId(-1), RequestId(-1))
        sequence = Sequence(key, [0] * tokens, tokens, SamplingParams(max_tokens=1), blocks=blocks)
        self.execute([Chunk(sequence, 0, tokens)])
        self.execute([Chunk(sequence, tokens - 1, 1)])

    def take_share(self, share: Share) -> None:
        threads = threads_of(share, self.config.engine)
        if threads != self.kernels.threads:
            self.kernels.use_threads(threads)
            ranks = f"{share.cpus} ranks divide" if share.cpus > 1 else "1 rank has"
            log.info("threads from now on: %d, since %s this machine's CPUs", threads, ranks)

    def describe(self) -> str:
        """One line about what was loaded, for the person who watches the start."""
        tokens, dtype = self.num_blocks * self.block_size, str(self.dtype).removeprefix("torch.")
        threads = "1 thread" if self.kernels.threads == 1 else f"{self.kernels.threads} threads"
        return f"KV cache {tokens:,} tokens, {dtype}, {threads}"

    def execute(self, chunks: list[Chunk]) -> list[Sampled | None]:
        """Run one step; see `Runner.execute`. A Sampled with `error` ends its request, and no other."""
        batch = Batch()
        last_rows = []
        for sequence, start, length in chunks:
            tokens = sequence.tokens
            batch.add(tokens if length == len(tokens) else tokens[start : start + length], start, sequence.blocks)
            last_rows.append(batch.rows - 1)
        x_TD = self.model.forward(self.kernels.stage(batch), self.caches)

        first_row = 0
        for chunk in chunks:
            if chunk.sequence.scores_prompt:
                self._add_prompt_logprobs(chunk, x_TD[first_row : first_row + chunk.length])
            first_row += chunk.length

        results: list[Sampled | None] = [None] * len(chunks)
        sampling = [index for index, chunk in enumerate(chunks) if chunk.samples]
        if sampling:
            x_SD = x_TD if len(sampling) == batch.rows else x_TD[[last_rows[index] for index in sampling]]
            sampled = self.sampler.sample(self.model.logits(x_SD), [chunks[index].sequence for index in sampling])
            for index, result in zip(sampling, sampled, strict=True):
                results[index] = result
        return results

    def _add_prompt_logprobs(self, chunk: Chunk, x_LD: Tensor) -> None:
        """Row i of x_LD predicts prompt token chunk.start + i + 1. What a recomputed prompt has already is kept."""
        sequence = chunk.sequence
        found = sequence.prompt_logprobs
        if not found:
            found.append(None)
        first, end = len(found), min(chunk.start + chunk.length + 1, sequence.prompt_length)
        if first >= sequence.prompt_length:
            return
        if first < chunk.start + 1:
            raise ValueError(
                f"request {sequence.key}: prompt_logprobs needs every prompt token run, and those from {first} to "
                f"{chunk.start} were skipped"
            )
        wanted = sequence.sampling.prompt_logprobs or 0
        for token in range(first, end, PROMPT_LOGPROB_ROWS):
            targets = sequence.tokens[token : min(token + PROMPT_LOGPROB_ROWS, end)]
            row = token - 1 - chunk.start
            logits_SV = self.model.logits(x_LD[row : row + len(targets)])
            found.extend(token_logprobs(self.kernels, logits_SV, targets, [wanted] * len(targets)))


def _dtype(option: str, stored: str) -> torch.dtype:
    """The type of the KV cache and of weights. float16 has too little range to compute in: it becomes float32."""
    name = stored if option == "auto" else option
    return torch.bfloat16 if name == "bfloat16" else torch.float32
