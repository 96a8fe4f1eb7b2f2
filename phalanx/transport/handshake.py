"""Mutual challenge-response: both ends prove that they know the launch secret before any message is read.

    dialer   -> Opening(magic, version, nonce)
    listener -> Challenge(version, nonce, proof over both nonces)      or Refusal(reason)
    dialer   -> Proof(proof over both nonces)                          or Refusal(reason)
    listener -> Accepted                                               or Refusal(reason)

Proofs are HMAC-SHA256 keyed with the secret over a label that differs by side and both nonces, so a proof can
neither be replayed nor reflected. No I/O here: bodies in, bodies out; `channel` and `stream` are the shells.
"""

import hashlib
import hmac
import secrets
from typing import TypeAlias

import msgspec

from phalanx.protocol import PROTOCOL_VERSION, Message

MAGIC = "phalanx"
NONCE_BYTES = 32
TIMEOUT = 20.0
"""Seconds a listener gives a peer to prove itself."""


NEEDS_TLS = (
    "TLS is needed here: give --cluster-ssl-certfile, --cluster-ssl-keyfile and --cluster-ssl-ca-certs there too"
)
"""The reason of a Refusal, in the clear, to a dialler that does not speak TLS."""


class HandshakeRefused(ConnectionError):
    """One of the two ends turned the other down; says which end and why."""


class Untrusted(HandshakeRefused):
    """TLS is the reason: one end speaks it and the other does not, or a certificate is not accepted."""


class Opening(Message, tag=0, frozen=True):
    magic: str
    version: int
    nonce: bytes


class Challenge(Message, tag=1, frozen=True):
    version: int
    nonce: bytes
    proof: bytes


class Proof(Message, tag=2, frozen=True):
    proof: bytes


class Accepted(Message, tag=3, frozen=True):
    pass


class Refusal(Message, tag=4, frozen=True):
    reason: str


HandshakeMessage: TypeAlias = Opening | Challenge | Proof | Accepted | Refusal
_decoder: msgspec.msgpack.Decoder[HandshakeMessage] = msgspec.msgpack.Decoder(HandshakeMessage)


def _proof(secret: bytes, side: bytes, dialer_nonce: bytes, listener_nonce: bytes) -> bytes:
    label = b"phalanx %d %s " % (PROTOCOL_VERSION, side)
    return hmac.digest(secret, label + dialer_nonce + listener_nonce, hashlib.sha256)


def _decode(body: bytes) -> HandshakeMessage:
    try:
        return _decoder.decode(body)
    except msgspec.DecodeError:
        raise HandshakeRefused("the peer does not speak this protocol") from None


class Handshake:
    """One side's progress. `done` once the peer has proved itself and, for a dialer, has accepted us."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self.done = False

    def receive(self, body: bytes) -> HandshakeMessage | None:
        """Take the peer's next frame body; returns the answer to send, if one is due.

        Raises:
            HandshakeRefused: the peer refused us or must be refused; its text is what the peer is told, as a Refusal.
        """
        raise NotImplementedError


class Dialer(Handshake):
    def opening(self) -> Opening:
        return Opening(MAGIC, PROTOCOL_VERSION, self._nonce)

    def receive(self, body: bytes) -> HandshakeMessage | None:
        match _decode(body):
            case Challenge(version, nonce, proof):
                if version != PROTOCOL_VERSION:
                    raise HandshakeRefused(f"protocol version {version} there, {PROTOCOL_VERSION} here")
                if not hmac.compare_digest(proof, _proof(self._secret, b"listener", self._nonce, nonce)):
                    raise HandshakeRefused("the listener does not know the launch secret")
                return Proof(_proof(self._secret, b"dialer", self._nonce, nonce))
            case Accepted():
                self.done = True
                return None
            case Refusal(reason):
                kind = Untrusted if reason == NEEDS_TLS else HandshakeRefused
                raise kind(f"refused by the listener: {reason}")
            case _:
                raise HandshakeRefused("the listener broke the order of the handshake")


class Listener(Handshake):
    def __init__(self, secret: bytes) -> None:
        super().__init__(secret)
        self._dialer_nonce: bytes | None = None

    def receive(self, body: bytes) -> HandshakeMessage | None:
        match _decode(body):
            case Opening(magic, version, nonce) if self._dialer_nonce is None:
                if magic != MAGIC or len(nonce) != NONCE_BYTES:
                    raise HandshakeRefused("the dialer does not speak this protocol")
                if version != PROTOCOL_VERSION:
                    raise HandshakeRefused(
                        f"protocol version {version} at the dialer, {PROTOCOL_VERSION} at the listener"
                    )
                self._dialer_nonce = nonce
                return Challenge(PROTOCOL_VERSION, self._nonce, _proof(self._secret, b"listener", nonce, self._nonce))
            case Proof(proof) if self._dialer_nonce is not None:
                expected = _proof(self._secret, b"dialer", self._dialer_nonce, self._nonce)
                if not hmac.compare_digest(proof, expected):
                    raise HandshakeRefused("the dialer does not know the launch secret")
                self.done = True
                return Accepted()
            case Refusal(reason):
                raise HandshakeRefused(f"refused by the dialer: {reason}")
            case _:
                raise HandshakeRefused("the dialer broke the order of the handshake")
