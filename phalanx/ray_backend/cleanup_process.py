"""A process that outlives a driver with a Ray cluster of its own, and ends what is left of that cluster and its files.

`python -m phalanx.ray_backend.cleanup_process FOLDER` has a pipe as stdin whose other end only the driver holds. A
driver that is killed takes Ray's main processes with it, but not Ray's agents, which go on for minutes.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from phalanx import running_time

LIMIT = 10.0
"""Seconds to keep looking for processes that are on their way out."""


def start(folder: Path) -> "subprocess.Popen[bytes]":
    """Start the process for the cluster in a folder. It acts as soon as its stdin is closed, or its starter dies."""
    return subprocess.Popen(
        [sys.executable, "-m", "phalanx.ray_backend.cleanup_process", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # The supervisor kills the driver's whole session.
        start_new_session=True,
    )


def main(folder: Path) -> None:
    driver = os.getppid()
    while os.read(0, 4096):
        pass
    deadline = running_time.now() + LIMIT
    while (left := _processes_with_files_in(folder) - {driver}) and running_time.now() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
    shutil.rmtree(folder, ignore_errors=True)


def _processes_with_files_in(folder: Path) -> set[int]:
    """Every process of a Ray cluster keeps its log open. (They change their names, so commands tell nothing.)"""
    found = set()
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with contextlib.suppress(OSError):
                if any(os.readlink(entry).startswith(f"{folder}/") for entry in (process / "fd").iterdir()):
                    found.add(int(process.name))
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
