"""Train the demo model for a set time and write the checkpoint.

python -m tools.demo_model.train --seconds 400 --out phalanx/demo
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from .data import Workers
from .export import export
from .model import DemoModel, Shape, flex_attention_within, masked_attention
from .optimizer import Muon


def pace(done: float) -> float:
    """Learning-rate factor by the fraction of the time that has passed: warm-up, plateau, linear descent."""
    return min(1.0, done / 0.01) if done < 0.4 else max(0.0, (1 - done) / 0.6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=400, help="wall-clock time of the training loop after the first step"
    )
    parser.add_argument("--tokenizer", type=Path, default=Path("phalanx/demo"))
    parser.add_argument("--out", type=Path, default=Path("phalanx/demo"))
    parser.add_argument("--rows", type=int, default=64, help="rows of 2048 tokens a step")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--attention", choices=["flex", "mask"], default="flex")
    parser.add_argument("--lr", type=float, default=0.015, help="of the matrices")
    parser.add_argument("--adam-lr", type=float, default=0.003, help="of embeddings and norms")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--layers", type=int, default=Shape.layers)
    args = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(args.seed)
    workers = Workers(args.tokenizer / "tokenizer.json", args.workers, args.rows, args.seed)
    shape = Shape(layers=args.layers)
    model = DemoModel(shape).to(device)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        Muon(matrices, lr=args.lr),
        torch.optim.AdamW(others, lr=args.adam_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=device.type == "cuda"),
    ]
    rates = [args.lr, args.adam_lr]
    within = flex_attention_within if args.attention == "flex" else masked_attention

    def loss_of(tokens_BT: torch.Tensor, weights_BT: torch.Tensor, documents_BT: torch.Tensor) -> torch.Tensor:
        """Mean loss by weight, and the mean over the model's own words alone."""
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(tokens_BT, within(documents_BT))
        targets = tokens_BT[:, 1:].flatten()
        losses = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets, reduction="none")
        weights = weights_BT[:, 1:].flatten().float()
        answers = (weights == 10).float()
        return torch.stack([(losses * weights).sum() / weights.sum(), (losses * answers).sum() / answers.sum()])

    if device.type == "cuda":
        loss_of = torch.compile(loss_of)
    log = []
    step, seen, started, spoken = 0, 0, None, 0.0
    while True:
        batch = workers.next()
        tokens, weights, documents = (
            torch.from_numpy(part.astype(np.int64)).to(device, non_blocking=True) for part in batch
        )
        done = 0.0 if started is None else (time.monotonic() - started) / args.seconds
        if done >= 1.0:
            break
        for optimizer, rate in zip(optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * pace(done + 1e-4)
        losses = loss_of(tokens, weights, documents)
        losses[0].backward()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        step, seen = step + 1, seen + int(batch.documents.size)
        if started is None or time.monotonic() - spoken > max(5.0, args.seconds / 40):
            values = losses.tolist()
            started = started or time.monotonic()
            spoken = time.monotonic()
            log.append(
                {
                    "step": step,
                    "tokens": seen,
                    "seconds": round(spoken - started, 1),
                    "loss": values[0],
                    "answer_loss": values[1],
                }
            )
            print(json.dumps(log[-1]), flush=True)
            if not math.isfinite(values[0]):
                raise SystemExit("the loss is no longer a number")
    workers.stop()
    last = [entry["answer_loss"] for entry in log[-3:]]
    print(f"{step} steps, {seen / 1e6:.0f} M tokens, answer loss {sum(last) / len(last):.4f}", flush=True)
    export(model, args.tokenizer, args.out)


if __name__ == "__main__":
    main()
