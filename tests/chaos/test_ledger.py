"""What is counted and measured, and how it is told."""

import pytest
from support.responses import STREAM, streamed

from phalanx.chaos.answers import answer_of
from phalanx.chaos.http_client import HttpResponse
from phalanx.chaos.ledger import Attempt, FaultRecord, Ledger, Pause
from phalanx.chaos.processes import ProcessName
from phalanx.chaos.request_set import RepeatableRequest
from phalanx.chaos.run import Outcome, Plan
from phalanx.chaos.schedule import Fault, Kind
from phalanx.chaos.table import report, slope
from phalanx.chaos.verdict import End, judge

EXPECTED = answer_of(streamed())
STREAMED = RepeatableRequest(5, "/v1/completions", {"prompt": "x", "stream": True, "max_tokens": 4})
PLAN = Plan(60.0, 99, list(Kind), 5.0, 24, 2, 2, 4.0, [])


def fault(kind: Kind, began: float, ended: float | None, *struck: ProcessName) -> FaultRecord:
    return FaultRecord(Fault(1, began, kind, 0.0, 0.0), began, ended, struck)


def pause(begin: float, end: float, *records: FaultRecord, api_server: ProcessName = ("api", 0)) -> dict[Pause, float]:
    ledger = Ledger(2, list(records))
    ledger.paused(begin, end, api_server)
    return ledger.pauses


RANK_0, RANK_1 = ("engine", 0), ("engine", 1)


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ((), Pause.RANK_LIVED),
        ((fault(Kind.KILL_RANK, 10, 14, RANK_0),), Pause.RANK_LIVED),
        ((fault(Kind.KILL_ALL_RANKS, 10, 14, RANK_0, RANK_1),), Pause.NO_RANK),
        ((fault(Kind.KILL_ALL_RANKS, 10, None, RANK_0, RANK_1),), Pause.NO_RANK),
        ((fault(Kind.KILL_ALL_RANKS, 3, 9, RANK_0, RANK_1),), Pause.RANK_LIVED),
        ((fault(Kind.KILL_RANK, 9, 12, RANK_0), fault(Kind.KILL_RANK, 11, 14, RANK_1)), Pause.NO_RANK),
        # One came back before the other fell.
        ((fault(Kind.KILL_RANK, 9, 10.5, RANK_0), fault(Kind.KILL_RANK, 11, 14, RANK_1)), Pause.RANK_LIVED),
        ((fault(Kind.STOP_RANK, 10, 14, RANK_0),), Pause.STOPPED),
        ((fault(Kind.STOP_API_SERVER, 10, 14, ("api", 0)),), Pause.STOPPED),
        ((fault(Kind.STOP_API_SERVER, 10, 14, ("api", 1)),), Pause.RANK_LIVED),
    ],
)
def test_a_pause_is_judged_by_who_lived_meanwhile(records: tuple[FaultRecord, ...], expected: Pause) -> None:
    assert pause(10.2, 12.2, *records) == {expected: 2.0}


def test_the_longest_pause_of_a_stream_is_measured_and_belongs_to_the_faults_around_it() -> None:
    ledger = Ledger(2, [fault(Kind.FLOOD, 2, 5), fault(Kind.HALF_SENT, 8, 9)])
    for arrivals in ([1.0, 1.5, 4.0], [3.0, 3.1]):
        response = streamed()
        response.arrivals = arrivals
        attempt = Attempt(STREAMED, response, ("api", 0))
        ledger.send(attempt)
        ledger.end(attempt, judge(EXPECTED, response, server_died=False), EXPECTED)
    assert ledger.pauses == {Pause.RANK_LIVED: 2.5}
    assert ledger.pauses_by_kind == {Kind.FLOOD: 2.5}


def test_requests_have_settled_when_each_has_had_something_or_has_ended() -> None:
    ledger = Ledger(2)
    waiting, going, later = (Attempt(STREAMED, HttpResponse(sent_at=at), None) for at in (1.0, 2.0, 11.0))
    for attempt in (waiting, going, later):
        ledger.send(attempt)
    going.response.arrivals = [5.0, 12.0]
    waiting.response.arrivals = [9.0]
    assert not ledger.settled_since(10.0)
    ledger.end(waiting, judge(EXPECTED, streamed(), server_died=False), EXPECTED)
    assert ledger.settled_since(10.0)


def ended_with(response: HttpResponse) -> Outcome:
    ledger = Ledger(2, [fault(Kind.KILL_RANK, 101.0, 104.0, RANK_0)])
    outcome = Outcome(PLAN, ledger, began=100.0)
    attempt = Attempt(STREAMED, response, ("api", 1))
    attempt.response.sent_at = 102.0
    ledger.send(attempt)
    ledger.end(attempt, judge(EXPECTED, response, server_died=False), EXPECTED)
    return outcome


def test_a_run_is_good_only_without_anything_wrong_lost_unended_or_left_behind() -> None:
    assert ended_with(streamed()).good
    assert not ended_with(streamed(STREAM[1:])).good
    assert not ended_with(streamed(STREAM[:3], complete=False, trouble="reset")).good
    unended = ended_with(streamed())
    unended.ledger.send(Attempt(STREAMED, HttpResponse(), None))
    assert not unended.good
    left = ended_with(streamed())
    left.complaints.append("left behind: processes [4711]")
    assert not left.good
    assert "NOT GOOD: left behind: processes [4711]" in report(left)


def test_what_is_wrong_is_told_in_full_with_the_seed_and_the_faults_around_it() -> None:
    text = report(ended_with(streamed((STREAM[0], *STREAM[2:]))))
    assert 'WRONG: POST /v1/completions {"prompt": "x", "stream": true, "max_tokens": 4}' in text
    assert "choice 0: tokens differ" in text
    assert "tokens=[0, 1, 2, 3]" in text
    assert "tokens=[0, 2, 3]" in text
    assert "seed 99" in text
    assert "through api 1" in text
    assert "1.00 s to 4.00 s: fault 1 at 101.0 s: kill-rank" in text
    assert "This run failed." in text


def test_every_end_has_a_row() -> None:
    text = report(ended_with(streamed()))
    for end in End:
        assert f"| {end} " in text
    for kind in Kind:
        assert f"| {kind} " in text


def test_memory_is_told_by_kind_of_process_and_in_all() -> None:
    outcome = ended_with(streamed())
    outcome.memory = [(5.0 * step, {"ranks": (100 + step) * 2**20, "API servers": 50 * 2**20}) for step in range(13)]
    text = " ".join(report(outcome).split())
    assert "| memory (PSS) | at 0 s | at 30 s | at 60 s | slope after warm-up |" in text
    assert "| ranks | 100 MiB | 106 MiB | 112 MiB | +12.00 MiB/min |" in text
    assert "| API servers | 50 MiB | 50 MiB | 50 MiB | +0.00 MiB/min |" in text
    assert "| all | 150 MiB | 156 MiB | 162 MiB | +12.00 MiB/min |" in text


def test_the_slope_of_memory_is_its_growth() -> None:
    assert slope([(at, 1000 + 7 * at) for at in range(10)]) == pytest.approx(7)
    assert slope([(at, 1000 + (-1) ** at) for at in range(100)]) == pytest.approx(0, abs=0.01)
    assert slope([(0.0, 1), (1.0, 2)]) is None
