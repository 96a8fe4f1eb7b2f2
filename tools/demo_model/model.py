"""The demo model in plain torch: the Llama decoder, with attention that stays inside a document.

Shapes: B rows, T tokens, C hidden, H query heads, K key-value heads, D head size, V vocabulary.
Parameter names follow transformers' LlamaForCausalLM, so a state dict is a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    vocabulary: int = 4096
    hidden: int = 384
    intermediate: int = 1024
    layers: int = 10
    heads: int = 6
    kv_heads: int = 2
    head_size: int = 64
    positions: int = 2048
    rope_base: float = 10000.0
    epsilon: float = 1e-5


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = nn.Linear(shape.hidden, shape.heads * shape.head_size, bias=False)
        self.k_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head_size, bias=False)
        self.v_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head_size, bias=False)
        self.o_proj = nn.Linear(shape.heads * shape.head_size, shape.hidden, bias=False)

    def forward(self, x_BTC: Tensor, rope: tuple[Tensor, Tensor], attend) -> Tensor:
        B, T, _ = x_BTC.shape

        def heads(y: Tensor) -> Tensor:
            return y.view(B, T, -1, self.shape.head_size).transpose(1, 2)

        q, k, v = heads(self.q_proj(x_BTC)), heads(self.k_proj(x_BTC)), heads(self.v_proj(x_BTC))
        out_BHTD = attend(rotate(q, rope), rotate(k, rope), v)
        return self.o_proj(out_BHTD.transpose(1, 2).reshape(B, T, -1))


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding in the half-split layout (Su et al., 2021), as transformers stores it."""
    cos, sin = rope
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return (x * cos + turned * sin).to(x.dtype)


class MLP(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.down_proj = nn.Linear(shape.intermediate, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden, eps=shape.epsilon)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden, eps=shape.epsilon)
        self.mlp = MLP(shape)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], attend) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rope, attend)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, eps=shape.epsilon)


class DemoModel(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Decoder(shape)
        frequencies = shape.rope_base ** (-torch.arange(0, shape.head_size, 2).float() / shape.head_size)
        angles = torch.outer(torch.arange(shape.positions).float(), frequencies).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                deviation = 0.02 if "embed" in name else parameter.shape[1] ** -0.5
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    deviation /= (2 * shape.layers) ** 0.5
                nn.init.normal_(parameter, std=deviation)

    def forward(self, tokens_BT: Tensor, attend) -> Tensor:
        """Logits of the next token, [B, T, V]; the output layer is the embedding."""
        T = tokens_BT.shape[1]
        rope = self.cos[:T], self.sin[:T]
        x = self.model.embed_tokens(tokens_BT)
        for layer in self.model.layers:
            x = layer(x, rope, attend)
        return F.linear(self.model.norm(x), self.model.embed_tokens.weight)


def masked_attention(documents_BT: Tensor):
    """Attention through an explicit mask: any device."""
    T = documents_BT.shape[1]
    causal = torch.ones(T, T, dtype=torch.bool, device=documents_BT.device).tril()
    mask = causal & (documents_BT[:, None, :, None] == documents_BT[:, None, None, :])

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)

    return attend


def flex_attention_within(documents_BT: Tensor):
    """The same through FlexAttention, which skips the blocks that the mask empties: CUDA."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def mask(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (q >= k) & (documents_BT[b, q] == documents_BT[b, k])

    B, T = documents_BT.shape
    blocks = create_block_mask(mask, B, None, T, T, device=documents_BT.device)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return flex_attention(q, k, v, block_mask=blocks, enable_gqa=True)

    return attend
