"""Every request of one API server: which rank runs it, and where it goes on when that rank is gone.

It is pure: it does no I/O and has no clock. What reaches a rank goes through its `Port`, and what has to happen later
through `Later`. `engine_client.py` joins it to asyncio, and `tests/simulation` to a simulated network.
"""

import itertools
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeAlias

from phalanx.api.rank_router import Placement, RankRouter
from phalanx.protocol import (
    Abort,
    EngineHello,
    FinishReason,
    Message,
    Probe,
    RankId,
    RequestId,
    RequestOutput,
    SamplingParams,
    StepOutput,
    StepTokens,
    Submit,
)

DEATHS = 2
"""So many ranks may die on a request, one after the other and without a token of it, before it is held to be why."""

PIECE = 1024
"""Output that nobody takes is merged up to so many tokens, which are then handled and written at once."""


class NoRank(Exception):
    """No rank has been attached for as long as a request waits for one."""


class EngineDied(Exception):
    """Rank after rank has died while it ran this request."""


class Superseded(Exception):
    """The rank that says hello has been replaced by a newer incarnation already."""


class Port(Protocol):
    """The way to one rank. Neither method may call back before it returns."""

    def send(self, message: Message) -> None:
        """Encode the message at once, since what it refers to may change; do nothing once the way is closed."""

    def close(self) -> None: ...


class Cancellable(Protocol):
    """A call that is to come."""

    def cancel(self) -> None: ...


Later: TypeAlias = Callable[[float, Callable[[], None]], Cancellable]
"""It makes a call in so many seconds, unless that is cancelled."""

Gone: TypeAlias = Callable[[RankId, int, str], None]
"""It is told of a rank that has gone, of the number of requests that it ran, and why it has gone."""


class EngineRequest:
    """One request to the engine. It holds all that another rank needs to continue it."""

    __slots__ = (
        "_error",
        "_outputs",
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

    def __init__(self, prompt: list[int], sampling: SamplingParams, priority: int = 0) -> None:
        self.request_id = RequestId(0)
        """A new one each time the request is given to a rank; 0 before that."""
        self.prompt = prompt
        self.sampling = sampling
        self.priority = priority
        self.tokens: list[int] = []
        """Every output token that has come from any rank."""
        self.link: RankLink | None = None
        """The rank that runs it, or None where it has ended or waits for a rank."""
        self.placement: Placement | None = None
        self.stranded: Cancellable | None = None
        """What ends its wait for a rank, while it waits for one."""
        self.deaths = 0
        """How many ranks have died on it since its last token."""
        self._outputs: deque[RequestOutput] = deque()
        """The output that has come and was not taken, merged up to PIECE tokens each."""
        self._error: EngineDied | NoRank | None = None
        self.on_output: Callable[[], None] | None = None
        """It is called when `take` has something, and must not raise."""

    @property
    def rank(self) -> RankId | None:
        """Where it runs or ran last, or None where it has not run yet."""
        return None if self.placement is None else self.placement.rank

    def take(self) -> RequestOutput | None:
        """Take the oldest output that has come, merged up to PIECE tokens, or None where nothing is left.

        Raises:
            EngineDied, NoRank: the request cannot go on, and every token that came has been taken.
        """
        if self._outputs:
            return self._outputs.popleft()
        if self._error is not None:
            raise self._error
        return None

    def push(self, output: RequestOutput) -> None:
        """Add output that a rank has sent."""
        if output.tokens:
            self.tokens += output.tokens
            self.deaths = 0
        outputs = self._outputs
        if outputs and len(outputs[-1].tokens) < PIECE:
            outputs[-1] = _merged(outputs[-1], output)
        else:
            outputs.append(output)
        if self.on_output is not None:
            self.on_output()

    def fail(self, error: EngineDied | NoRank) -> None:
        """End the request: nothing more comes than what was pushed."""
        self._error = error
        if self.on_output is not None:
            self.on_output()


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
        times=first.times or then.times,
    )


class RankLink:
    """One attached rank, and this server's live requests in it."""

    __slots__ = ("_probes", "_router", "hello", "live", "port", "step_tokens", "withheld")

    def __init__(self, hello: EngineHello, port: Port, router: RankRouter) -> None:
        self.hello = hello
        self.port = port
        self.live: dict[RequestId, EngineRequest] = {}
        self.withheld: dict[RequestId, int] = {}
        """The probe that the rank has to answer before it gets a request: of each request that has seen a death."""
        self.step_tokens: StepTokens | None = None
        """What the rank last told of its steps, or None where it has told nothing yet."""
        self._probes = 0
        self._router = router

    def start(self, request: EngineRequest) -> None:
        """Give the rank a request, once the rank has shown that it lives if the request has seen a death."""
        self.live[request.request_id] = request
        if request.deaths:
            self._probes += 1
            self.withheld[request.request_id] = self._probes
            self.port.send(Probe(self._probes))
        else:
            self._send(request)

    def answered(self, number: int) -> None:
        """Give the rank what waited for this probe or an earlier one: it was alive when it got them."""
        for request_id, probe in list(self.withheld.items()):
            if probe <= number:
                del self.withheld[request_id]
                self._send(self.live[request_id])

    def drop(self, request: EngineRequest) -> None:
        """Stop a request of which nobody wants the rest."""
        del self.live[request.request_id]
        if self.withheld.pop(request.request_id, None) is None:
            self.port.send(Abort([request.request_id]))

    def _send(self, request: EngineRequest) -> None:
        placement = request.placement
        assert placement is not None
        self.port.send(
            Submit(
                request.request_id,
                request.prompt,
                request.sampling,
                generated=request.tokens,
                expected_tokens=placement.expected_tokens,
                priority=request.priority,
            )
        )

    def stepped(self, step: StepOutput) -> None:
        """Take what the rank tells of one of its steps."""
        router = self._router
        router.report(self.hello.rank, step.load)
        if step.step_tokens is not None:
            self.step_tokens = step.step_tokens
        for output in step.outputs:
            # Where it was aborted a moment ago, nobody waits for what the rank had sent by then.
            request = self.live.get(output.request_id)
            if request is None:
                continue
            placement = request.placement
            assert placement is not None
            router.progress(placement, len(output.tokens))
            if output.finish is not None:
                del self.live[output.request_id]
                request.link = None
                router.release(placement, output.finish in (FinishReason.STOP, FinishReason.LENGTH))
            request.push(output)


