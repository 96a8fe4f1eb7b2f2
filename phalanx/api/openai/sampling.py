"""Fields that both families of endpoints share, and what they mean to the engine."""

import re
import secrets
from typing import Annotated

import msgspec
from msgspec import Meta, Raw

from phalanx.api.decoding import ABSENT, SHOWN, hint, unsupported
from phalanx.api.errors import ApiError
from phalanx.api.openai.common import TokenId
from phalanx.config import Config, ModelFacts
from phalanx.protocol import SamplingParams

MAX_STOPS = 64
MAX_STOP_LENGTH = 1024
MAX_BAD_WORDS = 128
MAX_ALLOWED = 16384
MAX_STOP_CHARACTERS = 16384
"""The most characters of all stop strings together, with which grows what the search for them holds."""
_TOKEN_KEY = re.compile("0|[1-9][0-9]{0,9}")
_SEEDS = 2**64
_SEED_STEP = 0x9E3779B97F4A7C15
"""It is odd and made of the golden ratio: the seeds of a request's choices are far apart (Knuth, TAOCP 3, 6.4)."""

StopString = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_LENGTH)]


class StreamOptions(msgspec.Struct):
    include_usage: (
        Annotated[bool, Meta(description="End with one chunk that has `usage` and no choices. Default: false.")] | None
    ) = None
    continuous_usage_stats: (
        Annotated[bool, Meta(description="Give `usage` so far in every chunk. Default: false.")] | None
    ) = None
    include_obfuscation: (
        Annotated[bool, Meta(description="Ask for padding; none is made, whatever it says. Default: false.")] | None
    ) = None


