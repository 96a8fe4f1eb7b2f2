"""The shell around `administration.py`: what an operator asks is done, and answered with how things stand then."""

import logging
from collections.abc import Callable, Iterable

from phalanx import running_time
from phalanx.config import Config
from phalanx.protocol import AdminAnswer, AdminOutcome, AdminRequest, AdminVerb, Place
from phalanx.supervisor import administration, report
from phalanx.supervisor.events import Added, FleetEvent
from phalanx.supervisor.fleet import Fleet
from phalanx.supervisor.nodes import Nodes
from phalanx.supervisor.sockets import Sockets

log = logging.getLogger(__name__)


class OperatorRequests:
    """Takes the requests that API servers pass on."""

    def __init__(
        self, config: Config, fleet: Fleet, nodes: Nodes, sockets: Sockets, take: Callable[[FleetEvent], None]
    ) -> None:
        """`take` gives the fleet an event and does what it asks."""
        self._workers = config.parallel.tensor_parallel_size
        self._drain_timeout = config.service.drain_timeout
        self._fleet = fleet
        self._nodes = nodes
        self._sockets = sockets
        self._take = take

    def answer(self, request: AdminRequest) -> AdminAnswer:
        """Do what is asked, or refuse it."""
        now = running_time.now()
        refusal: str | None = None
        outcome = AdminOutcome.SHOWN if request.verb is AdminVerb.SHOW else AdminOutcome.BEGUN
        try:
            asked = administration.decide(self._fleet, request, now, self._workers, self._drain_timeout)
        except administration.AdminRefused as error:
            asked, refusal, outcome = [], str(error), error.outcome
        for event in asked:
            log.info("an operator asks: %s", report.wish(event))
            if isinstance(event, Added):
                self._make_room(event.places)
            self._take(event)
        ranks, servers = administration.ranks_of(self._fleet, now), administration.api_servers_of(self._fleet, now)
        return AdminAnswer(request.query, ranks, servers, refusal, outcome)

    def _make_room(self, places: Iterable[Place]) -> None:
        """Ranks that come while the service runs go to the cluster where there is one, else to this machine."""
        if self._nodes.ray is not None:
            self._nodes.expect(places)
        elif self._workers > 1:
            for rank in {place.index for place in places}:
                self._sockets.lead(rank)
