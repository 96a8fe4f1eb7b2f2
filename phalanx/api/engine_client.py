"""The API server's side of the engine plane: ranks dial in, requests go out, tokens come back to who waits."""

import asyncio
import itertools
import logging
import random
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from phalanx.api.router import Placement, Router
from phalanx.protocol import (
    Abort,
    ApiServerId,
    EngineHello,
    FinishReason,
    Incarnation,
    Load,
    RankId,
    RequestId,
    RequestOutput,
    SamplingParams,
    StepOutput,
    Submit,
    ToApi,
)
from phalanx.transport.frames import FrameError
from phalanx.transport.stream import Connection, serve

log = logging.getLogger(__name__)

_hello_decoder: msgspec.msgpack.Decoder[EngineHello] = msgspec.msgpack.Decoder(EngineHello)
_decoder: msgspec.msgpack.Decoder[ToApi] = msgspec.msgpack.Decoder(ToApi)


class NoRank(Exception):
    """No rank is attached: nothing can be generated now."""


class EngineDied(Exception):
    """The rank that ran the request has gone."""


class RankStatus(NamedTuple):
    """One attached rank, as `/ready` and the metrics show it."""

    rank: RankId
    incarnation: Incarnation
    hello: EngineHello
    load: Load | None
    own_requests: int


class Generation:
    """One request in flight."""

    __slots__ = ("_error", "_link", "_output", "_placement", "_request_id", "_waiter", "on_output")

    def __init__(self, link: "_RankLink", request_id: RequestId, placement: Placement) -> None:
        self._link: _RankLink | None = link
        self._request_id = request_id
        self._placement = placement
        self._output: RequestOutput | None = None
        self._error: EngineDied | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.on_output: Callable[[], None] | None = None
        """Called, in place of waking `next`, when `take` has something; must not raise."""

    @property
    def rank(self) -> RankId:
        """Where it runs."""
        return self._placement.rank

    async def next(self) -> RequestOutput:
        """Wait for new tokens; all that came since the last call are merged into one output.

        Raises:
            EngineDied: the rank has gone and every token it sent has been taken.
        """
        while (output := self.take()) is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return output

    def take(self) -> RequestOutput | None:
        """What came since the last call, merged into one output; None where nothing did. Raises as `next`."""
        output, self._output = self._output, None
        if output is None and self._error is not None:
            raise self._error
        return output

    def abort(self) -> None:
        """Stop the request in the engine; does nothing once it has finished."""
        link, self._link = self._link, None
        if link is not None:
            link.forget(self._request_id, self._placement)

    def _push(self, output: RequestOutput) -> None:
        self._output = output if self._output is None else _merged(self._output, output)
        self._wake()

    def _fail(self, error: EngineDied) -> None:
        self._link = None
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self.on_output is not None:
            self.on_output()
            return
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


def _merged(first: RequestOutput, then: RequestOutput) -> RequestOutput:
    return RequestOutput(
        request_id=first.request_id,
        tokens=first.tokens + then.tokens,
        finish=then.finish,
        stop_token=then.stop_token,
        logprobs=None
        if then.logprobs is None and first.logprobs is None
        else (first.logprobs or []) + (then.logprobs or []),
        prompt_logprobs=first.prompt_logprobs or then.prompt_logprobs,
        cached_tokens=first.cached_tokens or then.cached_tokens,
        error=then.error,
    )


