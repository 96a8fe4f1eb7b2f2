"""A request with a body, from the body's arrival to its end, and its share of what this API server holds.

It is admitted on the size of its body, before anything is tokenised. What one that generates asks for is settled once
its tokens are known, and looked at again once a second while it runs.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from phalanx.api.admission import Amount, Reason, Refused, Ticket
from phalanx.api.errors import ApiError
from phalanx.api.http import Exchange
from phalanx.api.known_errors import OVERLOADED
from phalanx.api.openai.branch import Branch
from phalanx.api.service import Service

log = logging.getLogger(__name__)

# Bytes of memory, rounded up from peaks that tracemalloc saw: 99 a token of a whole answer, 721 with its log
# probability, 2,841 with 20 alternatives of it.
BODY_BYTE = 10
"""While a body becomes text and then tokens."""
PROMPT_TOKEN = 40
OUTPUT_TOKEN = 120
"""Of the token, its text, and the piece of an answer that is collected."""
SCORED_TOKEN = 700
CANDIDATE = 120
"""Of each of a scored token's alternatives, up to its place in the answer's JSON."""

MAX_UNREAD = 32 * 2**20
"""Bytes, by the same estimate, that may wait for one client that has stopped reading."""

_SAYS = {
    Reason.REQUESTS: "as many requests wait as this server queues (--max-queued-requests)",
    Reason.TOKENS: "as many tokens wait as this server queues (--max-queued-tokens)",
    Reason.BYTES: "the requests in it hold as much memory as they may (--max-held-bytes)",
    Reason.PRIORITY: "this request gave its place to one of better priority",
}


class Flight:
    __slots__ = ("_branches", "_connection", "_service", "_task", "_ticket", "evicted")

    def __init__(self, exchange: Exchange, service: Service, priority: int, completions: int, body: int) -> None:
        """`completions`: 0 for one that asks nothing of ranks. `body`: its size in bytes.

        Raises:
            ApiError: 429, there is no room for it.
        """
        self._service = service
        self._task = asyncio.current_task()
        self.evicted = False
        """It gave its place to one of better priority, and its task is cancelled for that."""
        self._branches: list[Branch] = []
        self._connection = exchange.connection
        # A prompt that fits the model has no more tokens than the model takes, nor than the text has bytes.
        tokens = min(body, service.max_model_len) if completions else 0
        amount = Amount(completions, tokens, body * BODY_BYTE)
        try:
            service.admission.others = service.others()
            self._ticket: Ticket = service.admission.admit(amount, priority, self._evict, service.clock())
        except Refused as refused:
            raise self._overloaded(refused) from None
        service.flights.add(self)

    def settle(self, branches: list[Branch]) -> None:
        """Its prompts are tokens now.

        Raises:
            ApiError: 429, they and what they will bring are more than there is room for.
        """
        self._branches = branches
        service = self._service
        try:
            service.admission.settle(self._ticket, self._amount(), service.clock())
        except Refused as refused:
            raise self._overloaded(refused) from None

    def begin(self) -> None:
        """There is a first token: it gives way to nobody any more."""
        self._service.admission.begin(self._ticket)

    def look(self) -> None:
        """Once a second: count what it holds by now, and end a client that leaves too much unread."""
        branches = self._branches
        if not branches:
            return
        amount = self._amount()
        if amount != self._ticket.amount:
            self._service.admission.grow(self._ticket, amount)
        connection = self._connection
        if connection.paused:
            unread = sum(branch.unread * _output_bytes(branch) for branch in branches)
            if unread > MAX_UNREAD:
                connection.cut("unread")

    def leave(self) -> None:
        self._service.flights.discard(self)
        self._service.admission.release(self._ticket, self._service.clock())

    def evicted_error(self) -> ApiError:
        """What the client of an evicted request is told."""
        return self._overloaded(Refused(Reason.PRIORITY, self._service.admission.retry_after(self._service.clock())))

    def _evict(self) -> None:
        self.evicted = True
        assert self._task is not None
        self._task.cancel()

    def _amount(self) -> Amount:
        tokens = size = 0
        expected = self._service.engine.expected
        for branch in self._branches:
            sampling, prompt = branch.sampling, len(branch.prompt)
            output = max(branch.produced, expected(sampling.max_tokens))
            tokens += prompt + output
            size += prompt * PROMPT_TOKEN + output * _output_bytes(branch)
            if sampling.prompt_logprobs is not None:
                size += prompt * (SCORED_TOKEN + CANDIDATE * sampling.prompt_logprobs)
        return Amount(len(self._branches), tokens, size)

    def _overloaded(self, refused: Refused) -> ApiError:
        self._service.metrics.refused.add(1, refused.reason.value)
        seconds = refused.retry_after
        retry = ((b"retry-after", str(seconds).encode()),)
        return OVERLOADED.told(why=_SAYS[refused.reason], seconds=seconds, headers=retry)


def _output_bytes(branch: Branch) -> int:
    top = branch.sampling.logprobs
    return OUTPUT_TOKEN if top is None else OUTPUT_TOKEN + SCORED_TOKEN + CANDIDATE * top


@asynccontextmanager
async def admitted(
    exchange: Exchange, service: Service, body: int, *, completions: int = 0, priority: int = 0
) -> AsyncIterator[Flight]:
    """The block runs for as long as its client stays and nobody of better priority takes its place; see Flight.

    Raises:
        ApiError: 429, before anything has been computed for it.
        ClientGone: as Exchange.ended_with_client.
    """
    flight = Flight(exchange, service, priority, completions, body)
    try:
        async with exchange.ended_with_client():
            yield flight
    except asyncio.CancelledError:
        task = asyncio.current_task()
        # Taken back, the eviction leaves no cancellation but one that somebody else has asked for too.
        if not flight.evicted or task is None or task.uncancel() > 0:
            raise
        raise flight.evicted_error() from None
    finally:
        flight.leave()
