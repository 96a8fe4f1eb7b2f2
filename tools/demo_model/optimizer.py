"""Muon for matrices (Jordan et al., 2024), with all matrices of one shape orthogonalised together."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor


def orthogonalize(g: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices, by a quintic Newton-Schulz iteration; g: [N, rows, columns]."""
    x = g.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    def __init__(self, matrices: list[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.02) -> None:
        shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for matrix in matrices:
            shapes[matrix.shape].append(matrix)
        groups = [{"params": same} for same in shapes.values()]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            matrices = group["params"]
            gradients = torch.stack([m.grad for m in matrices])
            state = self.state[matrices[0]]
            if not state:
                state["velocity"] = torch.zeros_like(gradients)
            velocity = state["velocity"].lerp_(gradients, 1 - group["momentum"])
            update = orthogonalize(gradients.lerp(velocity, group["momentum"]))
            rows, columns = matrices[0].shape
            step = group["lr"] * max(1.0, rows / columns) ** 0.5
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(matrices, list(update.to(matrices[0].dtype).unbind()), alpha=-step)
