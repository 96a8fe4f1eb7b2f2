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


DEATHS = 2
"""Ranks that may die on a request, one after the other and without a token from it, before it is held to be why."""


class NoRank(Exception):
    """No rank has been attached for as long as a request waits for one."""


class EngineDied(Exception):
    """Rank after rank has died while it ran this request."""


class RankStatus(NamedTuple):
    """One attached rank, as `/ready` and the metrics show it."""

    rank: RankId
    incarnation: Incarnation
    hello: EngineHello
    load: Load | None
    own_requests: int


class Generation:
    """One request in flight. It holds all that another rank needs to continue it."""

    __slots__ = (
        "_client",
        "_error",
        "_output",
        "_waiter",
        "deaths",
        "link",
        "on_output",
        "placement",
        "priority",
        "prompt",
        "request_id",
        "sampling",
        "stranded",
        "tokens",
    )

    def __init__(
        self, client: "EngineClient", request_id: RequestId, prompt: list[int], sampling: SamplingParams, priority: int
    ) -> None:
        self._client = client
        self.request_id = request_id
        self.prompt = prompt
        self.sampling = sampling
        self.priority = priority
        self.tokens: list[int] = []
        """Every output token that has come from any rank."""
        self.link: _RankLink | None = None
        """The rank that runs it; None: it has ended, or waits for a rank."""
        self.placement: Placement | None = None
        self.stranded: asyncio.TimerHandle | None = None
        """Set while it waits for a rank: what ends the wait."""
        self.deaths = 0
        """Ranks that died on it since the last token."""
        self._output: RequestOutput | None = None
        self._error: EngineDied | NoRank | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.on_output: Callable[[], None] | None = None
        """Called, in place of waking `next`, when `take` has something; must not raise."""

    @property
    def rank(self) -> RankId | None:
        """Where it runs, or ran last; None: nowhere yet."""
        return None if self.placement is None else self.placement.rank

    async def next(self) -> RequestOutput:
        """Wait for new tokens; all that came since the last call are merged into one output.

        Raises:
            EngineDied, NoRank: it cannot go on, and every token that came has been taken.
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
        self._client.forget(self)

    def push(self, output: RequestOutput) -> None:
        if output.tokens:
            self.tokens += output.tokens
            self.deaths = 0
        self._output = output if self._output is None else _merged(self._output, output)
        self._wake()

    def fail(self, error: EngineDied | NoRank) -> None:
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
    """All ranks attached to this API server, and every request of it."""

    def __init__(self, index: ApiServerId, on_change: Callable[[], None] = lambda: None, patience: float = 0.0) -> None:
        """`patience`: seconds a request waits for a rank where none is attached."""
        self.index = index
        # Different in every API server: equal choices must not fall alike everywhere.
        self._router = Router(random.Random(f"phalanx api {index}"))
        self._links: dict[RankId, _RankLink] = {}
        self._stranded: dict[RequestId, Generation] = {}
        self._leaving: frozenset[RankId] = frozenset()
        self._ids = itertools.count(1)
        self._on_change = on_change
        self._patience = patience
        self._servers: list[asyncio.AbstractServer] = []
        self.replays = 0
        """Requests carried on at another rank, since the start."""

    async def listen(self, sockets: Sequence[socket.socket], secret: bytes) -> None:
        """Serve ranks on the inherited listeners; those that dialled early wait in their backlogs."""
        self._servers += [await serve(sock, secret, self._accept) for sock in sockets]

    def close(self) -> None:
        for server in self._servers:
            server.close()
        for link in list(self._links.values()):
            link.connection.close()

    def generate(self, prompt: list[int], sampling: SamplingParams, priority: int = 0) -> Generation:
        """Choose a rank and submit at once, or as soon as there is one."""
        generation = Generation(self, RequestId(next(self._ids)), prompt, sampling, priority)
        self._submit(generation)
        return generation

    def forget(self, generation: Generation) -> None:
        """Nobody wants the rest of it."""
        if generation.stranded is not None:
            self._no_longer_stranded(generation)
        elif generation.link is not None:
            link, generation.link = generation.link, None
            assert generation.placement is not None
            del link.live[generation.request_id]
            self._router.release(generation.placement, finished=False)
            link.connection.send(Abort([generation.request_id]))

    def _submit(self, generation: Generation) -> None:
        """Start it, or go on with it, at the rank that has least to do."""
        sampling, tokens = generation.sampling, generation.tokens
        placement = self._router.place(len(generation.prompt), sampling.max_tokens, len(tokens))
        if placement is None:
            self._strand(generation)
            return
        link = self._links[placement.rank]
        generation.link, generation.placement = link, placement
        link.live[generation.request_id] = generation
        link.connection.send(
            Submit(
                generation.request_id,
                generation.prompt,
                sampling,
                generated=tokens,
                expected_tokens=placement.expected_tokens,
                priority=generation.priority,
            )
        )

    def _strand(self, generation: Generation) -> None:
        self._stranded[generation.request_id] = generation
        loop = asyncio.get_running_loop()
        generation.stranded = loop.call_later(self._patience, self._give_up, generation)

    def _no_longer_stranded(self, generation: Generation) -> None:
        assert generation.stranded is not None
        generation.stranded.cancel()
        generation.stranded = None
        del self._stranded[generation.request_id]

    def _give_up(self, generation: Generation) -> None:
        self._no_longer_stranded(generation)
        generation.fail(NoRank(f"no engine rank has been attached for {self._patience:g} s"))

    def leave(self, ranks: frozenset[RankId]) -> None:
        """These ranks are about to be stopped, and no others: they get nothing new, and their end is not a death."""
        self._leaving = ranks
        self._router.leave(ranks)
        self._place_stranded()

    def running_on(self, rank: RankId) -> int:
        """Requests of this API server in a rank."""
        return len(self._links[rank].live) if rank in self._links else 0

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
        self._place_stranded()
        self._on_change()
        return link

    def _place_stranded(self) -> None:
        if not self._router.open:
            return
        for generation in list(self._stranded.values()):
            self._no_longer_stranded(generation)
            self._submit(generation)

    def _detach(self, link: "_RankLink", reason: str) -> None:
        rank = link.hello.rank
        if self._links.get(rank) is not link:
            return
        del self._links[rank]
        self._router.detach(rank)
        severity = logging.WARNING if link.live else logging.INFO
        log.log(severity, "engine rank %d has gone, %d requests go on elsewhere: %s", rank, len(link.live), reason)
        displaced = list(link.live.values())
        link.live.clear()
        for generation in displaced:
            generation.link = None
            generation.deaths += rank not in self._leaving
            if generation.deaths < DEATHS:
                self.replays += 1
                self._submit(generation)
            else:
                generation.fail(EngineDied(f"{DEATHS} ranks have died on it, the last being rank {rank}: {reason}"))
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
            placement = generation.placement
            assert placement is not None
            router.progress(placement, len(output.tokens))
            if output.finish is not None:
                del self.live[output.request_id]
                generation.link = None
                router.release(placement, output.finish in (FinishReason.STOP, FinishReason.LENGTH))
            generation.push(output)

    def closed(self, reason: str) -> None:
        self._client._detach(self, reason)
