"""TLS on connections between machines: the files that one end is known by, and the session of one connection.

Each end shows a certificate and checks the other's against the cluster's own authority. Host names are not compared:
addresses vary, and nobody outside the cluster has a certificate of that authority. TLS 1.3 and nothing older. The
proof of the launch secret (`handshake`) goes on inside.

No I/O here: bytes in, bytes out; `channel` and `stream` are the shells.
"""

import contextlib
import logging
import os
import ssl
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

from phalanx.transport import frames
from phalanx.transport.frames import FrameError
from phalanx.transport.handshake import NEEDS_TLS, Refusal

log = logging.getLogger(__name__)

VARIABLES = ("PHALANX_CLUSTER_SSL_CERTFILE", "PHALANX_CLUSTER_SSL_KEYFILE", "PHALANX_CLUSTER_SSL_CA_CERTS")
"""The variables in which a process finds the fields of `Files`, in their order."""

FLAGS = ("--cluster-ssl-certfile", "--cluster-ssl-keyfile", "--cluster-ssl-ca-certs")
"""The options that name the same files to whatever starts a service or a node."""

_HANDSHAKE, _ALERT = 22, 21
"""First bytes of TLS records (RFC 8446, 5.1). No frame that opens a connection in the clear begins with either."""

_READ_SIZE = 1 << 18


class TlsError(FrameError):
    """TLS cannot be spoken with this peer, or one end does not accept the other's certificate; says which and why."""


class FilesError(OSError):
    """Certificate, key and authority cannot be used; names the file and says why."""


class Files(NamedTuple):
    """The PEM files by which one machine is known to the others."""

    certificate: Path
    """The certificate, with those between it and the authority, if there are any."""
    key: Path
    authority: Path
    """The authority whose certificates are accepted."""

    @staticmethod
    def named_by(variables: Mapping[str, str]) -> "Files | None":
        """The files that an environment names; None: it names none.

        Raises:
            FilesError: it names some of them.
        """
        named = [variables.get(name, "") for name in VARIABLES]
        if not any(named):
            return None
        if not all(named):
            raise FilesError(f"{' and '.join(VARIABLES)} belong together: set all three or none")
        return Files(*map(Path, named))

    def absolute(self) -> "Files":
        """The same files by whole paths."""
        return Files(*(path.absolute() for path in self))


_Stamps: TypeAlias = tuple[tuple[int, int], ...]
_Contexts: TypeAlias = tuple[ssl.SSLContext, ssl.SSLContext]


class Tls:
    """One identity in the cluster. Files that are renewed count from the next connection on."""

    def __init__(self, files: Files) -> None:
        """Load the files, and see that one end that has them would accept another that has.

        Raises:
            FilesError: it would not; says why.
        """
        self.files = files
        self._stamps = _stamps(files)
        self._contexts = _contexts(files)

    def session(self, *, server_side: bool) -> "Session":
        """TLS for one new connection."""
        stamps = _stamps(self.files)
        if stamps != self._stamps:
            self._stamps = stamps
            try:
                self._contexts = _contexts(self.files)
            except FilesError as error:
                log.warning("goes on with the certificate that it has: %s", error)
        return Session(self._contexts[server_side], server_side=server_side)


def _stamps(files: Files) -> _Stamps:
    with contextlib.suppress(OSError):
        return tuple((info.st_ino, info.st_mtime_ns) for info in (os.stat(path) for path in files))
    return ()  # one is being replaced


def _contexts(files: Files) -> _Contexts:
    """The contexts for dialling and for listening, tried against one another."""
    for path in files:
        try:
            path.read_bytes()
        except OSError as error:
            raise FilesError(f"cannot read {path}: {error.strerror}") from None
    client, server = _context(files, ssl.PROTOCOL_TLS_CLIENT), _context(files, ssl.PROTOCOL_TLS_SERVER)
    # A dialler sends nothing before this ticket tells it that its certificate has been accepted.
    server.num_tickets = 1
    dialler, listener = Session(client, server_side=False), Session(server, server_side=True)
    try:
        listener.open(dialler.outgoing())
        dialler.open(listener.outgoing())
        listener.open(dialler.outgoing())
    except TlsError as error:
        reason = getattr(error.__cause__, "verify_message", None) or error
        raise FilesError(f"{files.certificate} does not hold against {files.authority}: {reason}") from None
    return client, server


