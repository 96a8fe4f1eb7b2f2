"""The service under test: `phalanx serve` as a person starts it, its log in a file, its end judged."""

import asyncio
import ctypes
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from phalanx.chaos.client import Address
from phalanx.chaos.processes import Family, Process

SERVE = (sys.executable, "-m", "phalanx", "serve")
JOIN = (sys.executable, "-m", "phalanx", "join")
START = 180.0
"""Seconds the service may take to start: it has deadlines of its own, and this is for when they fail."""
END = 60.0
LOOK = 0.2
"""Seconds between two looks at who has come."""


_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class StartFailed(Exception):
    """The service did not start; has what it said."""


class Service:
    """Started by `start`, ended by `stop`; `log` is its stderr."""

    def __init__(self, flags: Sequence[str], command: Sequence[str] = SERVE, join: bool = False) -> None:
        """`join`: its last rank comes over TCP, by `phalanx join` on this machine."""
        self._flags = list(flags)
        self._command = command
        self._join = join
        self.home = Path(tempfile.mkdtemp(prefix="phalanx-chaos-"))
        self.runtime = self.home / "run"
        self.runtime.mkdir(mode=0o700)
        self.log = self.home / "log"
        self.address: Address = ("", 0)
        self.control_port = 0
        """Where the joined rank has its supervisor."""
        self.family = Family([], self._died)
        self.deaths: list[Process] = []
        self.processes: list[asyncio.subprocess.Process] = []
        self._watching: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Until it says that it serves.

        Raises:
            StartFailed: it ended, or said nothing for too long.
        """
        secret = {"PHALANX_SECRET": secrets.token_hex(32)} if self._join else {}
        environment = os.environ | secret | {"XDG_RUNTIME_DIR": str(self.runtime)}
        try:
            async with asyncio.timeout(START):
                await self._run([*self._command, *self._flags], "log", environment)
                if self._join:
                    invitation = await self._said(r"(--control \S+ --data-parallel-start-rank \d+ .*)", "log")
                    self.control_port = int(invitation.split()[1].rpartition(":")[2])
                    await self._run([*JOIN, *invitation.split()], "join.log", environment)
                where = await self._said(r" at (http://\S+|unix:.+) \(\d+ API server", "out")
        except TimeoutError:
            raise StartFailed(f"the service did not serve within {START:g} s:\n{self.words()}") from None
        if where.startswith("unix:"):
            self.address = where.removeprefix("unix:")
        else:
            host, _, port = where.removeprefix("http://").rpartition(":")
            self.address = host.strip("[]"), int(port)
        self.family.refresh()
        self._watching.append(asyncio.create_task(self._watch()))

    async def _run(self, command: list[str], log: str, environment: dict[str, str]) -> None:
        # Appended to, as under a service manager: what is written after the file was full goes behind what is there.
        with (self.home / "out").open("ab") as out, (self.home / log).open("ab") as words:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=words,
                env=environment,
                cwd=self.home,
                # A Ctrl-C is for us, who end the service in order; and it ends with us, however we end.
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        self.processes.append(process)
        self.family.add(process.pid)

    async def _said(self, pattern: str, where: str) -> str:
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
            self.family.refresh()
            await asyncio.sleep(LOOK)

    def _died(self, process: Process) -> None:
        self.deaths.append(process)

    def words(self, lines: int = 60) -> str:
        """The last it said."""
        said = [*self.log.read_text(errors="replace").splitlines()[-lines:]]
        return "\n".join(said)

    @property
    def running(self) -> bool:
        return all(process.returncode is None for process in self.processes)

    async def stop(self) -> list[str]:
        """SIGTERM, and everything that is not as it should be at its end."""
        complaints = []
        for task in self._watching:
            task.cancel()
        pids = self.family.pids()
        self.family.close()
        if not self.processes:
            return []
        service, *joined = self.processes
        if service.returncode is not None:
            complaints.append(f"the service ended by itself, status {service.returncode}")
        else:
            service.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                async with asyncio.timeout(END):
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
        until = time.monotonic() + 5
        while left := [pid for pid in pids if _alive(pid, self.home)]:
            if time.monotonic() > until:
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                return [f"left behind: processes {left}"]
            await asyncio.sleep(LOOK / 4)
        files = sorted(str(path.relative_to(self.runtime)) for path in self.runtime.rglob("*"))
        return [f"left behind: files {', '.join(files)}"] if files else []

    def discard(self) -> None:
        """Remove its folder, log and all."""
        shutil.rmtree(self.home, ignore_errors=True)


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _alive(pid: int, home: Path) -> bool:
    """And ours: it inherited its working folder, which a number used again does not have."""
    try:
        return os.readlink(f"/proc/{pid}/cwd") == str(home)
    except OSError:
        return False
