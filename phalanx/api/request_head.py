"""What a request's head may say on a connection of this server. Pure; the parser has read it by then."""

from collections.abc import Iterable

from phalanx.api.errors import ApiError


def without_upgrade(method: bytes, target: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A request's head, as it was parsed, without its offer to change the protocol."""
    lines = [b"%b %b HTTP/%b" % (method, target, version.encode())]
    lines += [b"%b: %b" % (name, value) for name, value in headers if name != b"upgrade"]
    return b"\r\n".join([*lines, b"", b""])


def check_head(method: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse what the parser lets pass and this server does not speak.

    Raises:
        ApiError: says which; the connection cannot be used any further.
    """
    if version not in ("1.0", "1.1"):
        raise ApiError(f"This server speaks HTTP/1.1, not HTTP/{version}.", status=505)
    if method == b"CONNECT":
        raise ApiError("CONNECT is for proxies, and this server is none.", status=501)
    encodings = [value for name, value in headers if name == b"transfer-encoding"]
    if encodings and version == "1.0":
        raise ApiError("HTTP/1.0 knows no Transfer-Encoding: declare the body's length.")
    if any(encoding.strip().lower() != b"chunked" for encoding in encodings):
        raise ApiError("This server reads no Transfer-Encoding but chunked.", status=501)
