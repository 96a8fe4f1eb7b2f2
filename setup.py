"""The CPU kernels, one C library that ctypes loads; everything else about the package is in pyproject.toml."""

from hashlib import sha256
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

KERNELS = Path("phalanx/kernels")
SOURCES = sorted(path for path in KERNELS.iterdir() if path.suffix in (".c", ".h"))
# Compared when the library is loaded: one that was compiled from other sources would crash without a word.
DIGEST = sha256(b"".join(path.read_bytes() for path in SOURCES)).hexdigest()


class PlainLibrary(build_ext):
    """Builds a library that knows nothing of Python, so its file name carries no version of one."""

    def get_ext_filename(self, name: str) -> str:
        """The path of the library with this dotted name, below the folder that is built into."""
        return f"{name.replace('.', '/')}.so"


class AnyPython(bdist_wheel):
    """Tags the wheel for what it is: any Python 3, and this kind of machine for the library's sake."""

    def get_tag(self) -> tuple[str, str, str]:
        """Python, ABI and platform of the wheel's file name."""
        return ("py3", "none", super().get_tag()[2])


setup(
    cmdclass={"build_ext": PlainLibrary, "bdist_wheel": AnyPython},
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
    ],
)
