"""config.json is read as transformers reads it, and what is not implemented is refused by name."""

from typing import Any

import pytest
import torch
import transformers
from support.reference import FAMILIES
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from phalanx.checkpoint.errors import UnsupportedModel
from phalanx.checkpoint.families import FAMILIES as KNOWN
from phalanx.checkpoint.families import architecture_of, shape_of
from phalanx.models.rotary import rotary_table

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 500,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 5e5, "original_max_position_embeddings": 128}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config (awq)"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope type 'dynamic'"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope type 'longrope'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}}, "partial_rotary_factor 0.25"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "differ between layer types"),
        ({"architectures": ["Qwen2ForCausalLM"], "layer_types": ["sliding_attention"] * 3}, "layer_types"),
        (
            {
                "architectures": ["Qwen3ForCausalLM"],
                "use_sliding_window": True,
                "layer_types": ["linear_attention"] * 3,
            },
            "linear_attention",
        ),
        ({"architectures": ["MistralForCausalLM"], "layer_types": ["full_attention"] * 3}, "layer_types"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    ],
)
def test_what_would_change_the_output_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedModel) as refused:
        shape_of(LLAMA | change)
    assert named in str(refused.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "4 attention heads cannot share 3"),
        ({"head_dim": 15}, "head_dim is 15"),
        ({"rope_scaling": {"type": "linear"}}, "needs the number factor"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "needs the number low_freq_factor"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused_with_the_key(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        shape_of(LLAMA | change)


def test_an_unknown_architecture_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(UnsupportedModel) as refused:
        architecture_of({"architectures": ["GPT2LMHeadModel"]})
    assert "GPT2LMHeadModel" in str(refused.value)
    assert all(name in str(refused.value) for name in KNOWN)
    with pytest.raises(UnsupportedModel, match="architecture none"):
        architecture_of({})


@pytest.mark.parametrize(("family", "extra"), FAMILIES.values(), ids=FAMILIES.keys())
def test_defaults_are_those_of_transformers(family: str, extra: dict[str, Any]) -> None:
    """A config.json that leaves everything out that may be left out."""
    least = {
        key: value
        for key, value in (LLAMA | extra).items()
        if key not in ("head_dim", "max_position_embeddings", "architectures")
    }
    theirs = getattr(transformers, f"{family}Config")(**least)
    ours = shape_of(least | {"architectures": [f"{family}ForCausalLM"]})
    assert ours.head_dim == (getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads)
    assert ours.tied_embeddings == theirs.tie_word_embeddings
    assert ours.norm_epsilon == theirs.rms_norm_eps
    assert ours.rope.theta == theirs.rope_parameters["rope_theta"]
    types = getattr(theirs, "layer_types", None) or ["sliding_attention"] * theirs.num_hidden_layers
    window = getattr(theirs, "sliding_window", None)
    assert ours.windows == tuple(window if kind == "sliding_attention" else None for kind in types)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 1e6},
        {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}},
        {"rope_theta": 5e5, "rope_scaling": LLAMA3},
        {"rope_parameters": LLAMA3 | {"rope_theta": 1e4}},
        {"rope_parameters": YARN},
        {"rope_parameters": YARN | {"attention_factor": 0.7}},
        {"rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 0.8, "beta_fast": 20.0, "beta_slow": 2.0}},
        {"rope_parameters": YARN | {"truncate": False}},
        {"rope_parameters": YARN | {"factor": None}},
        {"rope_theta": 1e4, "rope_scaling": {"type": "yarn", "factor": 2.0}},
    ],
    ids=str,
)
def test_rotary_tables_equal_transformers_bit_by_bit(rope: dict[str, Any]) -> None:
    config = {key: dict(value) if isinstance(value, dict) else value for key, value in (LLAMA | rope).items()}
    shape = shape_of(LLAMA | rope)
    ours_PD = rotary_table(shape.rope, shape.head_dim, 200)

    theirs = transformers.LlamaConfig(**config)
    kind = theirs.rope_parameters["rope_type"]
    assert kind == shape.rope.type
    rotary = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(theirs)
    assert kind == "default" or kind in ROPE_INIT_FUNCTIONS
    cosine, sine = rotary(torch.zeros(1), torch.arange(200)[None])
    assert torch.equal(ours_PD, torch.cat((cosine[0, :, : shape.head_dim // 2], sine[0, :, : shape.head_dim // 2]), 1))
