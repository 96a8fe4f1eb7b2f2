"""POST /tokenize and /detokenize, in the shapes that vLLM's users know."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from phalanx.api.app_state import AppState
from phalanx.api.decoding import ABSENT, BodyDecoder, unsupported
from phalanx.api.errors import ApiError
from phalanx.api.http import Exchange
from phalanx.api.openai.admitted_request import admit
from phalanx.api.openai.common import TokenId, check_model
from phalanx.api.openai.messages import PART_KINDS, Messages
from phalanx.api.openai.prompts import check_tokens
from phalanx.api.openai.rendering import AddGenerationPrompt, ContinueFinalMessage, TemplateValues, render
from phalanx.text.tokenizer import TooLong

MOST_TOKENS = 2**20
"""Longer texts are refused: counting them would keep a thread busy for many seconds."""


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """A text as `prompt`, or a chat as `messages`."""

    model: Annotated[str, Meta(description="One of `/v1/models`. Default: the served model.")] | None = None
    prompt: Annotated[str, Meta(description="A text. Default: messages are given.")] | None = None
    messages: Annotated[Messages, Meta(description="A chat. Default: prompt is given.")] | None = None
    add_special_tokens: (
        Annotated[
            bool,
            Meta(
                description="Add those that a text begins or ends with. Default: true for prompt, false for messages."
            ),
        ]
        | None
    ) = None
    return_token_strs: (
        Annotated[bool, Meta(description="Give the tokens as the vocabulary writes them too. Default: false.")] | None
    ) = None
    add_generation_prompt: AddGenerationPrompt | None = None
    continue_final_message: ContinueFinalMessage | None = None
    chat_template_kwargs: TemplateValues = ABSENT
    tools: Annotated[Raw, unsupported([], what="Tools that the model may call.")] = ABSENT
    chat_template: Annotated[Raw, unsupported(what="A template in place of the server's.")] = ABSENT


class TokenizeResponse(msgspec.Struct):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | UnsetType = UNSET


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    model: Annotated[str, Meta(description="One of `/v1/models`. Default: the served model.")] | None = None
    tokens: Annotated[list[TokenId], Meta(description="Token ids; at most 1,048,576.")]


class DetokenizeResponse(msgspec.Struct):
    prompt: str


_tokenize_decoder = BodyDecoder(TokenizeRequest, PART_KINDS)
_detokenize_decoder = BodyDecoder(DetokenizeRequest)


async def tokenize(exchange: Exchange, server: AppState) -> None:
    body = await exchange.body(server.config.http.max_body_bytes)
    request, size = _tokenize_decoder.decode(body, strict=server.config.http.strict_fields), len(body)
    del body
    check_model(request.model, server.config)
    if (request.prompt is None) == (request.messages is None):
        raise ApiError("Give either prompt or messages.", param="prompt")
    field = "prompt" if request.messages is None else "messages"
    async with admit(exchange, server, size):
        if request.messages is not None:
            text = await render(server, request.messages, request)
            add = bool(request.add_special_tokens)
        else:
            assert request.prompt is not None
            text, add = request.prompt, request.add_special_tokens is not False
        try:
            tokens = await server.tokenizer.encode(text, add_special_tokens=add, limit=MOST_TOKENS)
        except TooLong as error:
            raise ApiError(f"The text has {error}; this endpoint takes up to {MOST_TOKENS}.", param=field) from None
        if tokens:
            check_tokens(tokens, server, field)
        answer = TokenizeResponse(len(tokens), server.max_model_len, tokens)
        if request.return_token_strs:
            answer.token_strs = [server.tokenizer.token_string(token) or "" for token in tokens]
        await exchange.reply_json(answer)


async def detokenize(exchange: Exchange, server: AppState) -> None:
    body = await exchange.body(server.config.http.max_body_bytes)
    request, size = _detokenize_decoder.decode(body, strict=server.config.http.strict_fields), len(body)
    del body
    check_model(request.model, server.config)
    if len(request.tokens) > MOST_TOKENS:
        raise ApiError(f"{len(request.tokens)} tokens; this endpoint takes up to {MOST_TOKENS}.", param="tokens")
    if request.tokens:
        check_tokens(request.tokens, server, "tokens")
    async with admit(exchange, server, size):
        text = await server.tokenizer.decode(request.tokens, skip_special_tokens=False)
        await exchange.reply_json(DetokenizeResponse(text))
