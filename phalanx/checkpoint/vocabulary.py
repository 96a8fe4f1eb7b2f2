"""The ids that tokenizer.json gives to texts."""

from functools import cached_property
from pathlib import Path

import msgspec

from phalanx.checkpoint.errors import CheckpointError
from phalanx.checkpoint.files import TOKENIZER, refuse_pointer


class _IdOfText(msgspec.Struct):
    id: int
    content: str


class _VocabularyPart(msgspec.Struct):
    """What is read of the `model`. Unigram has pairs of a piece and its score, in the order of their ids."""

    vocab: dict[str, int] | list[tuple[str, float]] | None = None


class _TokenizerFile(msgspec.Struct):
    """The file is megabytes long: its model is left as it is until it is needed."""

    added_tokens: list[_IdOfText] | None = None
    model: msgspec.Raw = msgspec.Raw(b"{}")


class StoredVocabulary:
    def __init__(self, path: Path, content: bytes) -> None:
        """Raises CheckpointError where the content of tokenizer.json, which lies at `path`, is none."""
        self._path = path
        try:
            self._file = msgspec.json.decode(content, type=_TokenizerFile)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from None

    @cached_property
    def pieces(self) -> dict[str, int]:
        """What text is split into, as the vocabulary writes it, without added tokens. Raises CheckpointError."""
        try:
            vocabulary = msgspec.json.decode(self._file.model, type=_VocabularyPart).vocab or {}
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{self._path} cannot be read: {error}") from None
        if isinstance(vocabulary, list):
            return {piece: number for number, (piece, _) in enumerate(vocabulary)}
        return vocabulary

    def id_of(self, text: str) -> int | None:
        """The id of an added token or of a piece; None for a text that is neither. Raises CheckpointError."""
        for added in self._file.added_tokens or ():
            if added.content == text:
                return added.id
        return self.pieces.get(text)


def read_vocabulary(folder: Path) -> StoredVocabulary | None:
    """The vocabulary in tokenizer.json; None where the folder has no such file. Raises CheckpointError."""
    path = folder / TOKENIZER
    if not path.is_file():
        return None
    refuse_pointer(path)
    return StoredVocabulary(path, path.read_bytes())
