"""POST /v1/chat/completions."""

import secrets
import time
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from phalanx.api.app_state import AppState
from phalanx.api.decoding import ABSENT, BodyDecoder, unsupported
from phalanx.api.errors import ApiError
from phalanx.api.http import Exchange
from phalanx.api.openai.admitted_request import admit
from phalanx.api.openai.answering import Collected, run
from phalanx.api.openai.branch import Branch
from phalanx.api.openai.common import Usage, check_length, check_model, default_max_tokens
from phalanx.api.openai.logprobs import ChatLogprobs, chat_logprobs
from phalanx.api.openai.messages import PART_KINDS, Message, Messages, for_template
from phalanx.api.openai.prompts import Prompt, bad_words, branches_for, check_count, encode_prompt
from phalanx.api.openai.sampling import SamplingFields
from phalanx.text.chat_template import RESERVED, NoChatTemplate, TemplateError
from phalanx.text.choice import FinishName
from phalanx.text.tokenizer import INLINE_CHARACTERS, ModelTokenizer

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


class ChatRequest(SamplingFields, kw_only=True):
    messages: Annotated[Messages, Meta(description="The conversation so far.")]
    max_tokens: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=2**31 - 1,
                description="The older name of max_completion_tokens, which wins. Default: as there.",
            ),
        ]
        | None
    ) = None
    max_completion_tokens: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=2**31 - 1,
                description="Tokens that an answer may have. "
                "Default: the checkpoint's max_new_tokens, else all that fit into the model's length.",
            ),
        ]
        | None
    ) = None
    logprobs: Annotated[bool, Meta(description="Give each token's log probability. Default: false.")] | None = None
    top_logprobs: (
        Annotated[
            int,
            Meta(
                ge=0,
                description="Of so many of the most likely tokens too; at most --max-logprobs, and with logprobs. "
                "Default: 0.",
            ),
        ]
        | None
    ) = None
    add_generation_prompt: AddGenerationPrompt | None = None
    continue_final_message: ContinueFinalMessage | None = None
    add_special_tokens: (
        Annotated[bool, Meta(description="Add special tokens to those that the template writes. Default: false.")]
        | None
    ) = None
    chat_template_kwargs: TemplateValues = ABSENT

    tools: Annotated[Raw, unsupported([], what="Tools that the model may call.")] = ABSENT
    tool_choice: Annotated[Raw, unsupported("none", "auto", what="Whether it must call one.")] = ABSENT
    parallel_tool_calls: Annotated[Raw, unsupported(True, False, what="Whether it may call several.")] = ABSENT
    functions: Annotated[Raw, unsupported([], what="The older form of tools.")] = ABSENT
    function_call: Annotated[Raw, unsupported("none", "auto", what="The older form of tool_choice.")] = ABSENT
    modalities: Annotated[Raw, unsupported(["text"], what="Kinds of output.")] = ABSENT
    audio: Annotated[Raw, unsupported(what="How to speak.")] = ABSENT
    web_search_options: Annotated[Raw, unsupported(what="How to search the web.")] = ABSENT
    reasoning_effort: Annotated[Raw, unsupported("none", what="How much to think before the answer.")] = ABSENT
    include_reasoning: Annotated[Raw, unsupported(True, what="Whether to tell what the model thought.")] = ABSENT
    thinking_token_budget: Annotated[Raw, unsupported(what="How many tokens to think.")] = ABSENT
    chat_template: Annotated[Raw, unsupported(what="A template in place of the server's.")] = ABSENT
    documents: Annotated[Raw, unsupported([], what="Documents for the chat template.")] = ABSENT
    mm_processor_kwargs: Annotated[Raw, unsupported({}, what="How to read images.")] = ABSENT
    echo: Annotated[Raw, unsupported(False, what="Whether to begin with the last message.")] = ABSENT
    best_of: Annotated[Raw, unsupported(1, what="How many answers to choose from.")] = ABSENT

    def asked_tokens(self) -> tuple[int | None, str]:
        """How many tokens may be produced, and the field that says so."""
        if self.max_completion_tokens is None:
            return self.max_tokens, "max_tokens"
        return self.max_completion_tokens, "max_completion_tokens"


class AssistantMessage(msgspec.Struct, kw_only=True):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(msgspec.Struct):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishName
    stop_reason: Annotated[int | str | None, Meta(description="The stop string or stop token that ended it.")]
    token_ids: list[int] | UnsetType = UNSET