class SamplingFields(msgspec.Struct, kw_only=True):
    """How to choose tokens and when to stop; null is the same as absent."""

    model: Annotated[str, Meta(description="One of `/v1/models`. Default: the served model.")] | None = None
    temperature: (
        Annotated[
            float,
            Meta(
                ge=0,
                le=2,
                description="Divides the logits; 0 takes the most likely token. Default: the checkpoint's, else 1.",
            ),
        ]
        | None
    ) = None
    top_p: (
        Annotated[
            float,
            Meta(
                ge=0,
                le=1,
                description="Keep the most likely tokens that together have this probability; 0 keeps one. "
                "Default: the checkpoint's, else 1.",
            ),
        ]
        | None
    ) = None
    top_k: (
        Annotated[
            int,
            Meta(
                ge=-1,
                le=2**31 - 1,
                description="Keep so many of the most likely tokens; -1 and 0 keep all. "
                "Default: the checkpoint's, else all.",
            ),
        ]
        | None
    ) = None
    min_p: (
        Annotated[
            float,
            Meta(
                ge=0,
                le=1,
                description="Drop tokens less likely than this share of the most likely one's probability. "
                "Default: the checkpoint's, else 0.",
            ),
        ]
        | None
    ) = None
    presence_penalty: (
        Annotated[
            float, Meta(ge=-2, le=2, description="Taken from the logit of a token that the answer has. Default: 0.")
        ]
        | None
    ) = None
    frequency_penalty: (
        Annotated[
            float,
            Meta(ge=-2, le=2, description="Taken from a token's logit each time that the answer has it. Default: 0."),
        ]
        | None
    ) = None
    repetition_penalty: (
        Annotated[
            float,
            Meta(
                gt=0,
                le=100,
                description="Divides the positive logits of tokens that prompt or answer have, and multiplies the "
                "others. Default: the checkpoint's, else 1.",
            ),
        ]
        | None
    ) = None
    seed: (
        Annotated[
            int,
            Meta(
                ge=-(2**63),
                le=2**63 - 1,
                description="The same seed gives the same answer to the same request. Default: a random one.",
            ),
        ]
        | None
    ) = None
    logit_bias: (
        Annotated[
            dict[str, Annotated[float, Meta(ge=-100, le=100)]],
            Meta(
                max_length=1024,
                description="Token id to what is added to its logit. Default: none.",
                extra_json_schema={"propertyNames": {"pattern": f"^({_TOKEN_KEY.pattern})$"}},
            ),
        ]
        | None
    ) = None
    allowed_token_ids: (
        Annotated[
            list[TokenId],
            Meta(
                min_length=1,
                max_length=MAX_ALLOWED,
                description="No other token is chosen, an end of sequence neither. Default: all are allowed.",
            ),
        ]
        | None
    ) = None
    bad_words: (
        Annotated[
            list[StopString],
            Meta(
                max_length=MAX_BAD_WORDS,
                description="Words that the answer does not get, with or without a space before them. It is their "
                "tokens that are left out: the same text of other tokens may come. Where they leave no token at all "
                "they do not count. Default: none.",
            ),
        ]
        | None
    ) = None
    stop: (
        Annotated[
            StopString | Annotated[list[StopString], Meta(max_length=MAX_STOPS)],
            Meta(description="Texts that end the answer and are not shown, of special tokens too. Default: none."),
        ]
        | None
    ) = None
    stop_token_ids: (
        Annotated[
            list[TokenId],
            Meta(max_length=128, description="Tokens that end the answer, besides the model's own. Default: none."),
        ]
        | None
    ) = None
    include_stop_str_in_output: (
        Annotated[bool, Meta(description="Show the text or token that ended the answer. Default: false.")] | None
    ) = None
    ignore_eos: (
        Annotated[bool, Meta(description="The model's own ends of sequence do not end the answer. Default: false.")]
        | None
    ) = None
    min_tokens: (
        Annotated[int, Meta(ge=0, le=2**31 - 1, description="Tokens before which nothing ends the answer. Default: 0.")]
        | None
    ) = None
    n: (
        Annotated[
            int, Meta(ge=1, description="Answers to each prompt; prompts times `n` is at most --max-batch. Default: 1.")
        ]
        | None
    ) = None
    stream: Annotated[bool, Meta(description="Answer in server-sent events. Default: false.")] | None = None
    stream_options: Annotated[
        StreamOptions | None, Meta(description="Only for requests with `stream`. Default: none.")
    ] = None
    user: (
        Annotated[
            str, Meta(max_length=1024, description="Who asks, for the caller's own records; ignored. Default: nobody.")
        ]
        | None
    ) = None
    cache_salt: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=1024,
                description="The prefix cache is shared with requests of the same salt alone. It should be long, and "
                "nothing that others can guess. Default: shared with all that have none.",
            ),
        ]
        | None
    ) = None
    priority: (
        Annotated[
            int,
            Meta(
                ge=-(2**31),
                le=2**31 - 1,
                description="Lower runs first; equal ones in order of arrival. Default: 0.",
            ),
        ]
        | None
    ) = None
    timeout: (
        Annotated[
            float,
            Meta(
                gt=0,
                le=86400,
                description="Seconds from its arrival after which it is ended with a 408. Default: no limit.",
            ),
        ]
        | None
    ) = None
    skip_special_tokens: (
        Annotated[bool, Meta(description="Special tokens of the answer are not shown. Default: true.")] | None
    ) = None
    return_token_ids: (
        Annotated[bool, Meta(description="Give `prompt_token_ids` and `token_ids`. Default: false.")] | None
    ) = None

    metadata: Annotated[Raw, hint("The caller's own notes.")] = ABSENT
    store: Annotated[Raw, hint("Whether to keep the answer for later; nothing is kept.")] = ABSENT
    safety_identifier: Annotated[Raw, hint("Who asks.")] = ABSENT
    prompt_cache_key: Annotated[Raw, hint("Which requests are alike; every prompt is looked up.")] = ABSENT
    prompt_cache_retention: Annotated[Raw, hint("How long the prompt is to be cached.")] = ABSENT
    service_tier: Annotated[Raw, hint("How urgent it is; see priority.")] = ABSENT
    verbosity: Annotated[Raw, hint("How long the answer should be.")] = ABSENT
    prediction: Annotated[Raw, hint("What the answer may look like, to be faster.")] = ABSENT

    response_format: Annotated[Raw, unsupported({"type": "text"}, what="The form of the answer.")] = ABSENT
    structured_outputs: Annotated[Raw, unsupported(what="A grammar that the answer must keep.")] = ABSENT
    guided_json: Annotated[Raw, unsupported(what="A JSON schema that the answer must keep.")] = ABSENT
    guided_regex: Annotated[Raw, unsupported(what="A pattern that the answer must match.")] = ABSENT
    guided_choice: Annotated[Raw, unsupported(what="Texts of which the answer must be one.")] = ABSENT
    guided_grammar: Annotated[Raw, unsupported(what="A grammar that the answer must keep.")] = ABSENT
    prompt_logprobs: Annotated[Raw, unsupported(what="Log probabilities of the prompt; see echo.")] = ABSENT
    truncate_prompt_tokens: Annotated[Raw, unsupported(what="How much of a long prompt to keep.")] = ABSENT
    use_beam_search: Annotated[Raw, unsupported(False, what="Search instead of sampling.")] = ABSENT
    length_penalty: Annotated[Raw, unsupported(1, what="How beam search weighs lengths.")] = ABSENT
    early_stopping: Annotated[Raw, unsupported(False, what="When beam search stops.")] = ABSENT
    logits_processors: Annotated[Raw, unsupported([], what="Code that changes logits.")] = ABSENT
    spaces_between_special_tokens: Annotated[Raw, unsupported(True, what="How to write special tokens.")] = ABSENT
    return_tokens_as_token_ids: Annotated[Raw, unsupported(False, what="Ids in place of texts in logprobs.")] = ABSENT
    kv_transfer_params: Annotated[Raw, unsupported(what="Where a KV cache comes from.")] = ABSENT
    vllm_xargs: Annotated[Raw, unsupported({}, what="Values for extensions.")] = ABSENT

    def stop_strings(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def check(self, config: Config) -> None:
        """Raise ApiError for what the types cannot say."""
        for name, what, texts in (
            ("stop", "stop strings", self.stop_strings()),
            ("bad_words", "bad words", self.bad_words or []),
        ):
            characters = sum(map(len, texts))
            if characters > MAX_STOP_CHARACTERS:
                raise ApiError(
                    f"{name} has {characters} characters in all; the {what} of a request may have "
                    f"{MAX_STOP_CHARACTERS} together.",
                    param=name,
                )
        vocabulary = config.facts.vocab_size
        biased = [_token_of_key(key) for key in self.logit_bias or ()]
        for name, ids in (
            ("logit_bias", biased),
            ("stop_token_ids", self.stop_token_ids),
            ("allowed_token_ids", self.allowed_token_ids),
        ):
            for token in ids or ():
                if token >= vocabulary:
                    raise ApiError(
                        f"{name} names token {token}; the model's tokens are 0 to {vocabulary - 1}.", param=name
                    )
        if self.stream_options is not None and not self.stream:
            raise ApiError("stream_options is only for requests with stream set to true.", param="stream_options")

    def sampling(
        self,
        config: Config,
        *,
        max_tokens: int,
        logprobs: int | None,
        prompt_logprobs: int | None = None,
        bad_words: tuple[tuple[int, ...], ...] = (),
    ) -> SamplingParams:
        """What the engine gets: the request's values, then the checkpoint's defaults, then OpenAI's.

        Raises:
            ApiError: 400, the values contradict one another.
        """
        min_tokens = self.min_tokens or 0
        if min_tokens > max_tokens:
            raise ApiError(
                f"min_tokens is {min_tokens}, more than the {max_tokens} tokens this request may produce.",
                param="min_tokens",
            )
        self._check_choice(config.facts, min_tokens, bad_words)
        default = config.facts.default_sampling.get
        return SamplingParams(
            max_tokens=max_tokens,
            min_tokens=min_tokens,
            temperature=_first(self.temperature, default("temperature"), 1.0),
            # 0 asks for the most likely token alone, which the smallest positive share gives.
            top_p=max(_first(self.top_p, default("top_p"), 1.0), 1e-9),
            top_k=max(int(_first(self.top_k, default("top_k"), 0)), 0),
            min_p=_first(self.min_p, default("min_p"), 0.0),
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=_first(self.repetition_penalty, default("repetition_penalty"), 1.0),
            seed=secrets.randbits(64) if self.seed is None else self.seed % _SEEDS,
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos),
            logit_bias={int(key): bias for key, bias in self.logit_bias.items()} if self.logit_bias else None,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            allowed_token_ids=tuple(self.allowed_token_ids or ()),
            bad_words=bad_words,
            cache_salt=self.cache_salt or "",
        )

    def _check_choice(self, facts: ModelFacts, min_tokens: int, bad_words: tuple[tuple[int, ...], ...]) -> None:
        """Raise ApiError (400) where no token is left for the first position."""
        excluded = {word[0] for word in bad_words if len(word) == 1}
        if min_tokens:
            excluded.update(self.stop_token_ids or (), () if self.ignore_eos else facts.eos_token_ids)
        allowed = self.allowed_token_ids
        if (excluded.issuperset(allowed)) if allowed else len(excluded) >= facts.vocab_size:
            raise ApiError(
                "No token is left to choose from: all that allowed_token_ids leaves are bad_words, or would end the "
                "answer before min_tokens.",
                param="allowed_token_ids" if allowed else "bad_words",
            )


def _token_of_key(key: str) -> int:
    """The token that a key of logit_bias names. Raises ApiError (400), which quotes the key, where it is no id."""
    if _TOKEN_KEY.fullmatch(key) is None:
        raise ApiError(
            f"Invalid value for the key {key[:SHOWN]!r} of logit_bias: Expected `int`, the id of a token.",
            param="logit_bias",
        )
    return int(key)


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)


def choice_seed(seed: int, choice: int) -> int:
    """The seed of the choice-th completion of one prompt; the first keeps the request's own."""
    return (seed + choice * _SEED_STEP) % _SEEDS
