"""Virtual time, and a network in it: connections that delay, never reorder, and break."""

import heapq
import itertools
import random
from collections.abc import Callable
from functools import partial

import msgspec

from phalanx.protocol import Message

SPIKE = 0.002
"""Chance of a message to be held up, and with it all that follow on its connection."""
FIRST_SPIKE = 0.1
"""Of the first: what a connection says first may come after its process has been replaced."""
LONGEST_SPIKE = 3.0

_encoder = msgspec.msgpack.Encoder()


class Alarm:
    """Something that is to happen, unless cancelled."""

    __slots__ = ("happen",)

    def __init__(self, happen: Callable[[], None]) -> None:
        self.happen: Callable[[], None] | None = happen

    def cancel(self) -> None:
        self.happen = None

    def __call__(self) -> None:
        if self.happen is not None:
            self.happen()


class Timeline:
    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    @property
    def next_at(self) -> float:
        return self._queue[0][0] if self._queue else float("inf")

    def upon(self, time: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (time, next(self._order), happen))

    def after(self, delay: float, happen: Callable[[], None]) -> Alarm:
        alarm = Alarm(happen)
        self.upon(self.now + delay, alarm)
        return alarm

    def advance(self) -> None:
        """Let the next thing happen."""
        self.now, _, happen = heapq.heappop(self._queue)
        happen()


class Network:
    def __init__(self, timeline: Timeline, rng: random.Random) -> None:
        self.timeline = timeline
        self.rng = rng
        self.deliveries = 0
        """Messages and ends of connections that have reached somebody."""
        self.calm = False
        """No more spikes."""
        self._connections: list[End] = []

    def connect(self) -> tuple["End", "End"]:
        near, far = End(self), End(self)
        near.peer, far.peer = far, near
        near.pace = far.pace = self.rng.choice((0.001, 0.01, 0.05))
        self._connections.append(near)
        return near, far

    @property
    def connections(self) -> list["End"]:
        """The near ends of those that nobody has ended yet."""
        self._connections = [near for near in self._connections if near.open and near.peer.open]
        return self._connections


class End:
    """One end of a connection; what arrives at it goes to `received`, its end to `ended`."""

    __slots__ = (
        "_arrives",
        "_limit",
        "_sent",
        "aborting",
        "ended",
        "network",
        "open",
        "pace",
        "peer",
        "received",
        "severed",
    )

    peer: "End"
    received: Callable[[bytes], None]
    ended: Callable[[str], None]
    pace: float
    """Seconds that a message to the other end may take."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.open = True
        self.severed = False
        self._arrives = 0.0
        """When what was sent last reaches the peer."""
        self._sent = 0
        self._limit: float = float("inf")
        """Number of messages from the peer after which nothing arrives any more."""
        self.aborting: set[int] = set()
        """For the API server's end: aborts sent, and not taken yet by the rank."""

    def send(self, message: Message) -> None:
        if not self.open or self.severed:
            return
        peer, number = self.peer, self._sent
        self._sent += 1
        self._ship(partial(peer._deliver, _encoder.encode(message), number))

    def close(self, reason: str = "closed") -> None:
        """An end in order: what was sent before arrives."""
        if self.open:
            self.open = False
            self._ship(partial(self.peer._end, reason))

    def die(self) -> None:
        """The process of this end is gone. What it had sent may be lost, from some message on."""
        if self.open:
            if self.network.rng.random() < 0.3:
                self._lose_tail()
            self.close("its process died")

    def cut(self) -> None:
        """Both ends live and learn of it, each in its own time."""
        for end in (self, self.peer):
            end._lose_tail()
            end.severed = True
            end._ship(partial(end.peer._end, "cut"))

    def _lose_tail(self) -> None:
        """Of what is under way from here."""
        self.peer._limit = min(self.peer._limit, self._sent - self.network.rng.randrange(4))

    def _ship(self, arrive: Callable[[], None]) -> None:
        network = self.network
        random = network.rng.random
        delay = self.pace * random()
        if not network.calm and random() < (SPIKE if self._sent > 1 else FIRST_SPIKE):
            delay += random() * LONGEST_SPIKE
        now = network.timeline.now
        self._arrives = max(self._arrives, now + delay)
        network.timeline.upon(self._arrives, arrive)

    def _deliver(self, body: bytes, number: int) -> None:
        if self.open and number < self._limit:
            self.network.deliveries += 1
            self.received(body)

    def _end(self, reason: str) -> None:
        if self.open:
            self.network.deliveries += 1
            self.open = False
            self.ended(reason)
