"""A stream's last text has a chunk of its own, before the one that says why it ended and nothing else."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_engine import ServedApi, an_output, answering, byte_token, events

from phalanx.protocol import FinishReason, RequestOutput, SamplingParams

CHAT = "/v1/chat/completions"
COMPLETE = "/v1/completions"
PROMPTS: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "hi"}]},
    COMPLETE: {"prompt": "hi"},
}
ENDS: dict[str, tuple[dict[str, Any], str, str, object]] = {
    "end of sequence": ({}, "abcdef", "stop", None),
    "max_tokens": ({"max_tokens": 3}, "abc", "length", None),
    "a single token": ({"max_tokens": 1}, "a", "length", None),
    "a stop string": ({"stop": "d"}, "abc", "stop", "d"),
    "a stop string that is kept": ({"stop": "cd", "include_stop_str_in_output": True}, "abcd", "stop", "cd"),
    "a stop string at once": ({"stop": "a"}, "", "stop", "a"),
    "text held back for a stop string": ({"stop": "ef!"}, "abcdef", "stop", None),
    "several completions": ({"n": 2, "max_tokens": 4}, "abcd", "length", None),
}


@pytest.fixture(scope="module", params=[1, 4], ids=["a token a step", "four tokens a step"])
def api(checkpoint_folder: Path, request: pytest.FixtureRequest) -> Iterator[ServedApi]:
    with ServedApi(checkpoint_folder, answering("abcdef", at_a_time=request.param)) as api:
        yield api


def text_of(choice: dict[str, Any]) -> str:
    return str(choice["delta"]["content"] if "delta" in choice else choice["text"])


def streamed(api: ServedApi, path: str, **fields: Any) -> list[dict[str, Any]]:
    answer = api.http.post(path, json={**PROMPTS[path], "max_tokens": 50, "stream": True, **fields})
    assert answer.status_code == 200, answer.text
    return events(answer.content)


@pytest.mark.parametrize("path", [CHAT, COMPLETE])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("asked", ["nothing more", "return_token_ids", "logprobs"])
def test_the_reason_comes_alone(api: ServedApi, path: str, end: str, asked: str) -> None:
    fields, text, reason, stop = ENDS[end]
    if asked != "nothing more":
        fields = {**fields, asked: 1 if (path, asked) == (COMPLETE, "logprobs") else True}
    chunks = streamed(api, path, **fields)
    for index in range(fields.get("n", 1)):
        choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        *before, last = choices
        assert "".join(map(text_of, before)) == text
        assert all(choice["finish_reason"] is None for choice in before)
        assert (text_of(last), last["finish_reason"], last["stop_reason"]) == ("", reason, stop)
        assert last.get("token_ids", []) == []
        if path == CHAT:
            assert [choice["delta"].get("role") for choice in choices] == ["assistant"] + [None] * len(before)


@pytest.mark.parametrize("path", [CHAT, COMPLETE])
def test_every_token_s_id_and_score_come_before_the_reason(api: ServedApi, path: str) -> None:
    *before, last = streamed(api, path, return_token_ids=True, logprobs=1 if path == COMPLETE else True)
    ids = [token for chunk in before for token in chunk["choices"][0]["token_ids"]]
    assert ids == [*api.tokenizer._encode("abcdef", False), 256]
    key = "content" if path == CHAT else "tokens"
    assert sum(len(chunk["choices"][0]["logprobs"][key]) for chunk in before) == 7
    assert last["choices"][0]["logprobs"][key] == []


@pytest.mark.parametrize("path", [CHAT, COMPLETE])
def test_usage_stays_behind_the_reason(api: ServedApi, path: str) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    *before, last, spent = streamed(api, path, max_tokens=3, stream_options=options)
    assert last["choices"][0]["finish_reason"] == "length"
    assert spent["choices"] == []
    assert last["usage"] == spent["usage"] == before[-1]["usage"]
    assert spent["usage"]["completion_tokens"] == 3


def test_an_echoed_prompt_comes_before_the_reason_too(api: ServedApi) -> None:
    first, last = streamed(api, COMPLETE, echo=True, max_tokens=0)
    assert (first["choices"][0]["text"], first["choices"][0]["finish_reason"]) == ("hi", None)
    assert (last["choices"][0]["text"], last["choices"][0]["finish_reason"]) == ("", "length")


@pytest.mark.parametrize("path", [CHAT, COMPLETE])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("options", "text"),
    [({}, "ab"), ({"include_stop_str_in_output": True}, "ab<|user|>"), ({"skip_special_tokens": False}, "ab")],
    ids=str,
)
def test_a_special_token_stops_it_though_it_is_not_shown(
    checkpoint_folder: Path, path: str, stream: bool, options: dict[str, Any], text: str
) -> None:
    def script(prompt: list[int], sampling: SamplingParams) -> list[RequestOutput]:
        tokens = [*map(byte_token, b"ab"), 258, *map(byte_token, b"cd")]
        return [an_output([token]) for token in tokens] + [an_output([256], FinishReason.STOP)]

    with ServedApi(checkpoint_folder, script) as api:
        fields = {**PROMPTS[path], "stop": ["<|user|>"], "max_tokens": 50, "stream": stream, **options}
        answer = api.http.post(path, json=fields)
        if stream:
            choices = [chunk["choices"][0] for chunk in events(answer.content)]
            found = "".join(map(text_of, choices))
        else:
            choices = answer.json()["choices"]
            found = choices[0]["message"]["content"] if path == CHAT else choices[0]["text"]
        assert (found, choices[-1]["finish_reason"], choices[-1]["stop_reason"]) == (text, "stop", "<|user|>")