class ChatResponse(msgspec.Struct, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: list[int] | UnsetType = UNSET


class ChatDelta(msgspec.Struct, kw_only=True):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str


class ChatChunkChoice(msgspec.Struct):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishName | None = None
    stop_reason: int | str | UnsetType | None = UNSET
    token_ids: list[int] | UnsetType = UNSET


class ChatChunk(msgspec.Struct, kw_only=True):
    """One event of a stream; the last one is the text `[DONE]`."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class ChatForm:
    """Writes the answer to one request."""

    def __init__(self, request: ChatRequest, model: str, tokenizer: ModelTokenizer) -> None:
        self._id = f"chatcmpl-{secrets.token_hex(16)}"
        self._created = int(time.time())
        self._model = model
        self._tokenizer = tokenizer
        self._top = request.top_logprobs or 0
        self._scored = bool(request.logprobs)
        self._with_ids = bool(request.return_token_ids)
        # With include_usage every chunk but the last says `"usage": null`.
        include_usage = request.stream_options is not None and request.stream_options.include_usage
        self._no_usage: UnsetType | None = None if include_usage else UNSET

    def splice(self, branch: Branch) -> tuple[bytes, bytes] | None:
        if self._scored or self._with_ids:
            return None
        mark = "\x00text\x00"
        chunk = self._chunk([ChatChunkChoice(branch.index, ChatDelta(content=mark))], self._no_usage)
        head, _, tail = msgspec.json.encode(chunk).partition(msgspec.json.encode(mark))
        return b"data: " + head, tail + b"\n\n"

    def chunk(self, branch: Branch, text: str, first: bool, spent: Usage | None) -> ChatChunk:
        choice = branch.choice
        part = ChatChunkChoice(branch.index, ChatDelta(role="assistant" if first else UNSET, content=text))
        if self._scored:
            part.logprobs = chat_logprobs(choice.scores or [], self._tokenizer, self._top)
        if self._with_ids:
            part.token_ids = choice.token_ids or []
        chunk = self._chunk([part], self._no_usage if spent is None else spent)
        if first and self._with_ids:
            chunk.prompt_token_ids = branch.prompt
        return chunk

    def last_chunk(self, branch: Branch, spent: Usage | None) -> ChatChunk:
        part = ChatChunkChoice(branch.index, ChatDelta(content=""))
        part.finish_reason = branch.choice.finish_reason
        part.stop_reason = branch.choice.stop_reason
        # Of what was asked for there is none left, which clients who go through all chunks read as an empty list.
        if self._scored:
            part.logprobs = chat_logprobs([], self._tokenizer, self._top)
        if self._with_ids:
            part.token_ids = []
        return self._chunk([part], self._no_usage if spent is None else spent)

    def usage_chunk(self, spent: Usage) -> ChatChunk:
        return self._chunk([], spent)

    def _chunk(self, choices: list[ChatChunkChoice], spent: Usage | UnsetType | None) -> ChatChunk:
        return ChatChunk(id=self._id, created=self._created, model=self._model, choices=choices, usage=spent)

    def response(self, branches: list[Collected], spent: Usage) -> ChatResponse:
        choices = []
        for collected in branches:
            choice = collected.branch.choice
            assert choice.finish_reason is not None
            choices.append(
                ChatChoice(
                    collected.branch.index,
                    AssistantMessage(content=collected.text),
                    chat_logprobs(collected.scores, self._tokenizer, self._top) if self._scored else None,
                    choice.finish_reason,
                    choice.stop_reason,
                    collected.token_ids if self._with_ids else UNSET,
                )
            )
        return ChatResponse(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=choices,
            usage=spent,
            prompt_token_ids=branches[0].branch.prompt if self._with_ids else UNSET,
        )


_decoder = BodyDecoder(ChatRequest, PART_KINDS)


async def chat_completions(exchange: Exchange, server: AppState) -> None:
    config = server.config
    body = await exchange.body(config.http.max_body_bytes)
    request, size = _decoder.decode(body, strict=config.http.strict_fields), len(body)
    del body
    model = check_model(request.model, config)
    request.check(config)
    check_count(server, 1, request.n or 1)
    top = _asked_logprobs(request, config.engine.max_logprobs)
    async with admit(exchange, server, size, completions=request.n or 1, priority=request.priority or 0) as admitted:
        tokens = await _prompt_tokens(server, request)
        asked, asked_by = request.asked_tokens()
        most = check_length(
            server.max_model_len, len(tokens), asked, default_max_tokens(config, None), "messages", asked_by
        )
        sampling = request.sampling(config, max_tokens=most, logprobs=top, bad_words=await bad_words(server, request))
        prompt = Prompt("messages", tokens, "", continues=bool(request.continue_final_message))
        branches = branches_for(server, exchange, request, [(prompt, sampling)])
        await run(exchange, server, request, branches, ChatForm(request, model, server.tokenizer), admitted)


async def _prompt_tokens(server: AppState, request: ChatRequest) -> list[int]:
    text = await render(
        server,
        request.messages,
        request.chat_template_kwargs,
        request.add_generation_prompt,
        bool(request.continue_final_message),
    )
    # The texts are not needed any more, and an answer may take minutes.
    request.messages = []
    return await encode_prompt(server, text, add_special_tokens=bool(request.add_special_tokens), param="messages")


def _asked_logprobs(request: ChatRequest, most: int) -> int | None:
    top = request.top_logprobs
    if top and not request.logprobs:
        raise ApiError("top_logprobs needs logprobs to be true.", param="top_logprobs")
    if top is not None and top > most:
        raise ApiError(f"top_logprobs is {top}; this server gives {most} (--max-logprobs).", param="top_logprobs")
    return (top or 0) if request.logprobs else None


async def render(
    server: AppState,
    messages: list[Message],
    template_values: Raw,
    add_generation_prompt: bool | None,
    continue_final: bool,
) -> str:
    """The messages as the checkpoint's template writes them.

    Raises ApiError (400) with the template's own words where it refuses them.
    """
    template = server.chat_template
    if isinstance(template, NoChatTemplate):
        raise ApiError(
            f"{template.reason} Use /v1/completions, or start with --chat-template.", code="no_chat_template"
        )
    if continue_final and add_generation_prompt:
        raise ApiError(
            "continue_final_message and add_generation_prompt exclude one another.", param="continue_final_message"
        )
    values = _values(template_values, server.tokenizer.special)
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
