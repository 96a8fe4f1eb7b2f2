"""`--cluster-ssl-...`: by which certificates the machines of one service know one another."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phalanx.cli.options import UsageError
from phalanx.transport import tls

NAMES = tuple(flag.removeprefix("--").replace("-", "_") for flag in tls.FLAGS)


def adopt(named: Mapping[str, Any], *, spans_machines: bool) -> bool:
    """What this process and its children speak with other machines from now on; whether that is TLS.

    Args:
        named: holds the files by name of their option.

    Raises:
        UsageError: only some of them are named, or they cannot be used; says which and why.
    """
    found = {flag: named[name] for flag, name in zip(tls.FLAGS, NAMES, strict=True) if named.get(name) is not None}
    missing = [flag for flag in tls.FLAGS if flag not in found]
    if found and missing:
        raise UsageError(f"{next(iter(found))} needs {' and '.join(missing)} too")
    if not found and spans_machines:
        # Who set them believes that connections are encrypted.
        for variable, flag in zip(tls.VARIABLES, tls.FLAGS, strict=True):
            if os.environ.get(variable):
                raise UsageError(f"{variable} is set, which is for nodes on Ray: give {flag} here, or unset it")
    try:
        tls.adopt(tls.Files(*map(Path, found.values())) if found else None)
    except tls.FilesError as error:
        raise UsageError(f"{' / '.join(tls.FLAGS)}: {error}") from None
    return bool(found)
