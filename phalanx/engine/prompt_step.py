"""The prompt part of a plan while it is being made, and the three answers to a waiting request. Pure."""

from dataclasses import dataclass, field

from phalanx.engine.prefill import PrefillBudget
from phalanx.engine.sequence import BlockHash, Chunk, Sequence


@dataclass(frozen=True, slots=True)
class Start:
    """The request starts in this step, once the `victims` have given way to it, in this order."""

    victims: list[Sequence]


@dataclass(frozen=True, slots=True)
class SkipOnce:
    """The request does not start in this step; what waits behind it may."""


@dataclass(frozen=True, slots=True)
class Full:
    """There is no room for the request, and nothing behind it may take what room there is."""


@dataclass(slots=True)
class PromptStep:
    """What the plan of a step has found so far about prompts."""

    budget: PrefillBudget
    unfinished: list[Sequence]
    """Running prompts that will want more blocks than they have."""
    now: float
    """Seconds, on the clock that the plan is told."""
    admit: bool = True
    """Waiting requests may start still."""
    chunks: list[Chunk] = field(default_factory=list)
    long: int | None = None
    """Index of the long prompt's chunk, which takes what the others leave."""
    passed: list[Sequence] = field(default_factory=list)
    """Waiting requests that cannot or need not start in this step."""
    computing: set[BlockHash] = field(default_factory=set)
    """Blocks that this step fills."""
