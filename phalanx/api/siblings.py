"""The other API servers' counts, through the supervisor: a scrape of one gives the whole service."""

import asyncio
import itertools
from collections.abc import Callable

from phalanx.api.errors import server_error
from phalanx.api.metrics import Metrics
from phalanx.protocol import MetricsGathered, MetricsQuery, MetricsReport, MetricsRequest, ToSupervisor

PATIENCE = 5.0
"""Seconds the supervisor gets to answer; it has a shorter patience with the siblings."""

UNASKED = 0
"""Number of a report that answers no request."""


class Siblings:
    """Lives in the event loop."""

    def __init__(self, send: Callable[[ToSupervisor], None], metrics: Metrics) -> None:
        """`send`: to the supervisor."""
        self._send = send
        self._metrics = metrics
        self._reported = b""
        self._queries = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[MetricsGathered]] = {}

    async def gather(self) -> MetricsGathered:
        """What the siblings have counted, and the supervisor.

        This server's own counts of this moment are known to the supervisor when this returns: what a scrape has
        shown survives a death of who showed it.

        Raises ApiError (503) where the supervisor does not answer: a scrape without the siblings would look like
        counters that went back.
        """
        query = next(self._queries)
        future: asyncio.Future[MetricsGathered] = asyncio.get_running_loop().create_future()
        self._waiting[query] = future
        try:
            self._send(MetricsQuery(query))
            async with asyncio.timeout(PATIENCE):
                gathered = await future
        except TimeoutError:
            raise server_error(
                f"The supervisor gave no samples of the other API servers within {PATIENCE:g} s.", status=503
            ) from None
        finally:
            del self._waiting[query]
        self.report()
        return gathered

    def report(self) -> None:
        """Tell the supervisor what has been counted by now; nothing where nothing has changed."""
        samples = self._metrics.samples()
        if samples != self._reported:
            self._reported = samples
            self._send(MetricsReport(UNASKED, samples))

    def gathered(self, answer: MetricsGathered) -> None:
        future = self._waiting.get(answer.query)
        if future is not None and not future.done():
            future.set_result(answer)

    def asked(self, request: MetricsRequest) -> None:
        """A sibling is being scraped."""
        self._send(MetricsReport(request.query, self._metrics.samples()))
