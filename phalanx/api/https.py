"""HTTPS: the TLS context is made of the files that were named, and follows their renewal while the service runs."""

import logging
import os
import re
import ssl
from pathlib import Path

import msgspec

from phalanx.config import HttpOptions

log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT = 10.0
"""Seconds that a client gets to agree on a session; one that stalls holds nothing for longer."""

SHUTDOWN_TIMEOUT = 1.0
"""Seconds that a client gets to say farewell in turn."""

CLIENT_CERTIFICATES = {
    **dict.fromkeys(("none", 0), ssl.CERT_NONE),
    **dict.fromkeys(("optional", 1), ssl.CERT_OPTIONAL),
    **dict.fromkeys(("required", 2), ssl.CERT_REQUIRED),
}
"""What --ssl-cert-reqs may be: in words, or as the numbers of Python's ssl module."""


class CertificateError(ValueError):
    """The files cannot make a TLS server; the message says which and why, by the flags that named them."""


def context(http: HttpOptions) -> ssl.SSLContext | None:
    """The context in which API servers speak TLS, or None where they speak plain HTTP.

    Raises:
        CertificateError: a file is missing, is no PEM, does not fit another, or takes a password that is not given.
    """
    if http.ssl_certfile is None:
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.set_alpn_protocols(["http/1.1"])
    _load(made, http)
    if http.ssl_ca_certs is not None:
        _check_pem("--ssl-ca-certs", http.ssl_ca_certs, "CERTIFICATE")
        try:
            made.load_verify_locations(http.ssl_ca_certs)
        except ssl.SSLError as error:
            raise CertificateError(f"--ssl-ca-certs: {http.ssl_ca_certs} cannot be used: {_reason(error)}") from None
    made.verify_mode = CLIENT_CERTIFICATES[http.ssl_cert_reqs]
    return made


def absolute(http: HttpOptions) -> HttpOptions:
    """The options with the files' whole paths, since API servers on other machines are in other folders."""
    names = ("ssl_certfile", "ssl_keyfile", "ssl_keyfile_password_file", "ssl_ca_certs")
    named = {name: path for name in names if (path := getattr(http, name)) is not None}
    return msgspec.structs.replace(http, **{name: os.path.abspath(path) for name, path in named.items()})


def _load(made: ssl.SSLContext, http: HttpOptions) -> None:
    """Load the certificate, what links it to its authority, and its key."""
    certificate, key = http.ssl_certfile, http.ssl_keyfile
    assert certificate is not None
    _check_pem("--ssl-certfile", certificate, "CERTIFICATE")
    flag = "--ssl-certfile, without --ssl-keyfile" if key is None else "--ssl-keyfile"
    _check_pem(flag, key or certificate, "PRIVATE KEY")
    password, asked = _password(http), False

    def answer() -> str:
        # Without this OpenSSL would ask on the terminal.
        nonlocal asked
        asked = True
        return password or ""

    try:
        made.load_cert_chain(certificate, key, password=answer)
    except ssl.SSLError as error:
        where = key or certificate
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CertificateError(f"the key in {where} is not that of the certificate in {certificate}") from None
        if asked and password is None:
            raise CertificateError(f"the key in {where} is encrypted: give --ssl-keyfile-password-file") from None
        if asked:
            raise CertificateError(
                f"the password in {http.ssl_keyfile_password_file} does not open the key in {where}"
            ) from None
        raise CertificateError(f"{certificate} and {where} cannot be used: {_reason(error)}") from None


def _check_pem(flag: str, path: str, what: str) -> None:
    """Raise CertificateError where a file holds no `what`, such as CERTIFICATE."""
    # A key's line names its kind before these words, a certificate's does not.
    if not re.search(rf"^-----BEGIN [A-Z ]*{what}-----", _text(flag, path), re.MULTILINE):
        raise CertificateError(f"{flag}: {path} holds no {what.lower()} in PEM form")


def _password(http: HttpOptions) -> str | None:
    path = http.ssl_keyfile_password_file
    return None if path is None else _text("--ssl-keyfile-password-file", path).strip("\r\n")


def _text(flag: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise CertificateError(f"{flag}: cannot read {path}: {error.strerror}") from None


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()


class Renewal:
    """It puts a certificate that was replaced on disk into a live context: connections made from then on get it.

    The files of one renewal are not replaced at one instant: they are read when they have rested for a look, and
    are tried in a context of their own first, since a failed load leaves a context half changed.
    """

    def __init__(self, http: HttpOptions, live: ssl.SSLContext) -> None:
        self._http = http
        self._live = live
        self._paths = [path for path in (http.ssl_certfile, http.ssl_keyfile) if path is not None]
        self._seen = self._settled = self._stamps()

    def look(self) -> None:
        """See whether the files have changed; called once a second, and quick where they have not."""
        stamps = self._stamps()
        rested, self._seen = stamps == self._seen, stamps
        if stamps == self._settled or not rested:
            return
        self._settled = stamps
        try:
            _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self._http)
            _load(self._live, self._http)
        except CertificateError as error:
            log.warning("the certificate was replaced and cannot be used, the old one is kept: %s", error)
        else:
            log.info("new connections get the certificate that is now in %s", self._http.ssl_certfile)

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        found: list[tuple[int, int, int] | None] = []
        for path in self._paths:
            try:
                info = os.stat(path)
                found.append((info.st_ino, info.st_mtime_ns, info.st_size))
            except OSError:  # between two names
                found.append(None)
        return found
