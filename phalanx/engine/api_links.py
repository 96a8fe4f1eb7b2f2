"""A rank's connections to the API servers: dialled, read, written, and dialled again when they end.

One selector serves them all, on the engine loop's thread. Dialling can block, in the backlog of an API server
that is still starting, so each dial has a thread of its own, which lives until it succeeds or is called off.
"""

import logging
import os
import selectors
import threading
import time
from queue import Empty, SimpleQueue
from typing import NamedTuple, TypeAlias

import msgspec

from phalanx.engine.sequence import RankBroken
from phalanx.protocol import (
    ApiServerId,
    ApiServers,
    Endpoint,
    EngineHello,
    Message,
    Share,
    Stop,
    ToEngine,
)
from phalanx.transport.channel import Channel, Closed, FrameError, dial
from phalanx.transport.security import Security

log = logging.getLogger(__name__)

MAX_PENDING = 64 * 2**20
"""Bytes an API server may leave unread before its connection counts as broken."""

DIAL_TIMEOUT = 30.0
FIRST_RETRY, LAST_RETRY = 0.05, 2.0
"""Seconds between dials that fail; doubles from the first to the last."""
SHORT_LIVED = 1.0
"""Seconds. A connection that lasted less is dialled again after a pause, or two broken ends would spin."""


class Received(NamedTuple):
    api_server: ApiServerId
    message: ToEngine


class Attached(NamedTuple):
    """The API server has accepted us and knows who we are."""

    api_server: ApiServerId


class CannotReach(NamedTuple):
    """A dial failed and is being tried again. Told once for each reason."""

    api_server: ApiServerId
    reason: str


class Lost(NamedTuple):
    api_server: ApiServerId
    reason: str


class Dialled(NamedTuple):
    """What a dial's thread says: it has a connection to hand over."""

    dial: "Dial"
    channel: Channel


Event: TypeAlias = Received | Attached | CannotReach | Lost | ApiServers | Share | Stop | RankBroken
Notice: TypeAlias = CannotReach | Lost | ApiServers | Share | Stop | RankBroken | Dialled


class WakingQueue:
    """A queue of what other threads tell the engine loop, with a descriptor that wakes its selector."""

    def __init__(self) -> None:
        self._notices: SimpleQueue[Notice] = SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return self._wake

    def put(self, notice: Notice) -> None:
        self._notices.put(notice)
        os.eventfd_write(self._wake, 1)

    def take(self) -> list[Notice]:
        os.eventfd_read(self._wake)
        taken: list[Notice] = []
        try:
            while True:
                taken.append(self._notices.get_nowait())
        except Empty:
            return taken


class Dial(threading.Thread):
    """Dials one API server until it accepts, or until `cancel`."""

    def __init__(self, endpoint: Endpoint, security: Security, notices: WakingQueue, pause: float) -> None:
        super().__init__(name=f"dial api {endpoint.index}", daemon=True)
        self.endpoint = endpoint
        self._security = security
        self._notices = notices
        self._pause = pause
        self._cancelled = threading.Event()
        self.start()

    def cancel(self) -> None:
        self._cancelled.set()

    def run(self) -> None:
        told: set[str] = set()
        retry = FIRST_RETRY
        while not self._cancelled.wait(self._pause):
            try:
                channel = dial(self.endpoint.address, self._security, DIAL_TIMEOUT)
            except (OSError, ValueError) as error:
                if str(error) not in told:
                    told.add(str(error))
                    self._notices.put(CannotReach(self.endpoint.index, str(error)))
                self._pause, retry = retry, min(2 * retry, LAST_RETRY)
            else:
                self._notices.put(Dialled(self, channel))
                return


class _ApiLink:
    """One attached API server."""

    def __init__(self, endpoint: Endpoint, channel: Channel) -> None:
        self.endpoint = endpoint
        self.channel = channel
        self.since = time.monotonic()
        self.watched = selectors.EVENT_READ
        self.lost = False


