"""The rows of one step, as every device's kernels take them."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Batch:
    """All chunks of a step, concatenated: T rows, one a token, and C chunks.

    Flat arrays of int32, built by appending: cheaper than tensors for the few numbers of a decode step.
    """

    tokens: "array[int]" = field(default_factory=lambda: array("i"))
    """[T] token ids."""
    chunks: "array[int]" = field(default_factory=lambda: array("i"))
    """[C, 4]: first row, rows, position of the first row, first entry of its block table in `blocks`."""
    blocks: "array[int]" = field(default_factory=lambda: array("i"))
    """Block tables, one after another."""

    @property
    def rows(self) -> int:
        return len(self.tokens)

    def add(self, tokens: Sequence[int], start: int, blocks: Sequence[int]) -> None:
        """Append one chunk: `tokens` at positions start, start + 1, ... of the sequence with this block table."""
        self.chunks.extend((len(self.tokens), len(tokens), start, len(self.blocks)))
        self.tokens.extend(tokens)
        self.blocks.extend(blocks)
