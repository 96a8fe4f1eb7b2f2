"""What a dense decoder looks like, read from a checkpoint's config.json. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

Json: TypeAlias = Mapping[str, Any]


class UnsupportedModel(ValueError):
    """config.json asks for something that would change the model's output and is not implemented."""


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


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """A decoder of RMS norms, rotary grouped-query attention and gated MLPs."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    query_heads: int
    kv_heads: int
    head_dim: int
    norm_epsilon: float
    tied_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    head_norms: bool
    """RMS norms of each query and key head before their rotation."""
    windows: tuple[int | None, ...]
    """One a layer: the tokens a row sees, itself included; None is all."""
    rope: RopeShape
    dtype: str
    """float32, bfloat16 or float16: what the checkpoint says it is."""

    @property
    def layers(self) -> int:
        return len(self.windows)


def decoder_shape(
    config: Json,
    *,
    qkv_bias: bool = False,
    output_bias: bool = False,
    mlp_bias: bool = False,
    head_norms: bool = False,
    windows: tuple[int | None, ...] | None = None,
    default_head_dim: int | None = None,
) -> DecoderShape:
    """The shape that the keys common to all families give; families say what is particular to them.

    Raises UnsupportedModel for what is not implemented, by name, and ValueError for what contradicts itself.
    """
    refuse_unsupported(config)
    hidden, heads = required(config, "hidden_size"), required(config, "num_attention_heads")
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or default_head_dim or hidden // heads
    layers = required(config, "num_hidden_layers")
    if heads % kv_heads:
        raise ValueError(f"config.json: {heads} attention heads cannot share {kv_heads} key-value heads evenly")
    if head_dim % 2:
        raise ValueError(f"config.json: head_dim is {head_dim}; rotary embeddings need an even one")
    return DecoderShape(
        vocab_size=required(config, "vocab_size"),
        hidden_size=hidden,
        intermediate_size=required(config, "intermediate_size"),
        query_heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        norm_epsilon=float(config.get("rms_norm_eps", 1e-6)),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        mlp_bias=mlp_bias,
        head_norms=head_norms,
        windows=windows or (None,) * layers,
        rope=rope_shape(config),
        dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch."),
    )


def required(config: Json, key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value <= 0:
        raise ValueError(f"config.json: {key} is {value!r}; a positive whole number is needed")
    return value


def refuse_unsupported(config: Json) -> None:
    """Raises UnsupportedModel where a key says that plain float weights and a plain decoder are not what this is."""
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "unknown")
        raise UnsupportedModel(
            f"config.json: quantization_config ({method}) is not supported; use the checkpoint's unquantised form"
        )
    if (activation := config.get("hidden_act", "silu")) != "silu":
        raise UnsupportedModel(f"config.json: hidden_act {activation!r} is not supported; only 'silu' is")
    for key, neutral in (("logit_scale", 1.0), ("final_logit_softcapping", None), ("attn_logit_softcapping", None)):
        if config.get(key, neutral) != neutral:
            raise UnsupportedModel(f"config.json: {key} is not supported")


def rope_shape(config: Json) -> RopeShape:
    """From `rope_parameters`, or from the older `rope_theta` and `rope_scaling`; read as transformers reads them."""
    rope: dict[str, Any] = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    if any(isinstance(value, Mapping) for value in rope.values()):
        raise UnsupportedModel("config.json: rope_parameters that differ between layer types are not supported")
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in ROPE_TYPES:
        raise UnsupportedModel(f"config.json: rope type {kind!r} is not supported; known are {', '.join(ROPE_TYPES)}")
    share = rope.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if share not in (None, 1, 1.0):
        raise UnsupportedModel(f"config.json: partial_rotary_factor {share} is not supported; only 1 is")

    theta = float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    if kind == "default":
        return RopeShape("default", theta)

    max_positions = config.get("max_position_embeddings", 2048)
    original: int = (
        config.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings") or max_positions
    )

    def number(key: str) -> float:
        if not isinstance(rope.get(key), int | float):
            raise ValueError(f"config.json: rope type {kind!r} needs the number {key}, and has {rope.get(key)!r}")
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


def layer_windows(config: Json) -> tuple[int | None, ...]:
    """Sliding windows of families that switch them on with `use_sliding_window`, layer by layer."""
    layers = required(config, "num_hidden_layers")
    if not config.get("use_sliding_window", False) or config.get("sliding_window", 4096) is None:
        types = config.get("layer_types") or ()
        if any(kind != "full_attention" for kind in types):
            raise UnsupportedModel("config.json: layer_types asks for more than full attention without a window")
        return (None,) * layers
    window = cast(int, config.get("sliding_window", 4096))
    first = config.get("max_window_layers", 28)
    types = config.get("layer_types") or [
        "sliding_attention" if layer >= first else "full_attention" for layer in range(layers)
    ]
    if unknown := sorted(set(types) - {"full_attention", "sliding_attention"}):
        raise UnsupportedModel(f"config.json: layer type {unknown[0]!r} is not supported")
    if len(types) != layers:
        raise ValueError(f"config.json: layer_types names {len(types)} layers of {layers}")
    return tuple(window if kind == "sliding_attention" else None for kind in types)
