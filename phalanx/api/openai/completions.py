"""POST /v1/completions."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from phalanx.api.app_state import AppState
from phalanx.api.decoding import ABSENT, LARGE_BODY, BodyDecoder, unsupported
from phalanx.api.errors import ApiError
from phalanx.api.http import Exchange
from phalanx.api.known_errors import too_long
from phalanx.api.openai.admitted_request import admit
from phalanx.api.openai.answering import Collected, run
from phalanx.api.openai.branch import Branch
from phalanx.api.openai.chunk_writer import ChunkWriter
from phalanx.api.openai.common import TokenId, Usage, check_length, check_model, default_max_tokens
from phalanx.api.openai.logprobs import CompletionLogprobs, completion_logprobs, echoed_logprobs, joined
from phalanx.api.openai.prompts import Prompt, bad_words, branches_for, check_count, check_tokens, encode_prompt
from phalanx.api.openai.sampling import SamplingFields
from phalanx.protocol import SamplingParams
from phalanx.text.choice import FinishName, ScoredToken
from phalanx.text.tokenizer import ModelTokenizer

DEFAULT_MAX_TOKENS = 16
"""OpenAI's."""


class CompletionRequest(SamplingFields, kw_only=True):
    prompt: Annotated[
        str | list[str | TokenId | list[TokenId]],
        Meta(description="A text, its token ids, or a list of either; all of one kind."),
    ]
    max_tokens: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=2**31 - 1,
                description="Tokens that an answer may have; 0 with echo and logprobs scores the prompt alone. "
                "Default: the checkpoint's max_new_tokens, else 16.",
            ),
        ]
        | None
    ) = None
    echo: (
        Annotated[
            bool, Meta(description="Begin with the prompt; its log probabilities too, with logprobs. Default: false.")
        ]
        | None
    ) = None
    logprobs: (
        Annotated[
            int,
            Meta(
                ge=0,
                description="Give each token's log probability, and so many of the most likely tokens'; at most "
                "--max-logprobs. Default: none.",
            ),
        ]
        | None
    ) = None
    add_special_tokens: (
        Annotated[bool, Meta(description="Add those that a text begins or ends with. Default: true.")] | None
    ) = None
    best_of: Annotated[int, Meta(ge=1, description="Only what `n` says is supported yet. Default: n.")] | None = None
    suffix: Annotated[Raw, unsupported("", what="Text that comes after the completion.")] = ABSENT

    def prompts(self) -> list[str | list[int]]:
        """One or more prompts.

        Raises ApiError (400) for kinds mixed, and for nothing.
        """
        given = self.prompt
        if isinstance(given, str):
            return [given]
        if given and all(isinstance(item, int) for item in given):
            return [given]  # type: ignore[list-item]
        kinds = {type(item) for item in given}
        if len(kinds) > 1:
            raise ApiError("prompt mixes texts, tokens and lists; give all of one kind.", param="prompt")
        if not given:
            raise ApiError("prompt is an empty list.", param="prompt")
        return given  # type: ignore[return-value]


