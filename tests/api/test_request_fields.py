"""Fields that change no text are taken; those that nobody knows are ignored, or refused where that is asked for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.fake_engine import ServedApi, answering, events

from phalanx.api.openai.messages import Messages, for_template

CHAT = "/v1/chat/completions"
COMPLETE = "/v1/completions"
MESSAGES = [{"role": "user", "content": "hi"}]
PART = {"type": "text", "text": "x"}


@pytest.fixture(scope="module")
def api(checkpoint_folder: Path) -> Iterator[ServedApi]:
    with ServedApi(checkpoint_folder, answering("ok")) as api:
        yield api


@pytest.fixture(scope="module")
def strict_api(checkpoint_folder: Path) -> Iterator[ServedApi]:
    with ServedApi(checkpoint_folder, answering("ok"), strict_fields=True) as api:
        yield api


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": MESSAGES, **fields}


def complete(**fields: Any) -> dict[str, Any]:
    return {"prompt": "hi", **fields}


@pytest.mark.parametrize(
    ("path", "body", "param", "says"),
    [
        (CHAT, chat(temprature=1), "temprature", "Did you mean 'temperature'?"),
        (CHAT, {"messages": [*MESSAGES, {"role": "user", "contents": "x"}]}, "messages[1].contents", "'content'"),
        (CHAT, {"messages": [{"role": "user", "content": "x", "weight": 1}]}, "messages[0].weight", "Unknown field"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [PART, PART | {"txt": ""}]}]},
            "messages[0].content[1].txt",
            "'text'",
        ),
        (CHAT, chat(stream=True, stream_options={"usage": True}), "stream_options.usage", "'include_usage'"),
        (COMPLETE, complete(max_new_tokens=1), "max_new_tokens", "'max_tokens'"),
        ("/tokenize", {"prompt": "x", "add_special": True}, "add_special", "'add_special_tokens'"),
        ("/detokenize", {"tokens": [1], "token": 1}, "token", "'tokens'"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_strict_fields_refuse_what_is_else_ignored(
    api: ServedApi, strict_api: ServedApi, path: str, body: dict[str, Any], param: str, says: str
) -> None:
    answer = strict_api.http.post(path, json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, "unknown_parameter")
    assert says in error["message"]
    if "contents" not in param:
        assert api.http.post(path, json=body).status_code == 200


def test_strict_fields_are_published(api: ServedApi, strict_api: ServedApi) -> None:
    for served, extra in ((api, None), (strict_api, False)):
        schemas = served.http.get("/openapi.json").json()["components"]["schemas"]
        for name in ("ChatRequest", "CompletionRequest", "UserTurn", "ContentPart", "StreamOptions", "TokenizeRequest"):
            assert schemas[name].get("additionalProperties") is extra
        assert "additionalProperties" not in schemas["ChatResponse"]


def test_ignored_fields_are_named_in_the_debug_log(api: ServedApi, caplog: pytest.LogCaptureFixture) -> None:
    message = {"role": "user", "content": "x", "weight": 1, "id": "m1"}
    with caplog.at_level("DEBUG", "phalanx.api.decoding"):
        api.http.post(CHAT, json={"messages": [message], "temprature": 1, "metadata": {"a": "b"}})
    assert [record.getMessage() for record in caplog.records if record.name == "phalanx.api.decoding"] == [
        "ignored fields that ChatRequest does not have: messages[0].weight, temprature"
    ]


@pytest.mark.parametrize(
    "field", ["metadata", "store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"]
)
@pytest.mark.parametrize("value", [True, "24h", {"a": "b"}, 1.5, ["x" * 200], None], ids=repr)
def test_a_hint_takes_any_value(api: ServedApi, field: str, value: Any) -> None:
    for path, body in ((CHAT, chat()), (COMPLETE, complete())):
        answer = api.http.post(path, json={**body, field: value})
        assert answer.status_code == 200, answer.text


def test_hints_of_openai_s_change_nothing(api: ServedApi) -> None:
    plain = api.http.post(CHAT, json=chat(temperature=0)).json()["choices"]
    hints: dict[str, Any] = {
        "service_tier": "flex",
        "verbosity": "low",
        "user": "u1",
        "prediction": {"type": "content", "content": "ok"},
        "stream_response": True,
        "something": {"of": ["a", "later", "version"]},
    }
    assert api.http.post(CHAT, json=chat(temperature=0, **hints)).json()["choices"] == plain
    options = {"include_obfuscation": False, "something": 1}
    streamed = api.http.post(CHAT, json=chat(stream=True, stream_options=options, **hints))
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in events(streamed.content)) == "ok"


def test_null_asks_for_nothing_whatever_the_field(api: ServedApi) -> None:
    schemas = api.http.get("/openapi.json").json()["components"]["schemas"]
    for path, schema, needed in (
        (CHAT, "ChatRequest", chat()),
        (COMPLETE, "CompletionRequest", complete()),
        ("/tokenize", "TokenizeRequest", complete()),
    ):
        nothing = {name: None for name in schemas[schema]["properties"] if name not in needed}
        answer = api.http.post(path, json={**nothing, **needed})
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "Hi", "type": "message"},
        {"role": "user", "content": "Hi", "id": "1", "name": None},
        {"role": "user", "content": "Hi", "cache_control": {"type": "ephemeral"}, "weight": 2},
        {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}, "id": 5}]},
    ],
    ids=repr,
)
def test_what_a_message_has_besides_its_text_changes_nothing(api: ServedApi, message: dict[str, Any]) -> None:
    plain = {"role": "user", "content": "Hi"}
    prompts = [api.http.post("/tokenize", json={"messages": [each]}).json()["tokens"] for each in (plain, message)]
    assert prompts[0] == prompts[1]


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}, {"content": []}], ids=repr)
def test_an_assistant_s_message_may_be_empty(api: ServedApi, content: dict[str, Any]) -> None:
    empty = {"role": "assistant", "reasoning_content": None, "tool_calls": None, **content}
    answer = api.http.post("/tokenize", json={"messages": [*MESSAGES, empty, *MESSAGES]})
    assert answer.status_code == 200, answer.text
    text = api.http.post("/detokenize", json={"tokens": answer.json()["tokens"]}).json()["prompt"]
    assert text == "<|user|>hi<|end|><|assistant|><|end|><|user|>hi<|end|><|assistant|>"


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_what_the_assistant_thought_is_the_template_s(field: str) -> None:
    message = {"role": "assistant", "content": None, field: "Hm."}
    (plain,) = for_template(msgspec.convert([message], Messages))
    assert plain == {"role": "assistant", "content": "", "reasoning_content": "Hm."}


def test_operators_requests_are_always_strict(checkpoint_folder: Path) -> None:
    with ServedApi(checkpoint_folder, attach=False, admin_key=("key of an operator",)) as api:
        for path, body, near in (
            ("/admin/ranks/0/drain", {"timeouts": 1}, "'timeout'"),
            ("/admin/scale", {"retired": [1]}, "'retire'"),
        ):
            answer = api.http.post(path, json=body, headers={"authorization": "Bearer key of an operator"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unknown_parameter")
            assert near in answer.json()["error"]["message"]
        schemas = api.http.get("/openapi.json").json()["components"]["schemas"]
        assert [schemas[name]["additionalProperties"] for name in ("LeaveRequest", "ScaleRequest")] == [False, False]
