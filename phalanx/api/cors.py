"""Which web pages may read this server's answers in a browser (CORS, the Fetch standard, 3.2)."""

from collections.abc import Iterable

from phalanx.api.errors import ApiError
from phalanx.api.http import Exchange
from phalanx.config import HttpOptions

ANY = "*"
MAX_AGE = 600
"""Seconds for which a browser may remember what a preflight was told."""

_EXPOSED = b"retry-after, x-request-id, x-phalanx-api-server, x-phalanx-ranks"
"""Headers of an answer that a page may read beside those it always may."""


class Cors:
    def __init__(self, http: HttpOptions, methods: Iterable[str]) -> None:
        """`methods`: all that the endpoints take, which --allowed-methods may narrow."""
        self._origins = {origin.lower().encode() for origin in http.allowed_origins}
        self._any_origin = ANY in http.allowed_origins
        self._headers = None if ANY in http.allowed_headers else ", ".join(http.allowed_headers).encode()
        self._methods = ", ".join(methods if ANY in http.allowed_methods else http.allowed_methods).encode()
        self._credentials = http.allow_credentials

    @property
    def is_on(self) -> bool:
        return bool(self._origins)

    def headers(self, origin: bytes | None) -> list[tuple[bytes, bytes]]:
        """What every answer to a page of this origin carries, errors included: it could not read why it was refused."""
        if self._any_origin:
            found = [(b"access-control-allow-origin", b"*")]
        else:
            # A cache must not give one page what was meant for another.
            found = [(b"vary", b"origin")]
            if origin is None or origin.lower() not in self._origins:
                return found
            found.append((b"access-control-allow-origin", origin))
        if self._credentials:
            found.append((b"access-control-allow-credentials", b"true"))
        return [*found, (b"access-control-expose-headers", _EXPOSED)]

    @staticmethod
    def is_preflight(exchange: Exchange) -> bool:
        """Whether a browser asks what a page may ask. It brings no key, whatever the page would bring."""
        return (
            exchange.method == "OPTIONS"
            and exchange.header(b"origin") is not None
            and exchange.header(b"access-control-request-method") is not None
        )

    async def answer_preflight(self, exchange: Exchange) -> None:
        """Say what pages may ask, which is the same for every path: nobody without a key learns what there is.

        Raises:
            ApiError: 403, the page's origin is none of those allowed.
        """
        if not self._any_origin and (exchange.header(b"origin") or b"").lower() not in self._origins:
            raise ApiError("Pages of this origin are not let in (--allowed-origins).", status=403, code="origin")
        asked = exchange.header(b"access-control-request-headers")
        headers = [
            (b"access-control-allow-methods", self._methods),
            (b"access-control-max-age", str(MAX_AGE).encode()),
        ]
        if asked is not None:
            headers.append((b"access-control-allow-headers", asked if self._headers is None else self._headers))
        await exchange.reply_nothing(headers)
