"""The children on this machine: started, read, signalled, reaped; lives in an event loop on the main thread."""

import asyncio
import contextlib
import os
import resource
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import Protocol

from phalanx.hosting.process import LocalProcess, launch
from phalanx.protocol import ChildId

_READ = 65536


class Audience(Protocol):
    """Hears what becomes of the children."""

    def launched(self, child: ChildId, pid: int) -> None: ...

    def not_launched(self, child: ChildId, reason: str) -> None: ...

    def printed(self, child: ChildId, data: bytes) -> None:
        """The child printed `data`; empty `data` says that its stdout and stderr are closed."""

    def exited(self, child: ChildId, status: int) -> None:
        """The child has ended with an exit status, or by a signal: minus its number, as subprocess gives it."""


class Host:
    """Owns the children's processes until `close`."""

    def __init__(self, audience: Audience) -> None:
        self._audience = audience
        self._processes: dict[ChildId, LocalProcess] = {}
        self._readable: set[ChildId] = set()
        """The children whose output has not ended."""
        self._living: set[ChildId] = set()

    @property
    def living(self) -> list[ChildId]:
        """The children whose end has not been told."""
        return list(self._living)

    def start(
        self,
        child: ChildId,
        command: Sequence[str],
        sockets: Sequence[tuple[str, socket.socket]],
        environment: Mapping[str, str],
    ) -> None:
        """Start `command` as `child`, with `environment` as its whole environment.

        Answers by `launched` or `not_launched`.
        """
        try:
            process = launch(command, sockets, environment)
        except OSError as error:
            self._audience.not_launched(child, str(error))
            return
        self._processes[child] = process
        self._readable.add(child)
        self._living.add(child)
        loop = asyncio.get_running_loop()
        loop.add_reader(process.output, self._read, child, process)
        loop.add_reader(process.ended, self._reap, child, process)
        self._audience.launched(child, process.pid)

    def signal(self, child: ChildId, number: signal.Signals) -> None:
        """Send a signal; a child that has ended gets none.

        SIGKILL ends the child's whole session; any other signal is the child's alone.
        """
        if child not in self._living:
            return
        process = self._processes[child]
        if number is signal.SIGKILL:
            process.kill()
            return
        if number is signal.SIGABRT:
            with contextlib.suppress(OSError):
                # It would write a core of everything it has loaded.
                resource.prlimit(process.pid, resource.RLIMIT_CORE, (0, 0))
        process.signal(number)

    def close(self) -> None:
        """Kill what runs and give all descriptors back. The audience is told nothing."""
        loop = asyncio.get_running_loop()
        for process in self._processes.values():
            process.kill()
            loop.remove_reader(process.output)
            loop.remove_reader(process.ended)
            process.close()
        self._processes.clear()
        self._readable.clear()
        self._living.clear()

    def _read(self, child: ChildId, process: LocalProcess) -> None:
        try:
            data = os.read(process.output, _READ)
        except BlockingIOError:
            return
        if not data:
            asyncio.get_running_loop().remove_reader(process.output)
            self._readable.discard(child)
            self._close_if_over(child, process)
        self._audience.printed(child, data)

    def _reap(self, child: ChildId, process: LocalProcess) -> None:
        status = process.reap()
        if status is not None:
            asyncio.get_running_loop().remove_reader(process.ended)
            self._living.discard(child)
            self._close_if_over(child, process)
            self._audience.exited(child, status)

    def _close_if_over(self, child: ChildId, process: LocalProcess) -> None:
        if child not in self._readable and child not in self._living:
            del self._processes[child]
            process.close()
