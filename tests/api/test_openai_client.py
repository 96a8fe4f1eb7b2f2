"""The official client works against every endpoint, streaming and not."""

from collections.abc import Callable

import openai
import pytest
from support.fake_engine import ServedApi, an_output, answering, byte_token

from phalanx.protocol import FinishReason

Serve = Callable[..., ServedApi]
CHAT = [{"role": "user", "content": "Say it"}]


def client_of(api: ServedApi) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{api.url}/v1", api_key="any", max_retries=0, http_client=api.http)


@pytest.fixture
def client(serve_api: Serve) -> openai.OpenAI:
    return client_of(serve_api(answering("Grüße, 世界! 👋")))


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="test-model", messages=CHAT)
    assert answer.choices[0].message.content == "Grüße, 世界! 👋"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "test-model"
    assert answer.usage is not None
    written = len("<|user|>Say it<|end|><|assistant|>") - len("<|user|><|end|><|assistant|>") + 3
    said = len("Grüße, 世界! 👋".encode()) + 1
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (written, said)
    assert answer.usage.total_tokens == written + said
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 2


def test_streamed_chat(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="test-model", messages=CHAT, stream=True, stream_options={"include_usage": True}
        )
    )
    *parts, last = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in parts) == "Grüße, 世界! 👋"
    assert parts[0].choices[0].delta.role == "assistant"
    assert parts[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in parts)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == len("Grüße, 世界! 👋".encode()) + 1
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_has_no_usage_that_was_not_asked_for(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="test-model", messages=CHAT, stream=True))
    assert all("usage" not in chunk.model_fields_set and chunk.choices for chunk in chunks)


def test_several_choices(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="test-model", messages=CHAT, n=3, max_tokens=4)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [choice.message.content for choice in answer.choices] == ["Grü"] * 3
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12


def test_several_streamed_choices(client: openai.OpenAI) -> None:
    texts = {0: "", 1: "", 2: ""}
    reasons = {}
    for chunk in client.chat.completions.create(model="test-model", messages=CHAT, n=3, stream=True):
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            reasons[choice.index] = choice.finish_reason
    assert set(texts.values()) == {"Grüße, 世界! 👋"}
    assert reasons == {0: "stop", 1: "stop", 2: "stop"}


@pytest.mark.parametrize("stream", [False, True])
def test_chat_logprobs(client: openai.OpenAI, stream: bool) -> None:
    options = {"model": "test-model", "messages": CHAT, "logprobs": True, "top_logprobs": 2}
    if stream:
        entries = [
            entry
            for chunk in client.chat.completions.create(**options, stream=True)  # type: ignore[call-overload]
            for entry in chunk.choices[0].logprobs.content
        ]
    else:
        answer = client.chat.completions.create(**options)  # type: ignore[call-overload]
        entries = answer.choices[0].logprobs.content
    whole = "Grüße, 世界! 👋".encode()
    assert bytes(byte for entry in entries for byte in entry.bytes) == whole
    assert [entry.token for entry in entries[:4]] == ["G", "r", "\\xc3", "\\xbc"]
    assert [(top.token, top.logprob) for top in entries[0].top_logprobs] == [("H", -0.25), ("I", -1.25)]
    assert {entry.logprob for entry in entries} == {-0.5}


def test_completion(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="test-model", prompt="Say", max_tokens=100)
    assert answer.choices[0].text == "Grüße, 世界! 👋"
    assert answer.choices[0].finish_reason == "stop"


def test_a_completion_has_sixteen_tokens_where_nothing_is_said(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="test-model", prompt="Say")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16
    assert answer.choices[0].finish_reason == "length"


