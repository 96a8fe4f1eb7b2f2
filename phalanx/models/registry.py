"""Which architectures there are. Needs no torch: the command line asks here before any child starts."""

from collections.abc import Callable

from phalanx.models import llama, mistral, qwen2, qwen3
from phalanx.models.shape import DecoderShape, Json, UnsupportedModel

FAMILIES: dict[str, Callable[[Json], DecoderShape]] = {
    "LlamaForCausalLM": llama.shape,
    "MistralForCausalLM": mistral.shape,
    "Qwen2ForCausalLM": qwen2.shape,
    "Qwen3ForCausalLM": qwen3.shape,
}
"""Values of `architectures` in config.json, and what reads the rest of it."""


def architecture_of(config: Json) -> str:
    """The architecture that config.json names. Raises UnsupportedModel where there is none that is known."""
    names = list(config.get("architectures") or ())
    for name in names:
        if name in FAMILIES:
            return str(name)
    named = ", ".join(map(str, names)) or "none"
    raise UnsupportedModel(f"config.json: architecture {named} is not supported; known are {', '.join(FAMILIES)}")


def shape_of(config: Json) -> DecoderShape:
    """Everything about the model that config.json says. Raises UnsupportedModel or ValueError with the key's name."""
    return FAMILIES[architecture_of(config)](config)
