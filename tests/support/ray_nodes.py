"""A Ray cluster of simulated nodes, each with a loopback address of its own and eight GPUs that are not there.

Nothing of it is shared with another cluster on the machine: its own folder, ports that Ray or the kernel picks, and
every process leads to this one, which kills them at the end.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

DEADLINE = 60.0
"""Seconds any wait may take before the test fails."""

ADDRESSES = ("127.0.0.2", "127.0.0.3")
"""Not 127.0.0.1: Ray takes that for "whatever address this machine has"."""

STARTED = "This command will now block"
"""The last that `ray start --block` says; its address stands before it."""

GPUS = 8
CPUS = 8
OBJECT_STORE = 80 * 2**20
"""Bytes of shared memory a node; nothing is ever put there. Ray's own minimum is 75 MiB."""

QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}


class RayNode:
    """One simulated node: `ray start --block` and everything below it."""

    def __init__(
        self, folder: Path, address: str, head: str | None, gpus: int, cpus: int, environment: Mapping[str, str]
    ) -> None:
        self.address = address
        self.folder = folder
        self._log = folder.with_name(f"{folder.name}.log")
        where = [f"--address={head}"] if head else ["--head", "--port=0", "--include-dashboard=false"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    *("-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
                    *where,
                    f"--node-ip-address={address}",
                    f"--num-gpus={gpus}",
                    f"--num-cpus={cpus}",
                    f"--object-store-memory={OBJECT_STORE}",
                    f"--temp-dir={folder}",
                    "--include-log-monitor=false",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
                    **QUIET,
                    **environment,
                },
                start_new_session=True,
            )

    def wait_started(self) -> "RayNode":
        wait_until(lambda: STARTED in self.log or self.process.poll() is not None, "a Ray node's start")
        if self.process.poll() is not None:
            raise AssertionError(f"ray start at {self.address} has ended:\n{self.log}")
        return self

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def processes(self, name: str = "") -> list[psutil.Process]:
        """Everything below `ray start` whose command holds `name`."""
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if name in " ".join(process.cmdline()):
                        found.append(process)
        return found

    def kill(self, name: str) -> None:
        """SIGKILL the processes of this node whose program is `name`: raylet, gcs_server."""
        for process in self._running(name):
            process.kill()

    def freeze(self, name: str) -> None:
        """Stop them where they are: their connections stand, and nothing is answered."""
        for process in self._running(name):
            process.suspend()

    def freeze_launcher(self) -> None:
        """Stop `ray start`, which ends the rest of its node as soon as one of its processes has ended."""
        self.process.send_signal(signal.SIGSTOP)

    def _running(self, name: str) -> list[psutil.Process]:
        found = [process for process in self.processes() if Path(process.exe()).name == name]
        assert found, f"no {name} at {self.address}"
        return found

    def close(self) -> None:
        """Kill all of it. Some of Ray's agents outlive their raylet; all of them stay in the session."""
        while left := [process for process in psutil.process_iter() if self._is_ours(process)]:
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(0.02)
        self.process.wait(DEADLINE)

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return os.getsid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False


class RayCluster:
    """Nodes at loopback addresses of their own; the first is the head, and the one a driver here belongs to."""

    def __init__(
        self, addresses: Sequence[str] = ADDRESSES, gpus: int = GPUS, cpus: int = CPUS, token: str = ""
    ) -> None:
        """With a token, only who has it is let in."""
        self.environment = (
            {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
        )
        """What a driver needs to be let in."""
        self._folder = tempfile.TemporaryDirectory(prefix="ph-ray-", dir="/tmp")
        self._gpus, self._cpus = gpus, cpus
        self._added = 0
        self.nodes: list[RayNode] = []
        try:
            self.add(addresses[0])
            for address in addresses[1:]:
                self.add(address, wait=False)
            for node in self.nodes:
                node.wait_started()
        except BaseException:
            self.close()
            raise

    def add(self, address: str, wait: bool = True, gpus: int | None = None) -> RayNode:
        """One more node, or one again whose raylet was killed."""
        head = self.address if self.nodes else None  # that of a node that has started
        folder = Path(self._folder.name) / str(self._added)
        node = RayNode(folder, address, head, gpus or self._gpus, self._cpus, self.environment)
        self._added += 1
        self.nodes.append(node)
        return node.wait_started() if wait or head is None else node

    @property
    def address(self) -> str:
        """What `--ray-address` takes."""
        found = re.search(r"--address='([^']+)'", self.nodes[0].log)
        assert found, self.nodes[0].log
        return found.group(1)

    def remove(self, node: RayNode) -> None:
        """Take it away, whatever is left of it."""
        node.close()
        self.nodes.remove(node)

    def records(self) -> str:
        """All that its processes have written to files, and their command lines."""
        files = (file for file in Path(self._folder.name).rglob("*") if file.is_file())
        commands = (" ".join(process.cmdline()) for node in self.nodes for process in node.processes())
        return "\n".join([*(file.read_text(errors="replace") for file in files), *commands])

    def close(self) -> None:
        for node in reversed(self.nodes):
            node.close()
        self._folder.cleanup()

    def __enter__(self) -> "RayCluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def wait_until(condition: Callable[[], object], what: str, timeout: float = DEADLINE) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout:g} s for {what}"
        time.sleep(0.05)
