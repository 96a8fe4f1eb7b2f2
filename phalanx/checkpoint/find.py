"""Where a checkpoint is; a hub name is fetched in two parts, so that what cannot be run costs no download."""

from pathlib import Path

from phalanx.checkpoint import hub
from phalanx.checkpoint.errors import CheckpointError
from phalanx.checkpoint.files import TOKENIZER, refuse_broken, refuse_pointer, weight_files
from phalanx.config import ModelOptions

DEMO = Path(__file__).parent.parent / "demo"


def find(options: ModelOptions) -> Path:
    """The folder of the checkpoint; of a hub name everything but its weights is fetched first.

    Raises:
        CheckpointError: there is none, or the hub does not give it.
    """
    if options.model is None:
        folder = DEMO
        if not (folder / "config.json").is_file():
            raise CheckpointError("the bundled demo model is missing from this installation: name a MODEL")
    else:
        folder = Path(options.model).expanduser()
        if folder.is_file():
            raise CheckpointError(f"{folder} is a file: MODEL is the folder it lies in, or a hub name")
        if not folder.is_dir():
            folder = hub.fetch_metadata(options.model, options.revision)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json: it is not a Hugging Face checkpoint")
    if not (folder / TOKENIZER).is_file():
        raise CheckpointError(f"{folder} has no tokenizer.json: checkpoints need a fast tokenizer")
    refuse_pointer(folder / TOKENIZER)
    folder = folder.resolve()
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise CheckpointError(f"{str(folder)!r}: the name is not UTF-8 text: give the folder another one") from None
    return folder


def find_weights(options: ModelOptions, folder: Path) -> list[Path]:
    """The files that hold the weights of the checkpoint in `folder`; those of a hub name are fetched first.

    Raises:
        CheckpointError: one is missing, cut short or not what its name says, or the hub does not give it.
    """
    if options.model is not None and not Path(options.model).expanduser().is_dir():
        hub.fetch_weights(options.model, folder)
    paths = weight_files(folder)
    for path in paths:
        refuse_broken(path)
    return paths
