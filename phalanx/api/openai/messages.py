"""The messages of a chat, and what of them its template gets."""

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Raw

from phalanx.api.decoding import ABSENT, hint, refuse_unsupported, unsupported

MAX_MESSAGES = 4096
MAX_PARTS = 1024

PART_KINDS = {
    "image_url": "This server does not read images.",
    "input_image": "This server does not read images.",
    "image": "This server does not read images.",
    "input_audio": "This server does not hear audio.",
    "audio_url": "This server does not hear audio.",
    "video_url": "This server does not see videos.",
    "video": "This server does not see videos.",
    "file": "This server does not read files.",
    "input_file": "This server does not read files.",
}
"""What to say to those who send parts of kinds that other servers know."""

CacheControl: TypeAlias = Annotated[Raw, hint("Where to cache; here every prompt is.")]


class ContentPart(msgspec.Struct, kw_only=True):
    type: Annotated[Literal["text"], Meta(description="What the part is.")]
    text: Annotated[str, Meta(description="Its text; a line break stands between parts.")]
    cache_control: CacheControl = ABSENT
    image_url: Annotated[Raw, unsupported(what="An image.")] = ABSENT
    input_audio: Annotated[Raw, unsupported(what="Speech.")] = ABSENT
    audio_url: Annotated[Raw, unsupported(what="Speech.")] = ABSENT
    video_url: Annotated[Raw, unsupported(what="A video.")] = ABSENT
    file: Annotated[Raw, unsupported(what="A file.")] = ABSENT


Content: TypeAlias = Annotated[
    str | Annotated[list[ContentPart], Meta(min_length=1, max_length=MAX_PARTS)],
    Meta(description="What is said, as a text or in parts."),
]


class Turn(msgspec.Struct, kw_only=True, tag_field="role"):
    """What messages of every role have."""

    name: (
        Annotated[
            str, Meta(max_length=256, description="Whose words these are; given to the chat template. Default: none.")
        ]
        | None
    ) = None
    id: Annotated[Raw, hint("The client's own name of the message.")] = ABSENT
    type: Annotated[Raw, hint("The kind of item, as the Responses API has it.")] = ABSENT
    cache_control: CacheControl = ABSENT


class SystemTurn(Turn, tag="system"):
    content: Content


class DeveloperTurn(Turn, tag="developer"):
    """OpenAI's newer name of the system's role."""

    content: Content


class UserTurn(Turn, tag="user"):
    content: Content


class AssistantTurn(Turn, tag="assistant"):
    """Clients send it back as they got it: with most of its fields null."""

    content: Annotated[
        str | Annotated[list[ContentPart], Meta(max_length=MAX_PARTS)] | None,
        Meta(description="What it said. Default: nothing."),
    ] = None
    reasoning_content: (
        Annotated[str, Meta(description="What it thought before; given to the chat template. Default: none.")] | None
    ) = None
    reasoning: Annotated[str, Meta(description="The same by its other name. Default: none.")] | None = None
    refusal: Annotated[Raw, unsupported(what="Why it refused to answer.")] = ABSENT
    annotations: Annotated[Raw, unsupported([], what="Links to web pages.")] = ABSENT
    audio: Annotated[Raw, unsupported(what="Earlier speech.")] = ABSENT
    function_call: Annotated[Raw, unsupported(what="The call of a function.")] = ABSENT
    tool_calls: Annotated[Raw, unsupported([], what="Calls of tools.")] = ABSENT


Message: TypeAlias = SystemTurn | DeveloperTurn | UserTurn | AssistantTurn
Messages: TypeAlias = Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)]


def for_template(messages: list[Message]) -> list[dict[str, str]]:
    """The messages as chat templates know them. Raises ApiError (400) for what they hold that is not supported."""
    return [_for_template(message, f"messages[{position}].") for position, message in enumerate(messages)]


def _for_template(message: Message, path: str) -> dict[str, str]:
    refuse_unsupported(message, path)
    role = message.__struct_config__.tag
    plain = {"role": "system" if role == "developer" else str(role), "content": _text(message.content, path)}
    if message.name is not None:
        plain["name"] = message.name
    if isinstance(message, AssistantTurn):
        thought = message.reasoning if message.reasoning_content is None else message.reasoning_content
        if thought is not None:
            plain["reasoning_content"] = thought
    return plain


def _text(content: str | list[ContentPart] | None, path: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for position, part in enumerate(content):
        refuse_unsupported(part, f"{path}content[{position}].")
    return "\n".join(part.text for part in content)
