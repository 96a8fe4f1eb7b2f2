"""Tokens to text as they arrive: never half a character, and together exactly what `Tokenizer.decode` gives.

Three ways, by the tokenizer's decoder:
- byte level (GPT-2's alphabet): every token is bytes; an incremental UTF-8 decoder holds back what is incomplete.
- piecewise (SentencePiece, WordPiece): every token is a text that does not depend on its neighbours, but for the
  first one and for runs of byte tokens (`<0xE2>`), which are one valid text or all replacement characters.
- any other: decode a window of the last tokens with and without the new one; the difference is its text.
"""

import codecs
import json
from typing import Any, Protocol

from tokenizers import Tokenizer

REPLACEMENT = "\ufffd"
_WINDOW_LIMIT = 32
"""Tokens without a complete character after which the window is shown as it is."""

_incremental_utf8 = codecs.getincrementaldecoder("utf-8")


class Detokenizer(Protocol):
    """The text of one sequence of tokens."""

    def push(self, token: int) -> str:
        """Take the next token; give the text that it completes."""
        ...

    def finish(self) -> str:
        """The sequence ends: give what was held back, as replacement characters where it is incomplete."""
        ...


class TokenTexts(Protocol):
    """What all sequences of one tokenizer share."""

    def detokenizer(self, context: list[int]) -> Detokenizer:
        """`context`: the tokens whose text this one continues; empty where it begins a text of its own."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The token on its own; special tokens as they are written."""
        ...


def token_texts(tokenizer: Tokenizer, skip_special: bool) -> TokenTexts:
    """Choose the way that fits the tokenizer's decoder."""
    special = frozenset(id for id, added in tokenizer.get_added_tokens_decoder().items() if added.special)
    skipped = special if skip_special else frozenset()
    decoder: dict[str, Any] = json.loads(tokenizer.decoder.__getstate__()) if tokenizer.decoder else {}
    if decoder.get("type") == "ByteLevel":
        return ByteLevelTexts(tokenizer, skipped)
    steps = decoder["decoders"] if decoder.get("type") == "Sequence" else [decoder]
    kinds = [step.get("type") for step in steps]
    if kinds in (["Metaspace"], ["WordPiece"]):
        return PieceTexts(tokenizer, skipped, byte_fallback=False, strip="", strip_count=0)
    if kinds and kinds[-1] == "Strip" and steps[-1]["stop"] == 0 and _independent(kinds[:-1]):
        return PieceTexts(
            tokenizer, skipped, "ByteFallback" in kinds, strip=steps[-1]["content"], strip_count=steps[-1]["start"]
        )
    if _independent(kinds):
        return PieceTexts(tokenizer, skipped, "ByteFallback" in kinds, strip="", strip_count=0)
    return WindowTexts(tokenizer, skip_special)


def _independent(kinds: list[str | None]) -> bool:
    """Whether these decoder steps make each token's text without its neighbours, then join them."""
    return kinds[-1:] == ["Fuse"] and set(kinds[:-1]) <= {"Replace", "ByteFallback"}


