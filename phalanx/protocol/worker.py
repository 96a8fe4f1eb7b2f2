"""Worker plane: what the workers of a rank say to worker 0, which leads it."""

from typing import TypeAlias

from phalanx.protocol.control import Ready, Refused, Stage
from phalanx.protocol.identity import Incarnation, Message, RankId


class WorkerHello(Message, tag=80, frozen=True):
    """First message of a tensor-parallel worker to worker 0, which leads its rank."""

    rank: RankId
    worker: int
    incarnation: Incarnation
    """Of the whole rank: its workers start and end together."""


class WorkerWelcome(Message, tag=81, frozen=True):
    """The leader takes the worker. Its stages and its READY are the leader's to hear from now on, too."""


class WorkerStep(Message, tag=82, frozen=True):
    """The worker's share of one step, which may be nothing; answered by WorkerAnswer."""

    step: int
    """Counter since start, the same for all workers of the rank."""
    draws: list[tuple[int, int]]
    """A token each: the digest that names prompt and seed, 0 <= digest < 2**64, and the output position."""


class WorkerAnswer(Message, tag=83, frozen=True):
    step: int
    """Of the WorkerStep that it answers."""
    places: list[int]
    """For each draw, in order, the place of the word drawn in the list of words."""


ToWorker: TypeAlias = WorkerWelcome | Refused | WorkerStep
ToLeader: TypeAlias = WorkerHello | Stage | Ready | WorkerAnswer
