"""Chats: what messages become, and what comes back beyond the text."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_engine import ServedApi, answering, byte_token, events

Serve = Callable[..., ServedApi]
CHAT = "/v1/chat/completions"
HI = {"role": "user", "content": "hi"}


@pytest.fixture(scope="module")
def api(checkpoint_folder: Path) -> Iterator[ServedApi]:
    with ServedApi(checkpoint_folder, answering("Hé!")) as api:
        yield api


def prompt_of(api: ServedApi, *messages: dict[str, Any], **options: Any) -> str:
    answer = api.http.post("/tokenize", json={"messages": messages, **options})
    assert answer.status_code == 200, answer.text
    return str(api.http.post("/detokenize", json={"tokens": answer.json()["tokens"]}).json()["prompt"])


def test_messages_become_the_template_s_prompt(api: ServedApi) -> None:
    system = {"role": "system", "content": "Be brief."}
    assert prompt_of(api, system, HI) == "<|system|>Be brief.<|end|><|user|>hi<|end|><|assistant|>"


def test_the_developer_role_is_the_system_role_s_newer_name(api: ServedApi) -> None:
    assert prompt_of(api, {"role": "developer", "content": "x"}).startswith("<|system|>x")


def test_text_parts_are_lines(api: ServedApi) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert "<|user|>one\ntwo<|end|>" in prompt_of(api, {"role": "user", "content": parts})


def test_the_prompt_may_end_without_the_assistant_s_beginning(api: ServedApi) -> None:
    assert prompt_of(api, HI, add_generation_prompt=False) == "<|user|>hi<|end|>"


def test_the_last_message_can_be_continued(api: ServedApi) -> None:
    begun = {"role": "assistant", "content": "Once upon "}
    assert prompt_of(api, HI, begun, continue_final_message=True) == "<|user|>hi<|end|><|assistant|>Once upon "


def test_a_long_chat_is_rendered_too(api: ServedApi) -> None:
    assert len(prompt_of(api, {"role": "user", "content": "x" * 20_000})) == 20_000 + len(
        "<|user|><|end|><|assistant|>"
    )


@pytest.mark.parametrize("stream", [False, True])
def test_token_ids_come_back_where_asked_for(api: ServedApi, stream: bool) -> None:
    answer = api.http.post(CHAT, json={"messages": [HI], "return_token_ids": True, "stream": stream})
    prompt = [258, byte_token(ord("h")), byte_token(ord("i")), 256, 259]
    tokens = [byte_token(byte) for byte in "Hé!".encode()] + [256]
    if stream:
        chunks = events(answer.content)
        assert chunks[0]["prompt_token_ids"] == prompt
        assert [token for chunk in chunks for token in chunk["choices"][0]["token_ids"]] == tokens
    else:
        assert answer.json()["prompt_token_ids"] == prompt
        assert answer.json()["choices"][0]["token_ids"] == tokens


def test_usage_can_be_told_with_every_chunk(api: ServedApi) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    answer = api.http.post(CHAT, json={"messages": [HI], "stream": True, "stream_options": options})
    *chunks, last = events(answer.content)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == last["usage"]["completion_tokens"] == 5


def test_a_stream_is_one_the_web_s_proxies_pass_on_at_once(api: ServedApi) -> None:
    answer = api.http.post(CHAT, json={"messages": [HI], "stream": True})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.content.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_is_named_and_cut_off_or_kept(api: ServedApi, stream: bool) -> None:
    def text_of(**options: Any) -> tuple[str, str]:
        answer = api.http.post(CHAT, json={"messages": [HI], "stop": ["é"], "stream": stream, **options})
        if not stream:
            choice = answer.json()["choices"][0]
            return choice["message"]["content"], choice["stop_reason"]
        chunks = [chunk["choices"][0] for chunk in events(answer.content)]
        return "".join(chunk["delta"]["content"] for chunk in chunks), chunks[-1]["stop_reason"]

    assert text_of() == ("H", "é")
    assert text_of(include_stop_str_in_output=True) == ("Hé", "é")


def test_special_tokens_are_shown_where_asked_for(serve_api: Serve) -> None:
    api = serve_api(answering("a"))
    request = {"messages": [HI], "include_stop_str_in_output": True}
    hidden = api.http.post(CHAT, json=request).json()["choices"][0]["message"]["content"]
    shown = api.http.post(CHAT, json={**request, "skip_special_tokens": False}).json()["choices"][0]["message"]
    assert (hidden, shown["content"]) == ("a", "a<|end|>")


def test_values_for_the_template_are_handed_on(checkpoint_folder: Path, tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{{ 'T' if thinking else 'F' }}{{ raise_exception('no user') if not messages }}")
    with ServedApi(checkpoint_folder, answering("ok"), chat_template=str(template)) as api:
        assert prompt_of(api, HI, chat_template_kwargs={"thinking": True}) == "T"
        assert prompt_of(api, HI) == "F"


def test_a_template_s_refusal_is_told_in_its_words(checkpoint_folder: Path, tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{{ raise_exception('roles must alternate') }}")
    with ServedApi(checkpoint_folder, answering("ok"), chat_template=str(template)) as api:
        answer = api.http.post(CHAT, json={"messages": [HI]})
        assert answer.status_code == 400
        assert "roles must alternate" in answer.json()["error"]["message"]


def test_a_model_without_template_says_what_to_do(checkpoint_folder: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "config.json"):
        (tmp_path / name).write_bytes((checkpoint_folder / name).read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    with ServedApi(tmp_path, answering("ok")) as api:
        answer = api.http.post(CHAT, json={"messages": [HI]})
        assert answer.status_code == 400
        assert "--chat-template" in answer.json()["error"]["message"]
        assert api.http.post("/v1/completions", json={"prompt": "hi"}).status_code == 200