class CompletionChoice(msgspec.Struct):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishName | None
    stop_reason: Annotated[int | str | None, Meta(description="The stop string or stop token that ended it.")] = None
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class CompletionResponse(msgspec.Struct, kw_only=True):
    """The whole answer, or one event of a stream, whose last one is the text `[DONE]`."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET


class CompletionForm:
    """Writes the answer to one request."""

    def __init__(self, request: CompletionRequest, model: str, tokenizer: ModelTokenizer) -> None:
        self._writer = ChunkWriter(CompletionResponse, "cmpl", model, request.stream_options)
        self._tokenizer = tokenizer
        self._echo = bool(request.echo)
        self._top = request.logprobs
        self._with_ids = bool(request.return_token_ids)

    def splice(self, branch: Branch) -> tuple[bytes, bytes] | None:
        if self._top is not None or self._with_ids:
            return None
        return self._writer.splice(lambda text: CompletionChoice(branch.index, text, None, None))

    def chunk(self, branch: Branch, text: str, first: bool, spent: Usage | None) -> CompletionResponse:
        scores = branch.choice.scores or []
        choice = self._choice(branch, text, self._scored(branch, scores, first), branch.choice.token_ids, first)
        return self._writer.chunk([choice], spent)

    def last_chunk(self, branch: Branch, spent: Usage | None) -> CompletionResponse:
        choice = branch.choice
        last = CompletionChoice(branch.index, "", None, choice.finish_reason, choice.stop_reason)
        # Of what was asked for there is none left, which clients who go through all chunks read as empty lists.
        if self._top is not None:
            last.logprobs = completion_logprobs([], self._tokenizer, self._top)
        if self._with_ids:
            last.token_ids = []
        return self._writer.chunk([last], spent)

    def usage_chunk(self, spent: Usage) -> CompletionResponse:
        return self._writer.chunk([], spent)

    def response(self, branches: list[Collected], spent: Usage) -> CompletionResponse:
        choices = []
        for collected in branches:
            branch = collected.branch
            scored = self._scored(branch, collected.scores, True)
            choice = self._choice(branch, collected.text, scored, collected.token_ids, True)
            choice.finish_reason, choice.stop_reason = branch.choice.finish_reason, branch.choice.stop_reason
            choices.append(choice)
        # The whole answer has the form of a chunk here.
        return self._writer.chunk(choices, spent)

    def _choice(
        self, branch: Branch, text: str, logprobs: CompletionLogprobs | None, ids: list[int] | None, first: bool
    ) -> CompletionChoice:
        text = branch.prompt_text + text if first and self._echo else text
        choice = CompletionChoice(branch.index, text, logprobs, None)
        if self._with_ids:
            choice.token_ids = ids or []
            if first:
                choice.prompt_token_ids = branch.prompt
        return choice

    def _scored(self, branch: Branch, scores: list[ScoredToken], first: bool) -> CompletionLogprobs | None:
        if self._top is None:
            return None
        offset = len(branch.prompt_text) if self._echo else 0
        found = completion_logprobs(scores, self._tokenizer, self._top, offset)
        if first and self._echo and branch.prompt_logprobs is not None:
            prompt = echoed_logprobs(
                branch.prompt, branch.prompt_text, branch.prompt_logprobs, self._tokenizer, self._top
            )
            return joined(prompt, found)
        return found


_decoder = BodyDecoder(CompletionRequest)


class _PromptAlone(msgspec.Struct):
    prompt: Raw = ABSENT


def _refuse_endless_lists(body: bytes, server: AppState) -> None:
    """Raise ApiError (400) for lists of tokens that cannot fit, before objects are made of millions of entries.

    Counts brackets and commas; a list that begins with a text is left to the decoder, as is what is no JSON.
    """
    try:
        prompt = bytes(msgspec.json.decode(body, type=_PromptAlone).prompt).strip()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if not prompt.startswith(b"[") or prompt[1:].lstrip().startswith(b'"'):
        return
    lists = prompt.count(b"[") - 1
    check_count(server, lists, 1)
    tokens = prompt.count(b",") + 1
    if tokens > max(lists, 1) * server.max_model_len:
        raise too_long(server.max_model_len, tokens, "prompt")


async def completions(exchange: Exchange, server: AppState) -> None:
    config = server.config
    request, size = await _read(exchange, server)
    model = check_model(request.model, config)
    request.check(config)
    n = request.n or 1
    if request.best_of is not None and request.best_of != n:
        raise ApiError("best_of other than n is not supported yet.", param="best_of", code="unsupported_parameter")
    most = config.engine.max_logprobs
    if request.logprobs is not None and request.logprobs > most:
        raise ApiError(f"logprobs is {request.logprobs}; this server gives {most} (--max-logprobs).", param="logprobs")
    check_count(server, 1, n)
    async with admit(exchange, server, size, completions=n, priority=request.priority or 0) as admitted:
        prompts = await _sampled_prompts(server, request)
        branches = branches_for(server, exchange, request, prompts)
        form = CompletionForm(request, model, server.tokenizer)
        await run(exchange, server, request, branches, form, admitted)


async def _read(exchange: Exchange, server: AppState) -> tuple[CompletionRequest, int]:
    """The request, and the bytes it came in."""
    body = await exchange.body(server.config.http.max_body_bytes)
    if len(body) > LARGE_BODY:
        _refuse_endless_lists(body, server)
    return _decoder.decode(body, strict=server.config.http.strict_fields), len(body)


async def _sampled_prompts(server: AppState, request: CompletionRequest) -> list[tuple[Prompt, SamplingParams]]:
    given = request.prompts()
    check_count(server, len(given), request.n or 1)
    default = default_max_tokens(server.config, DEFAULT_MAX_TOKENS)
    excluded = await bad_words(server, request)
    prompts = []
    for prompt in given:
        encoded = await _encode(server, request, prompt)
        length = len(encoded.tokens)
        sampling = request.sampling(
            server.config,
            max_tokens=check_length(server.max_model_len, length, request.max_tokens, default, "prompt"),
            logprobs=request.logprobs,
            prompt_logprobs=request.logprobs if request.echo else None,
            bad_words=excluded,
        )
        prompts.append((encoded, sampling))
    # Texts that are not echoed are not needed any more, and an answer may take minutes.
    request.prompt = ""
    return prompts


async def _encode(server: AppState, request: CompletionRequest, prompt: str | list[int]) -> Prompt:
    if isinstance(prompt, str):
        add = request.add_special_tokens is not False
        tokens = await encode_prompt(server, prompt, add_special_tokens=add, param="prompt")
        return Prompt("prompt", tokens, prompt if request.echo else "", continues=bool(prompt))
    check_tokens(prompt, server, "prompt")
    # The length is checked before the text is made.
    check_length(server.max_model_len, len(prompt), request.max_tokens, None, "prompt")
    text = await server.tokenizer.decode(prompt, skip_special_tokens=False) if request.echo else ""
    return Prompt("prompt", prompt, text, continues=True)
