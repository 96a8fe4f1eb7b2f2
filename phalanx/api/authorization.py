"""Who may ask for what: the keys of the service are compared with the key that a request brings.

API keys open what serves models, and admin keys what changes the service; neither opens what belongs to the other.
"""

import hashlib
import hmac

from phalanx.api.errors import ApiError
from phalanx.api.known_errors import INVALID_API_KEY
from phalanx.api.route import Access
from phalanx.config import HttpOptions

_CHALLENGE = ((b"www-authenticate", b"Bearer"),)


class Keys:
    """The keys of a service, kept as digests, which are of equal length: comparing tells no key's length."""

    def __init__(self, http: HttpOptions) -> None:
        self._keys = [_digest(key.encode()) for key in http.api_key]
        self._admin_keys = [_digest(key.encode()) for key in http.admin_key]

    def check(self, access: Access, authorization: bytes | None) -> None:
        """Let the bearer of a right key pass.

        Raises:
            ApiError: 401 for no key or an unknown one, which then learns nothing else, not even what there is;
                403 for a known key that does not open this, and for admin endpoints that are off.
        """
        if access is Access.OPEN:
            return
        scheme, _, given = (authorization or b"").partition(b" ")
        given = given.strip() if scheme.lower() == b"bearer" else b""
        digest = _digest(given)
        known, admin = _among(digest, self._keys), _among(digest, self._admin_keys)
        wanted = self._admin_keys if access is Access.ADMIN else self._keys
        if known or admin:
            if access is Access.ADMIN and not self._admin_keys:
                raise _off()
            if access is Access.ADMIN and not admin:
                raise _forbidden("An API key does not open this endpoint, which takes an admin key.")
            if access is Access.KEY and self._keys and not known:
                raise _forbidden("An admin key opens the admin endpoints alone; this one takes an API key.")
        elif wanted or self._keys:
            raise _unknown(given)
        elif access is Access.ADMIN:
            raise _off()


def _unknown(given: bytes) -> ApiError:
    why = "it is not one of the server's" if given else "none; send the header `Authorization: Bearer KEY`"
    return INVALID_API_KEY.told(why=why, headers=_CHALLENGE)


def _forbidden(message: str) -> ApiError:
    return ApiError(message, status=403, code="wrong_key")


def _off() -> ApiError:
    return ApiError(
        "The admin endpoints are off: this service was started without --admin-key-file, --admin-key or "
        "PHALANX_ADMIN_KEY.",
        status=403,
        code="admin_off",
    )


def _among(digest: bytes, keys: list[bytes]) -> bool:
    # Every key is compared in full: time must not tell which was nearly right.
    equal = [hmac.compare_digest(digest, key) for key in keys]
    return any(equal)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