class Dispatcher:
    """The attached ranks and the live requests. `links`, `router` and `replays` may be read."""

    def __init__(self, chance: random.Random, later: Later, patience: float, gone: Gone) -> None:
        """`patience` is how many seconds a request waits for a rank where there is none to choose."""
        self.router = RankRouter(chance)
        self.links: dict[RankId, RankLink] = {}
        self.replays = 0
        """Requests carried on at another rank, since the start."""
        self._ids = itertools.count(1)
        self._stranded: dict[EngineRequest, None] = {}
        """The requests that wait for a rank, in the order in which they came."""
        self._leaving: frozenset[RankId] = frozenset()
        self._later = later
        self._patience = patience
        self._gone = gone

    # --- requests ---

    def submit(self, request: EngineRequest) -> None:
        """Start a request, or go on with it, at the rank that has least to do, or as soon as there is one."""
        placement = self.router.place(len(request.prompt), request.sampling.max_tokens, len(request.tokens))
        if placement is None:
            self._stranded[request] = None
            request.stranded = self._later(self._patience, partial(self._give_up, request))
            return
        request.link, request.placement = self.links[placement.rank], placement
        # It may come back to a rank that it was moved away from, whose tokens of that time may still be on the way.
        request.request_id = RequestId(next(self._ids))
        request.link.start(request)

    def abort(self, request: EngineRequest) -> None:
        """Stop a request of which nobody wants the rest; this does nothing once it has ended."""
        if request.stranded is not None:
            self._no_longer_stranded(request)
        elif request.link is not None:
            link, request.link = request.link, None
            assert request.placement is not None
            self.router.release(request.placement, finished=False)
            link.drop(request)

    def _no_longer_stranded(self, request: EngineRequest) -> None:
        assert request.stranded is not None
        request.stranded.cancel()
        request.stranded = None
        del self._stranded[request]

    def _give_up(self, request: EngineRequest) -> None:
        self._no_longer_stranded(request)
        request.fail(NoRank(f"no engine rank has been attached for {self._patience:g} s"))

    # --- ranks ---

    def attach(self, hello: EngineHello, port: Port) -> RankLink:
        """Attach a rank that has said who it is; an older connection of that rank is closed.

        Raises:
            Superseded: a newer incarnation of the rank is attached already.
        """
        old = self.links.get(hello.rank)
        if old is not None:
            if old.hello.incarnation > hello.incarnation:
                raise Superseded(f"rank {hello.rank}: incarnation {hello.incarnation} has been replaced")
            self.detach(old, f"rank {hello.rank} came back")
            old.port.close()
        link = self.links[hello.rank] = RankLink(hello, port, self.router)
        self.router.attach(hello.rank)
        self._place_stranded()
        return link

    def detach(self, link: RankLink, reason: str) -> bool:
        """Let the requests of a rank that has gone go on elsewhere.

        Returns whether anything was done: nothing is where the rank had been replaced already.
        """
        rank = link.hello.rank
        if self.links.get(rank) is not link:
            return False
        del self.links[rank]
        self.router.detach(rank)
        self._gone(rank, len(link.live), reason)
        displaced = list(link.live.values())
        link.live.clear()
        for request in displaced:
            request.link = None
            request.deaths += rank not in self._leaving and request.request_id not in link.withheld
            if request.deaths < DEATHS:
                self.replays += 1
                self.submit(request)
            else:
                request.fail(EngineDied(f"{DEATHS} ranks have died on it, the last being rank {rank}: {reason}"))
        return True

    def leave(self, ranks: frozenset[RankId], moving: frozenset[RankId] = frozenset()) -> None:
        """Give these ranks nothing new, since they and no others are about to be stopped; their end is not a death.

        `moving` are those of them whose requests go on elsewhere now.
        """
        self._leaving = ranks
        self.router.leave(ranks)
        for rank in moving:
            if (link := self.links.get(rank)) is not None:
                self._move(link)
        self._place_stranded()

    def _move(self, link: RankLink) -> None:
        moved = list(link.live.values())
        for request in moved:
            self.abort(request)
        for request in moved:
            self.replays += 1
            self.submit(request)

    def _place_stranded(self) -> None:
        if not self.router.open:
            return
        for request in list(self._stranded):
            self._no_longer_stranded(request)
            self.submit(request)
