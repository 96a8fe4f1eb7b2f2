"""Every listening socket of a service: bound before any child starts, held until all have ended (law 1)."""

import contextlib
import socket
from types import TracebackType

from phalanx.protocol import ApiServerId, Endpoint, Membership
from phalanx.transport.listener import PrivateFolder, address_of, bind_unix


class Sockets:
    """A context manager; leaving it closes everything and removes the private folder."""

    def __init__(self, http: list[socket.socket]) -> None:
        """Bind all others, one for the engine plane beside each of `http`, which this owns from now on.

        Raises:
            OSError: no private folder can be made.
        """
        self.http = http
        self._stack = contextlib.ExitStack()
        try:
            for sock in http:
                self._stack.enter_context(sock)
            folder = PrivateFolder()
            self._stack.callback(folder.close)
            self.control = self._stack.enter_context(bind_unix(folder.path / "control"))
            self.engine = [
                self._stack.enter_context(bind_unix(folder.path / f"api-{index}")) for index in range(len(http))
            ]
        except BaseException:
            self._stack.close()
            raise

    @property
    def control_address(self) -> str:
        return address_of(self.control)

    @property
    def membership(self) -> Membership:
        return Membership(
            tuple(Endpoint(ApiServerId(index), address_of(sock)) for index, sock in enumerate(self.engine))
        )

    def of_api_server(self, index: int) -> dict[str, socket.socket]:
        """What API server `index` inherits, each incarnation the same."""
        return {"http": self.http[index], "engine": self.engine[index]}

    @property
    def url(self) -> str:
        """Where clients find the service."""
        host, port = self.http[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def __enter__(self) -> "Sockets":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
