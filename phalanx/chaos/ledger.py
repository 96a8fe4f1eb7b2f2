"""The books of a run: what was sent, how it ended, what is under way, and how long streams paused under which fault."""

import enum
import itertools
import time
from collections import Counter
from dataclasses import dataclass, field

from phalanx.chaos.answers import Answer
from phalanx.chaos.http_client import HttpResponse
from phalanx.chaos.processes import ProcessName
from phalanx.chaos.request_set import RepeatableRequest
from phalanx.chaos.schedule import Fault, Kind
from phalanx.chaos.verdict import End, Verdict

KEPT = 5
"""So many offending requests are printed in full."""


class Pause(enum.StrEnum):
    """What may be expected of a gap in a stream."""

    RANK_LIVED = "while another rank lived"
    STOPPED = "while a process that had it was stopped or slowed"
    NO_RANK = "while no rank lived"


@dataclass
class FaultRecord:
    """A fault that has begun."""

    fault: Fault
    began: float
    ended: float | None = None
    """When everything was as before again, or None while it is not."""
    struck: tuple[ProcessName, ...] = ()
    """The processes that the fault was aimed at."""
    recovery: float | None = None
    """Seconds until what was struck served again, or None where there was nothing to recover from."""
    note: str = ""
    """What the report says of it besides its kind."""

    def overlaps(self, begin: float, end: float) -> bool:
        """Whether it was under way at some moment between these."""
        return self.began < end and (self.ended is None or self.ended > begin)

    def covers(self, moment: float) -> bool:
        """Whether it was under way at this moment."""
        return self.began <= moment and (self.ended is None or self.ended > moment)


@dataclass
class Attempt:
    """One sending of a request, and what came back so far."""

    request: RepeatableRequest
    response: HttpResponse
    api_server: ProcessName | None
    """The API server that has the request, or None where it did not say which it is."""


@dataclass
class Offence:
    """A request that was lost, or whose answer was wrong."""

    attempt: Attempt
    verdict: Verdict
    expected: Answer
    at: float


@dataclass
class Ledger:
    """All that a run counts and measures."""

    ranks: int
    records: list[FaultRecord] = field(default_factory=list)
    sent: int = 0
    ends: Counter[End] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    offences: list[Offence] = field(default_factory=list)
    pauses: dict[Pause, float] = field(default_factory=dict)
    """The longest pause of each class."""
    pauses_by_kind: dict[Kind, float] = field(default_factory=dict)
    """The longest pause that overlaps a fault of each kind."""
    _under_way: dict[int, Attempt] = field(default_factory=dict)

    # --- requests ---

    def send(self, attempt: Attempt) -> None:
        """Note that a request is being sent."""
        self.sent += 1
        self._under_way[id(attempt)] = attempt

    def end(self, attempt: Attempt, verdict: Verdict, expected: Answer, paced: bool = False) -> None:
        """Note how a request ended. Where its client was `paced`, it read slowly, and the pauses are its own."""
        del self._under_way[id(attempt)]
        self.ends[verdict.end] += 1
        if verdict.end is End.REFUSED:
            self.refusals[verdict.reason] += 1
        if verdict.end in (End.WRONG, End.LOST) and len(self.offences) < KEPT:
            self.offences.append(Offence(attempt, verdict, expected, time.monotonic()))
        if attempt.request.streamed and not paced:
            self._measure(attempt)

    def around(self, begin: float, end: float) -> list[FaultRecord]:
        """The faults that were under way at some moment between these."""
        return [record for record in self.records if record.overlaps(begin, end)]

    @property
    def unended(self) -> int:
        """How many requests have not ended."""
        return len(self._under_way)

    def settled_since(self, moment: float) -> bool:
        """Whether every request that was under way at this moment has had something since, or has ended."""
        return all(
            attempt.response.sent_at > moment or (attempt.response.arrivals and attempt.response.arrivals[-1] > moment)
            for attempt in self._under_way.values()
        )

    # --- pauses ---

    def _measure(self, attempt: Attempt) -> None:
        arrivals = attempt.response.arrivals
        for before, after in itertools.pairwise(arrivals):
            self.paused(before, after, attempt.api_server)

    def paused(self, begin: float, end: float, api_server: ProcessName | None) -> None:
        """Note that a stream through this API server had nothing from `begin` to `end`."""
        around = self.around(begin, end)
        pause = self._class(begin, end, api_server, around)
        self.pauses[pause] = max(self.pauses.get(pause, 0.0), end - begin)
        for record in around:
            kind = record.fault.kind
            self.pauses_by_kind[kind] = max(self.pauses_by_kind.get(kind, 0.0), end - begin)

    def _class(self, begin: float, end: float, api_server: ProcessName | None, around: list[FaultRecord]) -> Pause:
        for moment in (begin, *(record.began for record in around if record.began > begin)):
            out = {name for record in around if record.covers(moment) for name in record.struck}
            if len([name for name in out if name[0] == "engine"]) >= self.ranks:
                return Pause.NO_RANK
        for record in around:
            if record.fault.kind in (Kind.STOP_RANK, Kind.SLOW_LINK):
                return Pause.STOPPED
            if record.fault.kind is Kind.STOP_API_SERVER and api_server in record.struck:
                return Pause.STOPPED
        return Pause.RANK_LIVED
