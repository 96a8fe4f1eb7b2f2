"""Which files of a checkpoint are read, and whether they are what their names say."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from phalanx.checkpoint.errors import CheckpointError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
METADATA = (
    *("config.json", "generation_config.json", INDEX),
    *(TOKENIZER, TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "chat_template.json"),
)
"""Every file but the weights that some process of the service reads."""

OTHER_FORMAT = "consolidated"
"""How the names of files in Mistral's own format begin: the same weights once more, under other names."""

LONGEST_HEADER = 100_000_000
"""Bytes of a safetensors header; the format allows no more."""
_POINTER = b"version https://git-lfs.github.com/spec/"


def read_json(path: Path) -> dict[str, Any]:
    """The object that a file holds. Raises CheckpointError."""
    refuse_pointer(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not an object")
    return content


def read_json_if_there(path: Path) -> dict[str, Any]:
    """As `read_json`, and empty where there is no such file."""
    return read_json(path) if path.is_file() else {}


def refuse_pointer(path: Path) -> None:
    """Raises CheckpointError where git-lfs, not being installed, has left a note in place of the file."""
    try:
        with path.open("rb") as file:
            beginning = file.read(len(_POINTER))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    if beginning == _POINTER:
        raise CheckpointError(f"{path} is a git-lfs pointer, not the file itself: run `git lfs pull` in {path.parent}")


def indexed(folder: Path) -> tuple[str, ...]:
    """Names of the files that the index of the weights names; none where there is no index. Raises CheckpointError."""
    path = folder / INDEX
    if not path.is_file():
        return ()
    named = read_json(path).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
        raise CheckpointError(f"{path} is not an index of safetensors files: it has no weight_map of names")
    names = tuple(sorted(set(named.values())))
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{path} names {name!r}, which is not a file beside it")
    return names


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the model: those of the index, or model.safetensors, or all that there are.

    Raises:
        CheckpointError: there are none, or the index names one that is missing.
    """
    if names := indexed(folder):
        paths = [folder / name for name in names]
        if missing := [path.name for path in paths if not path.is_file()]:
            more = ", ..." if len(missing) > 5 else ""
            raise CheckpointError(
                f"{folder} lacks {len(missing)} of the {len(paths)} files its index names: "
                f"{', '.join(missing[:5])}{more}. Download the checkpoint again."
            )
        return paths
    if (single := folder / SINGLE).is_file():
        return [single]
    found = sorted(folder.glob("*.safetensors"))
    if paths := [path for path in found if not path.name.startswith(OTHER_FORMAT)]:
        return paths
    if found:
        raise CheckpointError(
            f"{folder} holds no *.safetensors file but {found[0].name}, which is in Mistral's own format: "
            "the checkpoint needs its model*.safetensors"
        )
    others = _other_weights(path.name for path in folder.iterdir())
    there = f" ({others} is in a format that is not read)" if others else ""
    raise CheckpointError(
        f"{folder} holds no *.safetensors file{there}: convert its weights, or use --load-format dummy for random ones"
    )


def _other_weights(names: Iterable[str]) -> str | None:
    """A file of weights in another format, to be named beside what is missing."""
    endings = (".bin", ".pt", ".pth", ".gguf", ".ckpt", ".h5", ".msgpack", ".onnx")
    return next((name for name in sorted(names) if name.endswith(endings) and name != "training_args.bin"), None)


def refuse_broken(path: Path) -> None:
    """Raises CheckpointError where a safetensors file is a git-lfs pointer, is cut short or is none.

    A file begins with eight bytes that say how long its header is, then comes the header, JSON that says where in the
    rest each tensor lies.
    """
    refuse_pointer(path)
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            length = int.from_bytes(file.read(8), "little")
            if length > LONGEST_HEADER:
                raise CheckpointError(f"{path} cannot be read: it is not a safetensors file")
            header = file.read(length)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    whole_header = size >= 8 and len(header) == length
    needed = 8 + length + (_data_bytes(header, path) if whole_header else 0)
    if size < needed or not whole_header:
        raise CheckpointError(
            f"{path} cannot be read: it ends after {size:,} of its {needed:,} bytes. Download or copy it again."
        )


def _data_bytes(header: bytes, path: Path) -> int:
    """Bytes of all tensors that a header describes."""
    try:
        tensors = json.loads(header).items()
        return max((int(tensor["data_offsets"][1]) for name, tensor in tensors if name != "__metadata__"), default=0)
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, RecursionError):
        raise CheckpointError(f"{path} cannot be read: it is not a safetensors file") from None
