"""The launch secret that two people or scripts share: `phalanx serve` and every `phalanx join`."""

import os

from phalanx.cli.options import UsageError
from phalanx.config import ParallelOptions
from phalanx.transport.security import SECRET_VARIABLE

SHORTEST = 16
"""The fewest characters of a secret, which is all that keeps strangers out of the control port."""


def given_secret() -> str | None:
    """Take PHALANX_SECRET. It leaves the environment here, so nothing this process starts or prints inherits it.

    Raises:
        UsageError: the variable holds no text, or too short a one.
    """
    secret = os.environ.pop(SECRET_VARIABLE, None)
    if secret is None:
        return None
    if not secret.strip():
        raise UsageError(f"{SECRET_VARIABLE} is set and empty: unset it, or give it a secret (`openssl rand -hex 32`)")
    if len(secret) < SHORTEST:
        raise UsageError(
            f"{SECRET_VARIABLE} has {len(secret)} characters, it takes at least {SHORTEST}: "
            "for example `openssl rand -hex 32`"
        )
    try:
        secret.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{SECRET_VARIABLE} is not UTF-8 text: for example `openssl rand -hex 32` is") from None
    return secret


def service_secret(parallel: ParallelOptions) -> str | None:
    """The secret that was given to a service, or None where it may make its own, which nobody else needs to know.

    Raises:
        UsageError: none was given, and others are to join who could not know it.
    """
    secret = given_secret()
    if secret is None and parallel.spans_machines and parallel.data_parallel_backend == "mp":
        raise UsageError(
            f"ranks {parallel.local_ranks} to {parallel.data_parallel_size - 1} are to join from other machines: set "
            f"{SECRET_VARIABLE}, the same here and there, for example to `openssl rand -hex 32`"
        )
    return secret
