"""Worker plane: what the workers of a rank say to worker 0, which leads it."""

from typing import TypeAlias

from phalanx.protocol.control import Ready, Refused, Stage
from phalanx.protocol.identity import Incarnation, Message, RankId


class WorkerHello(Message, tag=80, frozen=True):
    """The first message of a tensor-parallel worker to worker 0, which leads its rank."""

    rank: RankId
    worker: int
    incarnation: Incarnation
    """The incarnation of the whole rank, whose workers start and end together."""


class WorkerWelcome(Message, tag=81, frozen=True):
    """The leader takes the worker, which from now on tells its stages and its READY to the leader too."""


class WorkerStep(Message, tag=82, frozen=True):
    """The worker's share of one step, which may be nothing; answered by WorkerAnswer."""

    step: int
    """The number of the step since the start, the same for all workers of the rank."""
    draws: list[tuple[int, int]]
    """One for each token: the digest that names prompt and seed, 0 <= digest < 2**64, and the output position."""


class WorkerAnswer(Message, tag=83, frozen=True):
    """The worker's result of one step."""

    step: int
    """The number of the WorkerStep that it answers."""
    places: list[int]
    """The word drawn for each draw, in order, as its index in the list of words."""


ToWorker: TypeAlias = WorkerWelcome | Refused | WorkerStep
ToLeader: TypeAlias = WorkerHello | Stage | Ready | WorkerAnswer
