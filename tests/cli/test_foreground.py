"""Ctrl-C at `make serve`: the service alone gets it, and its exit code is make's."""

import contextlib
import os
import pty
import select
import shutil
import sys
from pathlib import Path

import pytest

FOREGROUND = Path(__file__).parents[2] / "tools" / "foreground.py"

SERVICE = """
import signal
signal.signal(signal.SIGINT, lambda *_: print("in order", flush=True) or exit({status}))
print("running", flush=True)
while True:
    signal.pause()
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(("status", "seen"), [(0, 0), (3, 2)])
def test_ctrl_c_under_make_gives_the_commands_own_exit_code(status: int, seen: int, tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(SERVICE.format(status=status))
    (tmp_path / "Makefile").write_text(f"serve:\n\t@{sys.executable} {FOREGROUND} {sys.executable} service.py\n")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execvp("make", ["make", "serve"])
    screen = b""
    asked = False
    with contextlib.suppress(OSError):  # EIO: the last process closed the terminal
        while select.select([terminal], [], [], 60)[0] and (data := os.read(terminal, 65536)):
            screen += data
            if b"running" in screen and not asked:
                asked = True
                os.write(terminal, b"\x03")
    os.close(terminal)
    _, ended = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(ended) == seen, screen
    assert b"in order" in screen
