"""A token that the tokenizer knows and the model does not is refused to who wrote it, as a text and as an id."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import write_checkpoint
from support.fake_engine import FakeRank, ServedApi, an_output, answering

from phalanx.protocol import FinishReason, Rejected, RequestLimits, RequestOutput, SamplingParams

BEYOND = 260


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedApi]:
    """An API server whose tokenizer was given a token after the model's embedding was made."""
    folder = write_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    path = folder / "tokenizer.json"
    saved = json.loads(path.read_text())
    saved["added_tokens"].append({**saved["added_tokens"][-1], "id": BEYOND, "content": "<|tool|>"})
    path.write_text(json.dumps(saved))
    with ServedApi(folder, answering("ok")) as api:
        yield api


ENDPOINTS = {"prompt": "/v1/completions", "messages": "/v1/chat/completions"}
"""The endpoints by the field that a prompt comes in."""


def a_request(field: str, text: str) -> dict[str, Any]:
    return {field: text if field == "prompt" else [{"role": "user", "content": text}], "max_tokens": 5}


CHAT: list[dict[str, str]] = [{"role": "user", "content": "a <|tool|> b"}]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"prompt": "a <|tool|> b"}, "prompt"),
        ("/v1/completions", {"prompt": ["a", "a <|tool|> b"]}, "prompt"),
        ("/v1/completions", {"prompt": [5, BEYOND]}, "prompt"),
        ("/v1/completions", {"prompt": [[5], [5, BEYOND]]}, "prompt"),
        ("/v1/completions", {"prompt": [5, BEYOND], "echo": True, "max_tokens": 0, "logprobs": 1}, "prompt"),
        ("/v1/completions", {"prompt": "a", "logit_bias": {str(BEYOND): 1}}, "logit_bias"),
        ("/v1/completions", {"prompt": "a", "stop_token_ids": [BEYOND]}, "stop_token_ids"),
        ("/v1/chat/completions", {"messages": CHAT}, "messages"),
        ("/v1/chat/completions", {"messages": CHAT, "stream": True}, "messages"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "a"}], "logit_bias": {"260": 1}},
            "logit_bias",
        ),
        ("/tokenize", {"prompt": "a <|tool|> b"}, "prompt"),
        ("/tokenize", {"messages": CHAT}, "messages"),
        ("/detokenize", {"tokens": [5, BEYOND]}, "tokens"),
    ],
    ids=str,
)
def test_it_is_refused_to_who_wrote_it(api: ServedApi, path: str, body: dict[str, Any], param: str) -> None:
    answer = api.http.post(path, json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert "token 260" in error["message"]
    assert "0 to 259" in error["message"]


def test_a_text_s_token_is_named_as_it_is_written(api: ServedApi) -> None:
    answer = api.http.post("/v1/completions", json={"prompt": "a <|tool|> b"})
    assert answer.json()["error"]["message"] == "prompt has token 260 ('<|tool|>'); the model's tokens are 0 to 259."


def test_what_a_rank_would_refuse_never_reaches_it(api: ServedApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the endpoints do not look at themselves, the rank's own check refuses in the API server."""
    narrow = RequestLimits(vocab_size=60, model_tokens=2048, cache_tokens=2048)
    monkeypatch.setattr(type(api.state), "limits", narrow)
    answer = api.http.post("/v1/completions", json={"prompt": [5, 70]})
    assert answer.status_code == 400
    assert "prompt has token id 70; the vocabulary ends at 59" in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] == "prompt"
    answer = api.http.post("/v1/chat/completions", json=a_request("messages", "~"))
    assert answer.status_code == 400
    assert "the vocabulary ends at 59" in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] == "messages"


def test_the_room_that_ranks_had_stays_the_limit_while_none_is_there(checkpoint_folder: Path) -> None:
    with ServedApi(checkpoint_folder, FakeRank(answering("ok"), max_model_len=64), patience=30.0) as api:
        api.rank.die()
        api.wait_ranks(0)
        answer = api.http.post("/v1/completions", json={"prompt": "a" * 64})
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("field", ENDPOINTS)
def test_a_prompt_that_waited_for_a_rank_which_is_too_small_for_it_is_a_bad_request(
    checkpoint_folder: Path, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    def refuse(prompt: list[int], sampling: SamplingParams) -> list[RequestOutput]:
        limits = RequestLimits(vocab_size=260, model_tokens=2048, cache_tokens=64)
        with pytest.raises(Rejected) as refusal:
            limits.check(prompt, sampling)
        return [an_output([], FinishReason.ERROR, error=str(refusal.value))]

    with ServedApi(checkpoint_folder, FakeRank(refuse, max_model_len=64), attach=False, patience=30.0) as api:
        dispatcher, waits = api.engine._dispatcher, threading.Event()
        submit = dispatcher.submit
        monkeypatch.setattr(dispatcher, "submit", lambda request: (submit(request), waits.set()))
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(api.http.post, ENDPOINTS[field], json=a_request(field, "a" * 100))
            assert waits.wait(30.0)
            api.attach()
            assert answer.result().status_code == 400
            error = answer.result().json()["error"]
            assert (error["code"], error["param"]) == ("context_length_exceeded", field)
            assert f"your {field} resulted in" in error["message"]
