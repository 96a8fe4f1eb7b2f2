"""Engine plane: what API servers and ranks say to each other."""

import enum
from typing import TypeAlias

from phalanx.protocol.identity import Incarnation, Message, RankId, RequestId


class SamplingParams(Message, frozen=True):
    """How to choose tokens. Validated by the API server; a rank trusts it.

    The random number of output position p is a function of (seed, p) alone, so a request continued on
    another rank, or recomputed after preemption, goes on as it would have.
    """

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is no limit."""
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    """0 <= seed < 2**64; always set by the API server, at random where the client gave none."""
    stop_token_ids: tuple[int, ...] = ()
    """Besides the checkpoint's own end-of-sequence ids."""
    ignore_eos: bool = False
    logit_bias: dict[int, float] | None = None
    logprobs: int | None = None
    """None: none. k >= 0: the sampled token's log probability and the k most likely ones'."""
    prompt_logprobs: int | None = None
    """As `logprobs`, for each prompt token after the first."""
    allowed_token_ids: tuple[int, ...] = ()
    """If not empty, no other token is chosen."""
    bad_words: tuple[tuple[int, ...], ...] = ()
    """Token sequences that the output does not get: the last token of each is excluded where those before it stand.

    Where that leaves no token at all, they are not applied.
    """
    cache_salt: str = ""
    """If not empty, the prefix cache is shared with requests of the same salt alone."""


def expected_remaining(expected_tokens: int, max_tokens: int, produced: int) -> int:
    """Output tokens a live request will likely still take, at least 1: the one measure of a rank's decode work.

    Lengths are uncertain, and a request that has outlived its expectation is not nearly done: half the
    expectation stays until the request's own limit is nearer. (Counting such requests as nothing made the
    busiest of 64 simulated ranks 24 % busier than the mean, this 16 %: `benchmarks/routing.py`.)
    """
    likely = max(expected_tokens - produced, expected_tokens // 2)
    return max(1, min(likely, max_tokens - produced))


class Submit(Message, tag=40, frozen=True):
    """Run a request, or continue one: `generated` holds the tokens it already has, prompt not included."""

    request_id: RequestId
    prompt: list[int]
    sampling: SamplingParams
    generated: list[int] = []
    expected_tokens: int = 0
    """Output tokens the router expects it to take; with `expected_remaining`, what other routers hear of it."""
    priority: int = 0
    """Lower runs first; equal ones in order of arrival."""


class Abort(Message, tag=41, frozen=True):
    request_ids: list[RequestId]


class Probe(Message, tag=42, frozen=True):
    """Say `Alive` at once.

    Sent before a request whose rank has died goes on at another: where several die of one cause, and not all ends have
    been seen yet, the request must not be held to be the cause.
    """

    number: int


class EngineHello(Message, tag=60, frozen=True):
    """First message of a rank to an API server, sent when the rank can take requests."""

    rank: RankId
    incarnation: Incarnation
    max_model_len: int
    max_num_seqs: int
    kv_cache_tokens: int


class FinishReason(enum.IntEnum):
    STOP = 1
    LENGTH = 2
    ABORT = 3
    ERROR = 4


class TokenLogprobs(Message, frozen=True):
    """`logprob` and `rank` (1 = most likely) of the token itself, and the most likely ids with theirs, in order."""

    logprob: float
    rank: int
    top_ids: list[int]
    top_logprobs: list[float]


class RequestOutput(Message, frozen=True):
    """What one step brought one request."""

    request_id: RequestId
    tokens: list[int]
    """New tokens in order; the end-of-sequence or stop token that ended it is included, as the last."""
    finish: FinishReason | None = None
    stop_token: int | None = None
    """The id of `stop_token_ids` that ended it; None when the checkpoint's own end-of-sequence did."""
    logprobs: list[TokenLogprobs] | None = None
    """One for each of `tokens`."""
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    """With the request's first tokens, where asked for: one a prompt token, None for the first."""
    cached_tokens: int = 0
    """With the request's first tokens: how many prompt tokens the prefix cache held."""
    error: str = ""


class Load(Message, frozen=True):
    """What a rank has to do, told to each API server from that server's point of view.

    `others_*` leave out the receiver's own requests, which it counts itself, at once and exactly; so no
    report ever overwrites a router's own count and nothing is counted twice.
    """

    others_prefill_tokens: int
    others_decode_tokens: int
    others_requests: int
    running: int
    waiting: int
    kv_used_tokens: int
    kv_total_tokens: int
    prefix_query_tokens: int
    """Counter since start: prompt tokens looked up in the prefix cache, and those found."""
    prefix_hit_tokens: int
    preemptions: int
    """Counter since start."""
    steps: int
    """Counter since start."""


class StepOutput(Message, tag=61, frozen=True):
    """One a step to each API server that has requests in it, and one when the load changed for the others."""

    outputs: list[RequestOutput]
    load: Load


class Alive(Message, tag=62, frozen=True):
    """Answer to Probe."""

    number: int
    """Of the Probe."""


ToEngine: TypeAlias = Submit | Abort | Probe
ToApi: TypeAlias = EngineHello | StepOutput | Alive
