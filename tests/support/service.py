"""A running service under test: started as a person starts it, read as a person reads it, nothing of it left."""

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals

SERVE = (sys.executable, "-m", "phalanx", "serve")
DEADLINE = 60.0
"""Seconds any wait may take before the test fails; generous, since nothing here asserts on speed."""


class Service:
    """`phalanx serve --port 0 FLAGS` as a process of its own, in an empty working folder. A context manager:
    leaving it stops it."""

    takes_port = True

    def __init__(
        self,
        *flags: str,
        command: Sequence[str] = SERVE,
        env: dict[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        # Everything the service starts inherits its working folder: how what it leaves behind is found. (Not its
        # environment: a process that changes its title writes over that.)
        self._home = tempfile.TemporaryDirectory(prefix="ph-home-", dir="/tmp")
        self._runtime = tempfile.TemporaryDirectory(prefix="ph-run-", dir="/tmp")
        own_port = not self.takes_port or any(flag.startswith("--port") for flag in flags)
        port = [] if own_port else ["--port", "0"]
        self.process = subprocess.Popen(
            [*command, *flags, *port],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            cwd=self._home.name,
            env={**os.environ, "XDG_RUNTIME_DIR": self._runtime.name, **(env or {})},
            start_new_session=True,
            pass_fds=pass_fds,
        )
        self._changed = threading.Condition()
        self._printed = {"stdout": "", "stderr": ""}
        self._open = 2
        self._readers = [
            threading.Thread(target=self._read, args=(name,), daemon=True) for name in ("stdout", "stderr")
        ]
        for reader in self._readers:
            reader.start()

    # --- what it says ---

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return self._printed["stdout"]

    @property
    def stderr(self) -> str:
        return self._printed["stderr"]

    @property
    def output(self) -> str:
        return self.stdout + self.stderr

    @property
    def address(self) -> str:
        """`http://127.0.0.1:PORT`, as it announced it. After `wait_ready`."""
        found = re.search(r" at (https?://\S+) ", self.stdout)
        assert found, f"no address announced:\n{self.output}"
        return found.group(1)

    def wait_for(self, text: str, timeout: float = DEADLINE) -> "Service":
        """Until it has printed `text`, on either stream."""
        self._wait(lambda: text in self.output, f"{text!r} in its output", timeout)
        return self

    def wait_until(self, condition: Callable[[], bool], what: str, timeout: float = DEADLINE) -> "Service":
        """Until what it has printed meets a condition."""
        self._wait(condition, what, timeout)
        return self

    def wait_ready(self, timeout: float = DEADLINE) -> "Service":
        """Until it has announced its address, and the request to paste below it. What it said on stderr before may
        still be on its way here."""
        return self.wait_for("\nPhalanx serves ", timeout).wait_for("\n        -d ", timeout)

    # --- its processes ---

    @property
    def pid(self) -> int:
        """The supervisor's."""
        return self.process.pid

    def processes(self) -> dict[str, int]:
        """Command line to pid, of every process of this service that lives: `phalanx engine 0`, ..."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                if os.readlink(entry / "cwd") != self._home.name:
                    continue
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except OSError:
                continue
            if command:  # a zombie has none
                found[command] = int(entry.name)
        return found

    def pid_of(self, name: str) -> int:
        """Of the process that calls itself `phalanx NAME` (`engine 1`)."""
        return self.processes()[f"phalanx {name}"]

    # --- its end ---

    def signal(self, number: Signals) -> None:
        """Signal the supervisor."""
        self.process.send_signal(number)

    def wait(self, timeout: float = DEADLINE) -> int:
        """Until it has ended, all its output read; its exit status."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout:g} s:\n{self.output}") from None
        self._wait(lambda: not self._open, "the end of its output", timeout)
        return status

    def stop(self, number: Signals = SIGTERM) -> int:
        """Signal it, wait for its end, check that nothing is left; its exit status."""
        self.signal(number)
        status = self.wait()
        self.assert_nothing_left()
        return status

    def seconds_until_no_process_is_left(self, within: float = 10.0) -> float:
        """Waits for the last to go, children whose supervisor was killed included."""
        began = time.monotonic()
        while left := self.processes():
            assert time.monotonic() - began < within, f"left behind: {left}"
            time.sleep(0.005)
        return time.monotonic() - began

    def assert_nothing_left(self) -> None:
        """No process and no file of it."""
        self.seconds_until_no_process_is_left()
        assert os.listdir(self._runtime.name) == []

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None and self.process.poll() is None:
                assert self.stop() == 0, self.output
            else:
                print(f"--- output of the service\n{self.output}", file=sys.stderr)
        finally:
            self._destroy()

    def _destroy(self) -> None:
        self.process.kill()
        for pid in self.processes().values():
            os.kill(pid, SIGKILL)
        self.process.wait()
        for reader in self._readers:
            reader.join(DEADLINE)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        self._home.cleanup()
        self._runtime.cleanup()

    def _read(self, name: str) -> None:
        for line in getattr(self.process, name):
            with self._changed:
                self._printed[name] += line
                self._changed.notify_all()
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def _wait(self, condition: Callable[[], bool], what: str, timeout: float) -> None:
        with self._changed:
            met = self._changed.wait_for(lambda: condition() or not self._open, timeout)
            if condition():
                return
        how = "it ended" if met else f"{timeout:g} s passed"
        raise AssertionError(f"waited for {what}; {how}. Its output:\n{self.output}")
