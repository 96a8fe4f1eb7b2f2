"""What a request says about sampling is what the engine is asked for."""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from support.fake_engine import Asked, ServedApi, a_config, answering, byte_token, events
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import Replace

from phalanx.api.errors import ApiError
from phalanx.api.openai.prompts import bad_words
from phalanx.api.openai.sampling import SamplingFields
from phalanx.config import Config
from phalanx.protocol import SamplingParams
from phalanx.text.tokenizer import ModelTokenizer

Ask = Callable[..., list[Asked]]


@pytest.fixture(scope="module")
def api(checkpoint_folder: Path) -> Iterator[ServedApi]:
    with ServedApi(checkpoint_folder, answering("ok")) as api:
        yield api


@pytest.fixture
def ask(api: ServedApi) -> Ask:
    """Send a completion, or a chat where `messages` are given; what the engine was asked for it."""

    def ask(**body: Any) -> list[Asked]:
        before = len(api.rank.asked)
        path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
        answer = api.http.post(path, json=body if "messages" in body else {"prompt": "hi", **body})
        assert answer.status_code == 200, answer.text
        return api.rank.asked[before:]

    return ask


def test_every_option_reaches_the_engine(ask: Ask) -> None:
    (asked,) = ask(
        max_tokens=7,
        min_tokens=3,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.1,
        presence_penalty=0.3,
        frequency_penalty=-0.3,
        repetition_penalty=1.2,
        seed=11,
        stop_token_ids=[5, 6],
        ignore_eos=True,
        logit_bias={"7": -100, "8": 2.5},
        logprobs=2,
        allowed_token_ids=[9, 7],
        bad_words=["ab", " c"],
        cache_salt="of one tenant",
        priority=-4,
    )
    assert asked.sampling == SamplingParams(
        max_tokens=7,
        min_tokens=3,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.1,
        presence_penalty=0.3,
        frequency_penalty=-0.3,
        repetition_penalty=1.2,
        seed=11,
        stop_token_ids=(5, 6),
        ignore_eos=True,
        logit_bias={7: -100.0, 8: 2.5},
        logprobs=2,
        allowed_token_ids=(9, 7),
        bad_words=(tuple(map(byte_token, b"ab")), (byte_token(ord("c")),)),
        cache_salt="of one tenant",
    )
    assert asked.submit.priority == -4


def test_a_request_that_says_nothing_samples_as_openai_does(ask: Ask) -> None:
    (asked,) = ask()
    plain = SamplingParams(max_tokens=16, seed=asked.sampling.seed)
    assert asked.sampling == plain


def test_the_checkpoint_s_defaults_stand_where_a_request_says_nothing(checkpoint_folder: Path) -> None:
    config = with_defaults(checkpoint_folder, temperature=0.6, top_p=0.95, top_k=20.0, repetition_penalty=1.1)
    sampling = SamplingFields(top_p=0.5).sampling(config, max_tokens=1, logprobs=None)
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.6, 0.5, 20)
    assert (sampling.repetition_penalty, sampling.min_p) == (1.1, 0.0)
    assert SamplingFields(temperature=0).sampling(config, max_tokens=1, logprobs=None).temperature == 0


def with_defaults(folder: Path, **values: float) -> Config:
    config = a_config(folder)
    return msgspec.structs.replace(config, facts=msgspec.structs.replace(config.facts, default_sampling=values))


