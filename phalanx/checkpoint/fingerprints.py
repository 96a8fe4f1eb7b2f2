"""Short digests by which two machines tell whether they have the same model."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from phalanx.checkpoint.errors import CheckpointError
from phalanx.checkpoint.files import INDEX, LONGEST_HEADER, METADATA

_DECISIVE = tuple(name for name in METADATA if name != INDEX)
"""The index only says which file holds a tensor: the same weights may be cut into files in another way."""
_SAMPLES = 16
_SAMPLE_BYTES = 4096


def of_metadata(folder: Path) -> dict[str, str]:
    """File name to digest, of each file but the weights that decides what a rank or an API server answers.

    Raises:
        CheckpointError: a file cannot be read.
    """
    try:
        return {
            path.name: _short(hashlib.sha256(path.read_bytes()))
            for path in (folder / name for name in _DECISIVE)
            if path.is_file()
        }
    except OSError as error:
        raise _unreadable(error, folder) from None


def of_weights(files: Iterable[Path]) -> dict[str, str]:
    """File name to digest, of safetensors files.

    They are too large to be read for this: the digest covers size, header and some pages of the data, enough to tell
    other weights of the same shape, not to find a damaged file.

    Raises:
        CheckpointError: a file cannot be read.
    """
    digests = {}
    for path in files:
        try:
            digests[path.name] = _short(_sample(path))
        except OSError as error:
            raise _unreadable(error, path) from None
    return digests


def _sample(path: Path) -> "hashlib._Hash":
    """Digest of a safetensors file's size, its header (8 bytes of length, then JSON) and pages spread over it."""
    with path.open("rb", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        digest = hashlib.sha256(b"%d" % size)
        start = file.read(8)
        # A file that is no safetensors says any length here; whoever loads it says so better.
        digest.update(start + file.read(min(int.from_bytes(start, "little"), LONGEST_HEADER)))
        for sample in range(_SAMPLES):
            file.seek(size * sample // _SAMPLES)
            digest.update(file.read(_SAMPLE_BYTES))
        file.seek(max(0, size - _SAMPLE_BYTES))
        digest.update(file.read(_SAMPLE_BYTES))
    return digest


def _short(digest: "hashlib._Hash") -> str:
    return digest.hexdigest()[:16]


def _unreadable(error: OSError, path: Path) -> CheckpointError:
    return CheckpointError(f"cannot read {error.filename or path}: {error.strerror}")
