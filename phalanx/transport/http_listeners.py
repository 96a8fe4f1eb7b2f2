"""Where the API servers of one machine accept clients: on sockets of this service, or on a service manager's."""

from typing import NamedTuple

from phalanx.transport.listener import HttpSockets
from phalanx.transport.socket_file import SocketFile


class HttpListeners(NamedTuple):
    """The listening sockets of all API servers on this machine."""

    sockets: list[HttpSockets]
    """One entry an API server."""
    passed: bool = False
    """Whether a service manager holds them as well, and beyond this service's end."""
    file: SocketFile | None = None
    """The socket file that all of them are, or None where they are ports or were passed."""
