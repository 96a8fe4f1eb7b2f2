"""What an API server takes, and what it tells to come back later: any history of requests."""

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from phalanx.api.admission import (
    LONGEST,
    NO_RATE,
    NOTHING,
    QUEUE,
    SHORTEST,
    Admission,
    Amount,
    Overloaded,
    Reason,
    Ticket,
    bounds,
)

BOUNDS = Amount(requests=10, tokens=1000, bytes=100_000)


def never() -> None:
    raise AssertionError("nobody was to give way")


def admit(
    admission: Admission, amount: Amount, priority: int = 0, evict: Callable[[], None] = never, now: float = 0.0
) -> Ticket:
    return admission.admit(amount, priority, evict, now)


def refusal(admission: Admission, amount: Amount, priority: int = 0, now: float = 0.0) -> Overloaded:
    with pytest.raises(Overloaded) as refused:
        admit(admission, amount, priority, now=now)
    return refused.value


def test_what_may_be_held_is_what_the_ranks_run_and_a_queue() -> None:
    assert bounds(8, 1000, 2, 50, 7) == Amount(10, 1050, 7)
    assert bounds(8, 1000, 0, 0, 7) == Amount(8, 1000, 7)
    assert bounds(8, 1000, None, None, 7) == Amount(8 + QUEUE * 8, 1000 + QUEUE * 1000, 7)


@pytest.mark.parametrize(
    ("amount", "reason"),
    [
        (Amount(10, 1, 1), Reason.REQUESTS),
        (Amount(1, 1000, 1), Reason.TOKENS),
        (Amount(1, 1, 100_000), Reason.BYTES),
    ],
)
def test_each_of_the_three_is_bounded_and_named(amount: Amount, reason: Reason) -> None:
    admission = Admission(BOUNDS)
    admit(admission, Amount(1, 1, 1))
    assert refusal(admission, amount).reason is reason
    admit(admission, BOUNDS.minus(admission.held))
    assert admission.held == BOUNDS


def test_what_is_not_asked_for_is_never_short() -> None:
    admission = Admission(BOUNDS)
    ticket = admit(admission, Amount(1, 10, 10))
    admission.grow(ticket, Amount(1, 5000, 10))
    admit(admission, Amount(0, 0, 99_000))
    assert refusal(admission, Amount(0, 0, 1000)).reason is Reason.BYTES


def test_what_other_servers_hold_counts() -> None:
    admission = Admission(BOUNDS)
    admission.others = Amount(6, 600)
    admit(admission, Amount(4, 100, 1))
    assert refusal(admission, Amount(1, 100, 1)).reason is Reason.REQUESTS
    admission.others = Amount(5, 800)
    assert refusal(admission, Amount(1, 101, 1)).reason is Reason.TOKENS
    admit(admission, Amount(1, 100, 1))


def test_a_reservation_is_settled_and_may_be_refused_then_without_touching_others() -> None:
    admission = Admission(BOUNDS)
    admit(admission, Amount(1, 900, 1))
    ticket = admit(admission, Amount(1, 50, 50))
    with pytest.raises(Overloaded):
        admission.settle(ticket, Amount(1, 101, 1), 0.0)
    assert admission.held == Amount(2, 950, 51)
    admission.settle(ticket, Amount(1, 100, 10), 0.0)
    assert admission.held == Amount(2, 1000, 11)
    admission.release(ticket, 0.0)
    assert admission.held == Amount(1, 900, 1)


def test_growth_is_never_refused_and_refuses_others() -> None:
    admission = Admission(BOUNDS)
    ticket = admit(admission, Amount(1, 10, 10))
    admission.grow(ticket, Amount(1, 5000, 10))
    assert refusal(admission, Amount(1, 1, 1)).reason is Reason.TOKENS
    admission.release(ticket, 0.0)
    admission.grow(ticket, Amount(1, 5000, 10))
    assert admission.held == NOTHING


def test_the_worst_and_newest_that_has_nothing_yet_gives_way() -> None:
    admission = Admission(BOUNDS)
    gone: list[str] = []
    running = admit(admission, Amount(1, 300, 1), 9)
    admission.begin(running)
    admit(admission, Amount(1, 200, 1), 5)
    admit(admission, Amount(1, 200, 1), 7, lambda: gone.append("older 7"))
    admit(admission, Amount(1, 200, 1), 7, lambda: gone.append("newer 7"))
    refusal(admission, Amount(1, 200, 1), 7)
    assert gone == []
    admit(admission, Amount(1, 200, 1), 6)
    assert gone == ["newer 7"]
    admit(admission, Amount(1, 250, 1), 6)
    assert gone == ["newer 7", "older 7"]
    assert admission.held == Amount(4, 950, 4)


