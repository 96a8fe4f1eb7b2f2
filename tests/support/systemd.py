"""A stand-in for systemd: binds sockets and holds them, starts a service with them, hears what it says of itself."""

import contextlib
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from support.service import DEADLINE, SERVE, Service

EXEC = """
import fcntl, os, sys
passed, command = sys.argv[1], sys.argv[2:]
copies = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in passed.split(",") if number]
for target, copy in enumerate(copies, 3):
    os.dup2(copy, target)
    os.close(copy)
if copies:
    os.environ["LISTEN_PID"] = str(os.getpid())
if "WATCHDOG_USEC" in os.environ:
    os.environ["WATCHDOG_PID"] = str(os.getpid())
os.execv(command[0], command)
"""
"""Between systemd's fork and exec."""

State = dict[str, str]


class Systemd:
    """A context manager; it owns the sockets, as systemd does, while services come and go."""

    def __init__(
        self,
        folder: Path,
        listen: int = 0,
        abstract: bool = False,
        hosts: Sequence[str] = ("127.0.0.1",),
        file: Path | None = None,
    ) -> None:
        """`listen`: how many times ListenStream= names each of the hosts, all with one port and ReusePort=yes.

        `file`: a path that it names as well.
        """
        self._stack = contextlib.ExitStack()
        self.sockets: list[socket.socket] = []
        for host in (host for host in hosts for _ in range(listen)):
            sock = self._stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((host, self.address[1] if self.sockets else 0))
            sock.listen(64)
            self.sockets.append(sock)
        if file is not None:
            sock = self._stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.bind(str(file))
            sock.listen(64)
            self.sockets.append(sock)
        self._notify = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        self._notify.bind("\0" + str(folder) if abstract else str(folder / "notify"))
        self.environment = {"NOTIFY_SOCKET": f"@{folder}" if abstract else str(folder / "notify")}

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.sockets[0].getsockname()
        return host, port

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self.address)

    def start(self, *flags: str, **environment: str) -> Service:
        """A context manager, as every Service."""
        descriptors = [sock.fileno() for sock in self.sockets]
        variables = {**self.environment}
        if descriptors:
            names = ":".join("http" for _ in descriptors)
            variables |= {"LISTEN_FDS": str(len(descriptors)), "LISTEN_FDNAMES": names}
        command = (sys.executable, "-c", EXEC, ",".join(map(str, descriptors)), *SERVE)
        return self._service(*flags, command=command, env=variables | environment, pass_fds=descriptors)

    def _service(self, *flags: str, **further: object) -> Service:
        return Service(*flags, **further)  # type: ignore[arg-type]

    def hears(self, condition: Callable[[State], bool], timeout: float = DEADLINE) -> list[State]:
        """What it is told until a message meets the condition, that one included.

        Raises TimeoutError after `timeout` seconds without one.
        """
        heard = []
        for state in self._messages(time.monotonic() + timeout):
            heard.append(state)
            if condition(state):
                break
        return heard

    def _messages(self, deadline: float) -> Iterator[State]:
        while True:
            self._notify.settimeout(max(0.001, deadline - time.monotonic()))
            lines = self._notify.recv(65536).decode().split("\n")
            yield dict(line.split("=", 1) for line in lines)

    def __enter__(self) -> "Systemd":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
