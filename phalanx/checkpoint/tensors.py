"""The tensors of a checkpoint, as mapped memory. The one file of this room that needs torch: for ranks alone."""

import re
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from phalanx.checkpoint.errors import CheckpointError
from phalanx.checkpoint.files import refuse_broken, weight_files

_BASE = "model."
"""What names begin with, but for the output layer's; checkpoints saved from the model without that layer lack it."""
_EMBEDDING = "embed_tokens.weight"


class StoredWeights:
    """Implements `phalanx.models.weights.Weights` from a folder's safetensors files.

    Tensors are views of mapped memory: the pages come from the file as they are read, and cost nothing afterwards.
    """

    def __init__(self, folder: Path) -> None:
        """Raises CheckpointError where files are missing or broken."""
        self.folder = folder
        self._files: dict[Path, Any] = {}
        self._file_of: dict[str, Path] = {}
        self._used: set[str] = set()
        for path in weight_files(folder):
            refuse_broken(path)
            try:
                file: Any = safe_open(path, framework="pt")
                self._file_of.update(dict.fromkeys(file.keys(), path))
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{path} cannot be read: {error}") from error
            self._files[path] = file
        self._bare = _EMBEDDING in self._file_of and _BASE + _EMBEDDING not in self._file_of

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        stored = name.removeprefix(_BASE) if self._bare else name
        path = self._file_of.get(stored)
        if path is None:
            raise CheckpointError(f"{self.folder} lacks the tensor {stored}, which its config.json asks for")
        tensor: Tensor = self._files[path].get_tensor(stored)
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"{path}: {stored} has shape {list(tensor.shape)}, and config.json asks for {list(shape)}"
            )
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise CheckpointError(f"{path}: {stored} is {tensor.dtype}; float32, bfloat16 and float16 can be read")
        self._used.add(stored)
        return tensor

    def check_unused(self) -> tuple[str, ...]:
        left = sorted(name for name in self._file_of if name not in self._used and not _is_derived(name))
        running = {_part(name) for name in self._used}
        if amiss := [name for name in left if _part(name) in running]:
            raise CheckpointError(
                f"{self.folder} holds {len(amiss)} tensors that its config.json does not account for: "
                f"{', '.join(amiss[:5])}{', ...' if len(amiss) > 5 else ''}"
            )
        return tuple(left)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.clear()


def _part(name: str) -> str:
    """What a tensor is a part of: its whole layer, or the module outside of layers."""
    layer = re.match(r"(.*\blayers\.\d+)\.", name)
    return layer[1] if layer is not None else name.rpartition(".")[0]


def _is_derived(name: str) -> bool:
    """Tensors that old checkpoints carry although config.json determines them; a tied output layer among them."""
    return name.endswith("rotary_emb.inv_freq") or name == "lm_head.weight"
