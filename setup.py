"""The CPU kernels; everything else about the package is in pyproject.toml.

One C library, reached by ctypes. OpenMP is compiled in but not linked: its symbols resolve, when the library is
loaded, to the libgomp that torch has loaded already, so that both share one pool of threads.
"""

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
            extra_compile_args=["-O3", "-std=gnu11", "-fopenmp", "-fno-math-errno", "-g0"],
        )
    ]
)
