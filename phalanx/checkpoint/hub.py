"""Fetching a checkpoint from the hub: only what is read of it, and its weights only once they are wanted."""

import contextlib
import difflib
from collections.abc import Sequence
from pathlib import Path

from phalanx.checkpoint.errors import CheckpointError
from phalanx.checkpoint.files import METADATA, OTHER_FORMAT, SINGLE, indexed


def fetch_metadata(name: str, revision: str | None) -> Path:
    """The hub's snapshot of `name` in the local cache, without its weights.

    Raises:
        CheckpointError: `name` is no name on the hub, or the hub does not give it.
    """
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise CheckpointError(f"there is no folder {name}{_near_folder(name)}")
    return _fetch(name, revision, METADATA)


def fetch_weights(name: str, snapshot: Path) -> None:
    """Add its weights to a snapshot: the files that its index names, or model.safetensors, or else all safetensors.

    Raises:
        CheckpointError: the hub does not give them.
    """
    commit = snapshot.name  # The branch may have moved on since the snapshot was begun.
    if names := indexed(snapshot):
        _fetch(name, commit, names)
        return
    _fetch(name, commit, (SINGLE,))
    if not (snapshot / SINGLE).is_file():
        _fetch(name, commit, ("*.safetensors",), but=("*/*", f"{OTHER_FORMAT}*"))


def _fetch(name: str, revision: str | None, files: Sequence[str], but: Sequence[str] = ()) -> Path:
    # Here and not above: a local folder needs neither this import nor the network stack it brings.
    import huggingface_hub
    from huggingface_hub import errors

    near = _near_folder(name)
    # Every checkpoint has a config.json. The library warns of a request that no file of the repository matches.
    wanted = ["config.json", *files]
    try:
        found = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=wanted, ignore_patterns=list(but)
        )
        return Path(found)
    except errors.HFValidationError:
        raise CheckpointError(f"{name} is neither a folder nor a possible hub name{near}") from None
    except errors.GatedRepoError:
        raise CheckpointError(
            f"{name} is gated: ask for access at https://huggingface.co/{name}, then `hf auth login` or set HF_TOKEN"
        ) from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(f"{name} has no revision {revision}") from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"{name} is neither a folder nor a model on the hub (or it is private: `hf auth login`){near}"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, OSError) as error:
        raise CheckpointError(
            f"{name} is no folder, is not wholly in the local cache, and the hub cannot be reached{near} "
            f"({_first_line(error)})"
        ) from None
    except errors.HfHubHTTPError as error:
        raise CheckpointError(f"the hub does not give {name}: {_first_line(error)}") from None


def _near_folder(name: str) -> str:
    """`; did you mean FOLDER?` where a folder beside it has nearly that name."""
    path = Path(name).expanduser()
    with contextlib.suppress(OSError):
        beside = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
        if found := difflib.get_close_matches(path.name, beside, n=1, cutoff=0.6):
            return f"; did you mean {path.parent / found[0]}?"
    return ""


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    return next(iter(str(cause).strip().splitlines()), type(cause).__name__)
