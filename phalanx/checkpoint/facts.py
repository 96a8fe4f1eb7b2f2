"""What a checkpoint's own files say about it, as every process of the service is told it."""

from pathlib import Path
from typing import Any

from phalanx.checkpoint import fingerprints
from phalanx.checkpoint.declared_tokens import declared_tokens
from phalanx.checkpoint.errors import CheckpointError
from phalanx.checkpoint.files import read_json, read_json_if_there
from phalanx.checkpoint.rope import longest_context
from phalanx.checkpoint.vocabulary import read_vocabulary
from phalanx.config import ModelFacts

_SAMPLING_RANGES = {
    "temperature": (0, 100),
    "top_p": (0, 1),
    "top_k": (-1, 2**31 - 1),
    "min_p": (0, 1),
    "repetition_penalty": (0.01, 100),
    "max_new_tokens": (1, 2**31 - 1),
}
"""The keys of generation_config.json that a request may also carry, and the least and the most that makes sense."""


def read(folder: Path, max_model_len: int | None) -> ModelFacts:
    """What config.json, generation_config.json and the tokenizer's settings say.

    `max_model_len` shortens the checkpoint's own length, is refused above it, and stands for it where the checkpoint
    says none.

    Raises:
        CheckpointError: a file is broken or lacks what is needed.
    """
    config = read_json(folder / "config.json")
    generation = read_json_if_there(folder / "generation_config.json")
    longest = longest_context(config)
    if max_model_len is not None and longest is not None and max_model_len > longest:
        raise CheckpointError(f"--max-model-len {max_model_len} is above what {folder} can do: {longest}")
    length = max_model_len or longest
    if length is None:
        raise CheckpointError(f"{folder / 'config.json'} has no max_position_embeddings: give --max-model-len")
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise CheckpointError(f"{folder / 'config.json'} names no architecture")
    return ModelFacts(
        folder=str(folder),
        architecture=architectures[0],
        vocab_size=_whole(config, "vocab_size", folder),
        max_model_len=length,
        eos_token_ids=_eos(generation, config, folder),
        default_sampling=_default_sampling(generation, folder),
        fingerprints=fingerprints.of_metadata(folder),
    )


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
    if (token := _tokenizer_eos(folder)) is not None:
        found[token] = None
    return tuple(token for token in found if 0 <= token < _whole(config, "vocab_size", folder))


def _tokenizer_eos(folder: Path) -> int | None:
    """The id of the eos token that the tokenizer's files name, wherever the id is written; None without one."""
    declared = declared_tokens(folder)
    eos = declared.by_name.get("eos_token")
    if eos is None:
        return None
    vocabulary = read_vocabulary(folder)
    written = None if vocabulary is None else vocabulary.id_of(eos.content)
    return declared.id_of(eos.content) if written is None else written


def _default_sampling(generation: dict[str, Any], folder: Path) -> dict[str, float]:
    values = {key: generation[key] for key in _SAMPLING_RANGES if generation.get(key) is not None}
    for key, value in values.items():
        name, (least, most) = f"{folder / 'generation_config.json'}: {key} is {value!r}", _SAMPLING_RANGES[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(f"{name}, not a number")
        if not least <= value <= most:
            raise CheckpointError(f"{name}; it can be {least} to {most}")
    return {key: float(value) for key, value in values.items()}


def _whole(config: dict[str, Any], key: str, folder: Path) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise CheckpointError(f"{folder / 'config.json'}: {key} is {value!r}, not a whole number")
    return value
