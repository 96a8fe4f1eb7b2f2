"""Answering one HTTP request for completions: submit, stream or collect, count, and let go of the engine.

The two endpoint families differ only in the JSON they make of it, which is their `Form`.
"""

import asyncio
from collections.abc import Coroutine
from time import perf_counter
from typing import Any, Protocol

import msgspec

from phalanx.api.app_state import AppState
from phalanx.api.errors import ApiError
from phalanx.api.http import Exchange, Generated
from phalanx.api.openai.admitted_request import AdmittedRequest
from phalanx.api.openai.branch import Branch
from phalanx.api.openai.common import Usage, usage
from phalanx.api.openai.completion_metrics import count_prompt
from phalanx.api.openai.sampling import SamplingFields, StreamOptions
from phalanx.text.choice import ScoredToken

_DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.Encoder().encode


class Form(Protocol):
    """How one endpoint family writes what it is given."""

    def splice(self, branch: Branch) -> tuple[bytes, bytes] | None:
        """What stands around the JSON string of a chunk that has only text, or None where chunks have more."""
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
    server: AppState,
    request: SamplingFields,
    branches: list[Branch],
    form: Form,
    admitted: AdmittedRequest,
) -> None:
    """Submit all branches and answer the exchange; whatever happens, none is left running in the engine.

    `branches` are in order of prompts, the completions of one prompt together.

    Raises:
        ApiError: before any of the answer has been sent.
    """
    collected = [Collected(branch) for branch in branches]
    try:
        async with asyncio.timeout(_left(exchange, request)):
            admitted.settle(branches)
            for branch in branches:
                branch.on_begin = admitted.begin
                branch.submit(server, request.priority or 0)
            ranks = {branch.rank for branch in branches if branch.rank is not None}
            exchange.signature.append((b"x-phalanx-ranks", ",".join(map(str, sorted(ranks))).encode()))
            if request.stream:
                options = request.stream_options or StreamOptions()
                with exchange.kept_alive(server.config.http.sse_keep_alive):
                    await _stream(exchange, branches, form, options, request.n or 1)
                return
            await _together([each.collect() for each in collected])
    except TimeoutError:
        server.metrics.timed_out.add(1)
        error = _timed_out(request)
        if not exchange.has_begun:
            raise error from None
        for branch in branches:
            branch.release()
        await exchange.end_events(b"data: %b\n\n" % error.body)
        return
    finally:
        exchange.generated = _generated(branches, request.n or 1)
        for branch in branches:
            branch.leave()
        for first in range(0, len(branches), request.n or 1):
            count_prompt(server.metrics, [each.metrics for each in branches[first : first + (request.n or 1)]])
    admitted.begin()
    await exchange.reply_json(form.response(collected, _spent(branches, request.n or 1)))


def _generated(branches: list[Branch], per_prompt: int) -> Generated:
    spent = _spent(branches, per_prompt)
    first = [each for branch in branches if (each := branch.metrics.first_token) is not None]
    return Generated(
        spent.prompt_tokens,
        sum(branch.cached_tokens for branch in branches[::per_prompt]),
        spent.completion_tokens,
        min(first, default=None),
        tuple(sorted({branch.rank for branch in branches if branch.rank is not None})),
    )


def _left(exchange: Exchange, request: SamplingFields) -> float | None:
    """How many seconds are left of the timeout that the request asks for, or None where it asks for none."""
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
        if not exchange.has_begun:
            raise
        # The status has been sent, so the error is told in an event, and no [DONE] follows.
        await exchange.end_events(b"data: %b\n\n" % error.body)
        return
    if options.include_usage:
        last += _event(form.usage_chunk(_spent(branches, per_prompt)))
    await exchange.end_events(last + _DONE)


async def _stream_branch(exchange: Exchange, branch: Branch, form: Form, continuous: bool) -> bytes:
    """Stream a branch, and return what is due when it has ended: the caller knows what goes with that.

    The last text has a chunk of its own before the one with the finish reason, as clients expect who read either the
    text of a chunk or its finish reason.
    """
    choice, outlet = branch.choice, exchange.outlet
    splice = None if continuous else form.splice(branch)

    def spent() -> Usage | None:
        return _spent([branch], 1) if continuous else None

    def chunk(text: str, first: bool = False) -> bytes:
        """The bytes of a chunk, of which there are none where nothing is due."""
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
    if not exchange.has_begun:
        await exchange.begin_events()
    body = chunk(text or "", first=True)
    while choice.finish_reason is None:
        if body:
            # Waits as long as the client does not read.
            await exchange.send_event(body)
        text = None if outlet is None else await branch.pump(sink, outlet)
        body = chunk(await branch.advance() if text is None else text)
    return body + _event(form.last_chunk(branch, spent()))


def _event(chunk: object) -> bytes:
    return b"data: %b\n\n" % _encode(chunk)


def _spent(branches: list[Branch], per_prompt: int) -> Usage:
    """The usage of all branches, for which each prompt counts once, however many completions it gets."""
    prompts = branches[::per_prompt]
    return usage(
        sum(len(branch.prompt) for branch in prompts),
        sum(branch.choice.tokens for branch in branches),
        sum(branch.cached_tokens for branch in prompts),
    )


async def _together(works: list[Coroutine[Any, Any, None]]) -> None:
    """Run all of them; where one fails, cancel the others and raise its error."""
    if len(works) == 1:
        await works[0]
        return
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
