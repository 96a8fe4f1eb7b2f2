"""Llama: the plain dense decoder."""

from phalanx.models.shape import DecoderShape, Json, decoder_shape


def shape(config: Json) -> DecoderShape:
    bias = bool(config.get("attention_bias", False))
    return decoder_shape(config, qkv_bias=bias, output_bias=bias, mlp_bias=bool(config.get("mlp_bias", False)))