def byte_alphabet() -> dict[str, int]:
    """GPT-2's characters for the 256 bytes: printable ones stand for themselves, the others for 256 + n."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): byte for byte in printable}
    for number, byte in enumerate(sorted(set(range(256)) - set(printable))):
        alphabet[chr(256 + number)] = byte
    return alphabet


class ByteLevelTexts:
    def __init__(self, tokenizer: Tokenizer, skipped: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._skipped = skipped
        self._alphabet = byte_alphabet()
        self.pieces = _Pieces(self)
        self.texts = _WholeTexts(self.pieces)

    def token_bytes(self, token: int) -> bytes:
        written = self._tokenizer.id_to_token(token)
        if written is None:
            return b""
        try:
            return bytes([self._alphabet[character] for character in written])
        except KeyError:
            return written.encode()

    def shown_bytes(self, token: int) -> bytes:
        return b"" if token in self._skipped else self.token_bytes(token)

    def detokenizer(self, context: list[int]) -> "ByteLevelDetokenizer":
        return ByteLevelDetokenizer(self)


class _Pieces(dict[int, bytes]):
    """Token to its bytes, filled as tokens are met: vocabularies are large and texts use little of them."""

    def __init__(self, owner: ByteLevelTexts) -> None:
        self._owner = owner

    def __missing__(self, token: int) -> bytes:
        piece = self[token] = self._owner.shown_bytes(token)
        return piece


class _WholeTexts(dict[int, str | None]):
    """Token to its text where its bytes are whole characters, else None."""

    def __init__(self, pieces: _Pieces) -> None:
        self._pieces = pieces

    def __missing__(self, token: int) -> str | None:
        try:
            text: str | None = self._pieces[token].decode()
        except UnicodeDecodeError:
            text = None
        self[token] = text
        return text


class ByteLevelDetokenizer:
    __slots__ = ("_decoder", "_pieces", "_texts", "_whole")

    def __init__(self, texts: ByteLevelTexts) -> None:
        self._pieces = texts.pieces
        self._texts = texts.texts
        self._decoder: codecs.IncrementalDecoder | None = None
        self._whole = True
        """No character is begun."""

    def push(self, token: int) -> str:
        if self._whole:
            text = self._texts[token]
            if text is not None:
                return text
            if self._decoder is None:
                self._decoder = _incremental_utf8("replace")
        assert self._decoder is not None
        text = self._decoder.decode(self._pieces[token])
        self._whole = not self._decoder.getstate()[0]
        return text

    def finish(self) -> str:
        return "" if self._whole or self._decoder is None else self._decoder.decode(b"", final=True)


class PieceTexts:
    def __init__(
        self, tokenizer: Tokenizer, skipped: frozenset[int], byte_fallback: bool, strip: str, strip_count: int
    ) -> None:
        self._tokenizer = tokenizer
        self._skipped = skipped
        self._byte_fallback = byte_fallback
        self.strip = strip
        self.strip_count = strip_count
        self._anchor = self._find_anchor()
        self._anchor_length = len(self._decode([self._anchor]))
        self._first: dict[int, str | int] = {}
        self._later: dict[int, str | int] = {}

    def _find_anchor(self) -> int:
        """A token to decode others behind, so that they are not the first."""
        for token in range(self._tokenizer.get_vocab_size()):
            written = self._tokenizer.id_to_token(token) or ""
            if written.isalnum() and self._decode([token]) == written:
                return token
        raise ValueError("the tokenizer has no plain word or letter in its vocabulary")

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=False)

    def piece(self, token: int, first: bool) -> str | int:
        """The token's text, or the byte it stands for; the empty text where it is not shown."""
        cache = self._first if first else self._later
        found = cache.get(token)
        if found is None:
            shown = token not in self._skipped
            found = cache[token] = self._piece(token, first) if shown else ""
        return found

    def shown(self, token: int) -> bool:
        return token not in self._skipped and self._tokenizer.id_to_token(token) is not None

    def _piece(self, token: int, first: bool) -> str | int:
        written = self._tokenizer.id_to_token(token) or ""
        if self._byte_fallback and len(written) == 6 and written.startswith("<0x") and written.endswith(">"):
            try:
                return int(written[3:5], 16)
            except ValueError:
                pass
        if first and not self.strip_count:
            return self._decode([token])
        return self._decode([self._anchor, token])[self._anchor_length :]

    def token_bytes(self, token: int) -> bytes:
        piece = self._piece(token, first=False)
        return bytes([piece]) if isinstance(piece, int) else piece.encode()

    def detokenizer(self, context: list[int]) -> "PieceDetokenizer":
        return PieceDetokenizer(self, begins=not context)


class PieceDetokenizer:
    __slots__ = ("_first", "_run", "_strip", "_texts")

    def __init__(self, texts: PieceTexts, begins: bool) -> None:
        self._texts = texts
        self._first = begins
        self._strip = texts.strip_count if begins else 0
        self._run = bytearray()

    def push(self, token: int) -> str:
        if not self._texts.shown(token):
            return ""
        piece = self._texts.piece(token, self._first)
        self._first = False
        if isinstance(piece, int):
            self._run.append(piece)
            return ""
        if self._run:
            piece = self._end_run() + piece
        return self._stripped(piece) if self._strip else piece

    def finish(self) -> str:
        return self._stripped(self._end_run())

    def _end_run(self) -> str:
        run, self._run = self._run, bytearray()
        try:
            return run.decode()
        except UnicodeDecodeError:
            return REPLACEMENT * len(run)

    def _stripped(self, text: str) -> str:
        while self._strip and text:
            if not text.startswith(self._texts.strip):
                self._strip = 0
                break
            text = text[len(self._texts.strip) :]
            self._strip -= 1
        return text


class WindowTexts:
    def __init__(self, tokenizer: Tokenizer, skip_special: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special

    def decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=self._skip_special)

    def token_bytes(self, token: int) -> bytes:
        return self._tokenizer.decode([token], skip_special_tokens=False).encode()

    def detokenizer(self, context: list[int]) -> "WindowDetokenizer":
        return WindowDetokenizer(self, context)


class WindowDetokenizer:
    __slots__ = ("_shown", "_texts", "_tokens")

    def __init__(self, texts: WindowTexts, context: list[int]) -> None:
        self._texts = texts
        self._tokens = context[-_WINDOW_LIMIT:]
        self._shown = len(self._tokens)
        """Leading tokens of the window whose text has been given."""

    def push(self, token: int) -> str:
        self._tokens.append(token)
        text = self._new_text()
        held = len(self._tokens) - self._shown
        if held < _WINDOW_LIMIT and (not text or text.endswith(REPLACEMENT)):
            return ""
        # What was given before stays as context for one more round.
        self._tokens = self._tokens[self._shown :]
        self._shown = len(self._tokens)
        return text

    def finish(self) -> str:
        return self._new_text()

    def _new_text(self) -> str:
        before = self._texts.decode(self._tokens[: self._shown])
        return self._texts.decode(self._tokens)[len(before) :]
