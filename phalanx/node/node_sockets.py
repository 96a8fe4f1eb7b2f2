"""The listening sockets of a node's children: bound before anybody is told of them, held until its end (law 1)."""

import contextlib
import ipaddress
import itertools
import logging
import socket
from collections.abc import Collection
from types import TracebackType

from phalanx.config import Config
from phalanx.protocol import Place, RankId, Role, ServedAt
from phalanx.transport.audit import audited
from phalanx.transport.listener import WILDCARDS, address_of, bind_http, bind_tcp, look_up, stop_accepting

log = logging.getLogger(__name__)


class NodeSockets:
    """A context manager; leaving it closes everything."""

    def __init__(
        self, config: Config, places: Collection[Place], serves: bool, host: str, *, encrypted: bool = False
    ) -> None:
        """Bind everything.

        Args:
            places: the ranks and workers of this node.
            serves: it holds API servers, as many as the service wants on a node.
            host: the address of this machine that the others reach.
            encrypted: whether connections between machines speak TLS.

        Raises:
            OSError: the HTTP port is taken here, by whom, or the HTTP host cannot be listened on.
        """
        self.host = host
        self._encrypted = encrypted
        self._scheme = config.http.scheme
        self._stack = contextlib.ExitStack()
        self._indices: dict[int, int] = {}
        """The index among `_http` and `_engine` of each API server, by its number."""
        count = (config.parallel.api_servers_per_node or 0) if serves else 0
        leads = [p.index for p in places if p.worker == 0] if config.parallel.tensor_parallel_size > 1 else []
        try:
            http = bind_http(http_host(config.http.host, host), config.http.port, count) if count else []
            for sock in itertools.chain.from_iterable(http):
                self._stack.enter_context(sock)
            self._http = http
            self._engine = [self._stack.enter_context(bind_tcp(host)) for _ in http]
            self._workers = {RankId(rank): self._stack.enter_context(bind_tcp(host)) for rank in leads}
        except BaseException:
            self._stack.close()
            raise

    @property
    def api_servers(self) -> tuple[ServedAt, ...]:
        return tuple(
            ServedAt(f"{self._scheme}://{self._told(http[0]).partition(':')[2]}", self._told(engine))
            for http, engine in zip(self._http, self._engine, strict=True)
        )

    @property
    def leaders(self) -> dict[RankId, str]:
        return {rank: self._told(sock) for rank, sock in self._workers.items()}

    def of(self, place: Place) -> list[tuple[str, socket.socket]]:
        """The sockets that the child in a place inherits, each incarnation the same.

        The numbers of the API servers are the supervisor's to give: a new one gets the first sockets not yet taken.

        Raises:
            LookupError: there is no room for one more API server.
        """
        if place.role is Role.API:
            index = self._indices.get(place.index, len(self._indices))
            if index >= len(self._http):
                raise LookupError(f"this node has sockets for {len(self._http)} API servers, and {place} is one more")
            self._indices[place.index] = index
            return [*(("http", sock) for sock in self._http[index]), ("engine", self._engine[index])]
        if place.worker == 0 and place.index in self._workers:
            return [("workers", self._workers[RankId(place.index)])]
        return []

    def stop_accepting(self) -> None:
        """The API servers are about to end: see `transport.listener.stop_accepting`."""
        for sock in itertools.chain.from_iterable(self._http):
            stop_accepting(sock)

    def _told(self, sock: socket.socket) -> str:
        return audited(address_of(sock, self.host, encrypted=self._encrypted))

    def __enter__(self) -> "NodeSockets":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def http_host(wanted: str, own: str) -> str:
    """The host on which a node's API servers listen when the service's do at `wanted`; `own` is the node's address."""
    if wanted in WILDCARDS:
        return wanted
    if not _is_loopback(wanted) or _is_loopback(own):
        return own
    log.warning("the service's --host is %s: this machine's API servers can be reached from this machine only", wanted)
    return wanted


def _is_loopback(host: str) -> bool:
    try:
        return all(ipaddress.ip_address(target[0]).is_loopback for _, target in look_up(host, 0))
    except (OSError, ValueError):
        return False  # A name that only the service's own machine knows.
