"""Find a checkpoint and read what its own files say about it; needs neither torch nor transformers."""

import contextlib
import difflib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import msgspec

from phalanx.config import ModelFacts, ModelOptions

DEMO = Path(__file__).parent / "demo"

_METADATA = ("*.json", "*.jinja", "tokenizer.model", "*.txt")
_WEIGHTS = ("*.safetensors",)
_FINGERPRINTED = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("chat_template.json", "chat_template.jinja"),
)
_LONGEST_HEADER = 100_000_000
"""Bytes; the safetensors format allows no more."""
_SAMPLES = 16
_SAMPLE_BYTES = 4096
_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")
_SAMPLING_KEYS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Of generation_config.json; those a request may also carry."""

_ALREADY_EXTENDED = ("llama3", "longrope", "su", "default")
"""RoPE types whose `max_position_embeddings` is the extended length already."""


class CheckpointError(ValueError):
    """There is no such checkpoint, or its files do not say what they must; says what to do."""


def find(options: ModelOptions, *, weights: bool) -> Path:
    """The folder of the checkpoint; a hub name is fetched first, with a progress bar on stderr.

    Args:
        weights: fetch safetensors too, and refuse a checkpoint without them.

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
            folder = _fetch(options.model, options.revision, weights)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json: it is not a Hugging Face checkpoint")
    if not (folder / "tokenizer.json").is_file():
        raise CheckpointError(f"{folder} has no tokenizer.json: checkpoints need a fast tokenizer")
    if weights and not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"{folder} has no *.safetensors: convert its weights, or use --load-format dummy for random ones"
        )
    return folder.resolve()


def read(folder: Path, max_model_len: int | None, *, weights: bool = False) -> ModelFacts:
    """What config.json and generation_config.json say.

    `max_model_len` shortens the checkpoint's own length and is refused above it. `weights`: the safetensors are
    part of what another machine's copy must match.

    Raises:
        CheckpointError: a file is broken or lacks what is needed.
    """
    config = _json(folder / "config.json")
    generation = _json_if_there(folder / "generation_config.json")
    longest = _longest(config, folder)
    if max_model_len is not None and max_model_len > longest:
        raise CheckpointError(f"--max-model-len {max_model_len} is above what {folder} can do: {longest}")
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise CheckpointError(f"{folder / 'config.json'} names no architecture")
    return ModelFacts(
        folder=str(folder),
        architecture=architectures[0],
        vocab_size=_whole(config, "vocab_size", folder),
        max_model_len=max_model_len or longest,
        eos_token_ids=_eos(generation, config, folder),
        default_sampling=_default_sampling(generation, folder),
        fingerprints=fingerprints(folder, weights=weights),
    )


def fingerprints(folder: Path, *, weights: bool) -> dict[str, str]:
    """File name to a short digest, of each file that decides what a rank or an API server answers.

    Of safetensors, which are too large to be read for this, the digest covers size, header and some pages of the
    data: enough to tell other weights of the same shape, not to find a damaged file.

    Raises:
        CheckpointError: a file cannot be read.
    """
    digests = {}
    try:
        for path in (folder / name for name in _FINGERPRINTED):
            if path.is_file():
                digests[path.name] = _short(hashlib.sha256(path.read_bytes()))
        for path in sorted(folder.glob("*.safetensors")) if weights else ():
            digests[path.name] = _short(_sample(path))
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename or folder}: {error.strerror}") from None
    return digests


