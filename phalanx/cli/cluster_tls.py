"""`--cluster-ssl-...`: by which certificates the machines of one service know one another."""

import os
from pathlib import Path

from phalanx.cli.options import UsageError
from phalanx.transport.tls import FLAGS, VARIABLES, Files, FilesError, Tls


def cluster_files(
    certfile: str | None, keyfile: str | None, ca_certs: str | None, *, spans_machines: bool
) -> Files | None:
    """The files by which this machine is known to the others, or None where connections are not encrypted.

    Raises:
        UsageError: only some of them are named, or they cannot be used; the message says which and why.
    """
    named = zip(FLAGS, (certfile, keyfile, ca_certs), strict=True)
    found = {flag: name for flag, name in named if name is not None}
    missing = [flag for flag in FLAGS if flag not in found]
    if found and missing:
        raise UsageError(f"{next(iter(found))} needs {' and '.join(missing)} too")
    if not found and spans_machines:
        # Whoever set them believes that connections are encrypted.
        for variable, flag in zip(VARIABLES, FLAGS, strict=True):
            if os.environ.get(variable):
                raise UsageError(f"{variable} is set, which is for nodes on Ray: give {flag} here, or unset it")
    if not found:
        return None
    files = Files(*map(Path, found.values()))
    try:
        Tls(files)
    except FilesError as error:
        raise UsageError(f"{' / '.join(FLAGS)}: {error}") from None
    return files
