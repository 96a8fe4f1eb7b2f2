"""Rotary position embeddings, computed step by step as transformers computes them, so that the bits agree."""

import math

import torch
from torch import Tensor

from phalanx.checkpoint.rope import RopeShape


def rotary_table(rope: RopeShape, head_dim: int, positions: int) -> Tensor:
    """[positions, head_dim] float32: cosines of head_dim / 2 angles, then their sines."""
    inverse_D, factor = _inverse_frequencies(rope, head_dim)
    angles_PD = torch.arange(positions, dtype=torch.float32)[:, None] * inverse_D
    return torch.cat((angles_PD.cos() * factor, angles_PD.sin() * factor), dim=1).contiguous()


def _inverse_frequencies(rope: RopeShape, dim: int) -> tuple[Tensor, float]:
    """[dim / 2] radians a position, and the factor of cosines and sines."""
    powers_D = rope.theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    match rope.type:
        case "default":
            return 1.0 / powers_D, 1.0
        case "linear":
            return 1.0 / powers_D / rope.factor, 1.0
        case "llama3":
            return _llama3(rope, 1.0 / powers_D), 1.0
        case "yarn":
            return _yarn(rope, powers_D, dim), _yarn_attention_factor(rope)


def _llama3(rope: RopeShape, inverse_D: Tensor) -> Tensor:
    """Llama 3.1: long waves are stretched by `factor`, short ones kept, those between blended."""
    waves_D = 2 * math.pi / inverse_D
    longest, shortest = (
        rope.original_max_positions / rope.low_freq_factor,
        rope.original_max_positions / rope.high_freq_factor,
    )
    scaled_D = torch.where(waves_D > longest, inverse_D / rope.factor, inverse_D)
    smooth_D = (rope.original_max_positions / waves_D - rope.low_freq_factor) / (
        rope.high_freq_factor - rope.low_freq_factor
    )
    blended_D = (1 - smooth_D) * scaled_D / rope.factor + smooth_D * scaled_D
    between_D = ~(waves_D < shortest) & ~(waves_D > longest)
    return torch.where(between_D, blended_D, scaled_D)


def _yarn(rope: RopeShape, powers_D: Tensor, dim: int) -> Tensor:
    """YaRN (Peng et al., 2023): interpolate slow angles, keep fast ones, with a ramp between two dimensions."""

    def dimension_of(rotations: float) -> float:
        return (dim * math.log(rope.original_max_positions / (rotations * 2 * math.pi))) / (2 * math.log(rope.theta))

    low, high = dimension_of(rope.beta_fast), dimension_of(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp_D = torch.clamp((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low), 0, 1)
    kept_D = 1 - ramp_D
    return 1.0 / (rope.factor * powers_D) * (1 - kept_D) + 1.0 / powers_D * kept_D


def _yarn_attention_factor(rope: RopeShape) -> float:
    def scale(by: float) -> float:
        return 1.0 if rope.factor <= 1 else 0.1 * by * math.log(rope.factor) + 1.0

    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return scale(rope.mscale) / scale(rope.mscale_all_dim)
    return scale(1.0)
