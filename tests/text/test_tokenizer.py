"""Texts of any length to tokens, without stalling the loop and without minutes for hostile ones."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from phalanx.text.tokenizer import INLINE_CHARACTERS, ModelTokenizer, TooLong


@pytest.fixture
def tokenizer(checkpoint_folder: Path) -> Iterator[ModelTokenizer]:
    loaded = ModelTokenizer.load(checkpoint_folder)
    yield loaded
    loaded.close()


def encode(tokenizer: ModelTokenizer, text: str, limit: int = 10**9) -> list[int]:
    return asyncio.run(tokenizer.encode(text, add_special_tokens=True, limit=limit))


@pytest.mark.parametrize("length", [1, INLINE_CHARACTERS, INLINE_CHARACTERS + 1, 300_000])
def test_texts_of_every_length_come_back(tokenizer: ModelTokenizer, length: int) -> None:
    text = ("é<|user|>b" * length)[:length]
    tokens = encode(tokenizer, text)
    assert asyncio.run(tokenizer.decode(tokens, skip_special_tokens=False)) == text


def test_a_long_text_is_encoded_on_another_thread(tokenizer: ModelTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    encode_here = tokenizer._encode
    monkeypatch.setattr(
        tokenizer, "_encode", lambda *args: threads.append(threading.current_thread()) or encode_here(*args)
    )
    encode(tokenizer, "short")
    encode(tokenizer, "long" * INLINE_CHARACTERS)
    assert [thread is threading.main_thread() for thread in threads] == [True, False]


def test_a_text_far_over_the_limit_is_refused_before_its_end(
    tokenizer: ModelTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    encode_here = tokenizer._encode
    monkeypatch.setattr(tokenizer, "_encode", lambda text, add: read.append(len(text)) or encode_here(text, add))
    with pytest.raises(TooLong) as refusal:
        encode(tokenizer, "x" * 5_000_000, limit=100_000)
    assert 100_000 < refusal.value.at_least <= sum(read) < 200_000


def test_a_text_a_little_over_the_limit_is_counted_exactly(tokenizer: ModelTokenizer) -> None:
    assert len(encode(tokenizer, "x" * 100_010, limit=100_000)) == 100_010


def test_truncation_and_padding_of_the_training_are_not_kept(checkpoint_folder: Path, tmp_path: Path) -> None:
    saved = json.loads((checkpoint_folder / "tokenizer.json").read_text())
    saved["truncation"] = {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    saved["padding"] = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_id": 0, "pad_type_id": 0}
    saved["padding"] |= {"pad_to_multiple_of": None, "pad_token": "!"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved))
    tokenizer = ModelTokenizer.load(tmp_path)
    assert len(encode(tokenizer, "hello")) == 5
    tokenizer.close()


def test_a_folder_without_tokenizer_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json is missing"):
        ModelTokenizer.load(tmp_path)


def test_a_broken_tokenizer_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer"):
        ModelTokenizer.load(tmp_path)
