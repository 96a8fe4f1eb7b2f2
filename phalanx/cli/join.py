"""`phalanx join`: bring ranks on this machine to a service that waits for them on another."""

import argparse
import logging
from collections.abc import Sequence
from typing import NoReturn

from phalanx.cli.cluster_tls import cluster_files
from phalanx.cli.numbers import above_zero, whole
from phalanx.cli.options import Parser, UsageError
from phalanx.transport import tls

SUMMARY = "bring ranks on this machine to a service on another"

TIMEOUT = 600.0
"""Seconds for which the service is waited for."""
TLS_FILES = (
    "certificate of this machine, PEM: given where the service is given one",
    "its key, PEM without password",
    "the cluster's own authority, PEM: whose certificates are accepted",
)
LOG_LEVELS = ("debug", "info", "warning", "error")


def run(arguments: Sequence[str]) -> NoReturn:
    """Join, host the ranks until the service ends, then end the process.

    Raises:
        UsageError: nothing was started.
    """
    given = _parser().parse(arguments)
    files = cluster_files(
        given.get("cluster_ssl_certfile"),
        given.get("cluster_ssl_keyfile"),
        given.get("cluster_ssl_ca_certs"),
        spans_machines=True,
    )
    control = control_address(given["control"], "tls" if files else "tcp")
    first = whole(given["data_parallel_start_rank"], "--data-parallel-start-rank", 0, 1023)
    count = whole(given["data_parallel_size_local"], "--data-parallel-size-local", 1, 1024)
    patience = above_zero(given["timeout"], "--timeout", "a number of seconds")

    # Imported here, since `--help` and what is refused need none of it.
    from phalanx.cli.secret import given_secret
    from phalanx.node import node
    from phalanx.node.node_exit import leave
    from phalanx.protocol import Place, Role
    from phalanx.transport.security import Security

    secret = given_secret()
    if secret is None:
        raise UsageError("PHALANX_SECRET is not set: it must hold the same text here as for `phalanx serve`")
    logging.basicConfig(level=given["log_level"].upper(), format="%(message)s")
    places = tuple(Place(Role.ENGINE, rank) for rank in range(first, first + count))
    orders = node.Orders(
        control, Security(secret.encode(), files), places, given["api_servers"], given.get("model"), patience
    )
    leave("phalanx join", node.run(orders))


def control_address(text: str, scheme: str = "tcp") -> str:
    """`tcp:HOST:PORT` from HOST:PORT, or from an address as it is printed elsewhere, with any scheme.

    Raises:
        UsageError: the text is neither.
    """
    host, _, port = text.removeprefix("tcp:").removeprefix("tls:").rpartition(":")
    bare = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if not host or bare or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(
            f"--control {text} is not HOST:PORT ([HOST]:PORT for IPv6): give the control address that "
            "`phalanx serve` prints while it waits"
        )
    return f"{scheme}:{host}:{port}"


def _parser() -> Parser:
    parser = Parser(
        prog="phalanx join",
        usage="phalanx join --control HOST:PORT --data-parallel-start-rank R --data-parallel-size-local L [options]",
        description=(
            "Bring ranks R to R+L-1 on this machine to a service that waits for them: `phalanx serve -dp N "
            "--data-parallel-size-local M` on another machine, with M < N. Everything else it takes from the service. "
            "It ends with the service."
        ),
        epilog="PHALANX_SECRET must hold the same text, of at least 16 characters, here and for `phalanx serve`.",
        allow_abbrev=False,
    )
    parser.add_argument("--control", required=True, metavar="HOST:PORT", help="control address of the service")
    parser.add_argument(
        *("--data-parallel-start-rank", "-dpr"), required=True, metavar="R", help="the first of this machine's ranks"
    )
    parser.add_argument(
        *("--data-parallel-size-local", "-dpl"), required=True, metavar="L", help="how many ranks this machine brings"
    )
    parser.add_argument(
        "--model", metavar="FOLDER", help="where the model is on this machine; absent: where the service has it"
    )
    for flag, metavar, text in zip(tls.FLAGS, ("CERTFILE", "KEYFILE", "CERTS"), TLS_FILES, strict=True):
        parser.add_argument(flag, metavar=metavar, help=text)
    parser.add_argument(
        "--api-servers",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="hold API servers here, where the service wants them on every node (--api-servers-per-node); "
        "no: another `phalanx join` on this machine does",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        default=f"{TIMEOUT:g}",
        help=f"how long to wait for the service to be there (default: {TIMEOUT:g})",
    )
    parser.add_argument(
        "--log-level",
        choices=LOG_LEVELS,
        default="info",
        help="least severity that is printed; lines of the ranks are info (default: info)",
    )
    return parser
