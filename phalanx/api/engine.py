"""What request handlers need of the engine ranks: `EngineClient` gives it, tests stand in for it."""

from dataclasses import dataclass
from typing import Protocol

from phalanx.protocol import EngineHello, Load, RequestOutput, SamplingParams


class NoRank(Exception):
    """No engine rank is attached, so nothing can be generated now."""


class EngineDied(Exception):
    """The rank that ran a request is gone, and the request with it; str() says which rank."""


@dataclass(frozen=True, slots=True)
class RankStatus:
    """One attached rank, as this API server sees it."""

    hello: EngineHello
    load: Load
    live_requests: int
    """Requests of this API server that it runs."""


class Generation(Protocol):
    """One request in flight."""

    async def next(self) -> RequestOutput:
        """Wait for new tokens. Steps that arrived meanwhile come merged into one output.

        Raises EngineDied where the rank fell. Not to be called again after an output whose `finish` is set.
        """
        ...

    def abort(self) -> None:
        """Tell the engine that nobody wants the rest; nothing where it has finished. Idempotent."""
        ...


class Engine(Protocol):
    """All ranks together."""

    def generate(self, prompt: list[int], sampling: SamplingParams, priority: int = 0) -> Generation:
        """Pick a rank and submit at once. Raises NoRank."""
        ...

    def ranks(self) -> list[RankStatus]:
        """Attached ranks, by number."""
        ...
