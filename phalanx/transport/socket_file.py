"""The socket file that clients are served on in place of a TCP port, under a name that a person chose (--uds)."""

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from phalanx.transport.listener import BACKLOG, AddressInUse, HttpSockets

LONGEST_PATH = 107
"""Bytes that the kernel takes."""


class SocketFile:
    """A socket that is bound to a name and listens; `remove` takes the name away."""

    def __init__(self, path: Path, mode: int) -> None:
        """Listen at `path`. A file that a dead service left behind is replaced; nothing else ever is.

        Raises:
            AddressInUse: somebody listens there, or the name is not a socket's.
            OSError: no socket can be made there.
        """
        self.path = path
        if len(os.fsencode(path)) > LONGEST_PATH:
            raise OSError(errno.ENAMETOOLONG, f"{path} is longer than the {LONGEST_PATH} bytes of a socket's path")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _alone_in(path.parent):
                _make_way(path)
                self.sock.bind(str(path))
                # Nobody can connect before it listens, so nobody does with other permissions than these.
                path.chmod(mode)
                self.sock.listen(BACKLOG)
                self._identity = _identity(path)
        except AddressInUse:
            self.sock.close()
            raise
        except OSError as error:
            self.sock.close()
            raise OSError(error.errno, f"cannot listen on {path}: {error.strerror}") from None

    def for_api_servers(self, count: int) -> list[HttpSockets]:
        """Give all of them the one socket: who is free first takes the next connection."""
        return [(self.sock,), *((self.sock.dup(),) for _ in range(count - 1))]

    def remove(self) -> None:
        """Take the name away, unless another service has it by now: who connects from now on finds nothing."""
        with contextlib.suppress(OSError), _alone_in(self.path.parent):
            if _identity(self.path) == self._identity:
                self.path.unlink()


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other services from binding or removing a socket file in this folder meanwhile."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make_way(path: Path) -> None:
    """Remove what a dead service left; see SocketFile."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise AddressInUse(errno.EEXIST, f"{path} is there already, and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A full backlog is somebody's as well.
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass
    raise AddressInUse(errno.EADDRINUSE, f"{path} is in use: another process listens there")


def _identity(path: Path) -> tuple[int, ...]:
    """What tells a file from one that got its name later, to which the file system may give the same number."""
    found = path.lstat()
    return found.st_dev, found.st_ino, found.st_mtime_ns
