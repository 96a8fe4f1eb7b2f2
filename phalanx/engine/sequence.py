"""What the scheduler, the runner and the engine loop say to one another about requests."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, NewType, Protocol

from phalanx.protocol import ApiServerId, RequestId, SamplingParams, Share, StartupStage, TokenLogprobs

BlockId = NewType("BlockId", int)
BlockHash = NewType("BlockHash", bytes)
"""Names the content of a full block and of all blocks before it."""


class RequestKey(NamedTuple):
    api_server: ApiServerId
    request_id: RequestId


@dataclass(slots=True, eq=False)
class Sequence:
    """One request inside a rank."""

    key: RequestKey
    tokens: list[int]
    """Prompt, then every output token so far."""
    prompt_length: int
    sampling: SamplingParams
    priority: int = 0
    arrival: int = 0
    """Order of arrival in this rank; breaks ties of priority."""
    queued_at: float = 0.0
    """When it arrived: seconds on the clock of the engine's loop."""
    started_at: float = 0.0
    """When a step first ran some of it, on the same clock."""
    expected_tokens: int = 0
    """Output tokens that its API server's router expects it to take in all."""
    expected_left: int = 0
    """Output tokens it is expected to take still, as its API server's account counts them."""
    computed: int = 0
    """Leading tokens whose keys and values are in the cache."""
    blocks: list[BlockId] = field(default_factory=list)
    """The block table: block i holds tokens i*block_size ... (i+1)*block_size-1."""
    cached: int = 0
    """Prompt tokens found in the prefix cache when it was first admitted."""
    admitted: bool = False
    """It has run before; what the prefix cache holds for it is counted only the first time."""
    block_hashes: list[BlockHash] = field(default_factory=list)
    """Chained hashes of its leading full blocks, as far as anybody has asked for them; see `kv_cache`."""
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=list)
    """Filled chunk by chunk by the runner, where sampling.prompt_logprobs asks for it."""
    prompt_told: bool = False
    """They have been told. Should its prompt be computed again, it may start from the prefix cache like any other."""

    @property
    def scores_prompt(self) -> bool:
        """Whether computing its prompt has to give log probabilities: they are asked for, and not told yet."""
        return self.sampling.prompt_logprobs is not None and not self.prompt_told

    @property
    def generated(self) -> int:
        """Output tokens so far."""
        return len(self.tokens) - self.prompt_length


class Chunk(NamedTuple):
    """Run tokens[start : start + length] of a sequence in this step.

    Where the chunk reaches the end of `sequence.tokens` the runner samples the next token.
    """

    sequence: Sequence
    start: int
    length: int

    @property
    def samples(self) -> bool:
        return self.start + self.length == len(self.sequence.tokens)


class Sampled(NamedTuple):
    """The next token of one sequence."""

    token: int
    logprobs: TokenLogprobs | None = None
    error: str = ""
    """Set where there is no token: the request cannot go on and ends with this reason; others are untouched."""


Progress = Callable[[StartupStage, float | None, str], None]
"""Tell the supervisor: stage, share done (0..1 or None), detail.

A call that says something else than the one before restarts the stage's deadline; one that repeats it does not.
"""


class RankBroken(Exception):
    """No request is at fault and none would run any better: the rank itself cannot go on. Its text is for people."""


class Runner(Protocol):
    """The device's side of a rank: weights, KV cache, forward pass and sampling.

    It is synchronous and never touches scheduling state. The runner of models and the synthetic one share the engine
    loop above it.
    """

    @property
    def block_size(self) -> int:
        """Tokens a KV block."""

    @property
    def num_blocks(self) -> int:
        """KV blocks; known after `load`."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def eos_token_ids(self) -> tuple[int, ...]: ...

    def load(self, progress: Progress) -> None:
        """Weights, KV cache, warm-up. Reports WEIGHTS, CACHE and WARM_UP. Raises with a reason a person can act on."""

    def describe(self) -> str:
        """One line about what was loaded, for the person who watches the start."""

    def take_share(self, share: Share) -> None:
        """Ranks have come or gone on this machine: use another part of its CPUs from the next step on. What was taken
        of its memory stays."""

    def execute(self, chunks: list[Chunk]) -> list[Sampled | None]:
        """Run one step. Returns, for each chunk, its next token, or None where the chunk does not sample.

        Block tables already cover start + length tokens. Appending the token to the sequence is the caller's.
        Raises RankBroken; anything else it raises may be the fault of one of the requests.
        """
