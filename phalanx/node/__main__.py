"""`python -m phalanx.node --control ADDRESS --places JSON`: a node that another program starts, such as a Ray actor."""

import argparse
import logging
import os
from typing import NoReturn

import msgspec

from phalanx.child import EXIT_FAILED
from phalanx.hosting.process import die_with_parent
from phalanx.node.node import Orders, run
from phalanx.node.node_exit import NodeExit, leave
from phalanx.protocol import Place
from phalanx.signals import hear_of_children
from phalanx.transport import tls
from phalanx.transport.security import SECRET_VARIABLE, Security


def main() -> NoReturn:
    parser = argparse.ArgumentParser(prog="phalanx node", description="Hosts children of a service on this machine.")
    parser.add_argument("--control", required=True, metavar="ADDRESS", help="the supervisor's control address")
    parser.add_argument("--places", required=True, metavar="JSON", help='ranks to bring: [["engine", 3, 0], ...]')
    parser.add_argument("--serve", action="store_true", help="hold API servers too")
    parser.add_argument("--model", metavar="FOLDER", help="where the model is on this machine")
    parser.add_argument("--address", default="", metavar="HOST", help="of this machine, to dial from")
    parser.add_argument("--parent-pid", type=int, metavar="PID", help="end when this process does, which started us")
    for flag, variable in zip(tls.FLAGS, tls.VARIABLES, strict=True):
        parser.add_argument(flag, metavar="FILE", default="", help=f"used where {variable} is not set")
    options = parser.parse_args()
    if options.parent_pid is not None:
        die_with_parent(options.parent_pid)
    hear_of_children()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        places = msgspec.json.decode(options.places, type=tuple[Place, ...])
    except msgspec.MsgspecError as error:
        parser.error(f"--places {options.places}: {error}")
    # It leaves the environment here, so that nothing this process starts or prints inherits it.
    secret = os.environ.pop(SECRET_VARIABLE, "")
    if not secret:
        parser.error(f"{SECRET_VARIABLE} is not set: who starts a node hands it the service's")
    try:
        security = Security(secret.encode(), _files(options) if options.control.startswith("tls:") else None)
        _ = security.tls  # What is wrong with the files is said before anything is dialled.
    except tls.FilesError as error:
        leave("phalanx node", NodeExit(EXIT_FAILED, f"no TLS with the service: {error}"))
    leave(
        "phalanx node",
        run(Orders(options.control, security, places, options.serve, options.model, 0.0, options.address)),
    )


def _files(options: argparse.Namespace) -> tls.Files | None:
    """The files that this machine's environment names, else those that the flags name, as the service does."""
    flags = (options.cluster_ssl_certfile, options.cluster_ssl_keyfile, options.cluster_ssl_ca_certs)
    return tls.Files.named_by({**dict(zip(tls.VARIABLES, flags, strict=True)), **os.environ})


if __name__ == "__main__":
    main()
