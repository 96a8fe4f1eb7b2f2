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
    """0 means greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 means no limit."""
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    """0 <= seed < 2**64; always set by the API server, at random where the client gave none."""
    stop_token_ids: tuple[int, ...] = ()
    """Ids that end the request, beside the checkpoint's own end-of-sequence ids."""
    ignore_eos: bool = False
    logit_bias: dict[int, float] | None = None
    logprobs: int | None = None
    """None: none. k >= 0: the sampled token's log probability and the k most likely ones'."""
    prompt_logprobs: int | None = None
    """What `logprobs` is for output tokens, for each prompt token after the first."""
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
    """A lower number runs first; equal ones run in order of arrival."""


class Abort(Message, tag=41, frozen=True):
    request_ids: list[RequestId]


class Probe(Message, tag=42, frozen=True):
    """Asks a rank to say `Alive` at once.

    Sent before a request whose rank has died goes on at another: where several die of one cause, and not all ends have
    been seen yet, the request must not be held to be the cause.
    """

    number: int


class EngineHello(Message, tag=60, frozen=True):
    """The first message of a rank to an API server, sent when the rank can take requests."""

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


class PhaseTimes(Message, frozen=True):
    """How long a rank kept a request before its first token: seconds, measured by the rank's own clock alone."""

    queue: float
    """The time from its arrival in the rank until a step ran some of its tokens for the first time."""
    prefill: float
    """The time from then until its first token was there; where it was preempted meanwhile, that is included."""


class RequestOutput(Message, frozen=True):
    """The result of one step for one request."""

    request_id: RequestId
    tokens: list[int]
    """New tokens in order; the end-of-sequence or stop token that ended it is included, as the last."""
    finish: FinishReason | None = None
    stop_token: int | None = None
    """The id of `stop_token_ids` that ended it; None when the checkpoint's own end-of-sequence did."""
    logprobs: list[TokenLogprobs] | None = None
    """One for each of `tokens`."""
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    """One for each prompt token, None for the first; comes with the request's first tokens where it was asked for."""
    cached_tokens: int = 0
    """Prompt tokens that the prefix cache held; comes with the request's first tokens."""
    error: str = ""
    times: PhaseTimes | None = None
    """Comes with the request's first tokens."""


class Load(Message, frozen=True):
    """The work that a rank has, told to each API server from that server's point of view.

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
    """Prompt tokens looked up in the prefix cache since the start; `prefix_hit_tokens` are those found."""
    prefix_hit_tokens: int
    preemptions: int
    """Counter since start."""
    steps: int
    """Counter since start."""


STEP_SIZES = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Bounds, in tokens, between the steps that StepTokens counts apart."""


class StepTokens(Message, frozen=True):
    """How many tokens the steps of a rank have run, since its start."""

    steps: tuple[int, ...]
    """Counters: steps of at most STEP_SIZES[0] tokens, of at most STEP_SIZES[1], ...; the last: of more than all."""
    tokens: int
    """Counter: the tokens of all of them."""


class StepOutput(Message, tag=61, frozen=True):
    """Sent each step to every API server that has requests in it, and to the others when the load has changed."""

    outputs: list[RequestOutput]
    load: Load
    step_tokens: StepTokens | None = None
    """Told at intervals, and in the last message before the rank is idle; None: not in this message."""


class Alive(Message, tag=62, frozen=True):
    """The answer to Probe."""

    number: int
    """The number of the Probe."""


ToEngine: TypeAlias = Submit | Abort | Probe
ToApi: TypeAlias = EngineHello | StepOutput | Alive
