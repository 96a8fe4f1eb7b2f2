"""Mistral: Llama with one sliding window for all layers, where `sliding_window` is set."""

from phalanx.models.shape import DecoderShape, Json, UnsupportedModel, decoder_shape, required


def shape(config: Json) -> DecoderShape:
    if config.get("layer_types"):
        raise UnsupportedModel("config.json: layer_types is not part of the Mistral family (Ministral's are not built)")
    window = config.get("sliding_window", 4096)
    return decoder_shape(config, windows=(window,) * required(config, "num_hidden_layers"))
