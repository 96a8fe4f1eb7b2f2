"""One completion of one prompt, on its way through the engine."""

import asyncio
from collections.abc import Callable

import msgspec

from phalanx.api.app_state import AppState
from phalanx.api.engine_client import EngineDied, Generation, NoRank
from phalanx.api.errors import ApiError, server_error
from phalanx.api.http import ClientConnection
from phalanx.api.known_errors import NO_RANK, too_long
from phalanx.api.metrics import Metrics
from phalanx.api.openai.completion_metrics import CompletionMetrics
from phalanx.protocol import FinishReason, RequestOutput, SamplingParams, TokenLogprobs
from phalanx.text.choice import Choice


class Branch:
    """One completion of one prompt."""

    __slots__ = (
        "_begun",
        "_failed",
        "_generation",
        "_server",
        "cached_tokens",
        "choice",
        "index",
        "metrics",
        "on_begin",
        "prompt",
        "prompt_field",
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
        prompt_field: str,
        prompt_text: str = "",
    ) -> None:
        """`index` is that of the choice in the answer; `arrival` is when the request came, on perf_counter's clock."""
        self.index = index
        self.prompt = prompt
        self.prompt_field = prompt_field
        """The field of the request that the prompt came in, which errors name."""
        self.prompt_text = prompt_text
        """What `echo` gives back."""
        self.choice = choice
        self.cached_tokens = 0
        self.prompt_logprobs: list[TokenLogprobs | None] | None = None
        self.sampling = sampling
        self.on_begin: Callable[[], None] = lambda: None
        """It is called with the first token."""
        self._generation: Generation | None = None
        self._server: AppState | None = None
        self.metrics = CompletionMetrics(metrics, arrival, len(prompt), sampling.max_tokens)
        self._begun = False
        self._failed = False

    def submit(self, server: AppState, priority: int) -> None:
        """Hand the completion to the engine, which may have to wait for a rank."""
        sampling = self.sampling
        if sampling.max_tokens == 0:
            if sampling.prompt_logprobs is None:
                return
            # The engine scores a prompt on the way to its first token.
            sampling = msgspec.structs.replace(sampling, max_tokens=1)
        self._server = server
        self._generation = server.engine.generate(self.prompt, sampling, priority)

    @property
    def rank(self) -> int | None:
        """The rank that runs it, or None where there is nothing to generate or no rank yet."""
        return None if self._generation is None else self._generation.rank

    @property
    def produced(self) -> int:
        """How many output tokens have come from ranks."""
        return 0 if self._generation is None else len(self._generation.tokens)

    @property
    def unread(self) -> int:
        """How many of the output tokens wait until the client reads on."""
        return max(self.produced - self.choice.tokens, 0)

    async def advance(self) -> str:
        """Wait for the next tokens and return the text to show; at the end `choice.finish_reason` is set.

        Raises:
            ApiError: the engine failed.
        """
        if self._generation is None:
            self.choice.finish_reason = "length"
            return ""
        try:
            return self._absorb(await self._generation.next())
        except (EngineDied, NoRank) as error:
            self._failed = True
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
                self._failed = True
                done.set_exception(_engine_failed(error))
            except Exception as error:
                # The error belongs to this request, and not to the engine's connection, whose turn this is.
                done.set_exception(error)

        generation.on_output = take
        try:
            take()
            return await done
        finally:
            generation.on_output = None

    def _check_again(self) -> None:
        """Raise ApiError (400) where the prompt is too long for a rank that has come since it was checked."""
        assert self._server is not None
        limits = self._server.limits
        if len(self.prompt) >= limits.max_model_len:
            raise too_long(limits.max_model_len, len(self.prompt), self.prompt_field)

    def _absorb(self, output: RequestOutput) -> str:
        assert self._generation is not None
        if output.finish is not None and output.finish >= FinishReason.ABORT:
            self._failed = True
            self._check_again()
            raise server_error(f"The engine could not run this request: {output.error or 'it was aborted'}.")
        self.metrics.came(output, self._generation.placement)
        if not self._begun:
            self._begun = True
            self.on_begin()
            self.cached_tokens = output.cached_tokens
            self.prompt_logprobs = output.prompt_logprobs
        if self.sampling.max_tokens == 0:
            self.choice.finish_reason = "length"
            self.choice.scores = []
            text = ""
        else:
            text = self.choice.feed(output)
        if self.choice.finish_reason is not None:
            self.metrics.ended(self.choice.finish_reason, self.choice.tokens)
            # A stop string ended the text before the engine ended the request; else this does nothing.
            self.release()
        return text

    def release(self) -> None:
        """Stop the engine's work on it, since nobody wants the rest; this does nothing where that has ended."""
        if self._generation is not None:
            self._generation.abort()

    def leave(self) -> None:
        """Count how it ended, finished or not, and stop the engine's work on it."""
        if self.choice.finish_reason is None and self._generation is not None:
            self.metrics.broke_off(self._generation.placement, failed=self._failed)
        self.release()


def _engine_failed(error: EngineDied | NoRank) -> ApiError:
    if isinstance(error, EngineDied):
        return server_error(f"This request was ended, for it may be what kills ranks: {error}.", code="engine_died")
    return NO_RANK.told(why=error)
