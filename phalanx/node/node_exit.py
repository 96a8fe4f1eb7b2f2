"""How a node ends, as a program."""

import contextlib
import os
import sys
from typing import NamedTuple, NoReturn


class NodeExit(NamedTuple):
    status: int
    """Exit status: 0 the service ended, 1 this machine cannot be part of it, 70 the service is gone, 128 + a signal."""
    words: str
    """The sentence for the person who started the node."""


def leave(program: str, ending: NodeExit) -> NoReturn:
    """Say how it ended and end the process, whatever a fetch left behind may still be doing."""
    with contextlib.suppress(OSError):
        print(ending.words if ending.status == 0 else f"{program}: {ending.words}", file=sys.stderr, flush=True)
        sys.stdout.flush()
    os._exit(ending.status)
