"""Running the completions of one HTTP request: submit, stream or collect, count, and let go of the engine.

The two endpoint families differ only in the JSON they make of it, which is their `Form`.
"""

import asyncio
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any, Protocol

import msgspec

from phalanx.api.choice import Choice, ScoredToken
from phalanx.api.engine_client import EngineDied, Generation, NoRank
from phalanx.api.errors import ApiError, server_error
from phalanx.api.http import ClientConnection, Exchange
from phalanx.api.metrics import Metrics
from phalanx.api.openai.common import SamplingFields, StreamOptions, Usage, usage
from phalanx.api.openai.flight import Flight
from phalanx.api.service import Service
from phalanx.protocol import FinishReason, RequestOutput, SamplingParams, TokenLogprobs

RETRY_AFTER = 5
"""Seconds a client is told to wait where no rank came in time."""

_DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.Encoder().encode


class Branch:
    """One completion of one prompt."""

    __slots__ = (
        "_arrival",
        "_first",
        "_generation",
        "_last",
        "_metrics",
        "cached_tokens",
        "choice",
        "index",
        "on_begin",
        "prompt",
        "prompt_logprobs",
        "prompt_text",
        "sampling",
    )

    def __init__(
        self,
        index: int,
        prompt: list[int],
        choice: Choice,
        sampling: SamplingParams,
        *,
        metrics: Metrics,
        arrival: float,
        prompt_text: str = "",
    ) -> None:
        """`index`: of the choice in the response. `arrival`: of the HTTP request, on perf_counter's clock."""
        self.index = index
        self.prompt = prompt
        self.prompt_text = prompt_text
        """What `echo` gives back."""
        self.choice = choice
        self.cached_tokens = 0
        self.prompt_logprobs: list[TokenLogprobs | None] | None = None
        self.sampling = sampling
        self.on_begin: Callable[[], None] = lambda: None
        """Called with the first token."""
        self._generation: Generation | None = None
        self._metrics = metrics
        self._arrival = arrival
        self._first = 0.0
        self._last = 0.0

    def submit(self, service: Service, priority: int) -> None:
        """Hand it to the engine, which may have to wait for a rank."""
        sampling = self.sampling
        if sampling.max_tokens == 0:
            if sampling.prompt_logprobs is None:
                return
            # The engine scores a prompt on the way to its first token.
            sampling = msgspec.structs.replace(sampling, max_tokens=1)
        self._generation = service.engine.generate(self.prompt, sampling, priority)

    @property
    def rank(self) -> int | None:
        """Where it runs; None: nowhere, there is nothing to generate."""
        return None if self._generation is None else self._generation.rank

    @property
    def produced(self) -> int:
        """Output tokens that have come from ranks."""
        return 0 if self._generation is None else len(self._generation.tokens)

    @property
    def unread(self) -> int:
        """Of these, how many wait until the client reads on."""
        return max(self.produced - self.choice.tokens, 0)

    async def advance(self) -> str:
        """Wait for the next tokens; give the text to show. The end is where `choice.finish_reason` is set.

        Raises:
            ApiError: the engine failed.
        """
        if self._generation is None:
            self.choice.finish_reason = "length"
            return ""
        try:
            return self._absorb(await self._generation.next())
        except (EngineDied, NoRank) as error:
            raise _engine_failed(error) from None

    async def pump(self, sink: Callable[[str], None], outlet: ClientConnection | None = None) -> str | None:
        """Give the text of each step to `sink`, in the engine's own turn of the event loop.

        There is no task to wake between the rank's message and the client's socket, which is a quarter of the cost
        of a streamed token. Returns the last text, `choice.finish_reason` being set; or None as soon as `outlet` is
        paused: then what comes is merged until `advance` takes it.

        Raises:
            ApiError: the engine failed.
        """
        generation = self._generation
        if generation is None:
            return await self.advance()
        done: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

        def take() -> None:
            try:
                while not done.done():
                    if outlet is not None and outlet.paused:
                        done.set_result(None)
                        return
                    if (output := generation.take()) is None:
                        return
                    text = self._absorb(output)
                    if self.choice.finish_reason is None:
                        sink(text)
                    else:
                        done.set_result(text)
            except (EngineDied, NoRank) as error:
                done.set_exception(_engine_failed(error))
            except Exception as error:
                # Ours, and not of the engine's connection, whose turn this is.
                done.set_exception(error)

        generation.on_output = take
        try:
            take()
            return await done
        finally:
            generation.on_output = None

    def _absorb(self, output: RequestOutput) -> str:
        now = perf_counter()
        if self._last:
            count = len(output.tokens)
            if count:
                self._metrics.inter_token.observe((now - self._last) / count, count)
        else:
            self._begin(output, now)
        self._last = now
        if output.finish is not None and output.finish >= FinishReason.ABORT:
            raise server_error(f"The engine could not run this request: {output.error or 'it was aborted'}.")
        if self.sampling.max_tokens == 0:
            self.choice.finish_reason = "length"
            self.choice.scores = []
            text = ""
        else:
            text = self.choice.feed(output)
            self._metrics.generation_tokens.values[()] += len(output.tokens)
        if self.choice.finish_reason is not None:
            self._end(now)
        return text

    def _begin(self, output: RequestOutput, now: float) -> None:
        self._first = now
        self.on_begin()
        self._metrics.first_token.observe(now - self._arrival)
        self._metrics.prompt_tokens.add(len(self.prompt))
        self.cached_tokens = output.cached_tokens
        self.prompt_logprobs = output.prompt_logprobs

    def _end(self, now: float) -> None:
        metrics, tokens = self._metrics, self.choice.tokens
        assert self.choice.finish_reason is not None
        metrics.finished.add(1, self.choice.finish_reason)
        metrics.latency.observe(now - self._arrival)
        if tokens > 1:
            metrics.per_token.observe((now - self._first) / (tokens - 1))
        metrics.request_prompt.observe(len(self.prompt))
        metrics.request_output.observe(tokens)
        metrics.asked_tokens.observe(self.sampling.max_tokens)
        # A stop string ended the text before the engine ended the request; else this does nothing.
        self.release()

    def release(self) -> None:
        """Nobody wants the rest: stop the engine's work on it. Does nothing where that has ended."""
        if self._generation is not None:
            self._generation.abort()

    def leave(self) -> None:
        """The request ends here, finished or not."""
        if self.choice.finish_reason is None:
            self._metrics.finished.add(1, "abort")
        self.release()