def test_the_checkpoint_s_max_new_tokens_stands_where_a_request_names_no_number(checkpoint_folder: Path) -> None:
    folder = Path(shutil.copytree(checkpoint_folder, checkpoint_folder.with_name("with_max_new_tokens")))
    (folder / "generation_config.json").write_text('{"max_new_tokens": 40}')
    with ServedApi(folder, answering("ok")) as api:
        for path, body in (
            ("/v1/completions", {"prompt": "hi"}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ):
            for more, expected in (({}, 40), ({"max_tokens": 50}, 50), ({"max_tokens": None}, 40)):
                assert api.http.post(path, json={**body, **more}).status_code == 200
                assert api.rank.asked[-1].sampling.max_tokens == expected
        assert api.http.post("/v1/completions", json={"prompt": [1] * 2040}).status_code == 200
        assert api.rank.asked[-1].sampling.max_tokens == 8


def test_bad_words_are_tokens_of_a_word_at_the_beginning_and_in_the_middle(tmp_path: Path) -> None:
    vocabulary = {"<unk>": 0, "a": 1, "b": 2, "▁": 3, "ab": 4, "▁ab": 5, "c": 6, "<s>": 7, "▁c": 8, "bc": 13}
    vocabulary |= {"d": 10, "e": 11, "▁de": 12, "▁d": 9}
    tokenizer = Tokenizer(
        BPE(vocabulary, [("a", "b"), ("▁", "ab"), ("▁", "c"), ("b", "c"), ("▁", "d"), ("▁d", "e")], unk_token="<unk>")
    )
    tokenizer.normalizer = Replace(" ", "▁")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    model = ModelTokenizer.load(tmp_path)
    service: Any = SimpleNamespace(
        tokenizer=model, max_model_len=100, config=SimpleNamespace(facts=SimpleNamespace(vocab_size=13))
    )

    def read(*words: str) -> tuple[tuple[int, ...], ...]:
        return asyncio.run(bad_words(service, SamplingFields(bad_words=list(words))))

    try:
        assert read("ab", " ab", "  c") == ((4,), (5,), (4,), (5,), (6,), (8,))
        # A space that is a token of its own ends with the word: it is not counted twice.
        assert read("b") == ((2,),)
        assert read("cab") == ((6, 4), (8, 4))
        assert read("abb") == ((4, 2), (5, 2))
        assert read("de") == ((10, 11), (12,))
        for word, says in (("   ", "makes nothing"), ("bc", "tokens are 0 to 12")):
            with pytest.raises(ApiError, match=says) as refused:
                read(word)
            assert refused.value.detail.param == "bad_words"
    finally:
        model.close()


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"allowed_token_ids": []}, "allowed_token_ids", "length >= 1"),
        ({"allowed_token_ids": [260]}, "allowed_token_ids", "0 to 259"),
        ({"allowed_token_ids": [-1]}, "allowed_token_ids[0]", ">= 0"),
        ({"allowed_token_ids": [256], "min_tokens": 1}, "allowed_token_ids", "No token is left"),
        ({"allowed_token_ids": [5, 6], "stop_token_ids": [5, 6], "min_tokens": 1}, "allowed_token_ids", "No token"),
        ({"allowed_token_ids": [byte_token(97)], "bad_words": ["a"]}, "allowed_token_ids", "No token is left"),
        ({"bad_words": [""]}, "bad_words[0]", "length >= 1"),
        ({"bad_words": ["a"] * 129}, "bad_words", "length <= 128"),
        ({"bad_words": ["x" * 1024] * 17}, "bad_words", "17408 characters in all"),
        ({"cache_salt": ""}, "cache_salt", "length >= 1"),
        ({"cache_salt": 5}, "cache_salt", "Expected `str | null`"),
    ],
    ids=repr,
)
def test_a_choice_that_cannot_be_made_is_refused(api: ServedApi, body: dict[str, Any], param: str, says: str) -> None:
    answer = api.http.post("/v1/completions", json={"prompt": "hi", **body})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert says in answer.json()["error"]["message"]


def test_an_end_may_be_allowed_where_it_may_come(ask: Ask) -> None:
    assert ask(allowed_token_ids=[256])[0].sampling.allowed_token_ids == (256,)
    assert ask(allowed_token_ids=[256], min_tokens=1, ignore_eos=True)[0].sampling.min_tokens == 1


def test_a_chat_may_take_all_that_is_left_of_the_model_s_length(ask: Ask) -> None:
    (asked,) = ask(messages=[{"role": "user", "content": "hi"}])
    assert asked.sampling.max_tokens == 2048 - len(asked.prompt)


def test_the_newer_name_of_max_tokens_wins(ask: Ask) -> None:
    (asked,) = ask(messages=[{"role": "user", "content": "hi"}], max_tokens=5, max_completion_tokens=6)
    assert asked.sampling.max_tokens == 6


def test_a_default_of_sixteen_tokens_shrinks_at_the_end_of_the_model_s_length(ask: Ask) -> None:
    (asked,) = ask(prompt=[1] * 2040)
    assert asked.sampling.max_tokens == 8


def test_requests_without_seed_get_different_ones(ask: Ask) -> None:
    seeds = {ask()[0].sampling.seed for _ in range(5)}
    assert len(seeds) == 5


def test_choices_of_a_seeded_request_have_seeds_of_their_own_and_the_same_every_time(ask: Ask) -> None:
    first = [asked.sampling.seed for asked in ask(prompt=["a", "b"], n=3, seed=42)]
    assert first == [asked.sampling.seed for asked in ask(prompt=["a", "b"], n=3, seed=42)]
    assert first[:3] == first[3:]
    assert len(set(first)) == 3
    # What the first choice gets does not depend on how many there are.
    assert first[0] == ask(seed=42)[0].sampling.seed == 42


def test_a_negative_seed_is_a_seed(ask: Ask) -> None:
    assert ask(seed=-1)[0].sampling.seed == 2**64 - 1


@pytest.mark.parametrize(("asked_for", "given"), [(-1, 0), (0, 0), (5, 5)])
def test_no_limit_of_top_k_has_two_names(ask: Ask, asked_for: int, given: int) -> None:
    assert ask(top_k=asked_for)[0].sampling.top_k == given


def test_top_p_of_zero_leaves_the_most_likely_token(ask: Ask) -> None:
    assert 0 < ask(top_p=0)[0].sampling.top_p < 1e-6


