"""Prompts of all forms to tokens that fit the model, and the branches that run them."""

from typing import NamedTuple

import msgspec

from phalanx.api.app_state import AppState
from phalanx.api.decoding import SHOWN
from phalanx.api.errors import ApiError
from phalanx.api.http import Exchange
from phalanx.api.known_errors import too_long
from phalanx.api.openai.branch import Branch
from phalanx.api.openai.sampling import SamplingFields, choice_seed
from phalanx.protocol import Rejected, SamplingParams
from phalanx.text.choice import Choice
from phalanx.text.tokenizer import TooLong


class Prompt(NamedTuple):
    field: str
    """The field of the request that it came in, which errors name: `prompt` or `messages`."""
    tokens: list[int]
    text: str
    """The text to echo, which is empty where nothing is to be echoed."""
    continues: bool
    """The answer goes on in the middle of the prompt's text; else it begins a text of its own."""


async def encode_prompt(server: AppState, text: str, *, add_special_tokens: bool, param: str) -> list[int]:
    """The tokens of a text; raises ApiError (400) for a text that cannot be a prompt of this model."""
    try:
        tokens = await server.tokenizer.encode(text, add_special_tokens=add_special_tokens, limit=server.max_model_len)
    except TooLong as error:
        raise too_long(server.max_model_len, error.at_least, param, at_least=True) from None
    check_tokens(tokens, server, param)
    return tokens


def check_tokens(tokens: list[int], server: AppState, param: str) -> None:
    """Raise ApiError (400) for no tokens, and for one that the model does not have, though its tokenizer may."""
    if not tokens:
        raise ApiError(f"{param} is empty: there is no token to begin from.", param=param)
    vocabulary = server.config.facts.vocab_size
    if (token := max(tokens)) >= vocabulary:
        written = server.tokenizer.token_string(token)
        name = f"token {token}" if written is None else f"token {token} ({written!r})"
        raise ApiError(f"{param} has {name}; the model's tokens are 0 to {vocabulary - 1}.", param=param)


async def bad_words(server: AppState, request: SamplingFields) -> tuple[tuple[int, ...], ...]:
    """The tokens of each of the request's bad words.

    A word is meant at the beginning of a text and within it, as vLLM has it: with a space before it and without. Other
    than there, the two may be of different length, as common words are only with their space one token. Where the
    space is a token of its own, the word without it is enough.

    Raises ApiError (400) for a word without tokens and for tokens that the model does not have.
    """
    words = []
    for word in request.bad_words or ():
        bare = await server.tokenizer.encode(word.lstrip(), add_special_tokens=False, limit=server.max_model_len)
        if not bare:
            raise ApiError(f"bad_words has {word[:SHOWN]!r}, of which the tokenizer makes nothing.", param="bad_words")
        spaced = await server.tokenizer.encode(
            f" {word.lstrip()}", add_special_tokens=False, limit=server.max_model_len
        )
        words.append(bare)
        if spaced[-len(bare) :] != bare:
            words.append(spaced)
    for tokens in words:
        check_tokens(tokens, server, "bad_words")
    return tuple(map(tuple, words))


def check_count(server: AppState, prompts: int, n: int) -> None:
    """Raise ApiError (400) for more completions than one HTTP request may ask for."""
    most = server.config.http.max_batch
    if prompts * n > most:
        raise ApiError(
            f"{prompts} prompts with n = {n} are {prompts * n} completions; one request may ask for {most}.",
            param="n" if n > 1 else "prompt",
        )


def branches_for(
    server: AppState,
    exchange: Exchange,
    request: SamplingFields,
    prompts: list[tuple[Prompt, SamplingParams]],
) -> list[Branch]:
    """`n` branches a prompt, each with a seed of its own."""
    n = request.n or 1
    stops = request.stop_strings()
    skips = request.skip_special_tokens is not False
    branches: list[Branch] = []
    for prompt, sampling in prompts:
        try:
            # A rank asks the same, and what it refuses would be an error of the server.
            server.limits.check(prompt.tokens, sampling)
        except Rejected as error:
            raise ApiError(f"This request cannot run: {error}.", param=prompt.field) from None
        context = prompt.tokens if prompt.continues else []
        for choice in range(n):
            branches.append(
                Branch(
                    len(branches),
                    prompt.tokens,
                    Choice(
                        server.tokenizer.detokenizer(skip_special_tokens=skips, context=context),
                        generated=server.tokenizer.detokenizer(skip_special_tokens=False, context=context)
                        if stops and skips
                        else None,
                        stops=stops,
                        keep_stop=bool(request.include_stop_str_in_output),
                        min_tokens=sampling.min_tokens,
                        scored=sampling.logprobs is not None,
                        keep_ids=bool(request.return_token_ids),
                    ),
                    _reseeded(sampling, choice),
                    metrics=server.metrics,
                    arrival=exchange.arrival,
                    prompt_field=prompt.field,
                    prompt_text=prompt.text,
                )
            )
    return branches


def _reseeded(sampling: SamplingParams, choice: int) -> SamplingParams:
    if choice == 0:
        return sampling
    return msgspec.structs.replace(sampling, seed=choice_seed(sampling.seed, choice))
