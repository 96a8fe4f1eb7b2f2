"""Whether a request is taken, or told to come back later. Pure: no I/O, no clock of its own.

An API server counts what it has taken and not finished (completions, tokens, bytes of its own memory) and what ranks
last told of the other API servers' requests, so no two of them need to talk. What is held may exceed what the ranks
run at once by a queue of bounded size, in completions and in tokens; the bytes are bounded by a figure of their own.
A reservation counts the output that is expected; one that proves too small grows, which refuses others, never itself.

Nothing that has been taken is refused later, with one exception: a request that has not got its first token gives
its place to one of better priority that would be refused otherwise, the worst and newest first.
"""

import math
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

WINDOW = 10.0
"""Seconds over which the drain rate is measured (time constant of an exponential mean)."""

SHORTEST, LONGEST = 1, 60
"""Seconds in Retry-After."""

NO_RATE = 5
"""Seconds in Retry-After where nothing has finished yet."""

QUEUE = 4
"""Default of what may wait, in multiples of what the ranks hold at once."""


class Amount(NamedTuple):
    """What requests hold or ask for."""

    requests: int = 0
    """Completions: an HTTP request for n completions of each of its prompts counts as n times its prompts."""
    tokens: int = 0
    """Tokens of prompts, and of output as far as it is expected."""
    bytes: int = 0
    """Bytes of this API server's memory, estimated."""

    def plus(self, other: "Amount") -> "Amount":
        return Amount(self.requests + other.requests, self.tokens + other.tokens, self.bytes + other.bytes)

    def minus(self, other: "Amount") -> "Amount":
        return Amount(self.requests - other.requests, self.tokens - other.tokens, self.bytes - other.bytes)


NOTHING = Amount()


class Reason(StrEnum):
    """What there is too much of."""

    REQUESTS = "queued_requests"
    TOKENS = "queued_tokens"
    BYTES = "held_bytes"
    PRIORITY = "priority"
    """The request had been taken, and has given way to another."""


class Overloaded(Exception):
    """There is no room for a request."""

    def __init__(self, reason: Reason, retry_after: int) -> None:
        """`retry_after` is in seconds."""
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


def bounds(
    running: int, cache_tokens: int, queued_requests: int | None, queued_tokens: int | None, held_bytes: int
) -> Amount:
    """The most that may be held: what the ranks run at once and, on top, what may wait.

    `running` and `cache_tokens` are what all ranks together hold at once, in requests and in tokens. `queued_requests`
    and `queued_tokens` are what may wait; None stands for QUEUE times what the ranks hold.
    """
    return Amount(
        running + (QUEUE * running if queued_requests is None else queued_requests),
        cache_tokens + (QUEUE * cache_tokens if queued_tokens is None else queued_tokens),
        held_bytes,
    )


class Ticket:
    """The share of one taken HTTP request in what is held."""

    __slots__ = ("amount", "evict", "open", "priority", "waiting")

    def __init__(self, priority: int, evict: Callable[[], None]) -> None:
        self.priority = priority
        self.evict = evict
        """Called when the request has given way; its share is released by then."""
        self.amount = NOTHING
        self.open = False
        """Whether the request is counted."""
        self.waiting = True
        """Whether nothing of its answer exists yet, so that it may give way."""


