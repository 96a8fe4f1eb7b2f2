"""Talking to a running service's admin endpoints: one HTTP request, its answer or one line that says why not."""

import argparse
import http.client
import json
import os
import socket
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from phalanx.cli.keys import of_environment, of_file
from phalanx.cli.options import Parser, UsageError

URL = "http://127.0.0.1:8000"
LOCAL_URL = "http://localhost"
"""What a service on a socket file is called: the scheme and, where there is one, the path before its own count."""
VARIABLE = "PHALANX_ADMIN_KEY"
PATIENCE = 10.0
"""Seconds for a connection, and for an answer; the service gives itself 5."""
MOST_BYTES = 16 * 2**20


class AdminError(Exception):
    """The service did not do what was asked; says why, in one line."""


class Unreachable(AdminError):
    """It did not answer, and may do so a moment later."""


class Rank(msgspec.Struct):
    """As /admin/ranks shows it; fields that a later release adds are passed over."""

    rank: int
    state: str
    incarnation: int = 0
    restarts: int = 0
    pid: int | None = None
    where: str = ""
    since: float = 0.0
    detail: str = ""
    running: int | None = None
    waiting: int | None = None
    kv_used_tokens: int | None = None
    kv_total_tokens: int | None = None


class ApiServer(msgspec.Struct):
    index: int
    state: str


class Fleet(msgspec.Struct):
    data_parallel_size: int
    ranks: list[Rank]
    api_servers: list[ApiServer] = []

    @property
    def states(self) -> dict[int, str]:
        return {rank.rank: rank.state for rank in self.ranks}


class _Error(msgspec.Struct):
    message: str


class _Refusal(msgspec.Struct):
    """Errors in OpenAI's form."""

    error: _Error


class Service:
    """A running service, and the key to it."""

    def __init__(self, url: str, uds: str | None, key: str, tls: ssl.SSLContext | None) -> None:
        """`uds`: the socket file to dial in place of the host and port of `url`."""
        self._url = url if uds is None else f"{url} on {uds}"
        self._uds = uds
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._host, self._port, self._prefix = parts.hostname, parts.port, parts.path.rstrip("/")
        self._key, self._tls = key, tls

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Fleet:
        """What /admin/ranks shows, now or after what was asked for has begun.

        Raises:
            AdminError: it refuses, or what answers is no such service; Unreachable: nobody answers.
        """
        status, data = self._exchange(method, path, body)
        if status == 503:
            raise Unreachable(f"{self._url} answers {status}: {self._reason(status, data)}")
        if status not in (200, 202):
            raise AdminError(f"{self._url} refuses ({status}): {self._reason(status, data)}")
        try:
            return msgspec.json.decode(data, type=Fleet)
        except msgspec.DecodeError as error:
            raise AdminError(f"{self._url} answers something else than a Phalanx service would: {error}") from None

    def _exchange(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        # Neither proxies nor redirects: the key goes to the service that was named and to nobody else.
        connection: http.client.HTTPConnection
        if self._tls is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=PATIENCE)
        else:
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=PATIENCE, context=self._tls)
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        try:
            if self._uds is not None:
                connection.sock = self._connected(self._uds)
            connection.request(method, self._prefix + path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read(MOST_BYTES)
        except TimeoutError:
            raise Unreachable(f"{self._url} does not answer within {PATIENCE:g} s") from None
        except ssl.SSLCertVerificationError as error:
            why = error.verify_message
            raise AdminError(f"{self._url}: its certificate is not trusted: {why}; see --ca-file") from None
        except ssl.SSLError as error:
            raise AdminError(f"{self._url}: no TLS connection: {error.reason or error}") from None
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
            raise Unreachable(f"no service answers at {self._url}: {why}") from None
        finally:
            connection.close()

    def _connected(self, path: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(PATIENCE)
            sock.connect(path)
            return sock if self._tls is None else self._tls.wrap_socket(sock, server_hostname=self._host)
        except BaseException:
            sock.close()
            raise

    @staticmethod
    def _reason(status: int, data: bytes) -> str:
        try:
            return " ".join(msgspec.json.decode(data, type=_Refusal).error.message.split())
        except msgspec.DecodeError:
            return f"{http.client.responses.get(status, 'unknown')}; is it a Phalanx service?"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which service, and the key to it."""
    parser.add_argument("--url", help=f"of the service (default: {URL})")
    parser.add_argument("--uds", metavar="PATH", help=f"the socket file of the service (default of --url: {LOCAL_URL})")
    parser.add_argument(
        "--admin-key-file", metavar="FILE", help=f"its first line is the admin key; absent: {VARIABLE} holds it"
    )
    parser.add_argument("--ca-file", metavar="FILE", help="https: trust these certificates, in place of the system's")
    parser.add_argument("--cert-file", metavar="FILE", help="https: certificate and key to show to the service, in PEM")


def service(given: dict[str, Any]) -> Service:
    """The service that the options name.

    Raises:
        UsageError: no key, or an option that cannot be.
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
        return Service(url, uds, _key(given), _tls(ca_file, cert_file))
    for name, value in (("--ca-file", ca_file), ("--cert-file", cert_file)):
        if value is not None:
            raise UsageError(f"{name} is for an --url that begins with https://")
    return Service(url, uds, _key(given), None)


def _key(given: dict[str, Any]) -> str:
    if given.get("admin_key_file") is not None:
        keys = of_file(Path(given["admin_key_file"]), "--admin-key-file")
    elif VARIABLE in os.environ:
        keys = of_environment(VARIABLE, os.environ[VARIABLE])
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


def seconds(text: str | None, least: float = 0.0) -> float | None:
    """The value of --timeout.

    Raises:
        UsageError: it is none.
    """
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not least <= value <= 86400:
        raise UsageError(f"--timeout {text} is not a number of seconds from {least:g} to 86400")
    return value


def number(text: str, what: str, least: int = 0) -> int:
    """A rank, or a number of ranks.

    Raises:
        UsageError: it is none.
    """
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= least):
        raise UsageError(f"{text} is not {what}")
    return int(text)


def admin_parser(prog: str, usage: str, description: str) -> Parser:
    return Parser(prog=prog, usage=usage, description=description, allow_abbrev=False)
