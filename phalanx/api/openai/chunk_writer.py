"""What the chunks of one answer have in common, at both endpoint families."""

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from phalanx.api.openai.common import Usage
from phalanx.api.openai.sampling import StreamOptions

Chunk = TypeVar("Chunk", bound=msgspec.Struct)


class ChunkWriter(Generic[Chunk]):
    """It makes the chunks of one answer, which all have its id, its time and its model."""

    def __init__(self, chunk_type: type[Chunk], prefix: str, model: str, options: StreamOptions | None) -> None:
        """`chunk_type` has the fields id, created, model, choices and usage; `prefix` begins the id."""
        self._chunk_type = chunk_type
        self.head: dict[str, Any] = {
            "id": f"{prefix}-{secrets.token_hex(16)}",
            "created": int(time.time()),
            "model": model,
        }
        """The fields that the whole answer has as well, where it is not streamed."""
        # With include_usage every chunk but the last says `"usage": null`.
        self._no_usage: UnsetType | None = None if options is not None and options.include_usage else UNSET

    def chunk(self, choices: Sequence[object], spent: Usage | None) -> Chunk:
        """A chunk of these choices; `spent` is None where it tells no usage."""
        return self._chunk_type(**self.head, choices=choices, usage=self._no_usage if spent is None else spent)

    def splice(self, choice: Callable[[str], object]) -> tuple[bytes, bytes]:
        """What stands around the JSON string of a text in the event of a chunk, whose only choice `choice` makes."""
        mark = "\x00text\x00"
        head, _, tail = msgspec.json.encode(self.chunk([choice(mark)], None)).partition(msgspec.json.encode(mark))
        return b"data: " + head, tail + b"\n\n"
