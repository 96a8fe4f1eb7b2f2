"""Which architectures there are, and what config.json says in each of them."""

from collections.abc import Callable
from pathlib import Path

from phalanx.checkpoint.errors import UnsupportedModel
from phalanx.checkpoint.files import read_json
from phalanx.checkpoint.shape import DecoderShape, Json, decoder_shape, layer_windows, required


def llama(config: Json) -> DecoderShape:
    """Llama: the plain dense decoder."""
    bias = bool(config.get("attention_bias", False))
    return decoder_shape(config, qkv_bias=bias, output_bias=bias, mlp_bias=bool(config.get("mlp_bias", False)))


def mistral(config: Json) -> DecoderShape:
    """Mistral: Llama with one sliding window for all layers, where `sliding_window` is set."""
    if config.get("layer_types"):
        raise UnsupportedModel("config.json: layer_types is not part of the Mistral family (Ministral's are not built)")
    window = config.get("sliding_window", 4096)
    return decoder_shape(config, windows=(window,) * required(config, "num_hidden_layers"))


def qwen2(config: Json) -> DecoderShape:
    """Qwen2 and Qwen2.5: Llama with biases on queries, keys and values, and windows in the upper layers on demand."""
    return decoder_shape(config, qkv_bias=True, windows=layer_windows(config))


def qwen3(config: Json) -> DecoderShape:
    """Qwen3: RMS norms of each query and key head, heads wider than hidden_size / heads."""
    bias = bool(config.get("attention_bias", False))
    return decoder_shape(
        config,
        qkv_bias=bias,
        output_bias=bias,
        head_norms=True,
        windows=layer_windows(config),
        default_head_dim=128,
    )


FAMILIES: dict[str, Callable[[Json], DecoderShape]] = {
    "LlamaForCausalLM": llama,
    "MistralForCausalLM": mistral,
    "Qwen2ForCausalLM": qwen2,
    "Qwen3ForCausalLM": qwen3,
}
"""Values of `architectures` in config.json, and what reads the rest of it."""


def architecture_of(config: Json) -> str:
    """The architecture that config.json names. Raises UnsupportedModel where there is none that is known."""
    found = config.get("architectures")
    names = found if isinstance(found, list) else []
    for name in names:
        if name in FAMILIES:
            return str(name)
    named = ", ".join(map(str, names)) or "none"
    raise UnsupportedModel(f"config.json: architecture {named} is not supported; known are {', '.join(FAMILIES)}")


def shape_of(config: Json) -> DecoderShape:
    """Everything about the model that config.json says, before any weight is read.

    Raises UnsupportedModel or CheckpointError with the key's name.
    """
    return FAMILIES[architecture_of(config)](config)


def read_shape(folder: Path) -> DecoderShape:
    """The shape of the model in a folder. Raises UnsupportedModel or CheckpointError."""
    return shape_of(read_json(folder / "config.json"))
