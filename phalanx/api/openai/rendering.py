"""A chat becomes the text of a prompt, by the checkpoint's template and what a request says of it."""

from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta, Raw

from phalanx.api.app_state import AppState
from phalanx.api.errors import ApiError
from phalanx.api.openai.messages import Message, for_template
from phalanx.text.chat_template import RESERVED, NoChatTemplate, TemplateError
from phalanx.text.tokenizer import INLINE_CHARACTERS

TemplateValues = Annotated[
    Raw,
    Meta(
        description="More values for the chat template, such as enable_thinking. Default: none.",
        extra_json_schema={"type": ["object", "null"], "maxProperties": 64},
    ),
]
AddGenerationPrompt = Annotated[
    bool,
    Meta(description="End the prompt where the answer begins. Default: true, without continue_final_message."),
]
ContinueFinalMessage = Annotated[bool, Meta(description="The answer continues the last message. Default: false.")]
MAX_TEMPLATE_VALUES = 65536
"""Bytes of them as JSON."""

_LIKE_CHARACTERS = 32
"""A template's work on a message, empty or not, is like that on so many characters."""


class TemplateFields(Protocol):
    """The fields of a request that say how its messages are written."""

    chat_template_kwargs: Raw
    add_generation_prompt: bool | None
    continue_final_message: bool | None


async def render(server: AppState, messages: list[Message], fields: TemplateFields) -> str:
    """The messages as the checkpoint's template writes them, with what the request's other fields say of it.

    Raises ApiError (400) with the template's own words where it refuses them.
    """
    template = server.chat_template
    if isinstance(template, NoChatTemplate):
        raise ApiError(
            f"{template.reason} Use /v1/completions, or start with --chat-template.", code="no_chat_template"
        )
    add_generation_prompt, continue_final = fields.add_generation_prompt, bool(fields.continue_final_message)
    if continue_final and add_generation_prompt:
        raise ApiError(
            "continue_final_message and add_generation_prompt exclude one another.", param="continue_final_message"
        )
    values = _values(fields.chat_template_kwargs, server.tokenizer.special)
    plain = for_template(messages)

    def work() -> str:
        return template.render(
            plain,
            add_generation_prompt=not continue_final if add_generation_prompt is None else add_generation_prompt,
            continue_final_message=continue_final,
            extra=values,
        )

    try:
        if sum(_LIKE_CHARACTERS + sum(map(len, message.values())) for message in plain) <= INLINE_CHARACTERS:
            return work()
        return await server.tokenizer.in_thread(work)
    except TemplateError as error:
        raise ApiError(f"The model's chat template does not accept these messages: {error}", param="messages") from None


def _values(raw: Raw, special: dict[str, str]) -> dict[str, Any]:
    """`chat_template_kwargs`. Raises ApiError (400)."""
    name = "chat_template_kwargs"
    encoded = bytes(raw)
    if len(encoded) > MAX_TEMPLATE_VALUES:
        raise ApiError(f"{name} is longer than {MAX_TEMPLATE_VALUES} bytes.", param=name)
    try:
        values = msgspec.json.decode(encoded, type=dict[str, Any] | None) or {}
    except msgspec.ValidationError as error:
        raise ApiError(f"Invalid value for {name}: {error}.", param=name) from None
    except RecursionError:
        raise ApiError(f"{name} is nested too deeply.", param=name) from None
    for key in values:
        if key in RESERVED or key in special:
            raise ApiError(f"{name} cannot replace {key!r}, which the server sets.", param=name)
    return values
