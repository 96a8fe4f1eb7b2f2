"""A client of the admin endpoints of a service: one HTTP request, and its answer or one line that says why not."""

import http.client
import json
import socket
import ssl
from typing import Any
from urllib.parse import urlsplit

import msgspec

PATIENCE = 10.0
"""Seconds for a connection, and for an answer; the service gives itself 5."""
MOST_BYTES = 16 * 2**20


class AdminError(Exception):
    """The service did not do what was asked; the message says why, in one line."""


class ServiceUnreachable(AdminError):
    """The service did not answer, and may do so a moment later."""


class RankReport(msgspec.Struct):
    """A rank as /admin/ranks shows it; fields that a later release adds are passed over."""

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


class ApiServerReport(msgspec.Struct):
    """An API server as /admin/ranks shows it."""

    index: int
    state: str


class FleetReport(msgspec.Struct):
    """What /admin/ranks shows."""

    data_parallel_size: int
    ranks: list[RankReport]
    api_servers: list[ApiServerReport] = []

    @property
    def states(self) -> dict[int, str]:
        """The states of the ranks by their numbers."""
        return {rank.rank: rank.state for rank in self.ranks}


class _Error(msgspec.Struct):
    message: str


class _Refusal(msgspec.Struct):
    """An error in OpenAI's form."""

    error: _Error


class AdminClient:
    """It asks one running service, whose admin key it has."""

    def __init__(self, url: str, uds: str | None, key: str, tls: ssl.SSLContext | None) -> None:
        """`uds` is the socket file to dial in place of the host and port of `url`."""
        self._url = url if uds is None else f"{url} on {uds}"
        self._uds = uds
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._host, self._port, self._prefix = parts.hostname, parts.port, parts.path.rstrip("/")
        self._key, self._tls = key, tls

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> FleetReport:
        """Ask the service; the answer is what /admin/ranks shows once that has begun which was asked for.

        Raises:
            ServiceUnreachable: nobody answers, or it cannot answer now.
            AdminError: the service refuses, or what answers is no such service.
        """
        status, data = self._exchange(method, path, body)
        if status == 503:
            raise ServiceUnreachable(f"{self._url} answers {status}: {self._reason(status, data)}")
        if status not in (200, 202):
            raise AdminError(f"{self._url} refuses ({status}): {self._reason(status, data)}")
        try:
            return msgspec.json.decode(data, type=FleetReport)
        except msgspec.DecodeError as error:
            raise AdminError(f"{self._url} answers something else than a Phalanx service would: {error}") from None

    def _exchange(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        # It uses no proxy and follows no redirect: the key goes to the service that was named and to nobody else.
        connection: http.client.HTTPConnection
        if self._tls is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=PATIENCE)
        else:
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=PATIENCE, context=self._tls)
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        try:
            if self._uds is not None:
                connection.sock = self._connect(self._uds)
            connection.request(method, self._prefix + path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read(MOST_BYTES)
        except TimeoutError:
            raise ServiceUnreachable(f"{self._url} does not answer within {PATIENCE:g} s") from None
        except ssl.SSLCertVerificationError as error:
            why = error.verify_message
            raise AdminError(f"{self._url}: its certificate is not trusted: {why}; see --ca-file") from None
        except ssl.SSLError as error:
            raise AdminError(f"{self._url}: no TLS connection: {error.reason or error}") from None
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
            raise ServiceUnreachable(f"no service answers at {self._url}: {why}") from None
        finally:
            connection.close()

    def _connect(self, path: str) -> socket.socket:
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
