"""What a dense decoder looks like, read from a checkpoint's config.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from phalanx.checkpoint.errors import CheckpointError, UnsupportedModel
from phalanx.checkpoint.rope import RopeShape, rope_shape

Json: TypeAlias = Mapping[str, Any]

DTYPES = ("float32", "bfloat16", "float16")
"""Precisions in which weights may be stored."""


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

    Raises UnsupportedModel for what is not implemented, by name, and CheckpointError for what contradicts itself.
    """
    refuse_unsupported(config)
    hidden, heads = required(config, "hidden_size"), required(config, "num_attention_heads")
    kv_heads = required(config, "num_key_value_heads") if config.get("num_key_value_heads") else heads
    head_dim = required(config, "head_dim") if config.get("head_dim") else default_head_dim or hidden // heads
    layers = required(config, "num_hidden_layers")
    if heads % kv_heads:
        raise CheckpointError(f"config.json: {heads} attention heads cannot share {kv_heads} key-value heads evenly")
    if head_dim % 2:
        raise CheckpointError(f"config.json: head_dim is {head_dim}; rotary embeddings need an even one")
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
        dtype=stored_dtype(config),
    )


def required(config: Json, key: str) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise CheckpointError(f"config.json: {key} is {value!r}; a positive whole number is needed")
    return value


def stored_dtype(config: Json) -> str:
    """What the weights are stored in. Raises UnsupportedModel where that is none of `DTYPES`."""
    name = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
    if name not in DTYPES:
        raise UnsupportedModel(f"config.json: dtype {name} is not supported; known are {', '.join(DTYPES)}")
    return name


def refuse_unsupported(config: Json) -> None:
    """Raises UnsupportedModel where a key says that plain float weights and a plain decoder are not what this is."""
    for key in ("quantization_config", "compression_config"):
        if quantized := config.get(key):
            method = quantized.get("quant_method", "unknown") if isinstance(quantized, Mapping) else quantized
            raise UnsupportedModel(
                f"config.json: {key} ({method}) is not supported; use the checkpoint's unquantised form"
            )
    if (activation := config.get("hidden_act", "silu")) != "silu":
        raise UnsupportedModel(f"config.json: hidden_act {activation!r} is not supported; only 'silu' is")
    for key, neutral in (("logit_scale", 1.0), ("final_logit_softcapping", None), ("attn_logit_softcapping", None)):
        if config.get(key, neutral) != neutral:
            raise UnsupportedModel(f"config.json: {key} is not supported")


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
        raise CheckpointError(f"config.json: layer_types names {len(types)} layers of {layers}")
    return tuple(window if kind == "sliding_attention" else None for kind in types)
