"""The service's model, as this machine has it."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from phalanx import checkpoint
from phalanx.checkpoint import CheckpointError
from phalanx.config import Config
from phalanx.node.errors import NodeError


def find(config: Config, named: str | None, *, holds_ranks: bool) -> Path:
    """The folder of the service's checkpoint on this machine; fetched first where it is a hub name.

    Looks at `named` if given, else where the service itself has it, else for what the service was asked to serve.

    Raises:
        NodeError: there is none here, or it is another one; says which files differ.
    """
    weights = holds_ranks and config.engine.engine == "model" and config.model.load_format != "dummy"
    expected = {
        name: digest
        for name, digest in config.facts.fingerprints.items()
        if weights or not name.endswith(".safetensors")
    }
    there = Path(config.facts.folder)
    try:
        if named is None and there.is_dir() and checkpoint.fingerprints(there, weights=weights) == expected:
            return there
        wanted = config.model if named is None else msgspec.structs.replace(config.model, model=named, revision=None)
        try:
            folder = checkpoint.find(wanted, weights=weights)
        except CheckpointError:
            if named is not None or not there.is_dir():
                raise
            folder = there  # What the service was given means something else here, its own folder nearly the same.
        found = checkpoint.fingerprints(folder, weights=weights)
    except CheckpointError as error:
        hint = "" if named is not None else "; --model FOLDER says where the model is on this machine"
        raise NodeError(f"no model: {error}{hint}") from None
    if wrong := differences(expected, found):
        raise NodeError(
            f"another model than the service's: in {folder} {', '.join(wrong)}; "
            "--model FOLDER says where the right one is on this machine"
        )
    return folder


def differences(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """In words, file by file; empty where the two are the same."""
    return [
        f"{name} is missing"
        if name not in found
        else f"{name} is not among the service's files"
        if name not in expected
        else f"{name} differs ({found[name][:8]} here, {expected[name][:8]} there)"
        for name in sorted({**expected, **found})
        if expected.get(name) != found.get(name)
    ]
