"""Which signals end a process of the service, and what those who start one have to say about it.

`nohup` ignores SIGHUP, a shell ignores SIGINT for a script's background job, and a program that is started inherits
that: what its user wants it to ignore stays ignored, in this process and in all that it starts.
"""

import contextlib
import signal
from collections.abc import Iterator

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a service manager, a closed terminal: they end a service, or a node, in order."""


def heeded() -> list[signal.Signals]:
    """The stop signals that this process is not to ignore."""
    return [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def accept_at_start() -> None:
    """Undo what careless parents leave behind, and nobody can have wanted.

    A blocked signal is no ignored one: it would wait for ever. With SIGCHLD ignored the kernel forgets how children
    ended.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    hear_of_children()


def hear_of_children() -> None:
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@contextlib.contextmanager
def ignored_ones_kept() -> Iterator[None]:
    """While a library starts that sets handlers of its own: afterwards what was ignored is ignored again."""
    ignored = [number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN]
    try:
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
