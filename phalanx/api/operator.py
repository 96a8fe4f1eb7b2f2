"""What operators ask, passed on to the supervisor, and its answers."""

import asyncio
import itertools
from collections.abc import Callable, Sequence

from phalanx.api.errors import ApiError, server_error
from phalanx.protocol import AdminAnswer, AdminRequest, AdminVerb, RankId, ToSupervisor

PATIENCE = 5.0
"""Seconds the supervisor gets to answer; what it is asked for goes on after that."""


class Operator:
    """Lives in the event loop."""

    def __init__(self, send: Callable[[ToSupervisor], None]) -> None:
        """`send`: to the supervisor."""
        self._send = send
        self._queries = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[AdminAnswer]] = {}

    async def ask(
        self, verb: AdminVerb, ranks: Sequence[int] = (), size: int | None = None, timeout: float | None = None
    ) -> AdminAnswer:
        """Raises ApiError: the supervisor refuses, or does not answer."""
        query = next(self._queries)
        future: asyncio.Future[AdminAnswer] = asyncio.get_running_loop().create_future()
        self._waiting[query] = future
        try:
            self._send(AdminRequest(query, verb, tuple(RankId(rank) for rank in ranks), size, timeout))
            async with asyncio.timeout(PATIENCE):
                answer = await future
        except TimeoutError:
            raise server_error(f"The supervisor did not answer within {PATIENCE:g} s.", status=503) from None
        finally:
            del self._waiting[query]
        if answer.refusal:
            raise ApiError(
                answer.refusal, status=answer.status, code="impossible_now" if answer.status == 409 else None
            )
        return answer

    def answered(self, answer: AdminAnswer) -> None:
        future = self._waiting.get(answer.query)
        if future is not None and not future.done():
            future.set_result(answer)