class Admission:
    """What one API server holds, and whether it takes more."""

    def __init__(self, bounds: Amount) -> None:
        self.bounds = bounds
        """The most that may be held: by the whole service in requests and tokens, by this server in bytes.

        It changes with the ranks."""
        self.others = NOTHING
        """What the ranks last told of the other API servers' requests."""
        self.held = NOTHING
        self._waiting: dict[int, dict[Ticket, None]] = {}
        """The tickets that may give way, by priority, in order of arrival."""
        self._drained = 0.0
        """Tokens released within the window."""
        self._drained_at: float | None = None
        self._since = 0.0

    def admit(self, amount: Amount, priority: int, evict: Callable[[], None], now: float) -> Ticket:
        """Take a request. `now` is in seconds, on any clock that only goes forward.

        Raises:
            Overloaded: there is no room, and no request of worse priority that could give way.
        """
        ticket = Ticket(priority, evict)
        self._make_room(ticket, amount, now)
        ticket.open = True
        self._waiting.setdefault(priority, {})[ticket] = None
        self._hold(ticket, amount)
        return ticket

    def settle(self, ticket: Ticket, amount: Amount, now: float) -> None:
        """Count what a request asks for, which is known exactly now.

        Raises:
            Overloaded: it is more than there is room for; the ticket remains to be released.
        """
        if ticket.open:
            self._make_room(ticket, amount, now)
            self._hold(ticket, amount)

    def grow(self, ticket: Ticket, amount: Amount) -> None:
        """Count a request that has come to hold more than was expected; this is never refused."""
        if ticket.open:
            self._hold(ticket, amount)

    def begin(self, ticket: Ticket) -> None:
        """The first token of a request has come: from now on it gives way to no other."""
        if ticket.waiting:
            ticket.waiting = False
            self._leave_queue(ticket)

    def release(self, ticket: Ticket, now: float) -> None:
        """Give back the share of a request that has ended in whatever way; a second call does nothing."""
        if not ticket.open:
            return
        if not ticket.waiting:
            self._observe(now, ticket.amount.tokens)
        self._close(ticket)

    def retry_after(self, now: float) -> int:
        """Seconds until half of what this server holds has drained, at the present rate.

        A client that comes back at half finds room, and the ranks have not run dry by then.
        """
        rate = self._rate(now)
        if not rate:
            return NO_RATE
        return min(max(math.ceil(self.held.tokens / 2 / rate), SHORTEST), LONGEST)

    # --- inside ---

    def _make_room(self, ticket: Ticket, amount: Amount, now: float) -> None:
        total = self.held.plus(self.others).minus(ticket.amount)
        if total == NOTHING:
            return  # It is alone, and what is too large for the queue need not queue.
        over = self._over(total, amount)
        if over is None:
            return
        reason = over
        victims: list[Ticket] = []
        for candidate in self._worse(ticket):
            victims.append(candidate)
            total = total.minus(candidate.amount)
            over = self._over(total, amount)
            if over is None:
                break
        if over is not None:
            raise Overloaded(reason, self.retry_after(now))
        for victim in victims:
            self._close(victim)
            victim.evict()

    def _over(self, total: Amount, asked: Amount) -> Reason | None:
        """The bound that `asked` would exceed on top of `total`, or None where it fits.

        A request that asks for none of something fits however much of it is held.
        """
        most = self.bounds
        if asked.bytes and total.bytes + asked.bytes > most.bytes:
            return Reason.BYTES
        if asked.requests and total.requests + asked.requests > most.requests:
            return Reason.REQUESTS
        return Reason.TOKENS if asked.tokens and total.tokens + asked.tokens > most.tokens else None

    def _worse(self, ticket: Ticket) -> list[Ticket]:
        """The tickets that may give way to this one, in the order in which they are to do so."""
        if not self._waiting or max(self._waiting) <= ticket.priority:
            return []
        worse = sorted((priority for priority in self._waiting if priority > ticket.priority), reverse=True)
        return [one for priority in worse for one in reversed(self._waiting[priority])]

    def _hold(self, ticket: Ticket, amount: Amount) -> None:
        self.held = self.held.minus(ticket.amount).plus(amount)
        ticket.amount = amount

    def _close(self, ticket: Ticket) -> None:
        self._hold(ticket, NOTHING)
        ticket.open = False
        if ticket.waiting:
            self._leave_queue(ticket)

    def _leave_queue(self, ticket: Ticket) -> None:
        queue = self._waiting.get(ticket.priority, {})
        queue.pop(ticket, None)
        if not queue:
            self._waiting.pop(ticket.priority, None)

    def _observe(self, now: float, tokens: int) -> None:
        if self._drained_at is None:
            self._since = now
        else:
            self._drained *= math.exp((self._drained_at - now) / WINDOW)
        self._drained += tokens
        self._drained_at = now

    def _rate(self, now: float) -> float:
        """Tokens released a second."""
        if self._drained_at is None:
            return 0.0
        seen = WINDOW * -math.expm1((self._since - now) / WINDOW)
        return self._drained * math.exp((self._drained_at - now) / WINDOW) / max(seen, 1.0)
