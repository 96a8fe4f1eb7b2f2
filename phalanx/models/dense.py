"""The dense decoder of every family: RMS norm, rotary grouped-query attention, gated MLP, all with residuals.

Shapes: T rows of a step, S rows that get logits, D hidden_size, E queries, keys and values side by side, A queries,
F intermediate_size, V vocabulary, P positions, H head_dim.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from phalanx.checkpoint.shape import DecoderShape
from phalanx.kernels.device import HeadShape, Kernels, LayerCache, Linear, Rotary, StagedBatch
from phalanx.models.rotary import rotary_table
from phalanx.models.weights import Weights


@dataclass(slots=True)
class Layer:
    input_norm_D: Tensor
    qkv: Linear
    heads: HeadShape
    rotary: Rotary
    output: Linear
    mlp_norm_D: Tensor
    gate_up: Linear
    down: Linear


class DenseDecoder:
    """Weights and forward pass. Weights are packed as they are read, so that never more than one tensor is held twice.

    `dtype` bfloat16 rounds all weights to it; float32 keeps bfloat16 tensors as they are stored, which loses nothing.
    """

    def __init__(
        self,
        shape: DecoderShape,
        kernels: Kernels,
        weights: Weights,
        dtype: torch.dtype,
        max_positions: int,
        progress: Callable[[int, int], None],
    ) -> None:
        """`progress(done, all)` is called as layers are loaded. Raises CheckpointError."""
        self.shape, self.kernels = shape, kernels
        self._weights, self._dtype = weights, dtype
        hidden = shape.hidden_size
        table_PH = rotary_table(shape.rope, shape.head_dim, max_positions)
        steps = shape.layers + 2

        self.embedding = self._linear(("model.embed_tokens",), hidden, (shape.vocab_size,), bias=False)
        progress(1, steps)
        self.layers = []
        for index in range(shape.layers):
            self.layers.append(self._layer(index, table_PH))
            progress(index + 2, steps)
        self.norm_D = self._vector("model.norm.weight", hidden)
        if shape.tied_embeddings:
            self.head = self.embedding
        else:
            self.head = self._linear(("lm_head",), hidden, (shape.vocab_size,), bias=False)
        self.unused_tensors = weights.check_unused()
        """Those of the checkpoint that are no part of this model."""
        progress(steps, steps)
        del self._weights

    def _layer(self, index: int, table_PH: Tensor) -> Layer:
        shape, prefix = self.shape, f"model.layers.{index}"
        hidden, head = shape.hidden_size, shape.head_dim
        attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        queries, keys = shape.query_heads * head, shape.kv_heads * head
        q_norm_H = self._vector(f"{attention}.q_norm.weight", head) if shape.head_norms else None
        k_norm_H = self._vector(f"{attention}.k_norm.weight", head) if shape.head_norms else None
        return Layer(
            input_norm_D=self._vector(f"{prefix}.input_layernorm.weight", hidden),
            qkv=self._linear(
                tuple(f"{attention}.{name}_proj" for name in "qkv"), hidden, (queries, keys, keys), shape.qkv_bias
            ),
            heads=HeadShape(shape.query_heads, shape.kv_heads, head, head**-0.5, shape.windows[index]),
            rotary=Rotary(table_PH, q_norm_H, k_norm_H, shape.norm_epsilon),
            output=self._linear((f"{attention}.o_proj",), queries, (hidden,), shape.output_bias),
            mlp_norm_D=self._vector(f"{prefix}.post_attention_layernorm.weight", hidden),
            gate_up=self._linear(
                (f"{mlp}.gate_proj", f"{mlp}.up_proj"), hidden, (shape.intermediate_size,) * 2, shape.mlp_bias
            ),
            down=self._linear((f"{mlp}.down_proj",), shape.intermediate_size, (hidden,), shape.mlp_bias),
        )

    def _linear(self, names: tuple[str, ...], inputs: int, outputs: tuple[int, ...], bias: bool) -> Linear:
        """Layers of the same input, fused: their outputs lie side by side in the order of `names`."""
        pairs = list(zip(names, outputs, strict=True))
        parts = [self._weights.tensor(f"{name}.weight", (size, inputs)) for name, size in pairs]
        exact = all(part.dtype == torch.bfloat16 for part in parts)
        dtype = torch.bfloat16 if exact or self._dtype == torch.bfloat16 else torch.float32
        linear = Linear(inputs, sum(outputs), dtype, bias)
        first = 0
        for part, (name, size) in zip(parts, pairs, strict=True):
            self.kernels.pack(linear, part.to(dtype), first)
            if linear.bias_N is not None:
                linear.bias_N[first : first + size] = self._vector(f"{name}.bias", size)
            first += size
        return linear

    def _vector(self, name: str, size: int) -> Tensor:
        """Norms and biases: few numbers, held in float32 whatever they are rounded to."""
        return self._weights.tensor(name, (size,)).to(self._dtype).to(torch.float32, copy=True).contiguous()

    def new_caches(self, blocks: int, block_size: int, dtype: torch.dtype) -> list[LayerCache]:
        return [LayerCache(layer.heads, blocks, block_size, dtype) for layer in self.layers]

    def forward(self, batch: StagedBatch, caches: list[LayerCache]) -> Tensor:
        """[T, D]: each row after the last layer, before the final norm. Fills the caches with the batch's rows."""
        run, epsilon = self.kernels, self.shape.norm_epsilon
        x_TD = run.embed(batch, self.embedding)
        for layer, cache in zip(self.layers, caches, strict=True):
            qkv_TE = run.linear(run.rms_norm(x_TD, layer.input_norm_D, epsilon), layer.qkv)
            attended_TA = run.attention(qkv_TE, batch, cache, layer.rotary)
            run.linear_add(x_TD, attended_TA, layer.output)
            gate_up_TF = run.linear(run.rms_norm(x_TD, layer.mlp_norm_D, epsilon), layer.gate_up)
            run.linear_add(x_TD, run.silu_and_multiply(gate_up_TF), layer.down)
        return x_TD

    def logits(self, x_SD: Tensor) -> Tensor:
        """[S, V] float32 from rows of `forward`."""
        return self.kernels.linear(self.kernels.rms_norm(x_SD, self.norm_D, self.shape.norm_epsilon), self.head)
