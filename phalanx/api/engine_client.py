"""The API server's side of the engine plane: ranks dial in, requests go out, tokens come back to those who wait.

This is the asyncio end; `dispatcher.py` decides.
"""

import asyncio
import logging
import random
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from phalanx import running_time
from phalanx.api.dispatcher import Dispatcher, EngineDied, EngineRequest, NoRank, RankLink, Superseded
from phalanx.protocol import (
    Alive,
    ApiServerId,
    EngineHello,
    Incarnation,
    Load,
    RankId,
    RequestOutput,
    SamplingParams,
    StepOutput,
    StepTokens,
    ToApi,
)
from phalanx.transport.frames import FrameError, decode
from phalanx.transport.security import Security
from phalanx.transport.stream import Connection, serve

__all__ = ["EngineClient", "EngineDied", "Generation", "NoRank", "RankStatus"]

log = logging.getLogger(__name__)

_hello_decoder: msgspec.msgpack.Decoder[EngineHello] = msgspec.msgpack.Decoder(EngineHello)
_decoder: msgspec.msgpack.Decoder[ToApi] = msgspec.msgpack.Decoder(ToApi)


class RankStatus(NamedTuple):
    """One attached rank, as `/ready` and the metrics show it."""

    rank: RankId
    incarnation: Incarnation
    hello: EngineHello
    load: Load | None
    own_requests: int
    step_tokens: StepTokens | None = None
    """None where the rank has not told it yet."""


class Generation(EngineRequest):
    """One request to the engine as its handler sees it, which gets the tokens by `on_output` or else by `next`."""

    __slots__ = ("_dispatcher",)

    def __init__(self, dispatcher: Dispatcher, prompt: list[int], sampling: SamplingParams, priority: int) -> None:
        super().__init__(prompt, sampling, priority)
        self._dispatcher = dispatcher

    async def next(self) -> RequestOutput:
        """Wait for new tokens; what has come meanwhile is merged. Raises what `take` does."""
        while (output := self.take()) is None:
            come: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.on_output = partial(_tell, come)
            try:
                await come
            finally:
                self.on_output = None
        return output

    def abort(self) -> None:
        """Stop the request in the engine; this does nothing once it has finished."""
        self._dispatcher.abort(self)


def _tell(come: asyncio.Future[None]) -> None:
    """Wake the one who waits; several outputs may come before it has woken."""
    if not come.done():
        come.set_result(None)


class EngineClient:
    """All ranks attached to this API server, and every request of it."""

    def __init__(self, index: ApiServerId, on_change: Callable[[], None] = lambda: None, patience: float = 0.0) -> None:
        """`patience` is how many seconds a request waits for a rank where none is attached."""
        self.index = index
        self._dispatcher = Dispatcher(
            # Every API server draws differently, or equal choices would fall alike everywhere.
            random.Random(f"phalanx api {index}"),
            later=running_time.Timer,
            patience=patience,
            gone=_log_gone,
        )
        self._on_change = on_change
        self._servers: list[asyncio.AbstractServer] = []

    async def listen(self, sockets: Sequence[socket.socket], security: Security) -> None:
        """Serve ranks on the inherited listeners, in whose backlogs those that dialled early wait."""
        self._servers += [await serve(sock, security, self._accept) for sock in sockets]

    def close(self) -> None:
        for server in self._servers:
            server.close()
        for link in list(self._dispatcher.links.values()):
            link.port.close()

    def generate(self, prompt: list[int], sampling: SamplingParams, priority: int = 0) -> Generation:
        """Choose a rank and submit at once, or as soon as there is one."""
        generation = Generation(self._dispatcher, prompt, sampling, priority)
        self._dispatcher.submit(generation)
        return generation

    def leave(self, ranks: frozenset[RankId], moving: frozenset[RankId] = frozenset()) -> None:
        """See `Dispatcher.leave`."""
        self._dispatcher.leave(ranks, moving)

    @property
    def replays(self) -> int:
        """How many requests were carried on at another rank since the start."""
        return self._dispatcher.replays

    def expected(self, max_tokens: int) -> int:
        """How many output tokens a new request is likely to take."""
        return self._dispatcher.router.expected(max_tokens)

    def running_on(self, rank: RankId) -> int:
        """How many requests of this API server a rank runs."""
        links = self._dispatcher.links
        return len(links[rank].live) if rank in links else 0

    def ranks(self) -> list[RankStatus]:
        """The attached ranks, by number."""
        return [
            RankStatus(rank, link.hello.incarnation, link.hello, view.load, view.own_requests, link.step_tokens)
            for rank, link in sorted(self._dispatcher.links.items())
            for view in (self._dispatcher.router.ranks[rank],)
        ]

    def _accept(self, connection: Connection) -> "_Newcomer":
        return _Newcomer(self, connection)

    def _attach(self, hello: EngineHello, connection: Connection) -> "_RankHandler":
        """Raises FrameError where a newer incarnation of the rank is attached already."""
        try:
            link = self._dispatcher.attach(hello, connection)
        except Superseded as error:
            raise FrameError(str(error)) from None
        self._on_change()
        return _RankHandler(self, link)

    def _detach(self, link: RankLink, reason: str) -> None:
        if self._dispatcher.detach(link, reason):
            self._on_change()


def _log_gone(rank: RankId, requests: int, reason: str) -> None:
    severity = logging.WARNING if requests else logging.INFO
    log.log(severity, "engine rank %d has gone, %d requests go on elsewhere: %s", rank, requests, reason)


class _Newcomer:
    """A connection whose rank is not known yet. It waits for EngineHello, then hands over to the rank's handler."""

    def __init__(self, client: EngineClient, connection: Connection) -> None:
        self._client = client
        self._connection = connection

    def received(self, body: bytes) -> None:
        hello = decode(_hello_decoder, body, "a rank, in place of EngineHello,")
        self._connection.hand_over(self._client._attach(hello, self._connection))

    def closed(self, reason: str) -> None:
        log.info("a connection ended before it said which rank it is: %s", reason)


class _RankHandler:
    """The connection to one rank."""

    def __init__(self, client: EngineClient, link: RankLink) -> None:
        self._client = client
        self._link = link
        self._name = f"rank {link.hello.rank}"

    def received(self, body: bytes) -> None:
        message = decode(_decoder, body, self._name)
        if isinstance(message, StepOutput):
            self._link.stepped(message)
        elif isinstance(message, Alive):
            self._link.answered(message.number)
        else:
            raise FrameError(f"{self._name} said {type(message).__name__} twice")

    def closed(self, reason: str) -> None:
        self._client._detach(self._link, reason)
