"""Whatever a client sends that cannot be served is a 4xx in OpenAI's form that says what and where."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_engine import ServedApi, answering

CHAT = "/v1/chat/completions"
COMPLETE = "/v1/completions"
MESSAGES = [{"role": "user", "content": "hi"}]
PROMPT = {"prompt": "hi"}
PART = {"type": "text", "text": "x"}


@pytest.fixture(scope="module")
def api(checkpoint_folder: Path) -> Iterator[ServedApi]:
    with ServedApi(checkpoint_folder, answering("ok"), max_body_bytes=1_000_000, max_batch=8) as api:
        yield api


@pytest.fixture(scope="module")
def strict_api(checkpoint_folder: Path) -> Iterator[ServedApi]:
    with ServedApi(checkpoint_folder, answering("ok"), max_body_bytes=1_000_000, strict_fields=True) as api:
        yield api


def refused(api: ServedApi, path: str, body: bytes | dict[str, Any], status: int = 400) -> dict[str, Any]:
    """The error, whose form is checked; the server then still answers others."""
    content = {"content": body} if isinstance(body, bytes) else {"json": body}
    answer = api.http.post(path, **content)  # type: ignore[arg-type]
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, Any] = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert api.http.post(COMPLETE, json=PROMPT).json()["choices"][0]["text"] == "ok"
    return error


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": MESSAGES, **fields}


def complete(**fields: Any) -> dict[str, Any]:
    return {**PROMPT, **fields}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"prompt": "hi"} more', "not valid JSON"),
        (b"[1, 2]", "Expected `object`"),
        (b'"text"', "Expected `object`"),
        (b'{"prompt": "\xff"}', "not valid UTF-8"),
        (b'{"prompt": "\\ud800"}', "not valid JSON"),
        (b'{"prompt": "hi", "temperature": NaN}', "not valid JSON"),
        (b'{"prompt": "hi", "temperature": Infinity}', "not valid JSON"),
        (b'{"prompt": "hi", "temperature": 1e999}', "out of range"),
        (b'{"prompt": "hi", "suffix": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"prompt": ' + b"[" * 100_000, "prompt"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_not_a_json_object_of_text(api: ServedApi, body: bytes, says: str) -> None:
    assert says in refused(api, COMPLETE, body)["message"]


@pytest.mark.parametrize(
    ("path", "body", "param", "says"),
    [
        (CHAT, {}, None, "missing required field `messages`"),
        (CHAT, {"messages": []}, "messages", "length >= 1"),
        (CHAT, {"messages": "hi"}, "messages", "Expected `array`"),
        (CHAT, {"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role", "wizard"),
        (CHAT, {"messages": [{"content": "x"}]}, "messages[0]", "`role`"),
        (CHAT, {"messages": [{"role": "user"}]}, "messages[0]", "`content`"),
        (CHAT, {"messages": [{"role": "user", "content": None}]}, "messages[0].content", "null"),
        (CHAT, {"messages": [{"role": "user", "content": []}]}, "messages[0].content", "length >= 1"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
            "image_url",
        ),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
            "does not read images",
        ),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
            "messages[0].content[0].type",
            "does not hear audio",
        ),
        (
            CHAT,
            {"messages": [*MESSAGES, {"role": "user", "content": [PART, PART | {"image_url": "x"}]}]},
            "messages[1].content[1].image_url",
            "not supported yet",
        ),
        (CHAT, {"messages": [{"role": "system", "content": None}]}, "messages[0].content", "null"),
        (CHAT, chat(echo=0), "echo", "not supported yet"),
        (CHAT, chat(use_beam_search=0), "use_beam_search", "not supported yet"),
        (CHAT, chat(parallel_tool_calls=1), "parallel_tool_calls", "not supported yet"),
        (CHAT, chat(guided_json={"type": "object"}), "guided_json", "not supported yet"),
        (CHAT, chat(structured_outputs={"choice": ["a"]}), "structured_outputs", "not supported yet"),
        (CHAT, chat(reasoning_effort="low"), "reasoning_effort", "not supported yet"),
        (COMPLETE, complete(response_format={"type": "json_object"}), "response_format", "not supported yet"),
        (COMPLETE, complete(prompt_logprobs=1), "prompt_logprobs", "not supported yet"),
        (COMPLETE, complete(truncate_prompt_tokens=5), "truncate_prompt_tokens", "not supported yet"),
        (COMPLETE, complete(echo=0), "echo", "Expected `bool | null`"),
        ("/tokenize", {"messages": MESSAGES, "tools": [{}]}, "tools", "not supported yet"),
        (CHAT, {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "messages[0].tool_calls", ""),
        (CHAT, {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "tool"),
        (CHAT, chat(temperature="hot"), "temperature", "Expected `float | null`, got `str`"),
        (CHAT, chat(temperature=-0.1), "temperature", ">= 0"),
        (CHAT, chat(temperature=2.1), "temperature", "<= 2"),
        (CHAT, chat(top_p=1.1), "top_p", "<= 1"),
        (CHAT, chat(top_k=-2), "top_k", ">= -1"),
        (CHAT, chat(min_p=2), "min_p", "<= 1"),
        (CHAT, chat(presence_penalty=3), "presence_penalty", "<= 2"),
        (CHAT, chat(frequency_penalty=-3), "frequency_penalty", ">= -2"),
        (CHAT, chat(repetition_penalty=0), "repetition_penalty", "> 0"),
        (CHAT, chat(max_tokens=0), "max_tokens", ">= 1"),
        (CHAT, chat(max_tokens=True), "max_tokens", "bool"),
        (CHAT, chat(max_completion_tokens=1.5), "max_completion_tokens", "float"),
        (CHAT, chat(max_tokens=10**30), "max_tokens", ""),
        (CHAT, chat(n=0), "n", ">= 1"),
        (CHAT, chat(n=10_000), "n", "10000 completions; one request may ask for 8"),
        (CHAT, chat(seed=2**70), "seed", ""),
        (CHAT, chat(stop=[""]), "stop[0]", "length >= 1"),
        (CHAT, chat(stop=["x"] * 65), "stop", "length <= 64"),
        (CHAT, chat(stop=["x" * 1024] * 17), "stop", "17408 characters in all; the stop strings of a request may have"),
        (CHAT, chat(stop="x" * 2000), "stop", "length <= 1024"),
        (CHAT, chat(stop_token_ids=[10**6]), "stop_token_ids", "0 to 259"),
        (CHAT, chat(logit_bias={"260": 1}), "logit_bias", "0 to 259"),
        (CHAT, chat(logit_bias={"one": 1}), "logit_bias", "Expected `int`"),
        (CHAT, chat(logit_bias={"1": 101}), "logit_bias[...]", "<= 100"),
        (CHAT, chat(top_logprobs=2), "top_logprobs", "needs logprobs"),
        (CHAT, chat(logprobs=True, top_logprobs=21), "top_logprobs", "this server gives 20"),
        (CHAT, chat(stream_options={"include_usage": True}), "stream_options", "stream"),
        (CHAT, chat(min_tokens=9, max_tokens=8), "min_tokens", "more than the 8"),
        (
            CHAT,
            chat(max_tokens=5000),
            "max_tokens",
            "2048 tokens. However, you requested 5005 tokens (5 in",
        ),
        (CHAT, chat(tools=[{"type": "function"}]), "tools", "'tools' is not supported yet"),
        (CHAT, chat(tool_choice="required"), "tool_choice", "not supported yet"),
        (CHAT, chat(response_format={"type": "json_object"}), "response_format", "not supported yet"),
        (CHAT, chat(modalities=["text", "audio"]), "modalities", "not supported yet"),
        (CHAT, chat(chat_template="{{ messages }}"), "chat_template", "not supported yet"),
        (CHAT, chat(chat_template_kwargs={"messages": []}), "chat_template_kwargs", "'messages'"),
        (CHAT, chat(chat_template_kwargs={"eos_token": "x"}), "chat_template_kwargs", "'eos_token'"),
        (CHAT, chat(continue_final_message=True, add_generation_prompt=True), "continue_final_message", "exclude"),
        (COMPLETE, {}, None, "`prompt`"),
        (COMPLETE, {"prompt": ""}, "prompt", "empty"),
        (COMPLETE, {"prompt": []}, "prompt", "empty"),
        (COMPLETE, {"prompt": [[]]}, "prompt", "empty"),
        (COMPLETE, {"prompt": None}, "prompt", "null"),
        (COMPLETE, {"prompt": [1, "a"]}, "prompt", "mixes"),
        (COMPLETE, {"prompt": [1, [2]]}, "prompt", "mixes"),
        (COMPLETE, {"prompt": [-1]}, "prompt[0]", ">= 0"),
        (COMPLETE, {"prompt": [260]}, "prompt", "token 260; the model's tokens are 0 to 259"),
        (COMPLETE, {"prompt": [[1, 2**31]]}, "prompt[0][1]", "<= 2147483647"),
        (COMPLETE, {"prompt": ["a"] * 3, "n": 3}, "n", "9 completions; one request may ask for 8"),
        (COMPLETE, {"prompt": ["a"] * 9}, "prompt", "9 completions"),
        (COMPLETE, complete(logprobs=21), "logprobs", "this server gives 20"),
        (COMPLETE, complete(logprobs=True), "logprobs", "bool"),
        (COMPLETE, complete(best_of=2), "best_of", "not supported yet"),
        (COMPLETE, complete(suffix="end"), "suffix", "not supported yet"),
        (
            COMPLETE,
            {"prompt": [1] * 2048, "max_tokens": 0},
            "prompt",
            "your prompt resulted in 2048 tokens",
        ),
        (COMPLETE, {"prompt": "x" * 2049}, "prompt", "your prompt resulted in 2049 tokens"),
        (COMPLETE, {"prompt": "x" * 900_000}, "prompt", "your prompt resulted in at least"),
        ("/tokenize", {}, "prompt", "either"),
        ("/tokenize", {"prompt": "x", "messages": MESSAGES}, "prompt", "either"),
        ("/detokenize", {"tokens": [1, 2, 1000]}, "tokens", "0 to 259"),
        ("/detokenize", {"tokens": "x"}, "tokens", "Expected `array`"),
        (CHAT, chat(logit_bias={str(token): 1 for token in range(1025)}), "logit_bias", "length <= 1024"),
        (CHAT, chat(stop_token_ids=[1] * 129), "stop_token_ids", "length <= 128"),
        (CHAT, chat(user="x" * 1025), "user", "length <= 1024"),
        (CHAT, {"messages": MESSAGES * 4097}, "messages", "length <= 4096"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_a_wrong_value_is_named(api: ServedApi, path: str, body: dict[str, Any], param: str | None, says: str) -> None:
    error = refused(api, path, body)
    assert error["param"] == param
    assert says in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": "hi", "%b": 1}' % (b"y" * 900_000),
        b'{"prompt": "hi", "%b": 1}' % (b" - at `$" * 100_000),
        b'{"prompt": "hi", "stream_options": {"%b": 1}}' % (b"y" * 900_000),
    ],
    ids=["one word", "like a place", "deeper"],
)
def test_an_error_repeats_little_of_what_it_is_about(strict_api: ServedApi, body: bytes) -> None:
    error = refused(strict_api, COMPLETE, body)
    assert len(error["message"]) < 1000
    assert len(error["param"] or "") < 1000


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages": [{"role": "user", "content": %b}]}',
        b'{"messages": [{"role": "user", "content": [{"type": "text", "text": %b}]}]}',
        b'{"messages": [{"role": "user", "content": "hi", "tool_calls": %b}]}',
        b'{"messages": [{"role": "user", "content": "hi"}], "tools": %b}',
        b'{"messages": [{"role": "user", "content": "hi"}], "metadata": %b}',
        b'{"messages": [{"role": "user", "content": "hi"}], "chat_template_kwargs": %b}',
        b'{"messages": [{"role": "user", "content": "hi"}], "something": %b}',
    ],
)
@pytest.mark.parametrize("pair", [(b"[", b"]"), (b'{"a":', b"}")], ids=["lists", "objects"])
def test_a_hundred_thousand_levels_are_refused_wherever_they_are(
    api: ServedApi, body: bytes, pair: tuple[bytes, bytes]
) -> None:
    opening, closing = pair
    refused(api, CHAT, body % (opening * 100_000 + b"1" + closing * 100_000))


@pytest.mark.parametrize(
    ("path", "body"),
    [(CHAT, chat(model="gpt-5")), (COMPLETE, complete(model="x" * 5000)), ("/tokenize", {"model": ""})],
)
def test_an_unknown_model_is_a_404_with_the_names_there_are(api: ServedApi, path: str, body: dict[str, Any]) -> None:
    error = refused(api, path, body, 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert "'test-model', 'other/name'" in error["message"]
    assert len(error["message"]) < 400


@pytest.mark.parametrize("max_tokens", [None, 1])
def test_a_prompt_over_the_model_s_length_has_openai_s_code(api: ServedApi, max_tokens: int | None) -> None:
    error = refused(api, COMPLETE, {"prompt": [1] * 2048, "max_tokens": max_tokens})
    assert error["code"] == "context_length_exceeded"


def test_values_that_ask_for_nothing_pass(api: ServedApi) -> None:
    nothing: dict[str, Any] = {
        "tools": [],
        "tool_choice": "none",
        "functions": None,
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "store": False,
        "metadata": None,
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "logit_bias": {},
        "stop": [],
        "user": "somebody",
        "seed": -1,
        "top_k": -1,
        "temperature": None,
    }
    returned = {"role": "assistant", "content": "ok", "refusal": None, "tool_calls": None, "annotations": []}
    answer = api.http.post(CHAT, json={"messages": [*MESSAGES, returned, *MESSAGES], **nothing})
    assert answer.status_code == 200, answer.text


MILLIONS = 3_000_000


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        (COMPLETE, b'{"prompt": [%b]}' % b",".join([b"1"] * MILLIONS), "your prompt resulted in 3000000 tokens"),
        (COMPLETE, b'{"prompt": [%b]}' % b",".join([b"[]"] * MILLIONS), "3000000 completions"),
        (COMPLETE, b'{"prompt": [[%b]]}' % b",".join([b"1"] * MILLIONS), "your prompt resulted in 3000000 tokens"),
        (COMPLETE, b'{"prompt": ["[", %b]}' % b",".join([b'""'] * MILLIONS), "3000001 completions"),
        (COMPLETE, b'{"prompt": "hi", "suffix": [%b]}' % b",".join([b"{}"] * MILLIONS), "'suffix' is not supported"),
        (CHAT, b'{"messages": [%b]}' % b",".join([b'{"role":"user","content":""}'] * 300_000), "length <= 4096"),
        (
            CHAT,
            b'{"messages": [{"role":"user","content":""}], "tools": [%b]}' % b",".join([b"{}"] * MILLIONS),
            "'tools' is not supported",
        ),
        (
            CHAT,
            b'{"messages": [{"role":"user","content":""}], "chat_template_kwargs": {"a": [%b]}}'
            % b",".join([b"{}"] * MILLIONS),
            "chat_template_kwargs is longer than",
        ),
        (
            COMPLETE,
            b'{"prompt": "hi", "stop": [%b]}' % b",".join([b'"a"'] * MILLIONS),
            "stop is 12000001 bytes of JSON",
        ),
        (COMPLETE, b'{"prompt": "hi", "stop_token_ids": [%b]}' % b",".join([b"700"] * MILLIONS), "it may be 131072"),
        (
            COMPLETE,
            b'{"prompt": "hi", "logit_bias": {%b}}' % b",".join(b'"%d":1' % token for token in range(MILLIONS // 3)),
            "logit_bias is",
        ),
        ("/detokenize", b'{"tokens": [%b]}' % b",".join([b"7"] * MILLIONS), "takes up to 1048576"),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_millions_of_entries_are_refused_and_little_is_built_of_them(
    checkpoint_folder: Path, path: str, body: bytes, says: str
) -> None:
    with ServedApi(checkpoint_folder, answering("ok"), max_body_bytes=2**24, max_batch=8) as api:
        tracemalloc.start()
        try:
            assert says in refused(api, path, body)["message"]
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # The body is read in parts, joined, and looked at; millions of objects would be hundreds of megabytes.
    assert peak < 8 * len(body)
