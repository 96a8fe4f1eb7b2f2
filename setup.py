"""The CPU kernels, one C library that ctypes loads; everything else about the package is in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, setup

KERNELS = Path("phalanx/kernels")

setup(
    ext_modules=[
        Extension(
            "phalanx.kernels._cpu",
            sources=sorted(str(path) for path in KERNELS.glob("*.c")),
            depends=sorted(str(path) for path in KERNELS.glob("*.h")),
            libraries=["m"],
            extra_compile_args=["-O3", "-std=gnu11", "-pthread", "-fno-math-errno", "-Wall", "-Wextra"],
            extra_link_args=["-pthread"],
        )
    ]
)
