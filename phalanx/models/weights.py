"""Where a model's tensors come from: safetensors files, memory-mapped, or a seeded generator."""

import json
import math
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

INDEX = "model.safetensors.index.json"


class CheckpointError(Exception):
    """The checkpoint's files do not hold the model that its config.json describes."""


class Weights(Protocol):
    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of this name. Raises CheckpointError where it is missing or has another shape."""

    def check_all_used(self) -> None:
        """Raises CheckpointError where the checkpoint holds tensors that were not asked for."""


class Checkpoint:
    """A folder's safetensors: model.safetensors, the shards of an index, or every *.safetensors there is.

    Tensors are views of mapped memory: the pages come from the file as they are read, and cost nothing afterwards.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._files: dict[Path, Any] = {}
        self._file_of: dict[str, Path] = {}
        self._used: set[str] = set()
        for path in self._paths():
            try:
                file: Any = safe_open(path, framework="pt")
                self._file_of.update(dict.fromkeys(file.keys(), path))
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{path} cannot be read: {error}") from error
            self._files[path] = file

    def _paths(self) -> list[Path]:
        index = self.folder / INDEX
        if index.exists():
            try:
                names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            except (ValueError, KeyError, AttributeError) as error:
                raise CheckpointError(f"{index} is not an index of safetensors files: {error!r}") from error
            paths = [self.folder / name for name in names]
            if missing := [path.name for path in paths if not path.exists()]:
                raise CheckpointError(
                    f"{self.folder} lacks {len(missing)} of the {len(paths)} files its index names: "
                    f"{', '.join(missing[:5])}. Download the checkpoint again."
                )
            return paths
        if (single := self.folder / "model.safetensors").exists():
            return [single]
        paths = sorted(self.folder.glob("*.safetensors"))
        if not paths:
            raise CheckpointError(f"{self.folder} holds no *.safetensors file; other formats are not read")
        return paths

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        path = self._file_of.get(name)
        if path is None:
            raise CheckpointError(f"{self.folder} lacks the tensor {name}, which its config.json asks for")
        tensor: Tensor = self._files[path].get_tensor(name)
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"{path}: {name} has shape {list(tensor.shape)}, and config.json asks for {list(shape)}"
            )
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise CheckpointError(f"{path}: {name} is {tensor.dtype}; float32, bfloat16 and float16 can be read")
        self._used.add(name)
        return tensor

    def check_all_used(self) -> None:
        extra = sorted(name for name in self._file_of if name not in self._used and not _is_derived(name))
        if extra:
            raise CheckpointError(
                f"{self.folder} holds {len(extra)} tensors that its config.json does not account for: "
                f"{', '.join(extra[:5])}{', ...' if len(extra) > 5 else ''}"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.clear()


def _is_derived(name: str) -> bool:
    """Tensors that old checkpoints carry although config.json determines them; a tied output layer among them."""
    return name.endswith("rotary_emb.inv_freq") or name == "lm_head.weight"


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

    def check_all_used(self) -> None:
        pass