class Form(Protocol):
    """How one endpoint family writes what it is given."""

    def splice(self, branch: Branch) -> tuple[bytes, bytes] | None:
        """What stands before and behind the JSON string of a chunk that has only text; None: chunks have more."""
        ...

    def chunk(self, branch: Branch, text: str, first: bool, spent: Usage | None) -> Any:
        """A chunk of the stream; `branch.choice` tells what else became due with the text."""
        ...

    def last_chunk(self, branch: Branch, spent: Usage | None) -> Any:
        """The chunk that says why the completion ended, and nothing else."""
        ...

    def usage_chunk(self, spent: Usage) -> Any: ...

    def response(self, branches: list["Collected"], spent: Usage) -> Any: ...


class Collected:
    """A finished branch and all of its text, scores and token ids."""

    __slots__ = ("branch", "scores", "text", "token_ids")

    def __init__(self, branch: Branch) -> None:
        self.branch = branch
        self.text = ""
        self.scores: list[ScoredToken] = []
        self.token_ids: list[int] = []

    async def collect(self) -> None:
        parts: list[str] = []

        def sink(text: str) -> None:
            parts.append(text)
            self.scores += self.branch.choice.scores or ()
            self.token_ids += self.branch.choice.token_ids or ()

        sink(await self.branch.pump(sink) or "")
        self.text = "".join(parts)


async def run(
    exchange: Exchange,
    service: Service,
    request: SamplingFields,
    branches: list[Branch],
    form: Form,
    flight: Flight,
) -> None:
    """Submit all branches and answer the exchange; whatever happens, none is left running in the engine.

    `branches` are in order of prompts, the completions of one prompt together.

    Raises:
        ApiError: before any of the answer has been sent.
    """
    collected = [Collected(branch) for branch in branches]
    try:
        async with asyncio.timeout(_left(exchange, request)):
            flight.settle(branches)
            for branch in branches:
                branch.on_begin = flight.begin
                branch.submit(service, request.priority or 0)
            ranks = {branch.rank for branch in branches if branch.rank is not None}
            exchange.signature.append((b"x-phalanx-ranks", ",".join(map(str, sorted(ranks))).encode()))
            if request.stream:
                options = request.stream_options or StreamOptions()
                await _stream(exchange, branches, form, options, request.n or 1)
                return
            await _together([each.collect() for each in collected])
    except TimeoutError:
        service.metrics.timed_out.add(1)
        error = _timed_out(request)
        if not exchange.status:
            raise error from None
        for branch in branches:
            branch.release()
        await exchange.end_events(b"data: %b\n\n" % error.body)
        return
    finally:
        for branch in branches:
            branch.leave()
    flight.begin()
    await exchange.reply_json(form.response(collected, _spent(branches, request.n or 1)))


