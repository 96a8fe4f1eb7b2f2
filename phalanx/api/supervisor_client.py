"""The API server's conversation with the supervisor, once it serves: what it asks, what it reports, what it answers."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from phalanx import running_time
from phalanx.api.errors import ApiError
from phalanx.api.known_errors import SUPERVISOR_SILENT
from phalanx.api.metrics import Metrics
from phalanx.protocol import (
    AdminAnswer,
    AdminOutcome,
    AdminRequest,
    AdminVerb,
    MetricsGathered,
    MetricsQuery,
    MetricsReport,
    MetricsRequest,
    RankId,
    ToSupervisor,
)

PATIENCE = 5.0
"""Seconds the supervisor gets to answer a question."""

STATUSES = {
    AdminOutcome.SHOWN: 200,
    AdminOutcome.BEGUN: 202,
    AdminOutcome.NO_SUCH_RANK: 404,
    AdminOutcome.IMPOSSIBLE_NOW: 409,
}
"""The HTTP status by which an operator learns what became of a request."""

T = TypeVar("T")


class SupervisorClient:
    """It passes on what operators ask, and exchanges counts with the other API servers: a scrape of one API server
    gives the whole service. It lives in the event loop.
    """

    def __init__(self, send: Callable[[ToSupervisor], None], metrics: Metrics) -> None:
        """`send` hands a message to the supervisor; `metrics` are this API server's own."""
        self._send = send
        self._metrics = metrics
        self._reported = b""
        self._admin_questions: _OpenQuestions[AdminAnswer] = _OpenQuestions(send)
        self._metrics_questions: _OpenQuestions[MetricsGathered] = _OpenQuestions(send)

    async def administer(
        self, verb: AdminVerb, ranks: Sequence[int] = (), size: int | None = None, timeout: float | None = None
    ) -> AdminAnswer:
        """Have the supervisor do what an operator asks; the answer tells how the service then is.

        Raises:
            ApiError: the supervisor refuses, or does not answer; what it was asked for may go on all the same.
        """
        answer = await self._admin_questions.ask(
            lambda query: AdminRequest(query, verb, tuple(RankId(rank) for rank in ranks), size, timeout),
            "The supervisor did not answer",
        )
        if answer.refusal is not None:
            code = "impossible_now" if answer.outcome is AdminOutcome.IMPOSSIBLE_NOW else None
            raise ApiError(answer.refusal, status=STATUSES[answer.outcome], code=code)
        return answer

    async def gather_metrics(self) -> MetricsGathered:
        """What the other API servers have counted, and the supervisor.

        When this returns, the supervisor knows this server's own counts of this moment: what a scrape has shown
        survives the death of the server that showed it.

        Raises:
            ApiError: 503, the supervisor does not answer. A scrape without the other API servers would look like
                counters that went back.
        """
        # The supervisor waits less long for the other API servers than this server waits for the supervisor.
        gathered = await self._metrics_questions.ask(
            MetricsQuery, "The supervisor gave no samples of the other API servers"
        )
        self.report_metrics()
        return gathered

    def report_metrics(self) -> None:
        """Tell the supervisor what has been counted by now, if anything has changed since the last report."""
        samples = self._metrics.samples()
        if samples != self._reported:
            self._reported = samples
            self._send(MetricsReport(None, samples))

    def receive(self, message: AdminAnswer | MetricsGathered | MetricsRequest) -> None:
        """Take what the supervisor says: the answer to a question, or a question of its own."""
        match message:
            case AdminAnswer():
                self._admin_questions.settle(message.query, message)
            case MetricsGathered():
                self._metrics_questions.settle(message.query, message)
            case MetricsRequest():
                # Another API server is being scraped.
                self._send(MetricsReport(message.query, self._metrics.samples()))


class _OpenQuestions(Generic[T]):
    """Questions of one kind that wait for their answers, each of which names the number of its question."""

    def __init__(self, send: Callable[[ToSupervisor], None]) -> None:
        self._send = send
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[T]] = {}

    async def ask(self, question: Callable[[int], ToSupervisor], silence: str) -> T:
        """The answer to `question`, which is given its number.

        Raises:
            ApiError: 503, there was no answer within PATIENCE; `silence` begins the sentence that says so.
        """
        number = next(self._numbers)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            self._send(question(number))
            async with running_time.timeout(PATIENCE):
                return await future
        except TimeoutError:
            raise SUPERVISOR_SILENT.told(silence=silence, patience=PATIENCE) from None
        finally:
            del self._waiting[number]

    def settle(self, number: int, answer: T) -> None:
        """Hand an answer to whoever still waits for it."""
        future = self._waiting.get(number)
        if future is not None and not future.done():
            future.set_result(answer)