def test_nobody_gives_way_where_it_would_not_be_enough() -> None:
    admission = Admission(BOUNDS)
    admission.begin(admit(admission, Amount(1, 900, 1), 5))
    admit(admission, Amount(1, 50, 1), 5)
    assert refusal(admission, Amount(1, 101, 1), -1).reason is Reason.TOKENS
    assert admission.held == Amount(2, 950, 2)


def test_retry_after_is_the_time_in_which_half_drains() -> None:
    admission = Admission(Amount(100, 10_000, 100))
    assert refusal_seconds(admission, 0.0) == NO_RATE
    now = 0.0
    # 100 tokens a second for a minute.
    for _ in range(60):
        now += 1.0
        ticket = admit(admission, Amount(1, 100, 1), now=now)
        admission.begin(ticket)
        admission.release(ticket, now)
    tickets = [admit(admission, Amount(1, 1000, 1), now=now) for _ in range(3)]
    assert admission.retry_after(now) == pytest.approx(15, abs=2)
    tickets += [admit(admission, Amount(1, 1000, 1), now=now) for _ in range(7)]
    assert admission.retry_after(now) == pytest.approx(50, abs=4)
    assert admission.retry_after(now + 100) == LONGEST
    for ticket in tickets:
        # None has begun: that they leave says nothing of the ranks.
        admission.release(ticket, now)
    assert admission.retry_after(now) == SHORTEST


def refusal_seconds(admission: Admission, now: float) -> int:
    held = admit(admission, Amount(1, 10_000, 1), now=now)
    seconds = refusal(admission, Amount(1, 1, 1), now=now).retry_after
    admission.release(held, now)
    return seconds


amounts = st.builds(Amount, st.integers(1, 6), st.integers(1, 700), st.integers(1, 60_000))
which = st.integers(0, 30)


class Histories(RuleBasedStateMachine):
    """Any history, beside a count that is made anew each time."""

    def __init__(self) -> None:
        super().__init__()
        self.admission = Admission(BOUNDS)
        self.live: dict[Ticket, Amount] = {}
        self.now = 0.0

    def ticket(self, number: int) -> Ticket:
        return list(self.live)[number % len(self.live)]

    @property
    def total(self) -> Amount:
        total = NOTHING
        for amount in self.live.values():
            total = total.plus(amount)
        return total

    def judge(self, amount: Amount, priority: int, others: Amount, take: Callable[[], Ticket]) -> None:
        """`others`: what is held besides."""
        before = dict(self.live)
        try:
            ticket = take()
        except Overloaded as refused:
            assert others != NOTHING, "the only request of an idle service was refused"
            assert self.live == before
            assert {ticket for ticket in before if not ticket.open} == set(), "one gave way for nothing"
            assert SHORTEST <= refused.retry_after <= LONGEST  # noqa: PT017
            return
        gone = [one for one in self.live if not one.open]
        for one in gone:
            assert one.waiting
            assert one.priority > priority
            del self.live[one]
        self.live[ticket] = amount
        if others != NOTHING:
            total = self.total.plus(self.admission.others)
            assert all(held <= most for held, most in zip(total, BOUNDS, strict=True)), "taken beyond the bounds"

    @rule(amount=amounts, priority=st.integers(-1, 1))
    def admit(self, amount: Amount, priority: int) -> None:
        others = self.total.plus(self.admission.others)
        self.judge(amount, priority, others, lambda: self.admission.admit(amount, priority, lambda: None, self.now))

    @precondition(lambda self: self.live)
    @rule(number=which, amount=amounts)
    def settle(self, number: int, amount: Amount) -> None:
        ticket = self.ticket(number)

        def take() -> Ticket:
            self.admission.settle(ticket, amount, self.now)
            return ticket

        others = self.total.plus(self.admission.others).minus(self.live[ticket])
        self.judge(amount, ticket.priority, others, take)

    @precondition(lambda self: self.live)
    @rule(number=which, amount=amounts)
    def grow(self, number: int, amount: Amount) -> None:
        ticket = self.ticket(number)
        self.admission.grow(ticket, amount)
        self.live[ticket] = amount

    @precondition(lambda self: self.live)
    @rule(number=which)
    def begin(self, number: int) -> None:
        self.admission.begin(self.ticket(number))

    @precondition(lambda self: self.live)
    @rule(number=which)
    def release(self, number: int) -> None:
        ticket = self.ticket(number)
        self.admission.release(ticket, self.now)
        self.admission.release(ticket, self.now)
        del self.live[ticket]

    @rule(requests=st.integers(0, 8), tokens=st.integers(0, 800))
    def hear_of_others(self, requests: int, tokens: int) -> None:
        self.admission.others = Amount(requests, tokens)

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def counts_exactly(self) -> None:
        assert self.admission.held == self.total
        assert SHORTEST <= self.admission.retry_after(self.now) <= LONGEST

    def teardown(self) -> None:
        for ticket in self.live:
            self.admission.release(ticket, self.now)
        assert self.admission.held == NOTHING


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=40)
