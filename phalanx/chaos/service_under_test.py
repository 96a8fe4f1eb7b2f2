"""The service under test: `phalanx serve` is started as a person does it, logs to a file, and is judged by its end."""

import asyncio
import ctypes
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from phalanx import running_time
from phalanx.chaos.http_client import Address
from phalanx.chaos.processes import Process, ProcessTree

SERVE = (sys.executable, "-m", "phalanx", "serve")
JOIN = (sys.executable, "-m", "phalanx", "join")
START = 180.0
"""Seconds the service may take to start; it has deadlines of its own, and this one is for when they fail."""
END = 60.0
"""Seconds it may take to end."""
LOOK = 0.2
"""Seconds between two looks for processes that have come."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class StartFailed(Exception):
    """The service did not start; the message has its last words."""


class ServiceUnderTest:
    """A service that `start` starts and `stop` ends; `log` is its stderr."""

    def __init__(self, flags: Sequence[str], command: Sequence[str] = SERVE, join: bool = False) -> None:
        """With `join` its last rank comes over TCP, by `phalanx join` on this machine."""
        self._flags = list(flags)
        self._command = command
        self._join = join
        self.home = Path(tempfile.mkdtemp(prefix="phalanx-chaos-"))
        self.runtime = self.home / "run"
        self.runtime.mkdir(mode=0o700)
        self.log = self.home / "log"
        self.address: Address = ("", 0)
        self.control_port = 0
        """The port at which the joined rank has its supervisor; 0 where no rank joins."""
        self.process_tree = ProcessTree([], self._died)
        self.deaths: list[Process] = []
        self.processes: list[asyncio.subprocess.Process] = []
        self._watching: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start it and wait until it says that it serves.

        Raises:
            StartFailed: it ended, or did not say so in time.
        """
        secret = {"PHALANX_SECRET": secrets.token_hex(32)} if self._join else {}
        environment = os.environ | secret | {"XDG_RUNTIME_DIR": str(self.runtime)}
        try:
            async with running_time.timeout(START):
                await self._run([*self._command, *self._flags], "log", environment)
                if self._join:
                    invitation = await self._wait_for_words(r"(--control \S+ --data-parallel-start-rank \d+ .*)", "log")
                    self.control_port = int(invitation.split()[1].rpartition(":")[2])
                    await self._run([*JOIN, *invitation.split()], "join.log", environment)
                where = await self._wait_for_words(r" at (http://\S+|unix:.+) \(\d+ API server", "out")
        except TimeoutError:
            raise StartFailed(f"the service did not serve within {START:g} s:\n{self.words()}") from None
        if where.startswith("unix:"):
            self.address = where.removeprefix("unix:")
        else:
            host, _, port = where.removeprefix("http://").rpartition(":")
            self.address = host.strip("[]"), int(port)
        self.process_tree.refresh()
        self._watching.append(asyncio.create_task(self._watch()))

    async def _run(self, command: list[str], log: str, environment: dict[str, str]) -> None:
        # The files are appended to, as under a service manager: a log that was full goes on behind what it holds.
        with (self.home / "out").open("ab") as out, (self.home / log).open("ab") as words:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=words,
                env=environment,
                cwd=self.home,
                # A Ctrl-C is for this process, which ends the service in order; the service ends with it in any case.
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        self.processes.append(process)
        self.process_tree.add(process.pid)

    async def _wait_for_words(self, pattern: str, where: str) -> str:
        while True:
            found = re.search(pattern, (self.home / where).read_text(errors="replace"))
            if found:
                return found.group(1)
            ended = [process for process in self.processes if process.returncode is not None]
            if ended:
                raise StartFailed(f"the service ended with status {ended[0].returncode}:\n{self.words()}")
            await asyncio.sleep(LOOK / 4)

    async def _watch(self) -> None:
        while True:
            self.process_tree.refresh()
            await asyncio.sleep(LOOK)

    def _died(self, process: Process) -> None:
        self.deaths.append(process)

    def words(self, lines: int = 60) -> str:
        """The last lines of its log."""
        said = [*self.log.read_text(errors="replace").splitlines()[-lines:]]
        return "\n".join(said)

    @property
    def running(self) -> bool:
        """Whether none of the started processes has ended."""
        return all(process.returncode is None for process in self.processes)

    async def stop(self) -> list[str]:
        """End it by SIGTERM; the result lists all that was not as it should be at its end."""
        complaints = []
        for task in self._watching:
            task.cancel()
        pids = self.process_tree.pids()
        self.process_tree.close()
        if not self.processes:
            return []
        service, *joined = self.processes
        if service.returncode is not None:
            complaints.append(f"the service ended by itself, status {service.returncode}")
        else:
            service.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                async with running_time.timeout(END):
                    await process.wait()
            except TimeoutError:
                complaints.append(f"{'join' if process in joined else 'serve'} had not ended {END:g} s after SIGTERM")
                process.kill()
                await process.wait()
        if service.returncode and not complaints:
            complaints.append(f"the service ended with status {service.returncode}")
        complaints += await self._left_behind(pids)
        return complaints

    async def _left_behind(self, pids: list[int]) -> list[str]:
        until = running_time.now() + 5
        while left := [pid for pid in pids if _alive(pid, self.home)]:
            if running_time.now() > until:
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                return [f"left behind: processes {left}"]
            await asyncio.sleep(LOOK / 4)
        files = sorted(str(path.relative_to(self.runtime)) for path in self.runtime.rglob("*"))
        return [f"left behind: files {', '.join(files)}"] if files else []

    def discard(self) -> None:
        """Remove its folder with the log."""
        shutil.rmtree(self.home, ignore_errors=True)


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _alive(pid: int, home: Path) -> bool:
    """Whether a process of the service lives: a process that got the same pid later has another working folder."""
    try:
        return os.readlink(f"/proc/{pid}/cwd") == str(home)
    except OSError:
        return False
