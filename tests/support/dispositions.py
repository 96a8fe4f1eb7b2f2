"""What processes do with signals: how they are started, and what the kernel says of them."""

import contextlib
import re
import signal
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

_STARTER = """
import os, signal, sys
for number in map(int, sys.argv[1].split(",")):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, map(int, filter(None, sys.argv[2].split(","))))
os.execvp(sys.argv[3], sys.argv[3:])
"""


def ignoring(
    ignored: Collection[signal.Signals], command: Sequence[str], blocked: Collection[signal.Signals] = ()
) -> tuple[str, ...]:
    """A command that starts `command` as `nohup` would: with signals ignored, and others blocked."""
    numbers = (",".join(str(int(number)) for number in which) for which in (ignored, blocked))
    return (sys.executable, "-c", _STARTER, *numbers, *command)


@contextlib.contextmanager
def ignored_here(*ignored: signal.Signals) -> Iterator[None]:
    """This process ignores them for as long, and so does what it starts meanwhile."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    try:
        yield
    finally:
        for number, disposition in before.items():
            signal.signal(number, disposition)


def ignored_by(pid: int) -> set[signal.Signals]:
    return _signals(pid, "SigIgn")


def blocked_by(pid: int) -> set[signal.Signals]:
    """By its main thread."""
    return _signals(pid, "SigBlk")


def _signals(pid: int, field: str) -> set[signal.Signals]:
    found = re.search(rf"^{field}:\s+(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found, f"no {field} of {pid}"
    return {number for number in signal.Signals if int(found[1], 16) >> (number - 1) & 1}
