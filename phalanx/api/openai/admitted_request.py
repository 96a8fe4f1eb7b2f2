"""One HTTP request with a body, from the arrival of the body to the end of the answer: its share of what may be held.

A request is admitted by the size of its body, before anything is tokenised. What a request asks of ranks is settled
once its prompts are tokens, and estimated again once a second while it runs.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from phalanx.api.admission import Amount, Overloaded, Reason, Ticket
from phalanx.api.app_state import AppState
from phalanx.api.errors import ApiError
from phalanx.api.http import Exchange
from phalanx.api.known_errors import overloaded
from phalanx.api.openai.branch import Branch

log = logging.getLogger(__name__)

# The following are bytes of memory, rounded up from peaks that tracemalloc saw: 99 for a token of a whole answer, 721
# with its log probability, 2,841 with 20 alternatives of it.
BODY_BYTE = 10
"""Bytes that each byte of a body takes while it becomes text and then tokens."""
PROMPT_TOKEN = 40
OUTPUT_TOKEN = 120
"""Bytes for a token, its text, and its piece of an answer that is collected."""
SCORED_TOKEN = 700
CANDIDATE = 120
"""Bytes for each alternative of a scored token, up to its place in the answer's JSON."""

MAX_UNREAD = 32 * 2**20
"""Bytes, by the same estimate, that may wait for a client that has stopped reading."""

_SAYS = {
    Reason.REQUESTS: "as many requests wait as this server queues (--max-queued-requests)",
    Reason.TOKENS: "as many tokens wait as this server queues (--max-queued-tokens)",
    Reason.BYTES: "the requests in it hold as much memory as they may (--max-held-bytes)",
    Reason.PRIORITY: "this request gave its place to one of better priority",
}


class AdmittedRequest:
    """An HTTP request that is being answered, and the count of what it holds."""

    __slots__ = ("_branches", "_connection", "_server", "_task", "_ticket", "evicted")

    def __init__(self, exchange: Exchange, server: AppState, priority: int, completions: int, body: int) -> None:
        """`completions` is how many it asks ranks for, which may be none; `body` is the size of its body in bytes.

        Raises:
            ApiError: 429, there is no room for it.
        """
        self._server = server
        self._task = asyncio.current_task()
        self.evicted = False
        """Whether it gave its place to a request of better priority, for which its task is cancelled."""
        self._branches: list[Branch] = []
        self._connection = exchange.connection
        # A prompt that fits the model has no more tokens than the model takes, nor than the text has bytes.
        tokens = min(body, server.max_model_len) if completions else 0
        amount = Amount(completions, tokens, body * BODY_BYTE)
        try:
            server.admission.others = server.others()
            self._ticket: Ticket = server.admission.admit(amount, priority, self._evict, server.clock())
        except Overloaded as refusal:
            raise self._error(refusal) from None
        server.admitted_requests.add(self)

    def settle(self, branches: list[Branch]) -> None:
        """Count exactly what it asks for, now that its prompts are tokens.

        Raises:
            ApiError: 429, its prompts and the output expected of them are more than there is room for.
        """
        self._branches = branches
        server = self._server
        try:
            server.admission.settle(self._ticket, self._amount(), server.clock())
        except Overloaded as refusal:
            raise self._error(refusal) from None

    def begin(self) -> None:
        """Its first token has come, so it gives way to no other request any more."""
        self._server.admission.begin(self._ticket)

    def look(self) -> None:
        """Count what it holds by now, and cut off a client that leaves too much unread; called once a second."""
        branches = self._branches
        if not branches:
            return
        amount = self._amount()
        if amount != self._ticket.amount:
            self._server.admission.grow(self._ticket, amount)
        connection = self._connection
        if connection.paused:
            unread = sum(branch.unread * _output_bytes(branch) for branch in branches)
            if unread > MAX_UNREAD:
                connection.cut("unread")

    def leave(self) -> None:
        """Give back its share: the request has ended."""
        self._server.admitted_requests.discard(self)
        self._server.admission.release(self._ticket, self._server.clock())

    def evicted_error(self) -> ApiError:
        """The error that the client of an evicted request is told."""
        return self._error(Overloaded(Reason.PRIORITY, self._server.admission.retry_after(self._server.clock())))

    def _evict(self) -> None:
        self.evicted = True
        assert self._task is not None
        self._task.cancel()

    def _amount(self) -> Amount:
        tokens = size = 0
        expected = self._server.engine.expected
        for branch in self._branches:
            sampling, prompt = branch.sampling, len(branch.prompt)
            output = max(branch.produced, expected(sampling.max_tokens))
            tokens += prompt + output
            size += prompt * PROMPT_TOKEN + output * _output_bytes(branch)
            if sampling.prompt_logprobs is not None:
                size += prompt * (SCORED_TOKEN + CANDIDATE * sampling.prompt_logprobs)
        return Amount(len(self._branches), tokens, size)

    def _error(self, refusal: Overloaded) -> ApiError:
        self._server.metrics.refused.add(1, refusal.reason.value)
        return overloaded(_SAYS[refusal.reason], refusal.retry_after)


def _output_bytes(branch: Branch) -> int:
    top = branch.sampling.logprobs
    return OUTPUT_TOKEN if top is None else OUTPUT_TOKEN + SCORED_TOKEN + CANDIDATE * top


@asynccontextmanager
async def admit(
    exchange: Exchange, server: AppState, body: int, *, completions: int = 0, priority: int = 0
) -> AsyncIterator[AdmittedRequest]:
    """Run the block as long as the client stays and no request of better priority takes the place of this one.

    Raises:
        ApiError: 429, before anything has been computed for it.
        ClientGone: the client left, see `Exchange.ended_with_client`.
    """
    admitted = AdmittedRequest(exchange, server, priority, completions, body)
    try:
        async with exchange.ended_with_client():
            yield admitted
    except asyncio.CancelledError:
        task = asyncio.current_task()
        # Without that of the eviction, a cancellation is left only where somebody else asked for one too.
        if not admitted.evicted or task is None or task.uncancel() > 0:
            raise
        raise admitted.evicted_error() from None
    finally:
        admitted.leave()
