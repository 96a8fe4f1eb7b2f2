"""One completion on its way to the client: engine output in, text that can be shown out."""

from typing import Literal, NamedTuple, TypeAlias

from phalanx.protocol import FinishReason, RequestOutput, TokenLogprobs
from phalanx.text.detokenize import Detokenizer
from phalanx.text.stops import StopMatcher

FinishName: TypeAlias = Literal["stop", "length"]

_REASONS: dict[FinishReason, FinishName] = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length"}


class ScoredToken(NamedTuple):
    """A token with its log probability, and where its text begins in the completion's, in characters."""

    token: int
    offset: int
    logprobs: TokenLogprobs


class Choice:
    """Text, stop strings, logprobs and end of one completion.

    Text is held back only as long as it could be half a character or the beginning of a stop string; a token's
    logprobs come with the first text from the token on, so they never tell of text that a stop string cuts off.
    """

    __slots__ = (
        "_detokenizer",
        "_generated",
        "_held_scores",
        "_keep_ids",
        "_keep_stop",
        "_min_tokens",
        "_shown",
        "_stops",
        "_text_length",
        "finish_reason",
        "scores",
        "stop_reason",
        "token_ids",
        "tokens",
    )

    def __init__(
        self,
        detokenizer: Detokenizer,
        *,
        generated: Detokenizer | None = None,
        stops: list[str],
        keep_stop: bool = False,
        min_tokens: int = 0,
        scored: bool = False,
        keep_ids: bool = False,
    ) -> None:
        """One completion's text.

        Args:
            detokenizer: gives the text that is shown.
            generated: gives the text that stop strings are looked for in, special tokens included; None: what is shown.
            keep_stop: what stopped it stays in the text.
            scored: logprobs are asked for.
            keep_ids: token ids are asked for, and then there is a score for each of them.
        """
        self._detokenizer = detokenizer
        self._generated = generated if stops else None
        self._stops = StopMatcher(stops, keep_stop) if stops else None
        self._keep_stop = keep_stop
        self._keep_ids = keep_ids
        self._min_tokens = min_tokens
        self._text_length = 0
        self._shown = 0
        self._held_scores: list[ScoredToken] | None = [] if scored else None
        self.scores: list[ScoredToken] | None = [] if scored else None
        """Scores that became due with the last `feed`."""
        self.token_ids: list[int] | None = [] if keep_ids else None
        """All tokens of the last `feed`."""
        self.tokens = 0
        self.finish_reason: FinishName | None = None
        self.stop_reason: int | str | None = None
        """The stop string or the id of `stop_token_ids` that ended it."""

    def feed(self, output: RequestOutput) -> str:
        """Take what the engine brought, a failure excepted; give the text that can be shown now.

        Sets `finish_reason` at the end, also where a stop string ended the text before the engine did: then the
        rest is nobody's and the caller aborts it.
        """
        tokens, finish = output.tokens, output.finish
        if self._stops is None and self._held_scores is None and self.token_ids is None and finish is None:
            self.tokens += len(tokens)
            push = self._detokenizer.push
            return push(tokens[0]) if len(tokens) == 1 else "".join([push(token) for token in tokens])
        return self._feed_carefully(output)

    def _feed_carefully(self, output: RequestOutput) -> str:
        tokens, finish = output.tokens, output.finish
        last_is_unseen = finish is FinishReason.STOP and not self._keep_stop
        if self.token_ids is not None:
            self.token_ids = []
        parts = []
        for position, token in enumerate(tokens):
            unseen = last_is_unseen and position == len(tokens) - 1
            self.tokens += 1
            if self.token_ids is not None:
                self.token_ids.append(token)
            if self._held_scores is not None and output.logprobs and (not unseen or self._keep_ids):
                self._held_scores.append(ScoredToken(token, self._text_length, output.logprobs[position]))
            if unseen:
                break
            shown = self._detokenizer.push(token)
            self._text_length += len(shown)
            parts.append(self._match(shown if self._generated is None else self._generated.push(token), shown))
            if self.finish_reason is not None:
                break
        if finish is not None and self.finish_reason is None:
            self.finish_reason = _REASONS[finish]
            self.stop_reason = output.stop_token
            rest = self._detokenizer.finish()
            parts.append(self._match(rest if self._generated is None else self._generated.finish(), rest))
            if self._stops is not None and self._stops.found is None:
                parts.append(self._stops.finish())
        due = "".join(parts)
        self._shown += len(due)
        self._release_scores()
        return due

    def _match(self, generated: str, shown: str) -> str:
        """Look for stop strings in the next piece of text; what comes before `min_tokens` cannot stop it.

        Returns what can be shown now.
        """
        stops = self._stops
        if stops is None or self.tokens <= self._min_tokens:
            return shown
        due = stops.push(generated, shown)
        if stops.found is not None:
            self.finish_reason = "stop"
            self.stop_reason = stops.found
        return due

    def _release_scores(self) -> None:
        held = self._held_scores
        if held is None:
            return
        cut = self._stops is not None and self._stops.found is not None
        if self._keep_ids or (self.finish_reason is not None and not cut):
            self.scores, self._held_scores = held, []
            return
        due = sum(1 for score in held if score.offset < self._shown)
        self.scores, self._held_scores = held[:due], held[due:]
