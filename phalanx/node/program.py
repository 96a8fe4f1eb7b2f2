"""What `phalanx join` and `python -m phalanx.node` have in common as programs: the secret they take, how they end."""

import contextlib
import os
import sys
from typing import NoReturn

from phalanx.child import SECRET_VARIABLE
from phalanx.node.errors import NodeError
from phalanx.node.node import Ending

SHORTEST_SECRET = 16
"""Characters. Whoever guesses it can have this machine run its ranks."""


def take_secret() -> str:
    """The launch secret; leaves the environment here, so that nothing this process starts or prints inherits it.

    Raises:
        NodeError: there is none, or it is too short to be one.
    """
    secret = os.environ.pop(SECRET_VARIABLE, "")
    if not secret:
        raise NodeError(f"{SECRET_VARIABLE} is not set: it must hold the same text here as for `phalanx serve`")
    if len(secret) < SHORTEST_SECRET:
        raise NodeError(f"{SECRET_VARIABLE} has {len(secret)} characters: at least {SHORTEST_SECRET} are needed")
    return secret


def leave(program: str, ending: Ending) -> NoReturn:
    """Say how it ended and end the process, whatever a fetch left behind may still be doing."""
    with contextlib.suppress(OSError):
        print(ending.words if ending.status == 0 else f"{program}: {ending.words}", file=sys.stderr, flush=True)
        sys.stdout.flush()
    os._exit(ending.status)
