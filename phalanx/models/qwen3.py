"""Qwen3: RMS norms of each query and key head, heads wider than hidden_size / heads."""

from phalanx.models.shape import DecoderShape, Json, decoder_shape, layer_windows


def shape(config: Json) -> DecoderShape:
    bias = bool(config.get("attention_bias", False))
    return decoder_shape(
        config,
        qkv_bias=bias,
        output_bias=bias,
        head_norms=True,
        windows=layer_windows(config),
        default_head_dim=128,
    )