def test_streamed_completion(client: openai.OpenAI) -> None:
    chunks = list(client.completions.create(model="test-model", prompt="Say", max_tokens=100, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Grüße, 世界! 👋"
    assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    "prompt", ["hé", ["hé", "ho"], [71, 72], [[71, 72], [73]]], ids=["text", "texts", "tokens", "lists of tokens"]
)
def test_prompts_of_every_kind(serve_api: Serve, prompt: object) -> None:
    api = serve_api(answering("ok"))
    answer = client_of(api).completions.create(model="test-model", prompt=prompt, n=2)  # type: ignore[call-overload]
    count = 2 if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    assert [(choice.index, choice.text) for choice in answer.choices] == [(i, "ok") for i in range(2 * count)]
    one = [byte_token(byte) for byte in "hé".encode()]
    two = [byte_token(byte) for byte in b"ho"]
    expected = {"hé": [one], "['hé', 'ho']": [one, two], "[71, 72]": [[71, 72]], "[[71, 72], [73]]": [[71, 72], [73]]}
    assert [asked.prompt for asked in api.rank.asked[::2]] == expected[str(prompt)]


def test_echo_gives_the_prompt_and_its_logprobs(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="test-model", prompt="Hä", echo=True, logprobs=1, max_tokens=2)
    choice = answer.choices[0]
    assert choice.text == "HäGr"
    logprobs = choice.logprobs
    assert logprobs is not None
    assert logprobs.tokens == ["H", "bytes:\\xc3", "bytes:\\xa4", "G", "r"]
    assert logprobs.token_logprobs == [None, -0.5, -0.5, -0.5, -0.5]
    assert logprobs.text_offset == [0, 1, 1, 2, 3]
    assert logprobs.top_logprobs is not None
    assert logprobs.top_logprobs[0] is None
    assert logprobs.top_logprobs[3] == {"H": -0.25, "G": -0.5}


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_can_be_scored_without_generating(client: openai.OpenAI, stream: bool) -> None:
    answer = client.completions.create(
        model="test-model", prompt=[71, 72, 73], echo=True, logprobs=0, max_tokens=0, stream=stream
    )
    choices = [chunk.choices[0] for chunk in answer] if stream else [answer.choices[0]]
    assert "".join(choice.text for choice in choices) == "hij"
    scored = [choice.logprobs for choice in choices if choice.logprobs and choice.logprobs.tokens]
    assert scored[0].tokens == ["h", "i", "j"]
    assert scored[0].token_logprobs == [None, -0.5, -0.5]
    assert choices[-1].finish_reason == "length"


def test_echo_alone_asks_the_engine_for_nothing(serve_api: Serve) -> None:
    api = serve_api()
    answer = client_of(api).completions.create(model="test-model", prompt="As it is", echo=True, max_tokens=0)
    assert answer.choices[0].text == "As it is"
    assert api.rank.asked == []


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["test-model", "other/name"]
    assert client.models.retrieve("other/name").id == "other/name"
    with pytest.raises(openai.NotFoundError, match="'test-model', 'other/name'"):
        client.models.retrieve("nothing")


def test_errors_arrive_as_the_client_s_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="test-model", messages=CHAT, temperature=9)
    assert error.value.param == "temperature"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-5", messages=CHAT)
    assert missing.value.code == "model_not_found"


def test_the_last_rank_that_dies_ends_a_stream_in_an_error(serve_api: Serve) -> None:
    api = serve_api(lambda prompt, sampling: [an_output([byte_token(ord("a"))])])
    received = iter(client_of(api).chat.completions.create(model="test-model", messages=CHAT, stream=True))
    assert next(received).choices[0].delta.content == "a"
    api.rank.die()
    with pytest.raises(openai.APIError, match="Nothing can be generated now"):
        next(received)


def test_the_last_rank_that_dies_before_the_first_token_is_a_plain_error(serve_api: Serve) -> None:
    api = serve_api()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api.rank, "_take", lambda submit: api.rank.hang_up())
        with pytest.raises(openai.InternalServerError, match="Nothing can be generated now"):
            client_of(api).chat.completions.create(model="test-model", messages=CHAT, stream=True)


def test_an_engine_s_own_error_is_told(serve_api: Serve) -> None:
    api = serve_api(lambda prompt, sampling: [an_output([], FinishReason.ERROR, error="the logits are not numbers")])
    with pytest.raises(openai.InternalServerError, match="the logits are not numbers"):
        client_of(api).chat.completions.create(model="test-model", messages=CHAT)
