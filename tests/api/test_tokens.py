"""/tokenize and /detokenize."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fake_engine import ServedApi, byte_token

from phalanx.api import tokens


@pytest.fixture(scope="module")
def api(checkpoint_folder: Path) -> Iterator[ServedApi]:
    with ServedApi(checkpoint_folder, attach=False) as api:
        yield api


def test_a_text_and_its_tokens(api: ServedApi) -> None:
    answer = api.http.post("/tokenize", json={"prompt": "hé<|end|>", "return_token_strs": True})
    expected = [*(byte_token(byte) for byte in "hé".encode()), 256]
    assert answer.json() == {
        "count": 4,
        "max_model_len": 2048,
        "tokens": expected,
        "token_strs": ["h", "Ã", "©", "<|end|>"],
    }
    assert api.http.post("/detokenize", json={"tokens": expected}).json() == {"prompt": "hé<|end|>"}


def test_a_text_longer_than_the_model_s_length_is_counted(api: ServedApi) -> None:
    assert api.http.post("/tokenize", json={"prompt": "x" * 5000}).json()["count"] == 5000


def test_a_text_of_more_tokens_than_anyone_counts_is_refused(api: ServedApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MOST_TOKENS", 100_000)
    long = "x" * 1_000_000
    for body in ({"prompt": long}, {"messages": [{"role": "user", "content": long}]}):
        answer = api.http.post("/tokenize", json=body)
        assert answer.status_code == 400
        assert "up to 100000" in answer.json()["error"]["message"]
        assert answer.json()["error"]["param"] in body


def test_no_tokens_are_an_empty_text(api: ServedApi) -> None:
    assert api.http.post("/detokenize", json={"tokens": []}).json() == {"prompt": ""}
    assert api.http.post("/tokenize", json={"prompt": ""}).json()["tokens"] == []
