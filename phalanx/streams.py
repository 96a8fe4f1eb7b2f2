"""Standard streams as they may be found: closed, on a full disk, read by nobody, in an encoding of few letters."""

import contextlib
import errno
import os
import sys
from typing import TextIO

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""There may be room again."""


class OutputLost(Exception):
    """What was asked for could not be written to standard output."""

    def __init__(self, reason: str | None) -> None:
        super().__init__(reason or "nobody reads it")
        self.reason = reason
        """None: nobody reads it, which is nothing to complain of."""


def prepare() -> None:
    """Open those that are closed: a socket that got such a number would be printed into.

    Letters that the encoding does not have are written as escapes.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # It gets the lowest free number, which is this one.
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    with contextlib.suppress(AttributeError):  # Whoever imports us may have put something else in its place.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def say(stream: TextIO, text: str) -> None:
    """Print a line. Whoever read the stream may be gone, or its disk full; the service is not to end of that."""
    try:
        print(text, file=stream, flush=True)
    except OSError as error:
        _forget(stream, for_good=error.errno not in FULL)


def show(text: str) -> None:
    """Print what a command was asked for.

    Raises:
        OutputLost: it could not be printed.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        _forget(sys.stdout, for_good=True)
        raise OutputLost(None if error.errno == errno.EPIPE else error.strerror) from None


def _forget(stream: TextIO, *, for_good: bool) -> None:
    """What is still buffered must not spoil the exit code when Python flushes it; the next line may find room."""
    with open(os.devnull, "w") as nowhere, os.fdopen(os.dup(stream.fileno()), "w") as kept:
        os.dup2(nowhere.fileno(), stream.fileno())
        if not for_good:
            stream.flush()
            os.dup2(kept.fileno(), stream.fileno())
