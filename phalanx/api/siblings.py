"""The other API servers' counts, through the supervisor: a scrape of one gives the whole service."""

from collections.abc import Callable

from phalanx.api.inquiries import Inquiries
from phalanx.api.metrics import Metrics
from phalanx.protocol import MetricsGathered, MetricsQuery, MetricsReport, MetricsRequest, ToSupervisor

UNASKED = 0
"""Number of a report that answers no request."""


class Siblings:
    """Lives in the event loop."""

    def __init__(self, send: Callable[[ToSupervisor], None], metrics: Metrics) -> None:
        """`send`: to the supervisor."""
        self._send = send
        self._metrics = metrics
        self._reported = b""
        self._inquiries: Inquiries[MetricsGathered] = Inquiries(send)

    async def gather(self) -> MetricsGathered:
        """What the siblings have counted, and the supervisor.

        This server's own counts of this moment are known to the supervisor when this returns: what a scrape has
        shown survives a death of who showed it.

        Raises ApiError (503) where the supervisor does not answer: a scrape without the siblings would look like
        counters that went back.
        """
        # The supervisor has a shorter patience with the siblings than we with it.
        gathered = await self._inquiries.ask(MetricsQuery, "The supervisor gave no samples of the other API servers")
        self.report()
        return gathered

    def report(self) -> None:
        """Tell the supervisor what has been counted by now; nothing where nothing has changed."""
        samples = self._metrics.samples()
        if samples != self._reported:
            self._reported = samples
            self._send(MetricsReport(UNASKED, samples))

    def gathered(self, answer: MetricsGathered) -> None:
        self._inquiries.answered(answer.query, answer)

    def asked(self, request: MetricsRequest) -> None:
        """A sibling is being scraped."""
        self._send(MetricsReport(request.query, self._metrics.samples()))
