"""Phalanx: a server for language models that scales by data parallelism."""


def __getattr__(name: str) -> str:
    """`__version__`, looked up when asked for: importing the look-up takes as long as starting Python does."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("phalanx")
    except PackageNotFoundError:  # run from a bare checkout
        return "0+unknown"