@pytest.mark.parametrize("number", ["7.0", "7e0", "0.7e1", "70.0e-1"])
def test_a_whole_number_may_be_written_as_a_float(api: ServedApi, number: str) -> None:
    before = len(api.rank.asked)
    body = """{"prompt": "hi", "max_tokens": 7.0, "min_tokens": 7.0, "top_k": 7.0, "seed": -7.0, "n": 1.0,
        "logprobs": 7.0, "priority": 7.0, "temperature": 0.7, "stop_token_ids": [7.0, 8], "logit_bias": {"7": 7.0}}"""
    answer = api.http.post("/v1/completions", content=body.replace("7.0", number))
    assert answer.status_code == 200, answer.text
    asked = api.rank.asked[before]
    sampling = asked.sampling
    assert (sampling.max_tokens, sampling.min_tokens, sampling.top_k, sampling.logprobs) == (7, 7, 7, 7)
    assert (sampling.seed, sampling.stop_token_ids, asked.submit.priority) == (2**64 - 7, (7, 8), 7)
    assert (sampling.temperature, sampling.logit_bias) == (0.7, {7: 7.0})


@pytest.mark.parametrize("number", ["7.5", "1e300", "123456789012345678901234567890.0", "9" * 400, "1e-400", "1e400"])
def test_what_is_no_whole_number_is_refused(api: ServedApi, number: str) -> None:
    for field in ("max_tokens", "top_k", "seed", "n", "logprobs", "priority", "min_tokens"):
        answer = api.http.post("/v1/completions", content=f'{{"prompt": "hi", "{field}": {number}}}')
        if answer.status_code == 200:
            assert number == "1e-400"  # which is 0
        else:
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


def test_every_number_at_its_limits_is_answered_or_refused_by_name(api: ServedApi) -> None:
    """What the published schema allows reaches the engine as it says; what is beyond is a 400 that names it."""
    schemas = api.http.get("/openapi.json").json()["components"]["schemas"]
    for path, name, needed in (
        ("/v1/completions", "CompletionRequest", {"prompt": "hi"}),
        ("/v1/chat/completions", "ChatRequest", {"messages": [{"role": "user", "content": "hi"}], "logprobs": True}),
    ):
        numbers = {
            field: option
            for field, schema in schemas[name]["properties"].items()
            for option in schema.get("anyOf", [schema])
            if option.get("type") in ("integer", "number")
        }
        assert {"temperature", "seed", "n", "timeout"} < numbers.keys()
        for field, schema in numbers.items():
            least = schema.get("minimum", schema.get("exclusiveMinimum"))
            most = schema.get("maximum", 2**63)
            tiny = [5e-324, -5e-324, 1e-300] if schema["type"] == "number" else []
            for value in (least, most, least - 1, most + 1, 0, 1, -(2**63), 2**63, 2**64, 10**30, *tiny):
                answer = api.http.post(path, json={**needed, field: value})
                inside = least <= value <= most and value != schema.get("exclusiveMinimum")
                if answer.status_code == 200:
                    assert inside, (field, value)
                elif (field, answer.status_code) != ("timeout", 408):
                    assert answer.status_code == 400, (field, value, answer.text)
                    assert answer.json()["error"]["param"] in (field, "prompt"), (field, value, answer.text)


@pytest.mark.parametrize("key", ["one", "-1", "1.0", "01", "", "1" * 300, "²"])
def test_a_key_of_logit_bias_that_is_no_token_is_named(api: ServedApi, key: str) -> None:
    answer = api.http.post("/v1/completions", json={"prompt": "hi", "logit_bias": {"1": 1, key: 1}})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "logit_bias"
    assert repr(key[:100]) in error["message"]
    assert len(error["message"]) < 300


def test_no_likely_tokens_beside_the_text_may_be_asked_for_without_logprobs(api: ServedApi) -> None:
    messages = [{"role": "user", "content": "hi"}]
    for logprobs, expected in ((None, None), (False, None), (True, [])):
        body = {"messages": messages, "top_logprobs": 0, "logprobs": logprobs}
        answer = api.http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        found = answer.json()["choices"][0]["logprobs"]
        assert (found and found["content"][0]["top_logprobs"]) == expected


def test_usage_in_every_chunk_needs_no_usage_at_the_end(api: ServedApi) -> None:
    body = {"prompt": "hi", "stream": True, "stream_options": {"continuous_usage_stats": True}}
    chunks = events(api.http.post("/v1/completions", json=body).content)
    assert [bool(chunk["choices"]) for chunk in chunks] == [True] * len(chunks)
    spent = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert spent == sorted(spent)
    assert (spent[0] >= 1, spent[-1]) == (True, 3)
    plain = api.http.post("/v1/completions", json=body | {"stream_options": {"continuous_usage_stats": False}})
    assert all("usage" not in chunk for chunk in events(plain.content))


def test_echo_with_logprobs_asks_for_the_prompt_s_too(ask: Ask) -> None:
    assert ask(echo=True, logprobs=3)[0].sampling.prompt_logprobs == 3
    assert ask(logprobs=3)[0].sampling.prompt_logprobs is None
    assert ask(echo=True)[0].sampling.prompt_logprobs is None


def test_stop_strings_stay_in_the_api_server(ask: Ask) -> None:
    (asked,) = ask(stop=["zzz"])
    assert asked.sampling.stop_token_ids == ()
