"""What the operating system shows of the service's processes, and what it lets their ancestor do to them."""

import asyncio
import contextlib
import ctypes
import os
import re
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

_PIDFD_GETFD = 438
"""The same number on every architecture: pidfd_getfd(2), Linux 5.6."""
_libc = ctypes.CDLL(None, use_errno=True)
_TITLE = re.compile(r"phalanx (engine|api) (\d+)$")

_KINDS = {"engine": "ranks", "api": "API servers", "": "supervisor and others"}

ProcessName = tuple[str, int]
"""What a process is and its number, `("engine", 1)` or `("api", 0)`; the process that replaces it has the same name."""


@dataclass
class Process:
    """One incarnation of a rank or an API server."""

    name: ProcessName
    pid: int
    descriptor: int
    """Its pidfd, through which signals reach this process and no other that gets its pid later."""
    struck: bool = False
    """Whether a fault was aimed at it, of which it may die."""
    died_at: float | None = None
    death: asyncio.Event = field(default_factory=asyncio.Event)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; this does nothing where the process has ended."""
        if self.died_at is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.descriptor, number)


class ProcessTree:
    """All processes below some roots, and the incarnations of the ranks and API servers among them."""

    def __init__(self, roots: list[int], on_death: Callable[[Process], None] = lambda process: None) -> None:
        self._roots = roots
        self._on_death = on_death
        self.living: dict[ProcessName, Process] = {}

    def add(self, root: int) -> None:
        """Watch what is below this process too."""
        self._roots.append(root)

    def refresh(self) -> None:
        """Find the ranks and API servers that have come since."""
        for pid in self.pids():
            found = _TITLE.match(_command(pid))
            if found is None:
                continue
            name = found.group(1), int(found.group(2))
            if name not in self.living:
                with contextlib.suppress(ProcessLookupError):
                    self._watch(Process(name, pid, os.pidfd_open(pid)))

    def _watch(self, process: Process) -> None:
        self.living[process.name] = process
        asyncio.get_running_loop().add_reader(process.descriptor, self._died, process)

    def _died(self, process: Process) -> None:
        asyncio.get_running_loop().remove_reader(process.descriptor)
        os.close(process.descriptor)
        process.died_at = time.monotonic()
        if self.living.get(process.name) is process:
            del self.living[process.name]
        process.death.set()
        self._on_death(process)

    def of(self, role: str) -> list[Process]:
        """The living processes of a role, in order of their numbers."""
        return [self.living[name] for name in sorted(self.living) if name[0] == role]

    def pids(self) -> list[int]:
        """The pids of all living processes of the service, the roots first."""
        children: dict[int, list[int]] = {}
        for pid, parent in _parents():
            children.setdefault(parent, []).append(pid)
        found = [root for root in self._roots if os.path.exists(f"/proc/{root}")]
        for pid in found:  # The list grows on the way.
            found += children.get(pid, ())
        return found

    def memory(self) -> dict[str, int]:
        """Bytes by kind of process, where what several processes share is counted once in all (PSS)."""
        sizes = dict.fromkeys(_KINDS.values(), 0)
        roles = {process.pid: process.name[0] for process in self.living.values()}
        for pid in self.pids():
            sizes[_KINDS[roles.get(pid, "")]] += _pss(pid)
        return sizes

    def close(self) -> None:
        """Stop watching."""
        for process in list(self.living.values()):
            asyncio.get_running_loop().remove_reader(process.descriptor)
            os.close(process.descriptor)
        self.living.clear()


def _parents() -> Iterator[tuple[int, int]]:
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError):
                status = Path("/proc", entry, "stat").read_text()
                # The name may hold anything, spaces and brackets too.
                state, parent, *_ = status.rpartition(")")[2].split()
                if state != "Z":
                    yield int(entry), int(parent)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _pss(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


# --- connections of a rank ---


def links(process: Process, control_port: int) -> dict[int, socket.socket]:
    """Duplicates of a rank's connections to API servers, by inode; the caller closes them.

    The connection to the supervisor is left out, since a child ends when that ends; over TCP it is known by
    `control_port`.

    Raises:
        OSError: the system does not allow it; the message says why.
    """
    found: dict[int, socket.socket] = {}
    folder = f"/proc/{process.pid}/fd"
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for name in os.listdir(folder):
            target = os.readlink(f"{folder}/{name}")
            if not target.startswith("socket:["):
                continue
            duplicate = _duplicate(process.descriptor, int(name))
            if duplicate is None:
                continue
            if _leads_to_an_api_server(duplicate, control_port):
                found[int(target[8:-1])] = duplicate
            else:
                duplicate.close()
    return found


def _duplicate(pidfd: int, descriptor: int) -> socket.socket | None:
    number = _libc.syscall(_PIDFD_GETFD, pidfd, descriptor, 0)
    if number < 0:
        error = ctypes.get_errno()
        if error in (9, 3):  # EBADF, ESRCH: it was closed, or its owner has ended.
            return None
        raise OSError(error, f"pidfd_getfd: {os.strerror(error)}")
    return socket.socket(fileno=number)


def _leads_to_an_api_server(sock: socket.socket, control_port: int) -> bool:
    try:
        peer = sock.getpeername()
    except OSError:  # It listens, or its other end is gone.
        return False
    if sock.family == socket.AF_UNIX:
        # A socket without a name belongs to a pair.
        return bool(re.search(r"/api-\d+$", os.fsdecode(peer)))
    return bool(peer[1] != control_port)


SO_MAX_PACING_RATE = 47
UNLIMITED = 2**32 - 1


def pace(sock: socket.socket, rate: int) -> None:
    """Let a TCP connection send at most `rate` bytes a second."""
    sock.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, struct.pack("I", rate))
