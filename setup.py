"""The CPU kernels, one C library that ctypes loads; everything else about the package is in pyproject.toml."""

from hashlib import sha256
from pathlib import Path

from setuptools import Extension, setup

KERNELS = Path("phalanx/kernels")
SOURCES = sorted(path for path in KERNELS.iterdir() if path.suffix in (".c", ".h"))
# Compared when the library is loaded: one that was compiled from other sources would crash without a word.
DIGEST = sha256(b"".join(path.read_bytes() for path in SOURCES)).hexdigest()

setup(
    ext_modules=[
        Extension(
            "phalanx.kernels._cpu",
            sources=[str(path) for path in SOURCES if path.suffix == ".c"],
            depends=[str(path) for path in SOURCES],
            define_macros=[("SOURCES", f'"{DIGEST}"')],
            libraries=["m"],
            extra_compile_args=["-O3", "-std=gnu11", "-pthread", "-fno-math-errno", "-Wall", "-Wextra"],
            extra_link_args=["-pthread"],
        )
    ]
)
