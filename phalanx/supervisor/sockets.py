"""Every listening socket of a service on the supervisor's machine: bound first, held until all have ended (law 1)."""

import contextlib
import itertools
import os
import socket
from types import TracebackType

from phalanx.config import ParallelOptions
from phalanx.protocol import ApiServerId, Endpoint, Place, Role
from phalanx.transport.http_listeners import HttpListeners
from phalanx.transport.listener import address_of, bind_tcp, bind_unix, spelt, stop_accepting
from phalanx.transport.private_folder import PrivateFolder

ANYWHERE = "0.0.0.0"
"""Which of this machine's addresses the others reach is seen when they do. They prove the secret first."""

Named = list[tuple[str, socket.socket]]
"""Sockets as a child inherits them; a name may occur twice."""


class Sockets:
    """A context manager; leaving it closes everything and removes the private folder."""

    def __init__(
        self, http: HttpListeners, parallel: ParallelOptions, scheme: str = "http", *, encrypted: bool = False
    ) -> None:
        """Bind all others, one for the engine plane for each API server of `http`, which this owns from now on.

        Where ranks live on other machines, control and engine plane listen on TCP too. `encrypted` says that
        connections between machines speak TLS.

        Raises:
            AddressInUse: the control port is taken.
            OSError: no private folder can be made, or --data-parallel-address is not this machine's.
        """
        self.http = http.sockets
        self._encrypted = encrypted
        self._passed = http.passed
        self._file = http.file
        self.urls = [_url(sock, scheme) for sock in self.http[0]]
        """Where clients find the service: one an address."""
        self._retired: set[int] = set()
        self._stack = contextlib.ExitStack()
        try:
            for sock in itertools.chain.from_iterable(self.http):
                self._stack.enter_context(sock)
            folder = PrivateFolder()
            self._stack.callback(folder.close)
            self.control = self._stack.enter_context(bind_unix(folder.path / "control"))
            self.remote_control: socket.socket | None = None
            self._engine: list[list[socket.socket]] = [
                [self._stack.enter_context(bind_unix(folder.path / f"api-{index}"))] for index in range(len(self.http))
            ]
            if parallel.spans_machines:
                host = parallel.data_parallel_address or ANYWHERE
                self.remote_control = self._stack.enter_context(bind_tcp(host, parallel.data_parallel_rpc_port))
                for sockets in self._engine:
                    sockets.append(self._stack.enter_context(bind_tcp(host)))
            self._folder = folder.path
            self._workers: dict[int, socket.socket] = {}
            if parallel.tensor_parallel_size > 1:
                for rank in range(parallel.local_ranks):
                    self.lead(rank)
        except BaseException:
            self._stack.close()
            raise

    @property
    def control_address(self) -> str:
        """Where children on this machine dial the supervisor."""
        return address_of(self.control)

    def retire(self, index: int) -> None:
        """An API server will not come back: nobody shall wait for it in a backlog any more."""
        self._retired.add(index)
        served = [sock for other, http in enumerate(self.http) if other not in self._retired for sock in http]
        for sock in self.http[index]:
            # A service manager that passed it holds it as well: the kernel would go on filling what we only close. Not
            # so a socket file: once shut it never listens again, and whoever waits there waits for the next service.
            if sock.family != socket.AF_UNIX and not any(_same(sock, other) for other in served):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for sock in (*self.http[index], *self._engine[index]):
            sock.close()

    def stop_accepting(self) -> None:
        """The service ends: nobody shall wait in a backlog for whom nobody will come, and who is then reset."""
        if self._file is not None:
            self._file.remove()
        elif not self._passed:
            for index, sockets in enumerate(self.http):
                if index not in self._retired:
                    for sock in sockets:
                        stop_accepting(sock)

    def lead(self, rank: int) -> None:
        """Bind where the tensor-parallel workers of a rank on this machine will find worker 0."""
        self._workers[rank] = self._stack.enter_context(bind_unix(self._folder / f"workers-{rank}"))

    def leave(self, rank: int) -> None:
        """A rank is no more."""
        if (sock := self._workers.pop(rank, None)) is not None:
            sock.close()
            (self._folder / f"workers-{rank}").unlink()

    def endpoints(self, reached_at: str = "") -> tuple[Endpoint, ...]:
        """The API servers here, for a child on this machine, or for one that reached us at an address of ours."""
        which = -1 if reached_at else 0
        return tuple(
            Endpoint(ApiServerId(index), address_of(sockets[which], reached_at, encrypted=self._encrypted))
            for index, sockets in enumerate(self._engine)
            if index not in self._retired
        )

    def leader(self, rank: int) -> str:
        """Where the tensor-parallel workers of a rank on this machine find worker 0; empty: it has none."""
        return address_of(self._workers[rank]) if rank in self._workers else ""

    def of(self, place: Place) -> Named:
        """What the child in a place on this machine inherits, each incarnation the same."""
        if place.role is Role.API:
            http, engine = self.http[place.index], self._engine[place.index]
            return [*(("http", sock) for sock in http), *(("engine", sock) for sock in engine)]
        if place.role is Role.ENGINE and place.worker == 0 and place.index in self._workers:
            return [("workers", self._workers[place.index])]
        return []

    def __enter__(self) -> "Sockets":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def _same(one: socket.socket, other: socket.socket) -> bool:
    """Whether two descriptors are of one socket: API servers may share one that was passed to the service."""
    return os.path.sameopenfile(one.fileno(), other.fileno())


def _url(sock: socket.socket, scheme: str) -> str:
    name = sock.getsockname()
    return f"unix:{name}" if sock.family == socket.AF_UNIX else f"{scheme}://{spelt(*name[:2])}"
