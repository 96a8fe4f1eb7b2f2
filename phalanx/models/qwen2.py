"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values, and windows in the upper layers on demand."""

from phalanx.models.shape import DecoderShape, Json, decoder_shape, layer_windows


def shape(config: Json) -> DecoderShape:
    return decoder_shape(config, qkv_bias=True, windows=layer_windows(config))
