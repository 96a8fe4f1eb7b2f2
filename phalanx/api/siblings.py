"""The other API servers' counts, through the supervisor: a scrape of one gives the whole service."""

import asyncio
import itertools
from collections.abc import Callable, Sequence

from phalanx.api.errors import server_error
from phalanx.api.metrics import Metrics
from phalanx.protocol import Membership, MetricsGathered, MetricsQuery, MetricsReport, MetricsRequest, ToSupervisor

PATIENCE = 5.0
"""Seconds the supervisor gets to answer; it has a shorter patience with the siblings."""


class Siblings:
    """Lives in the event loop."""

    def __init__(self, send: Callable[[ToSupervisor], None], metrics: Metrics, membership: Membership) -> None:
        """`send`: to the supervisor."""
        self._send = send
        self._metrics = metrics
        self._alone = True
        self._queries = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Sequence[bytes]]] = {}
        self.joined(membership)

    def joined(self, membership: Membership) -> None:
        """Another set of API servers."""
        self._alone = len(membership.api_servers) <= 1

    async def gather(self) -> Sequence[bytes]:
        """Samples of the siblings that answered in time.

        Raises ApiError (503) where the supervisor does not answer: a scrape without the siblings would look like
        counters that went back.
        """
        if self._alone:
            return ()
        query = next(self._queries)
        future: asyncio.Future[Sequence[bytes]] = asyncio.get_running_loop().create_future()
        self._waiting[query] = future
        try:
            self._send(MetricsQuery(query))
            async with asyncio.timeout(PATIENCE):
                return await future
        except TimeoutError:
            raise server_error(
                f"The supervisor gave no samples of the other API servers within {PATIENCE:g} s.", status=503
            ) from None
        finally:
            del self._waiting[query]

    def gathered(self, answer: MetricsGathered) -> None:
        future = self._waiting.get(answer.query)
        if future is not None and not future.done():
            future.set_result(answer.samples)

    def asked(self, request: MetricsRequest) -> None:
        """A sibling is being scraped."""
        self._send(MetricsReport(request.query, self._metrics.samples()))
