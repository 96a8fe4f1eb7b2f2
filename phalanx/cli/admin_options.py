"""What the commands for a running service have in common: the options that name it, and how their values are read."""

import contextlib
import os
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from phalanx.cli.admin_client import AdminClient
from phalanx.cli.key_sources import keys_of_environment, keys_of_file
from phalanx.cli.options import Parser, UsageError

URL = "http://127.0.0.1:8000"
LOCAL_URL = "http://localhost"
"""The URL of a service on a socket file: only its scheme counts, and its path where it has one."""
VARIABLE = "PHALANX_ADMIN_KEY"
LONGEST_TIMEOUT = 86400
"""Seconds: a day."""


def add_admin_options(parser: Parser) -> None:
    """Add the options that say which service it is, and what the key to it is."""
    parser.add_argument("--url", help=f"of the service (default: {URL})")
    parser.add_argument("--uds", metavar="PATH", help=f"the socket file of the service (default of --url: {LOCAL_URL})")
    parser.add_argument(
        "--admin-key-file", metavar="FILE", help=f"its first line is the admin key; absent: {VARIABLE} holds it"
    )
    parser.add_argument("--ca-file", metavar="FILE", help="https: trust these certificates, in place of the system's")
    parser.add_argument("--cert-file", metavar="FILE", help="https: certificate and key to show to the service, in PEM")


def client_for(given: dict[str, Any]) -> AdminClient:
    """A client of the service that the options name.

    Raises:
        UsageError: there is no key, or an option has a value that cannot be.
    """
    uds, ca_file, cert_file = given.get("uds"), given.get("ca_file"), given.get("cert_file")
    url = given.get("url") or (URL if uds is None else LOCAL_URL)
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits or parts.query or parts.fragment or parts.username:
        file = f"; a socket file is --uds {url.removeprefix('unix:')}" if url.startswith("unix:") else ""
        raise UsageError(f"--url {url} is not http://HOST:PORT or https://HOST:PORT{file}")
    if parts.scheme == "https":
        return AdminClient(url, uds, _key(given), _tls(ca_file, cert_file))
    for name, value in (("--ca-file", ca_file), ("--cert-file", cert_file)):
        if value is not None:
            raise UsageError(f"{name} is for an --url that begins with https://")
    return AdminClient(url, uds, _key(given), None)


def _key(given: dict[str, Any]) -> str:
    if given.get("admin_key_file") is not None:
        keys = keys_of_file(Path(given["admin_key_file"]), "--admin-key-file")
    elif VARIABLE in os.environ:
        keys = keys_of_environment(VARIABLE, os.environ[VARIABLE])
    else:
        raise UsageError(f"give the service's admin key: --admin-key-file FILE, or {VARIABLE} in the environment")
    return next(iter(keys))


def _tls(ca_file: str | None, cert_file: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"--ca-file: cannot read {ca_file}: {error.strerror or error}") from None
    if cert_file is not None:
        try:
            context.load_cert_chain(cert_file)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"--cert-file: cannot read {cert_file}: {error.strerror or error}") from None
    return context


def timeout_of(given: dict[str, Any]) -> float | None:
    """The value of --timeout in seconds, or None where it was not given.

    Raises:
        UsageError: it is no number of seconds within a day.
    """
    text = given.get("timeout")
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        if 0 <= (seconds := float(text)) <= LONGEST_TIMEOUT:
            return seconds
    raise UsageError(f"--timeout {text} is not a number of seconds from 0 to {LONGEST_TIMEOUT}")


def number(text: str, what: str, least: int = 0) -> int:
    """Read a rank, or a number of ranks; `what` names it in the error.

    Raises:
        UsageError: the text is no whole number of at least `least`.
    """
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= least):
        raise UsageError(f"{text} is not {what}")
    return int(text)


def admin_parser(prog: str, usage: str, description: str) -> Parser:
    return Parser(prog=prog, usage=usage, description=description, allow_abbrev=False)
