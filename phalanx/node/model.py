"""The service's model, as this machine has it."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from phalanx.checkpoint import fingerprints
from phalanx.checkpoint.errors import CheckpointError
from phalanx.checkpoint.files import weight_files
from phalanx.checkpoint.find import find as find_folder
from phalanx.checkpoint.find import find_weights
from phalanx.config import Config, ModelOptions
from phalanx.node.errors import NodeError


def find(config: Config, named: str | None, *, holds_ranks: bool) -> Path:
    """The folder of the service's checkpoint on this machine; fetched first where it is a hub name.

    Looks at `named` if given, else where the service itself has it, else for what the service was asked to serve.
    Weights are fetched once everything else is known to be the same.

    Raises:
        NodeError: there is none here, or it is another one; says which files differ.
    """
    weights = holds_ranks and config.reads_weights
    expected = config.facts.fingerprints
    their_weights = {name: digest for name, digest in expected.items() if name.endswith(".safetensors")}
    their_metadata = {name: digest for name, digest in expected.items() if name not in their_weights}
    there = Path(config.facts.folder)
    try:
        if named is None and _is_whole(there, expected if weights else their_metadata, weights=weights):
            return there
        wanted = config.model if named is None else msgspec.structs.replace(config.model, model=named, revision=None)
        folder, wanted = _found(wanted, there if named is None else None)
        _compare(folder, their_metadata, fingerprints.of_metadata(folder))
        if weights:
            _compare(folder, their_weights, fingerprints.of_weights(find_weights(wanted, folder)))
    except CheckpointError as error:
        hint = "" if named is not None else f"; {_help(config, 'the model')}"
        raise NodeError(f"no model: {error}{hint}") from None
    except _Another as error:
        raise NodeError(f"another model than the service's: {error}; {_help(config, 'the right one')}") from None
    return folder


class _Another(Exception):
    """The folder holds another model than the service's; says which files differ."""


def _help(config: Config, what: str) -> str:
    if config.parallel.data_parallel_backend == "ray":
        return f"each node needs {what} in the folder where this service has it, or serve it by its name on the hub"
    return f"--model FOLDER says where {what} is on this machine"


def _is_whole(folder: Path, expected: Mapping[str, str], *, weights: bool) -> bool:
    """Whether it holds everything that it has to, and nothing else."""
    try:
        found = fingerprints.of_metadata(folder)
        return expected == (found | fingerprints.of_weights(weight_files(folder)) if weights else found)
    except CheckpointError:
        return False


def _found(wanted: ModelOptions, there: Path | None) -> tuple[Path, ModelOptions]:
    """The folder of what is wanted, and under which options it was found."""
    try:
        return find_folder(wanted), wanted
    except CheckpointError:
        if there is None or not there.is_dir():
            raise
        # What the service was given means something else here, its own folder nearly the same.
        return there, msgspec.structs.replace(wanted, model=str(there), revision=None)


def _compare(folder: Path, expected: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Raises _Another where they are not the same."""
    if wrong := differences(expected, found):
        raise _Another(f"in {folder} {', '.join(wrong)}")


def differences(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """The differences in words, one for each file that is not the same."""
    return [
        f"{name} is missing"
        if name not in found
        else f"{name} is not among the service's files"
        if name not in expected
        else f"{name} differs ({found[name][:8]} here, {expected[name][:8]} there)"
        for name in sorted({**expected, **found})
        if expected.get(name) != found.get(name)
    ]
