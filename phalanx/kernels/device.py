"""The kernels of each device. A model is written once, against what this module calls Kernels."""

from typing import TypeAlias

from phalanx.kernels.cpu import CpuKernels, HeadShape, LayerCache, Linear, Rotary, StagedBatch

Kernels: TypeAlias = CpuKernels

__all__ = ["HeadShape", "Kernels", "LayerCache", "Linear", "Rotary", "StagedBatch", "kernels_for"]


def kernels_for(device: str, threads: int) -> Kernels:
    if device != "cpu":
        raise ValueError(f"device {device!r} is not supported; only 'cpu' is")
    return CpuKernels(threads)
