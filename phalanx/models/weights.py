"""Where a model's tensors come from: a checkpoint's files, or a seeded generator."""

import math
from typing import Protocol

import torch
from torch import Tensor


class Weights(Protocol):
    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of this name. Raises CheckpointError where it is missing or has another shape."""

    def check_unused(self) -> tuple[str, ...]:
        """Make sure that no tensor that would change the output was left out, and return the names of the others.

        Raises CheckpointError where one that was not asked for belongs to a part of the model that was.
        """


class DummyWeights:
    """Random tensors of the shapes asked for: the same seed gives every rank the same model."""

    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._dtype = dtype

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if len(shape) == 1:
            fill = 0.0 if name.endswith("bias") else 1.0
            return torch.full(shape, fill)
        # Rows of unit length at most keep activations in range at any depth, as trained weights do.
        bound = 0.02 if "embed" in name or "lm_head" in name else math.sqrt(1 / shape[1])
        return torch.empty(shape, dtype=self._dtype).uniform_(-bound, bound, generator=self._generator)

    def check_unused(self) -> tuple[str, ...]:
        return ()