class ApiLinks:
    """The API servers that the supervisor has named, as far as this rank reaches them."""

    def __init__(self, notices: WakingQueue, security: Security, hello: EngineHello) -> None:
        self._notices = notices
        self._security = security
        self._hello = hello
        self._decoder: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
        self._selector = selectors.DefaultSelector()
        self._selector.register(notices.fileno(), selectors.EVENT_READ, None)
        self.complete = True
        """No more API servers will be named before the service is ready."""
        self._endpoints: dict[ApiServerId, Endpoint] = {}
        self._dials: dict[ApiServerId, Dial] = {}
        self._links: dict[ApiServerId, _ApiLink] = {}

    @property
    def attached(self) -> list[ApiServerId]:
        return list(self._links)

    @property
    def expected(self) -> int:
        """How many API servers the supervisor has named."""
        return len(self._endpoints)

    @property
    def missing(self) -> list[ApiServerId]:
        """API servers that the supervisor has named and that are not attached."""
        return [index for index in self._endpoints if index not in self._links]

    def update(self, api_servers: ApiServers) -> None:
        """Dial who is new or has moved; drop who is gone. A connection that is dropped is told as Lost."""
        self.complete = api_servers.complete
        named = {endpoint.index: endpoint for endpoint in api_servers.endpoints}
        for index, endpoint in list(self._endpoints.items()):
            if named.get(index) != endpoint:
                del self._endpoints[index]
                if index in self._dials:
                    self._dials.pop(index).cancel()
                if index in self._links:
                    self._lose(self._links[index], "the service no longer has it")
        for index, endpoint in named.items():
            if index not in self._endpoints:
                self._endpoints[index] = endpoint
                self._dial(endpoint)

    def poll(self, block: bool) -> list[Event]:
        """What has happened since the last call; where `block`, wait for something to happen."""
        events: list[Event] = []
        for key, ready in self._selector.select(None if block else 0):
            link: _ApiLink | None = key.data
            if link is None:
                for notice in self._notices.take():
                    self._notice(notice, events)
            else:
                self._serve(link, ready, events)
        return events

    def send(self, api_server: ApiServerId, message: Message) -> None:
        """Queue a message; never blocks. Dropped where the API server is not attached: its requests are void."""
        link = self._links.get(api_server)
        if link is None:
            return
        channel = link.channel
        try:
            channel.post(message)
        except ConnectionError as error:
            self._lose(link, str(error))
            return
        if channel.pending:
            if channel.pending > MAX_PENDING:
                self._lose(link, f"it leaves {channel.pending:,} bytes unread")
            else:
                self._watch(link, selectors.EVENT_READ | selectors.EVENT_WRITE)

    # --- inside ---

    def _dial(self, endpoint: Endpoint, pause: float = 0.0) -> None:
        self._dials[endpoint.index] = Dial(endpoint, self._security, self._notices, pause)

    def _notice(self, notice: Notice, events: list[Event]) -> None:
        if not isinstance(notice, Dialled):
            events.append(notice)
            return
        endpoint = notice.dial.endpoint
        if self._dials.get(endpoint.index) is not notice.dial:
            notice.channel.close()  # called off while it was on its way
            return
        del self._dials[endpoint.index]
        link = _ApiLink(endpoint, notice.channel)
        link.channel.setblocking(False)
        self._links[endpoint.index] = link
        self._selector.register(link.channel, link.watched, link)
        events.append(Attached(endpoint.index))
        self.send(endpoint.index, self._hello)

    def _serve(self, link: _ApiLink, ready: int, events: list[Event]) -> None:
        if link.lost:
            return
        try:
            if ready & selectors.EVENT_WRITE:
                link.channel.flush()
                if not link.channel.pending:
                    self._watch(link, selectors.EVENT_READ)
            if ready & selectors.EVENT_READ:
                events += [Received(link.endpoint.index, message) for message in link.channel.drain(self._decoder)]
        except (Closed, FrameError) as error:
            self._lose(link, str(error))

    def _watch(self, link: _ApiLink, events: int) -> None:
        if link.watched != events:
            link.watched = events
            self._selector.modify(link.channel, events, link)

    def _lose(self, link: _ApiLink, reason: str) -> None:
        """End a connection. Its loss is told by the next `poll`; if still named, the API server is dialled again."""
        index = link.endpoint.index
        link.lost = True
        del self._links[index]
        self._selector.unregister(link.channel)
        link.channel.close()
        self._notices.put(Lost(index, reason))
        if self._endpoints.get(index) == link.endpoint:
            lived = time.monotonic() - link.since
            self._dial(link.endpoint, 0.0 if lived > SHORT_LIVED else LAST_RETRY / 4)
