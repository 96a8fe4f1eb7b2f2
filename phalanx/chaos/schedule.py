"""Which fault happens when, to which process and for how long; this follows from the seed alone."""

import enum
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


class Kind(enum.StrEnum):
    """A kind of fault, by the name that `--faults` takes."""

    KILL_RANK = "kill-rank"
    KILL_ALL_RANKS = "kill-all-ranks"
    STOP_RANK = "stop-rank"
    CUT_LINK = "cut-link"
    SLOW_LINK = "slow-link"
    KILL_API_SERVER = "kill-api-server"
    STOP_API_SERVER = "stop-api-server"
    FULL_DISK = "full-disk"
    MEMORY_PRESSURE = "memory-pressure"
    DISCONNECT = "disconnect"
    FLOOD = "flood"
    HALF_SENT = "half-sent"
    SLOW_READERS = "slow-readers"

    @property
    def strikes_ranks(self) -> bool:
        """Whether requests may have to move to another rank."""
        return self in (Kind.KILL_RANK, Kind.KILL_ALL_RANKS, Kind.STOP_RANK, Kind.CUT_LINK, Kind.SLOW_LINK)

    @property
    def turn(self) -> str:
        """Faults of one turn happen one after the other: two strikes could meet one request before its first token."""
        if self.strikes_ranks:
            return "ranks"
        return "API servers" if self in (Kind.KILL_API_SERVER, Kind.STOP_API_SERVER) else self


SECONDS: dict[Kind, tuple[float, float]] = {
    Kind.SLOW_LINK: (2.0, 4.0),
    Kind.FULL_DISK: (2.0, 6.0),
    Kind.MEMORY_PRESSURE: (2.0, 5.0),
    Kind.HALF_SENT: (2.0, 5.0),
}
"""The least and the most seconds that a fault lasts which is not over at once."""

BRIEF, LONG = (0.1, 0.4), (1.3, 1.8)
"""The least and the most time for which a process is stopped, in units of --step-timeout.

After a brief stop it goes on as if nothing had been; after a long one it has been replaced.
"""


@dataclass(frozen=True)
class Fault:
    """One fault that is to happen."""

    number: int
    at: float
    """When it is due, in seconds after the start of the disturbed time; it may have to wait for another to be over."""
    kind: Kind
    target: float
    """Which of several processes it strikes, as a share of their number in [0, 1)."""
    seconds: float
    """How long it lasts, which is 0 where it is over at once."""

    def pick(self, count: int) -> int:
        """Which of `count` processes it strikes."""
        return int(self.target * count)

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"fault {self.number} at {self.at:.1f} s: {self.kind}{lasting}"


def schedule(seed: int, kinds: Sequence[Kind], every: float, step_timeout: float) -> Iterator[Fault]:
    """Make faults without end, in order of time, `every` seconds apart on average.

    The kinds come in rounds, each of them once a round and in a new order, so that a short run sees all of them too.
    """
    chance = random.Random(f"phalanx chaos faults {seed}")
    at, number = 0.0, 0
    order = sorted(set(kinds), key=list(Kind).index)
    while True:
        chance.shuffle(order)
        for kind in order:
            number += 1
            at += every * chance.uniform(0.5, 1.5)
            yield Fault(number, at, kind, chance.random(), _seconds(kind, chance, step_timeout))


def _seconds(kind: Kind, chance: random.Random, step_timeout: float) -> float:
    if kind in (Kind.STOP_RANK, Kind.STOP_API_SERVER):
        return step_timeout * chance.uniform(*chance.choice((BRIEF, LONG)))
    return chance.uniform(*SECONDS[kind]) if kind in SECONDS else 0.0