def _left(exchange: Exchange, request: SamplingFields) -> float | None:
    """Seconds."""
    return None if request.timeout is None else max(request.timeout - (perf_counter() - exchange.arrival), 0.0)


def _timed_out(request: SamplingFields) -> ApiError:
    return ApiError(
        f"This request was not answered within its timeout of {request.timeout:g} s.",
        status=408,
        kind="timeout_error",
        param="timeout",
        code="timeout",
    )


async def _stream(
    exchange: Exchange, branches: list[Branch], form: Form, options: StreamOptions, per_prompt: int
) -> None:
    continuous = bool(options.continuous_usage_stats)

    async def whole(branch: Branch) -> None:
        await exchange.send_event(await _stream_branch(exchange, branch, form, continuous))

    last = b""
    try:
        if len(branches) == 1:
            last = await _stream_branch(exchange, branches[0], form, continuous)
        else:
            await _together([whole(branch) for branch in branches])
    except ApiError as error:
        if not exchange.status:
            raise
        # The status has been sent; what is left is an event in the error's form, and no [DONE].
        await exchange.end_events(b"data: %b\n\n" % error.body)
        return
    if options.include_usage:
        last += _event(form.usage_chunk(_spent(branches, per_prompt)))
    await exchange.end_events(last + _DONE)


async def _stream_branch(exchange: Exchange, branch: Branch, form: Form, continuous: bool) -> bytes:
    """Stream a branch but for what is due when it has ended, which is returned: the caller knows what goes with it.

    The last text has a chunk of its own before the one with the finish reason, as clients expect who read either the
    text of a chunk or its finish reason.
    """
    choice, outlet = branch.choice, exchange.outlet
    splice = None if continuous else form.splice(branch)

    def spent() -> Usage | None:
        return _spent([branch], 1) if continuous else None

    def chunk(text: str, first: bool = False) -> bytes:
        """Empty where nothing is due."""
        if splice is not None and not first:
            return splice[0] + _encode(text) + splice[1] if text else b""
        if text or first or choice.scores or choice.token_ids:
            return _event(form.chunk(branch, text, first, spent()))
        return b""

    def sink(text: str) -> None:
        body = chunk(text)
        if body:
            assert outlet is not None
            outlet.write_chunk(body)

    text: str | None = await branch.advance()
    if not exchange.status:
        await exchange.begin_events()
    body = chunk(text or "", first=True)
    while choice.finish_reason is None:
        if body:
            # Waits as long as the client does not read.
            await exchange.send_event(body)
        text = None if outlet is None else await branch.pump(sink, outlet)
        body = chunk(await branch.advance() if text is None else text)
    return body + _event(form.last_chunk(branch, spent()))


def _engine_failed(error: EngineDied | NoRank) -> ApiError:
    if isinstance(error, EngineDied):
        return server_error(f"This request was ended, for it may be what kills ranks: {error}.", code="engine_died")
    return server_error(
        f"Nothing can be generated now, {error}; try again in a moment.",
        status=503,
        code="no_rank",
        retry_after=RETRY_AFTER,
    )


def _event(chunk: object) -> bytes:
    return b"data: %b\n\n" % _encode(chunk)


def _spent(branches: list[Branch], per_prompt: int) -> Usage:
    """Each prompt counts once, however many completions it gets."""
    prompts = branches[::per_prompt]
    return usage(
        sum(len(branch.prompt) for branch in prompts),
        sum(branch.choice.tokens for branch in branches),
        sum(branch.cached_tokens for branch in prompts),
    )


async def _together(works: list[Coroutine[Any, Any, None]]) -> None:
    """Run all; where one fails, cancel the others and raise its error."""
    if len(works) == 1:
        await works[0]
        return
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
