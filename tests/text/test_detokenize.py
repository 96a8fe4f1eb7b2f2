"""Streamed text is whole characters, and all of it is what the tokenizer's own `decode` says."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from phalanx.text.detokenize import (
    ByteLevelTexts,
    PieceTexts,
    WindowTexts,
    token_texts,
)

CORPUS = [
    "the quick brown fox jumps over the lazy dog, and then doesn't it's not we're re-reading it.",
    "été à Zürich: 1 234,50 € — 東京タワー 🗼 and 👩‍👩‍👧 families",
    "def main():\n    return {'a': [1, 2, 3]}\n",
]


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>", "<|start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    # Added tokens need not be in the byte alphabet, nor special.
    tokenizer.add_tokens(["<tool call>", "日本", "plain"])
    return tokenizer


def sentence_piece(strip: bool) -> Tokenizer:
    """As Llama 2 and Mistral: byte tokens for what the vocabulary lacks."""
    words = ["▁the", "▁fox", "▁", "ing", "é", "▁▁", "a", "b", "€", "▁東", "京"]
    vocab = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    tokenizer = Tokenizer(
        models.BPE({word: id for id, word in enumerate(vocab)}, [], byte_fallback=True, unk_token="<unk>")
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strip else steps)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def metaspace() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁the", -1.0), ("▁", -2.0), ("s", -2.0), ("▁▁x", -3.0)], 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<unk>"])
    return tokenizer


def word_piece(cleanup: bool) -> Tokenizer:
    words = ["[UNK]", "[SEP]", "the", "fox", "##es", "##'s", "do", "n't", "'", "t", ".", ",", "?", "##x", "not", "i"]
    tokenizer = Tokenizer(models.WordPiece({word: id for id, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=cleanup)
    tokenizer.add_special_tokens(["[UNK]", "[SEP]"])
    return tokenizer


def end_of_word() -> Tokenizer:
    """A decoder that Phalanx knows nothing of: CLIP's."""
    words = ["<unk>", "hello</w>", "wor", "ld</w>", "a", "b</w>", "é</w>"]
    tokenizer = Tokenizer(models.BPE({word: id for id, word in enumerate(words)}, [], unk_token="<unk>"))
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    tokenizer.add_special_tokens(["<unk>"])
    return tokenizer


TOKENIZERS = {
    "byte level": (byte_level, ByteLevelTexts),
    "sentencepiece": (lambda: sentence_piece(strip=True), PieceTexts),
    "sentencepiece, nothing stripped": (lambda: sentence_piece(strip=False), PieceTexts),
    "metaspace": (metaspace, PieceTexts),
    "wordpiece": (lambda: word_piece(cleanup=False), PieceTexts),
    "wordpiece, cleaned up": (lambda: word_piece(cleanup=True), PieceTexts),
    "end of word": (end_of_word, WindowTexts),
}


@cache
def made(name: str) -> Tokenizer:
    return TOKENIZERS[name][0]()


tokens_of = st.lists(st.integers(0, 10_000), max_size=40)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(numbers=tokens_of, skip=st.booleans())
def test_all_pieces_together_are_what_decode_gives(name: str, numbers: list[int], skip: bool) -> None:
    tokenizer = made(name)
    # One more than there are: models have rows that their tokenizers do not know.
    tokens = [number % (tokenizer.get_vocab_size() + 1) for number in numbers]
    detokenizer = token_texts(tokenizer, skip).detokenizer([])
    pieces = [detokenizer.push(token) for token in tokens]
    assert "".join(pieces) + detokenizer.finish() == tokenizer.decode(tokens, skip_special_tokens=skip)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(before=tokens_of.filter(bool), after=tokens_of)
def test_a_continued_text_is_what_decode_adds_to_its_beginning(name: str, before: list[int], after: list[int]) -> None:
    tokenizer = made(name)
    ordinary = [
        token
        for token in range(tokenizer.get_vocab_size())
        if tokenizer.decode([token], skip_special_tokens=True).isalpha()
    ]
    context = [ordinary[number % len(ordinary)] for number in before]
    tokens = [ordinary[number % len(ordinary)] for number in after]
    detokenizer = token_texts(tokenizer, True).detokenizer(context)
    added = "".join([detokenizer.push(token) for token in tokens]) + detokenizer.finish()
    assert tokenizer.decode(context) + added == tokenizer.decode(context + tokens)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_each_kind_of_decoder_is_recognised(name: str) -> None:
    assert type(token_texts(made(name), True)) is TOKENIZERS[name][1]


@given(st.text(min_size=1, max_size=30))
def test_a_piece_never_ends_within_a_character(written: str) -> None:
    tokenizer = made("byte level")
    detokenizer = token_texts(tokenizer, True).detokenizer([])
    shown = ""
    for token in tokenizer.encode(written).ids:
        shown += detokenizer.push(token)
        assert written.startswith(shown)
    assert shown == written


def test_a_character_cut_off_at_the_end_becomes_a_replacement_character() -> None:
    tokenizer = made("byte level")
    detokenizer = token_texts(tokenizer, True).detokenizer([])
    first, *_ = tokenizer.encode("🗼").ids
    assert detokenizer.push(first) == ""
    assert detokenizer.finish() == "\ufffd"


def test_a_character_of_byte_tokens_is_shown_once_it_is_whole_and_followed() -> None:
    tokenizer = made("sentencepiece")
    detokenizer = token_texts(tokenizer, True).detokenizer([])
    tokens = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in "🗼".encode()]
    assert [detokenizer.push(token) for token in tokens] == ["", "", "", ""]
    assert detokenizer.push(tokenizer.token_to_id("▁the")) == "🗼 the"


@pytest.mark.parametrize(
    ("name", "token", "raw"),
    [
        ("byte level", "<|end|>", b"<|end|>"),
        ("byte level", "<tool call>", b"<tool call>"),
        ("byte level", "Ċ", b"\n"),
        ("byte level", "ð", b"\xf0"),
        ("sentencepiece", "<0xE2>", b"\xe2"),
        ("sentencepiece", "▁the", b" the"),
        ("wordpiece", "##es", b"es"),
        ("end of word", "wor", b"wor"),
    ],
)
def test_a_token_alone_is_its_bytes(name: str, token: str, raw: bytes) -> None:
    tokenizer = made(name)
    assert token_texts(tokenizer, False).token_bytes(tokenizer.token_to_id(token)) == raw
