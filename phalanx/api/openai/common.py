"""What several endpoints share: the usage that they tell, and whether a request fits the model."""

from typing import Annotated

import msgspec
from msgspec import Meta

from phalanx.api.known_errors import MODEL_NOT_FOUND, too_long
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
    """The usage of a request, in tokens; `cached` are those of the prompt that did not have to be computed."""
    return Usage(prompt, completion, prompt + completion, PromptTokensDetails(cached))


def check_model(model: str | None, config: Config) -> str:
    """The name to report for `model`, which is the first one where a request names none.

    Raises:
        ApiError: 404, it is none of the served names, which the message lists.
    """
    names = config.served_names
    if model is None or model in names:
        return model or names[0]
    raise MODEL_NOT_FOUND.told(param="model", model=model[:200], names=", ".join(map(repr, names)))


def check_length(
    limit: int, prompt: int, asked: int | None, default: int | None, param: str, asked_by: str = "max_tokens"
) -> int:
    """How many tokens may be produced after `prompt` tokens.

    Args:
        asked: how many the request asks for; where it is None, `default` counts, and None there stands for all that
            are left.
        param: the request's field that the prompt came in.
        asked_by: the field that asks for so many.

    Raises:
        ApiError: 400, context_length_exceeded; the message says by how many tokens.
    """
    # A prompt that is only scored needs room for one token too: the engine scores it on the way there.
    if prompt + max(1 if asked is None else asked, 1) > limit:
        error = too_long(limit, prompt, param, asked or None)
        if asked and prompt < limit:
            error.detail.param = asked_by
        raise error
    if asked is not None:
        return asked
    return limit - prompt if default is None else min(default, limit - prompt)
