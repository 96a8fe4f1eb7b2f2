"""Metrics of all API servers through any one of them.

The HTTP port spreads scrapes over the API servers, so each answers for all: it asks the supervisor, which asks the
siblings and passes on what they say within a deadline. One that is stuck makes the answer smaller, never late.
"""

import asyncio
from collections.abc import Callable, Iterable

from phalanx.protocol import MetricsGathered, MetricsReport, MetricsRequest

TIMEOUT = 1.0
"""Seconds siblings get to report."""


class _Gathering:
    def __init__(self, missing: set[int], answer: Callable[[tuple[bytes, ...]], None]) -> None:
        self.missing = missing
        self.samples: list[bytes] = []
        self.answer = answer
        self.deadline: asyncio.TimerHandle | None = None


class Scrapes:
    """The gatherings under way. `send(index, message)` reaches the API server of that index."""

    def __init__(self, send: Callable[[int, MetricsRequest | MetricsGathered], None], timeout: float = TIMEOUT) -> None:
        self._send = send
        self._timeout = timeout
        self._gatherings: dict[int, _Gathering] = {}
        self._last = 0

    def query(self, asker: int, query: int, siblings: Iterable[int]) -> None:
        """`asker` wants its siblings' samples; it gets them as MetricsGathered under its own number `query`."""

        def answer(samples: tuple[bytes, ...]) -> None:
            self._send(asker, MetricsGathered(query, samples))

        gathering = _Gathering(set(siblings), answer)
        if not gathering.missing:
            answer(())
            return
        # Askers number their queries each for itself; siblings are asked under a number of our own.
        self._last += 1
        number = self._last
        self._gatherings[number] = gathering
        gathering.deadline = asyncio.get_running_loop().call_later(self._timeout, self._finish, number)
        for sibling in sorted(gathering.missing):
            self._send(sibling, MetricsRequest(number))

    def report(self, sender: int, report: MetricsReport) -> None:
        """A sibling's samples; too late or unasked: dropped."""
        gathering = self._gatherings.get(report.query)
        if gathering is None or sender not in gathering.missing:
            return
        gathering.samples.append(report.samples)
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
        gathering.answer(tuple(gathering.samples))