class EngineClient:
    """All ranks attached to this API server."""

    def __init__(self, index: ApiServerId, on_change: Callable[[], None] = lambda: None) -> None:
        self.index = index
        # Different in every API server: equal choices must not fall alike everywhere.
        self._router = Router(random.Random(f"phalanx api {index}"))
        self._links: dict[RankId, _RankLink] = {}
        self._ids = itertools.count(1)
        self._on_change = on_change
        self._servers: list[asyncio.AbstractServer] = []

    async def listen(self, sockets: Sequence[socket.socket], secret: bytes) -> None:
        """Serve ranks on the inherited listeners; those that dialled early wait in their backlogs."""
        self._servers += [await serve(sock, secret, self._accept) for sock in sockets]

    def close(self) -> None:
        for server in self._servers:
            server.close()
        for link in list(self._links.values()):
            link.connection.close()

    def generate(self, prompt: list[int], sampling: SamplingParams, priority: int = 0) -> Generation:
        """Choose a rank and submit at once.

        Raises:
            NoRank: none is attached.
        """
        placement = self._router.place(len(prompt), sampling.max_tokens)
        if placement is None:
            raise NoRank("no engine rank is attached")
        link = self._links[placement.rank]
        request_id = RequestId(next(self._ids))
        generation = Generation(link, request_id, placement)
        link.live[request_id] = generation
        link.connection.send(
            Submit(request_id, prompt, sampling, expected_tokens=placement.expected_tokens, priority=priority)
        )
        return generation

    def ranks(self) -> list[RankStatus]:
        """The attached ranks, by number."""
        return [
            RankStatus(rank, link.hello.incarnation, link.hello, view.load, view.own_requests)
            for rank, link in sorted(self._links.items())
            for view in (self._router.ranks[rank],)
        ]

    def _accept(self, connection: Connection) -> "_Newcomer":
        return _Newcomer(self, connection)

    def _attach(self, hello: EngineHello, connection: Connection) -> "_RankLink":
        """A rank has said who it is.

        Raises:
            FrameError: a newer incarnation of it is attached already.
        """
        old = self._links.get(hello.rank)
        if old is not None:
            if old.hello.incarnation > hello.incarnation:
                raise FrameError(f"rank {hello.rank}: incarnation {hello.incarnation} has been replaced")
            self._detach(old, f"rank {hello.rank} came back")
            old.connection.close()
        link = _RankLink(self, hello, connection, self._router)
        self._links[hello.rank] = link
        self._router.attach(hello.rank)
        self._on_change()
        return link

    def _detach(self, link: "_RankLink", reason: str) -> None:
        rank = link.hello.rank
        if self._links.get(rank) is not link:
            return
        del self._links[rank]
        self._router.detach(rank)
        error = EngineDied(f"engine rank {rank} has gone: {reason}")
        for generation in link.live.values():
            generation._fail(error)
        link.live.clear()
        self._on_change()


class _Newcomer:
    """A connection whose rank is not known yet: waits for EngineHello, then hands over to the rank's link."""

    def __init__(self, client: EngineClient, connection: Connection) -> None:
        self._client = client
        self._connection = connection

    def received(self, body: bytes) -> None:
        try:
            hello = _hello_decoder.decode(body)
        except msgspec.DecodeError as error:
            raise FrameError(f"a rank began with something other than EngineHello: {error}") from None
        self._connection.hand_over(self._client._attach(hello, self._connection))

    def closed(self, reason: str) -> None:
        log.info("a connection ended before it said which rank it is: %s", reason)


class _RankLink:
    """The connection to one rank, and this server's live requests in it."""

    def __init__(self, client: EngineClient, hello: EngineHello, connection: Connection, router: Router) -> None:
        self._client = client
        self.hello = hello
        self.connection = connection
        self.live: dict[RequestId, Generation] = {}
        self._router = router

    def received(self, body: bytes) -> None:
        try:
            step = _decoder.decode(body)
        except msgspec.DecodeError as error:
            raise FrameError(f"rank {self.hello.rank} sent what does not decode: {error}") from None
        if not isinstance(step, StepOutput):
            raise FrameError(f"rank {self.hello.rank} said {type(step).__name__} twice")
        router = self._router
        router.report(self.hello.rank, step.load)
        for output in step.outputs:
            # Aborted a moment ago: what the rank had sent by then is nobody's.
            generation = self.live.get(output.request_id)
            if generation is None:
                continue
            placement = generation._placement
            router.progress(placement, len(output.tokens))
            if output.finish is not None:
                del self.live[output.request_id]
                generation._link = None
                router.release(placement, output.finish in (FinishReason.STOP, FinishReason.LENGTH))
            generation._push(output)

    def closed(self, reason: str) -> None:
        self._client._detach(self, reason)

    def forget(self, request_id: RequestId, placement: Placement) -> None:
        """Abort one live request."""
        if self.live.pop(request_id, None) is not None:
            self._router.release(placement, finished=False)
            self.connection.send(Abort([request_id]))