def _context(files: Files, protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise FilesError(f"{files.key} is not the key of {files.certificate}") from None
        raise FilesError(
            f"{files.certificate} holds no PEM certificate, or {files.key} no PEM key that needs no password"
        ) from None
    try:
        context.load_verify_locations(files.authority)
    except ssl.SSLError:
        raise FilesError(f"{files.authority} holds no PEM certificate of an authority") from None
    return context


def _no_password() -> str:
    """OpenSSL would ask on the terminal, of which a service has none."""
    return ""


class Session:
    """One connection's TLS. Several threads may seal while one opens.

    After each `open`, also one that raised, `outgoing` is to be sent.
    """

    def __init__(self, context: ssl.SSLContext, *, server_side: bool) -> None:
        self._incoming, self._sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._sent, server_side=server_side)
        self._server_side = server_side
        # OpenSSL's objects are not to be used by two threads at once; nothing here waits for the network.
        self._lock = threading.Lock()
        self._heard = False
        self._shaken = False
        self.established = False
        """The peer's certificate is accepted and, as far as a dialler can know, ours is."""
        if not server_side:
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()

    def outgoing(self) -> bytes:
        """Take the bytes that TLS itself has to send."""
        with self._lock:
            return self._sent.read()

    def open(self, data: bytes) -> bytes:
        """Decrypt the peer's bytes; the result may be empty.

        Raises:
            TlsError: the peer does not speak TLS, one end does not accept the other, or what came was forged.
        """
        with self._lock:
            if not self._heard:
                self._greet(data)
            self._incoming.write(data)
            try:
                if not self._shaken:
                    self._tls.do_handshake()
                    self._shaken = True
                    self.established = self._server_side
                else:
                    self.established = True
                return self._read()
            except ssl.SSLWantReadError:
                return b""
            except ssl.SSLError as error:
                raise TlsError(_in_words(error)) from error

    def seal(self, data: bytes | bytearray) -> bytearray:
        """Encrypt bytes for the peer. Of two results the one that was sealed first must be sent first."""
        with self._lock:
            rest = memoryview(data)
            while rest:
                rest = rest[self._tls.write(rest) :]
            return bytearray(self._sent.read())

    def _greet(self, data: bytes) -> None:
        """Tell a peer that speaks plain frames from one that speaks TLS."""
        self._heard = True
        if data[0] == _HANDSHAKE or (data[0] == _ALERT and not self._server_side):
            return
        if self._server_side:
            self._sent.write(frames.encode(Refusal(NEEDS_TLS)))
            raise TlsError("it does not speak TLS, and here that is needed (--cluster-ssl-certfile)")
        raise TlsError(
            "what listens there does not speak TLS: leave --cluster-ssl-certfile out here, or give it at both ends"
        )

    def _read(self) -> bytes:
        """Read all there is: nothing may wait here that no selector tells of."""
        pieces = []
        try:
            while piece := self._tls.read(_READ_SIZE):
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        return b"".join(pieces)


def is_hello(data: bytes) -> bool:
    """Whether the first bytes of a connection open TLS."""
    return data[0] == _HANDSHAKE


def _in_words(error: ssl.SSLError) -> str:
    reason = error.reason or str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not hold here: {error.verify_message} (see --cluster-ssl-ca-certs)"
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "it shows no certificate"
    words = reason.rpartition("ALERT_")[2].lower().replace("_", " ")
    if "ALERT" not in reason:
        return f"TLS with it failed: {words}"
    if "certificate" in words or words == "unknown ca":
        return f"it does not accept our certificate: {words} (see --cluster-ssl-certfile)"
    return f"it broke TLS off: {words}"
