"""POST /v1/chat/completions."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from phalanx.api.app_state import AppState
from phalanx.api.decoding import ABSENT, BodyDecoder, unsupported
from phalanx.api.errors import ApiError
from phalanx.api.http import Exchange
from phalanx.api.openai.admitted_request import admit
from phalanx.api.openai.answering import Collected, run
from phalanx.api.openai.branch import Branch
from phalanx.api.openai.chunk_writer import ChunkWriter
from phalanx.api.openai.common import Usage, check_length, check_model, default_max_tokens
from phalanx.api.openai.logprobs import ChatLogprobs, chat_logprobs
from phalanx.api.openai.messages import PART_KINDS, Messages
from phalanx.api.openai.prompts import Prompt, bad_words, branches_for, check_count, encode_prompt
from phalanx.api.openai.rendering import AddGenerationPrompt, ContinueFinalMessage, TemplateValues, render
from phalanx.api.openai.sampling import SamplingFields
from phalanx.text.choice import FinishName
from phalanx.text.tokenizer import ModelTokenizer


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
        self._writer = ChunkWriter(ChatChunk, "chatcmpl", model, request.stream_options)
        self._tokenizer = tokenizer
        self._top = request.top_logprobs or 0
        self._scored = bool(request.logprobs)
        self._with_ids = bool(request.return_token_ids)

    def splice(self, branch: Branch) -> tuple[bytes, bytes] | None:
        if self._scored or self._with_ids:
            return None
        return self._writer.splice(lambda text: ChatChunkChoice(branch.index, ChatDelta(content=text)))

    def chunk(self, branch: Branch, text: str, first: bool, spent: Usage | None) -> ChatChunk:
        choice = branch.choice
        part = ChatChunkChoice(branch.index, ChatDelta(role="assistant" if first else UNSET, content=text))
        if self._scored:
            part.logprobs = chat_logprobs(choice.scores or [], self._tokenizer, self._top)
        if self._with_ids:
            part.token_ids = choice.token_ids or []
        chunk = self._writer.chunk([part], spent)
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
        return self._writer.chunk([part], spent)

    def usage_chunk(self, spent: Usage) -> ChatChunk:
        return self._writer.chunk([], spent)

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
            **self._writer.head,
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
    text = await render(server, request.messages, request)
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
