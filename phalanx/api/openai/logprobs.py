"""Log probabilities as the two endpoint families write them."""

from typing import Annotated

import msgspec
from msgspec import Meta

from phalanx.protocol import TokenLogprobs
from phalanx.text.choice import ScoredToken
from phalanx.text.tokenizer import ModelTokenizer

LOWEST = -9999.0
"""Stands for minus infinity, which JSON cannot say."""


class TopLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(msgspec.Struct):
    token: Annotated[str, Meta(description="Its text; of a part of a character, its bytes as \\\\xNN.")]
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct):
    content: list[TokenLogprob]
    refusal: None = None


class CompletionLogprobs(msgspec.Struct):
    """Four lists of equal length, an entry a token; null for the first token of a prompt, which nothing predicts."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


def chat_logprobs(scores: list[ScoredToken], tokenizer: ModelTokenizer, top: int) -> ChatLogprobs:
    entries = []
    for score in scores:
        of = score.logprobs
        likely = [
            TopLogprob(*_named(tokenizer.token_bytes(token), logprob))
            for token, logprob in zip(of.top_ids[:top], of.top_logprobs[:top], strict=True)
        ]
        entries.append(TokenLogprob(*_named(tokenizer.token_bytes(score.token), of.logprob), likely))
    return ChatLogprobs(entries)


def _named(raw: bytes, logprob: float) -> tuple[str, float, list[int]]:
    return written(raw), max(logprob, LOWEST), list(raw)


def completion_logprobs(
    scores: list[ScoredToken], tokenizer: ModelTokenizer, top: int, offset: int = 0
) -> CompletionLogprobs:
    """`offset`: characters before the completion's text, where the prompt is echoed."""
    found = CompletionLogprobs([], [], [], [])
    for score in scores:
        _append(found, tokenizer, score.token, score.offset + offset, score.logprobs, top)
    return found


def echoed_logprobs(
    prompt: list[int], text: str, logprobs: list[TokenLogprobs | None], tokenizer: ModelTokenizer, top: int
) -> CompletionLogprobs:
    """The prompt's own tokens; `text` is what the response repeats of it."""
    found = CompletionLogprobs([], [], [], [])
    detokenizer = tokenizer.detokenizer(skip_special_tokens=False, context=[])
    offset = 0
    for token, of in zip(prompt, logprobs, strict=True):
        _append(found, tokenizer, token, offset, of, top)
        piece = detokenizer.push(token)
        # The tokenizer puts a begin-of-sequence token before the text, which is no part of it.
        if offset or text.startswith(piece):
            offset += len(piece)
    return found


def joined(first: CompletionLogprobs, then: CompletionLogprobs) -> CompletionLogprobs:
    return CompletionLogprobs(
        first.text_offset + then.text_offset,
        first.token_logprobs + then.token_logprobs,
        first.tokens + then.tokens,
        first.top_logprobs + then.top_logprobs,
    )


def _append(
    found: CompletionLogprobs, tokenizer: ModelTokenizer, token: int, offset: int, of: TokenLogprobs | None, top: int
) -> None:
    name = written(tokenizer.token_bytes(token), prefix="bytes:")
    found.text_offset.append(offset)
    found.tokens.append(name)
    if of is None:
        found.token_logprobs.append(None)
        found.top_logprobs.append(None)
        return
    logprob = max(of.logprob, LOWEST)
    likely = {
        written(tokenizer.token_bytes(token), prefix="bytes:"): max(value, LOWEST)
        for token, value in zip(of.top_ids[:top], of.top_logprobs[:top], strict=True)
    }
    # The token itself is there even where it is not among the most likely.
    likely.setdefault(name, logprob)
    found.token_logprobs.append(logprob)
    found.top_logprobs.append(likely)


def written(raw: bytes, prefix: str = "") -> str:
    """The token's text, or its bytes in hexadecimal where they are not whole characters."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return prefix + "".join(f"\\x{byte:02x}" for byte in raw)
