"""Length-prefixed frames: four bytes, little-endian, then that many bytes of msgpack."""

from typing import Any, TypeVar

import msgspec

MAX_FRAME = 64 * 2**20
"""Bytes. Far above any message of a sane size; keeps a broken or hostile peer from claiming our memory."""

MAX_UNPROVEN_FRAME = 1024
"""Bytes a peer may send in one frame before it has proved that it knows the launch secret."""

HEADER = 4

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()


class FrameError(ConnectionError):
    """The peer broke the framing or sent what does not decode; the connection is of no more use."""


def encode(message: Any) -> bytearray:
    """One frame, header included.

    Raises:
        FrameError: the message is larger than any receiver would take.
    """
    frame = bytearray(HEADER)
    _encoder.encode_into(message, frame, HEADER)
    length = len(frame) - HEADER
    if length > MAX_FRAME:
        raise FrameError(f"a {type(message).__name__} of {length:,} bytes is over the frame limit of {MAX_FRAME:,}")
    frame[:HEADER] = length.to_bytes(HEADER, "little")
    return frame


def decode(decoder: msgspec.msgpack.Decoder[T], body: bytes, sender: str) -> T:
    """The message in the body of a frame.

    Raises:
        FrameError: it does not decode; the sentence that says so begins with `sender`.
    """
    try:
        return decoder.decode(body)
    except msgspec.DecodeError as error:
        raise FrameError(f"{sender} sent what does not decode: {error}") from None


class FrameReader:
    """Cuts a byte stream into frame bodies."""

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self.limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        self._buffer += data

    def take(self) -> bytes | None:
        """The next whole body, or None until more bytes come.

        Raises:
            FrameError: the frame announces more bytes than the limit.
        """
        buffer = self._buffer
        if len(buffer) < HEADER:
            return None
        length = int.from_bytes(buffer[:HEADER], "little")
        if length > self.limit:
            raise FrameError(f"the peer announced a frame of {length:,} bytes; the limit is {self.limit:,}")
        end = HEADER + length
        if len(buffer) < end:
            return None
        body = bytes(memoryview(buffer)[HEADER:end])
        del buffer[:end]
        return body
