"""Questions to the supervisor that wait for an answer; it comes under the number of its question."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Generic, TypeVar

from phalanx.api.errors import server_error
from phalanx.protocol import ToSupervisor

PATIENCE = 5.0
"""Seconds the supervisor gets to answer."""

T = TypeVar("T")


class Inquiries(Generic[T]):
    """Lives in the event loop."""

    def __init__(self, send: Callable[[ToSupervisor], None]) -> None:
        """`send`: to the supervisor."""
        self._send = send
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[T]] = {}

    async def ask(self, question: Callable[[int], ToSupervisor], silence: str) -> T:
        """The answer to `question`, which is given its number.

        Raises:
            ApiError: 503, there is none within PATIENCE; `silence` says so.
        """
        number = next(self._numbers)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            self._send(question(number))
            async with asyncio.timeout(PATIENCE):
                return await future
        except TimeoutError:
            raise server_error(f"{silence} within {PATIENCE:g} s.", status=503) from None
        finally:
            del self._waiting[number]

    def answered(self, number: int, answer: T) -> None:
        future = self._waiting.get(number)
        if future is not None and not future.done():
            future.set_result(answer)
