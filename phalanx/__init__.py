"""Phalanx: a server for language models that scales by data parallelism."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("phalanx")
except PackageNotFoundError:  # run from a bare checkout
    __version__ = "0+unknown"
