"""What several endpoints share: counting tokens, and whether a request fits the model."""

from typing import Annotated

import msgspec
from msgspec import Meta

from phalanx.api.errors import ApiError
from phalanx.config import Config

TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]


def default_max_tokens(config: Config, otherwise: int | None) -> int | None:
    """How many tokens are produced where a request does not say: the checkpoint's own default, or `otherwise`."""
    own = config.facts.default_sampling.get("max_new_tokens")
    return otherwise if own is None else int(own)


class PromptTokensDetails(msgspec.Struct):
    cached_tokens: int


class Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


def usage(prompt: int, completion: int, cached: int) -> Usage:
    return Usage(prompt, completion, prompt + completion, PromptTokensDetails(cached))


def check_model(model: str | None, config: Config) -> str:
    """The name to report for `model`.

    Raises ApiError (404) with the names there are.
    """
    names = config.served_names
    if model is None or model in names:
        return model or names[0]
    raise ApiError(
        f"The model {model[:200]!r} does not exist; this server has {', '.join(map(repr, names))}.",
        status=404,
        param="model",
        code="model_not_found",
    )


def too_long(limit: int, prompt: int, param: str, asked: int | None = None, at_least: bool = False) -> ApiError:
    """A prompt of so many tokens, with `asked` more to produce, does not fit into `limit` tokens."""
    size = f"{'at least ' if at_least else ''}{prompt} tokens"
    wish = "leaves no room for an answer" if asked is None else f"and {asked} to produce are {prompt + asked}"
    return ApiError(
        f"The model's maximum context length is {limit} tokens. A prompt of {size} {wish}.",
        param=param,
        code="context_length_exceeded",
    )


def check_length(
    limit: int, prompt: int, asked: int | None, default: int | None, param: str, asked_by: str = "max_tokens"
) -> int:
    """How many tokens may be produced after `prompt` tokens. `default`: where none are asked for; None: all left.

    Raises ApiError (400, context_length_exceeded) in numbers; `param` names the prompt, `asked_by` the field that asks.
    """
    # A prompt that is only scored needs room for one token too: the engine scores it on the way there.
    if prompt + max(1 if asked is None else asked, 1) > limit:
        raise too_long(limit, prompt, asked_by if asked and prompt < limit else param, asked or None)
    if asked is not None:
        return asked
    return limit - prompt if default is None else min(default, limit - prompt)