def _sample(path: Path) -> "hashlib._Hash":
    """Digest of a safetensors file's size, its header (8 bytes of length, then JSON) and pages spread over it."""
    with path.open("rb", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        digest = hashlib.sha256(b"%d" % size)
        start = file.read(8)
        # A file that is no safetensors says any length here; whoever loads it says so better.
        digest.update(start + file.read(min(int.from_bytes(start, "little"), _LONGEST_HEADER)))
        for sample in range(_SAMPLES):
            file.seek(size * sample // _SAMPLES)
            digest.update(file.read(_SAMPLE_BYTES))
        file.seek(max(0, size - _SAMPLE_BYTES))
        digest.update(file.read(_SAMPLE_BYTES))
    return digest


def _short(digest: "hashlib._Hash") -> str:
    return digest.hexdigest()[:16]


def _longest(config: dict[str, Any], folder: Path) -> int:
    """Positions the checkpoint can take, RoPE scaling included.

    As transformers defines the scaling types: for yarn the factor applies to the original length, for linear and
    dynamic to `max_position_embeddings`; the others state the extended length there.
    """
    lengths = [config[key] for key in _LENGTH_KEYS if isinstance(config.get(key), int)]
    if not lengths:
        raise CheckpointError(f"{folder / 'config.json'} has no max_position_embeddings: give --max-model-len")
    longest: int = min(lengths)
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default")) if isinstance(scaling, dict) else "default"
    factor = scaling.get("factor") if isinstance(scaling, dict) else None
    if kind in _ALREADY_EXTENDED or not isinstance(factor, int | float):
        return longest
    if kind == "yarn":
        original = scaling.get("original_max_position_embeddings")
        longest = original if isinstance(original, int) else longest
    return int(longest * factor)


def _eos(generation: dict[str, Any], config: dict[str, Any], folder: Path) -> tuple[int, ...]:
    """The ids that end an answer: those of generation_config.json, of config.json and of the tokenizer together.

    A chat fine-tune is often saved with the end of its base model in the first two, while its template, and so its
    answers, end with the tokenizer's. An id that the model has no row for can never come and is left out.
    """
    found: dict[int, None] = {}
    for source in (generation, config):
        named = source.get("eos_token_id")
        for token in named if isinstance(named, list) else [named]:
            if isinstance(token, int) and not isinstance(token, bool):
                found[token] = None
    found.update(dict.fromkeys(_tokenizer_eos(folder)))
    return tuple(token for token in found if 0 <= token < _whole(config, "vocab_size", folder))


def _tokenizer_eos(folder: Path) -> tuple[int, ...]:
    """The id of the eos token that the tokenizer's settings name, wherever the id is written; none without one."""
    settings = _json_if_there(folder / "tokenizer_config.json")
    mapped = _json_if_there(folder / "special_tokens_map.json")
    # As transformers reads them: the older file counts, and then more, where the newer one declares no tokens.
    token = settings.get("eos_token") if "added_tokens_decoder" in settings else (settings | mapped).get("eos_token")
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str):
        return ()
    if (token := _written_id(folder / "tokenizer.json", text)) is not None:
        return (token,)
    declared = settings.get("added_tokens_decoder")
    if isinstance(declared, dict):
        ids = [number for number, added in declared.items() if isinstance(added, dict) and added.get("content") == text]
    else:
        ids = [_json_if_there(folder / "added_tokens.json").get(text)]
    return tuple(int(number) for number in ids if str(number).isdecimal())


class _AddedToken(msgspec.Struct):
    id: int
    content: str


class _Model(msgspec.Struct):
    vocab: Any = None


class _TokenizerFile(msgspec.Struct):
    """What is read of a tokenizer.json, which is megabytes long: its vocabulary is left as it is until it is needed."""

    added_tokens: list[_AddedToken] | None = None
    model: msgspec.Raw = msgspec.Raw(b"{}")


def _written_id(path: Path, text: str) -> int | None:
    """The id of a token that tokenizer.json knows by its text, as an added token or in the model's vocabulary."""
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_TokenizerFile)
        for added in file.added_tokens or ():
            if added.content == text:
                return added.id
        vocabulary = msgspec.json.decode(file.model, type=_Model).vocab
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if isinstance(vocabulary, list):
        # Unigram: pairs of a piece and its score, in the order of their ids.
        vocabulary = {entry[0]: number for number, entry in enumerate(vocabulary) if isinstance(entry, list) and entry}
    token = vocabulary.get(text) if isinstance(vocabulary, dict) else None
    return token if isinstance(token, int) else None


def _default_sampling(generation: dict[str, Any], folder: Path) -> dict[str, float]:
    values = {key: generation[key] for key in _SAMPLING_KEYS if generation.get(key) is not None}
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(f"{folder / 'generation_config.json'}: {key} is {value!r}, not a number")
    return {key: float(value) for key, value in values.items()}


def _whole(config: dict[str, Any], key: str, folder: Path) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise CheckpointError(f"{folder / 'config.json'}: {key} is {value!r}, not a whole number")
    return value


def _json_if_there(path: Path) -> dict[str, Any]:
    return _json(path) if path.is_file() else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not an object")
    return content


def _fetch(name: str, revision: str | None, weights: bool) -> Path:
    """The hub's snapshot of `name` in the local cache; only the files that are needed."""
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise CheckpointError(f"there is no folder {name}{_near_folder(name)}")
    # Here and not above: a local folder needs neither this import nor the network stack it brings.
    import huggingface_hub
    from huggingface_hub import errors

    patterns = [*_METADATA, *(_WEIGHTS if weights else ())]
    near = _near_folder(name)
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns))
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
            f"{name} is no folder, is not in the local cache, and the hub cannot be reached{near} "
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
