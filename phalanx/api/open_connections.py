"""The open connections of an API server, and what they share: limits, and whether the server ends."""

import resource
from collections.abc import Callable
from typing import Protocol, TypeAlias, cast

from uvicorn.server import ServerState

from phalanx.api.http import Headers
from phalanx.api.metrics import Metrics
from phalanx.config import HttpOptions

RESERVED_DESCRIPTORS = 64
"""How many descriptors an API server needs besides those of its HTTP connections and one for each rank."""

Mark: TypeAlias = Callable[[Headers], list[tuple[bytes, bytes]]]
"""It makes the headers that every answer carries beside its id of those of the request, as far as these are known."""


class BoundedConnection(Protocol):
    """What is asked of each connection where all are treated together."""

    def look(self, now: float) -> None:
        """End it if its client has let the time for something pass."""

    def leave(self) -> None:
        """Close it behind the answer to what was asked last."""


class Connections(ServerState):
    """All connections of an API server, and the limits that each is held to."""

    def __init__(self, options: HttpOptions, metrics: Metrics, ranks: int, mark: Mark) -> None:
        super().__init__()
        self.mark = mark
        """It marks what a connection refuses by itself."""
        self.options = options
        self.metrics = metrics
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED_DESCRIPTORS - ranks
        self.most = options.max_connections or max(descriptors, 1)
        self.receiving = 0
        """How many bytes have come of bodies that are not complete."""
        self.most_receiving = options.max_held_bytes // 4
        self.leaving = False
        """Whether every answer is the last on its connection."""
        metrics.connections.read = lambda: len(self.connections)

    @property
    def interval(self) -> float:
        """How many seconds lie between two looks: one, or less where a limit is shorter than a few."""
        options = self.options
        shortest = min(options.header_timeout, options.body_timeout, options.write_timeout, options.keep_alive_timeout)
        return min(1.0, shortest / 4)

    def leave(self) -> None:
        """Make every answer that is not complete, and every one to come, the last on its connection."""
        self.leaving = True
        for connection in self.connections:
            cast(BoundedConnection, connection).leave()

    def look(self, now: float) -> None:
        """End the connections whose client has let the time for something pass; `now` is `running_time`'s."""
        for connection in list(self.connections):
            cast(BoundedConnection, connection).look(now)
