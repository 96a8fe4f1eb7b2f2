"""A proof, on demand, that no address is told before somebody listens there (law 1).

Every address that this program tells another process, in an argument or a message, passes `audited` on its way. With
PHALANX_AUDIT_LISTENERS naming a file, each is dialled at that moment: the file gets a line for each address, and an
address that nobody listens at ends the process that was about to tell it.
"""

import os
import socket
import sys

from phalanx.transport.listener import connect_target

VARIABLE = "PHALANX_AUDIT_LISTENERS"
EXIT_UNHEARD = 71
_TIMEOUT = 5.0


def audited(address: str) -> str:
    """`address`, which is about to be told to another process: that somebody listens there is made sure of first,
    where an audit is on."""
    if file := os.environ.get(VARIABLE):
        _audit(address, file)
    return address


def _audit(address: str, file: str) -> None:
    try:
        family, target = connect_target(address)
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(_TIMEOUT)
            sock.connect(target)
        verdict = "listens"
    except (OSError, ValueError) as error:
        verdict = f"NOBODY LISTENS: {error}"
    with open(file, "a") as report:
        report.write(f"{address} {verdict}\n")
    if verdict != "listens":
        print(f"audit: {address} is about to be told, and {verdict}", file=sys.stderr, flush=True)
        os._exit(EXIT_UNHEARD)
