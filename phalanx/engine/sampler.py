"""From logits to tokens, for the sequences of one step.

Order, as vLLM has it: logit_bias, what is excluded (allowed_token_ids, min_tokens, bad_words), penalties, temperature,
then min_p, top_k and top_p. Log probabilities are those of the raw logits, before any of these.

Stateless: the random number of output position p is Philox 4x32-10 of (seed, p) (see kernels/sampling.h), one uniform a
token, looked up in the running sum of the candidates' weights in the order of their ids. A row's token is a function of
its own logits, parameters and position, whatever else is in the batch.
"""

import math

import torch
from torch import Tensor

from phalanx.engine.sequence import Sampled, Sequence
from phalanx.kernels.cpu import RowSampling
from phalanx.kernels.device import Kernels
from phalanx.protocol import SamplingParams, TokenLogprobs

GREEDY = RowSampling(0, 0, 0.0, 1.0, 0.0, 0)


class Sampler:
    def __init__(self, kernels: Kernels, eos_token_ids: tuple[int, ...]) -> None:
        self._kernels = kernels
        self._eos_token_ids = eos_token_ids

    def sample(self, logits_SV: Tensor, sequences: list[Sequence]) -> list[Sampled]:
        """The next token of each sequence; logits_SV is overwritten.

        A row that holds NaN or infinity (a checkpoint that is broken or overflows) gives a Sampled with `error`: its
        request cannot go on, and the others can.
        """
        edited = [row for row, sequence in enumerate(sequences) if _edits(sequence)]
        reported = [row for row, sequence in enumerate(sequences) if sequence.sampling.logprobs is not None]
        raw_SV = logits_SV.clone() if edited and reported else logits_SV
        for row in edited:
            self._edit(logits_SV[row], sequences[row])

        samplings = [_row_sampling(sequence) for sequence in sequences]
        tokens = self._kernels.sample(logits_SV, samplings)
        results = [_sampled(token) for token in tokens]

        reported = [row for row in reported if tokens[row] >= 0]
        if reported:
            wanted = [sequences[row].sampling.logprobs or 0 for row in reported]
            rows_SV = raw_SV if len(reported) == len(sequences) else raw_SV[reported]
            logprobs = token_logprobs(self._kernels, rows_SV, [tokens[row] for row in reported], wanted)
            for row, value in zip(reported, logprobs, strict=True):
                results[row] = Sampled(tokens[row], value)
        return results

    def _edit(self, logits_V: Tensor, sequence: Sequence) -> None:
        params = sequence.sampling
        if params.logit_bias:
            logits_V[list(params.logit_bias)] += torch.tensor(list(params.logit_bias.values()))
        if sequence.generated < params.min_tokens:
            ends = params.stop_token_ids if params.ignore_eos else (*self._eos_token_ids, *params.stop_token_ids)
            # A client may name stop tokens that the model has no logit for.
            logits_V[[token for token in ends if 0 <= token < len(logits_V)]] = -math.inf
        if params.allowed_token_ids:
            allowed = list(params.allowed_token_ids)
            kept = logits_V[allowed]
            logits_V.fill_(-math.inf)
            logits_V[allowed] = kept
        if bad := _completing(params.bad_words, sequence):
            kept = logits_V[bad]
            logits_V[bad] = -math.inf
            if logits_V.max() == -math.inf:
                logits_V[bad] = kept
        if _penalised(params):
            self._kernels.penalise(
                logits_V,
                sequence.tokens,
                sequence.prompt_length,
                params.repetition_penalty,
                params.frequency_penalty,
                params.presence_penalty,
            )


def token_logprobs(kernels: Kernels, logits_SV: Tensor, tokens: list[int], wanted: list[int]) -> list[TokenLogprobs]:
    """log-softmax of each row: of its token and of the `wanted[row]` most likely ones."""
    found = kernels.log_probabilities(logits_SV, tokens, max(wanted))
    return [
        TokenLogprobs(logprob, rank, ids[:count], values[:count])
        for logprob, rank, ids, values, count in zip(*found, wanted, strict=True)
    ]


def _penalised(params: SamplingParams) -> bool:
    return params.repetition_penalty != 1 or params.frequency_penalty != 0 or params.presence_penalty != 0


def _completing(words: tuple[tuple[int, ...], ...], sequence: Sequence) -> list[int]:
    """The tokens that would make the output end with one of `words`."""
    tokens, generated = sequence.tokens, sequence.generated
    return [
        word[-1]
        for word in words
        if len(word) <= generated + 1 and tokens[len(tokens) - len(word) + 1 :] == list(word[:-1])
    ]


def _edits(sequence: Sequence) -> bool:
    params = sequence.sampling
    return (
        bool(params.logit_bias or params.allowed_token_ids or params.bad_words)
        or sequence.generated < params.min_tokens
        or _penalised(params)
    )


def _row_sampling(sequence: Sequence) -> RowSampling:
    params = sequence.sampling
    if params.temperature == 0:
        return GREEDY
    return RowSampling(
        params.seed, sequence.generated, params.temperature, params.top_p, params.min_p, max(params.top_k, 0)
    )


def _sampled(token: int) -> Sampled:
    if token >= 0:
        return Sampled(token)
    return Sampled(0, error="the model's output is not a number: the checkpoint is broken or its values overflow")
