"""Metrics of all API servers through any one of them.

The HTTP port spreads scrapes over the API servers, so each answers for all: it asks the supervisor, which asks the
siblings and passes on what they say within a deadline. For one that is stuck or dead it passes on what that one last
said; its successor begins with that. So no sum ever goes back. What samples mean, only API servers know.
"""

import asyncio
from collections.abc import Callable, Iterable

from phalanx.protocol import ApiServerId, MetricsGathered, MetricsReport, MetricsRequest, RankId, Role
from phalanx.supervisor.fleet import Fleet

TIMEOUT = 1.0
"""Seconds siblings get to report."""


class _Gathering:
    def __init__(self, missing: set[int], answer: Callable[[dict[int, bytes]], None]) -> None:
        self.missing = missing
        self.samples: dict[int, bytes] = {}
        self.answer = answer
        self.deadline: asyncio.TimerHandle | None = None


class Scrapes:
    """The gatherings under way. `send(index, message)` reaches the API server of that index."""

    def __init__(self, send: Callable[[int, MetricsRequest | MetricsGathered], None], timeout: float = TIMEOUT) -> None:
        self._send = send
        self._timeout = timeout
        self._gatherings: dict[int, _Gathering] = {}
        self._last_number = 0
        self._counted: dict[int, bytes] = {}

    def counted(self, index: int) -> bytes:
        """What the API servers in this place, one after the other, have counted as far as is known; empty: nothing."""
        return self._counted.get(index, b"")

    def query(self, asker: int, query: int, siblings: Iterable[int], fleet: Fleet) -> None:
        """`asker` wants its siblings' samples; it gets them as MetricsGathered under its own number `query`."""

        def answer(samples: dict[int, bytes]) -> None:
            known = {index: self._counted[index] for index in sorted(self._counted) if index != asker}
            kept = tuple(last for index, last in known.items() if index not in samples)
            ranks, servers = restarts(fleet)
            self._send(asker, MetricsGathered(query, tuple(samples.values()), kept, ranks, servers))

        gathering = _Gathering(set(siblings), answer)
        if not gathering.missing:
            answer({})
            return
        # Askers number their queries each for itself; siblings are asked under a number of our own.
        self._last_number += 1
        number = self._last_number
        self._gatherings[number] = gathering
        gathering.deadline = asyncio.get_running_loop().call_later(self._timeout, self._finish, number)
        for sibling in sorted(gathering.missing):
            self._send(sibling, MetricsRequest(number))

    def report(self, sender: int, report: MetricsReport) -> None:
        """What an API server has counted by now, for a gathering or, in case it dies, unasked."""
        self._counted[sender] = report.samples
        gathering = self._gatherings.get(report.query) if report.query is not None else None
        if report.query is None or gathering is None or sender not in gathering.missing:
            return
        gathering.samples[sender] = report.samples
        self._heard_from(report.query, gathering, sender)

    def gone(self, index: int) -> None:
        """An API server ended: nobody waits for it any more."""
        for number, gathering in list(self._gatherings.items()):
            if index in gathering.missing:
                self._heard_from(number, gathering, index)

    def _heard_from(self, number: int, gathering: _Gathering, index: int) -> None:
        gathering.missing.discard(index)
        if not gathering.missing:
            self._finish(number)

    def _finish(self, number: int) -> None:
        gathering = self._gatherings.pop(number)
        if gathering.deadline is not None:
            gathering.deadline.cancel()
        gathering.answer(gathering.samples)


def restarts(fleet: Fleet) -> tuple[dict[RankId, int], dict[ApiServerId, int]]:
    """How often each rank and each API server was started again after a fall."""
    counts = {place: fleet.restarts.count(child.unit) for place, child in fleet.children.items() if not place.worker}
    return (
        {RankId(place.index): count for place, count in counts.items() if place.role is Role.ENGINE},
        {ApiServerId(place.index): count for place, count in counts.items() if place.role is Role.API},
    )
