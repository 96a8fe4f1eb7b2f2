"""The open connections of an API server, and what they share: limits, and whether the server ends."""

import resource
from collections.abc import Callable
from typing import Protocol, TypeAlias, cast

from uvicorn.server import ServerState

from phalanx.api.http import Headers
from phalanx.api.metrics import Metrics
from phalanx.config import HttpOptions

RESERVED_DESCRIPTORS = 64
"""What an API server needs besides its HTTP connections and one for each rank."""

Mark: TypeAlias = Callable[[Headers], list[tuple[bytes, bytes]]]
"""From a request's headers, as far as they are known, to those that every answer to it carries beside its id."""


class BoundedConnection(Protocol):
    """A connection, as far as all are treated together."""

    def look(self, now: float) -> None:
        """End it if its client has let the time for something pass."""

    def leave(self) -> None:
        """Close it behind the answer to what was asked last."""


class Connections(ServerState):
    """All connections of an API server, and the limits that each is held to."""

    def __init__(self, options: HttpOptions, metrics: Metrics, ranks: int, mark: Mark) -> None:
        super().__init__()
        self.mark = mark
        """For what a connection refuses by itself."""
        self.options = options
        self.metrics = metrics
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED_DESCRIPTORS - ranks
        self.most = options.max_connections or max(descriptors, 1)
        self.receiving = 0
        """Bytes of bodies that are not complete."""
        self.most_receiving = options.max_held_bytes // 4
        self.leaving = False
        """Every answer is the last on its connection."""
        metrics.connections.read = lambda: len(self.connections)

    @property
    def interval(self) -> float:
        """Seconds between two looks: a second, or less where a limit is shorter than a few."""
        options = self.options
        shortest = min(options.header_timeout, options.body_timeout, options.write_timeout, options.keep_alive_timeout)
        return min(1.0, shortest / 4)

    def leave(self) -> None:
        """Make every answer that is not complete, and every one to come, the last on its connection."""
        self.leaving = True
        for connection in self.connections:
            cast(BoundedConnection, connection).leave()

    def look(self, now: float) -> None:
        """End those whose client has let the time for something pass. `now`: on the clock of `running_time`."""
        for connection in list(self.connections):
            cast(BoundedConnection, connection).look(now)
