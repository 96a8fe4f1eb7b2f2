"""What was sent, how it ended, what is in flight, and how long streams paused under which fault."""

import enum
import itertools
import time
from collections import Counter
from dataclasses import dataclass, field

from phalanx.chaos.answers import Answer
from phalanx.chaos.catalogue import Request
from phalanx.chaos.client import Exchange
from phalanx.chaos.processes import Seat
from phalanx.chaos.schedule import Fault, Kind
from phalanx.chaos.verdict import End, Verdict

KEPT = 5
"""Offending requests that are printed in full."""


class Pause(enum.StrEnum):
    """What may be expected of a gap in a stream."""

    RANK_LIVED = "while another rank lived"
    STOPPED = "while a process that had it was stopped or slowed"
    NO_RANK = "while no rank lived"


@dataclass
class Record:
    """A fault that has begun."""

    fault: Fault
    began: float
    ended: float | None = None
    """When everything was as before again."""
    seats: tuple[Seat, ...] = ()
    """Who was struck."""
    recovery: float | None = None
    """Seconds until who was struck served again; None: there was nothing to recover from."""
    note: str = ""

    def overlaps(self, begin: float, end: float) -> bool:
        return self.began < end and (self.ended is None or self.ended > begin)

    def covers(self, moment: float) -> bool:
        return self.began <= moment and (self.ended is None or self.ended > moment)


@dataclass
class Flight:
    """A request on its way."""

    request: Request
    exchange: Exchange
    seat: Seat | None
    """The API server that has it."""


@dataclass
class Offence:
    flight: Flight
    verdict: Verdict
    expected: Answer
    at: float


@dataclass
class Ledger:
    ranks: int
    records: list[Record] = field(default_factory=list)
    sent: int = 0
    ends: Counter[End] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    offences: list[Offence] = field(default_factory=list)
    pauses: dict[Pause, float] = field(default_factory=dict)
    """The longest, by class."""
    pauses_by_kind: dict[Kind, float] = field(default_factory=dict)
    """The longest that overlaps a fault of the kind."""
    _flying: dict[int, Flight] = field(default_factory=dict)

    # --- requests ---

    def send(self, flight: Flight) -> None:
        self.sent += 1
        self._flying[id(flight)] = flight

    def end(self, flight: Flight, verdict: Verdict, expected: Answer, paced: bool = False) -> None:
        """`paced`: its client read slowly on purpose, so its pauses are its own."""
        del self._flying[id(flight)]
        self.ends[verdict.end] += 1
        if verdict.end is End.REFUSED:
            self.refusals[verdict.reason] += 1
        if verdict.end in (End.WRONG, End.LOST) and len(self.offences) < KEPT:
            self.offences.append(Offence(flight, verdict, expected, time.monotonic()))
        if flight.request.streamed and not paced:
            self._measure(flight)

    def around(self, begin: float, end: float) -> list[Record]:
        """Faults that overlap a time."""
        return [record for record in self.records if record.overlaps(begin, end)]

    @property
    def unended(self) -> int:
        return len(self._flying)

    def settled_since(self, moment: float) -> bool:
        """Every request that was in flight then has had something since, or has ended."""
        return all(
            flight.exchange.sent_at > moment or (flight.exchange.arrivals and flight.exchange.arrivals[-1] > moment)
            for flight in self._flying.values()
        )

    # --- pauses ---

    def _measure(self, flight: Flight) -> None:
        arrivals = flight.exchange.arrivals
        for before, after in itertools.pairwise(arrivals):
            self.paused(before, after, flight.seat)

    def paused(self, begin: float, end: float, seat: Seat | None) -> None:
        """A stream through the API server `seat` had nothing from `begin` to `end`."""
        around = self.around(begin, end)
        pause = self._class(begin, end, seat, around)
        self.pauses[pause] = max(self.pauses.get(pause, 0.0), end - begin)
        for record in around:
            kind = record.fault.kind
            self.pauses_by_kind[kind] = max(self.pauses_by_kind.get(kind, 0.0), end - begin)

    def _class(self, begin: float, end: float, seat: Seat | None, around: list[Record]) -> Pause:
        for moment in (begin, *(record.began for record in around if record.began > begin)):
            out = {struck for record in around if record.covers(moment) for struck in record.seats}
            if len([struck for struck in out if struck[0] == "engine"]) >= self.ranks:
                return Pause.NO_RANK
        for record in around:
            if record.fault.kind in (Kind.STOP_RANK, Kind.SLOW_LINK):
                return Pause.STOPPED
            if record.fault.kind is Kind.STOP_API_SERVER and seat in record.seats:
                return Pause.STOPPED
        return Pause.RANK_LIVED
