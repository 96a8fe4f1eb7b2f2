"""Rotary position embeddings as config.json describes them: their shape, and how far they reach."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from phalanx.checkpoint.errors import CheckpointError, UnsupportedModel

_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")
_STRETCHED = ("linear", "dynamic", "yarn")
"""Types whose `factor` comes on top of the length that config.json states; the others state the stretched one."""

RopeType: TypeAlias = Literal["default", "linear", "llama3", "yarn"]
ROPE_TYPES: tuple[RopeType, ...] = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True, slots=True)
class RopeShape:
    """Rotary position embedding. What a type does not use keeps its default."""

    type: RopeType
    theta: float
    factor: float = 1.0
    original_max_positions: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None


def rope_shape(config: Mapping[str, Any]) -> RopeShape:
    """The shape, read as transformers reads it.

    Raises UnsupportedModel for a type that is not implemented, and CheckpointError for one that lacks a number.
    """
    rope = _parameters(config)
    if any(isinstance(value, Mapping) for value in rope.values()):
        raise UnsupportedModel("config.json: rope_parameters that differ between layer types are not supported")
    kind = _kind(rope)
    if kind not in ROPE_TYPES:
        raise UnsupportedModel(f"config.json: rope type {kind!r} is not supported; known are {', '.join(ROPE_TYPES)}")
    share = rope.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if share not in (None, 1, 1.0):
        raise UnsupportedModel(f"config.json: partial_rotary_factor {share} is not supported; only 1 is")

    theta = float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    if kind == "default":
        return RopeShape("default", theta)

    max_positions = config.get("max_position_embeddings", 2048)
    original: int = _original(config, rope) or max_positions

    def number(key: str) -> float:
        if not isinstance(rope.get(key), int | float):
            raise CheckpointError(f"config.json: rope type {kind!r} needs the number {key}, and has {rope.get(key)!r}")
        return float(rope[key])

    if kind == "linear":
        return RopeShape("linear", theta, number("factor"))
    if kind == "llama3":
        return RopeShape(
            "llama3",
            theta,
            number("factor"),
            original,
            low_freq_factor=number("low_freq_factor"),
            high_freq_factor=number("high_freq_factor"),
        )
    return RopeShape(
        "yarn",
        theta,
        max_positions / original if rope.get("factor") is None else number("factor"),
        original,
        beta_fast=rope.get("beta_fast") or 32.0,
        beta_slow=rope.get("beta_slow") or 1.0,
        truncate=rope.get("truncate", True),
        attention_factor=rope.get("attention_factor"),
        mscale=rope.get("mscale"),
        mscale_all_dim=rope.get("mscale_all_dim"),
    )


def longest_context(config: Mapping[str, Any]) -> int | None:
    """Positions that the checkpoint can take, scaling included; None where config.json says no length.

    As transformers defines the scaling types: for yarn the factor applies to the original length, for linear and
    dynamic to `max_position_embeddings`; the others state the stretched length there.
    """
    stated = (config.get(key) for key in _LENGTH_KEYS)
    lengths: list[int] = [length for length in stated if isinstance(length, int) and length > 0]
    if not lengths:
        return None
    rope = _parameters(config)
    factor = rope.get("factor")
    if _kind(rope) not in _STRETCHED or not isinstance(factor, int | float):
        return min(lengths)
    original = _original(config, rope) if _kind(rope) == "yarn" else None
    return int((original or min(lengths)) * factor)


def _parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """From `rope_parameters`, or from the older `rope_scaling`."""
    found = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(found, Mapping):
        raise CheckpointError(f"config.json: the parameters of rotary embeddings are {found!r}, not an object")
    return dict(found)


def _kind(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")


def _original(config: Mapping[str, Any], rope: Mapping[str, Any]) -> int | None:
    """The length that the model was trained for before it was stretched."""
    found = config.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings")
    return found if isinstance(found, int) else None
