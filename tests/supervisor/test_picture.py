"""A log that cannot be written costs lines, and never the service."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import os, resource, sys
from phalanx.streams import say

say(sys.stderr, "before")
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (os.fstat(2).st_size, hard))
say(sys.stderr, "lost")
say(sys.stderr, "lost too")
if sys.argv[1:] == ["room again"]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    say(sys.stderr, "after")
"""


def said(log: Path, *arguments: str) -> str:
    with log.open("ab") as file:
        ran = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], stderr=file, timeout=60)
    assert ran.returncode == 0
    return log.read_text()


def test_a_log_whose_disk_was_full_goes_on_when_there_is_room_again(tmp_path: Path) -> None:
    assert said(tmp_path / "log", "room again") == "before\nafter\n"


def test_a_disk_that_stays_full_does_not_spoil_the_exit_status(tmp_path: Path) -> None:
    assert said(tmp_path / "log") == "before\n"


def test_a_reader_that_has_gone_does_not_spoil_it_either() -> None:
    script = "import sys; from phalanx.streams import say; [say(sys.stderr, 'x' * 999) for _ in range(99)]"
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        process.stderr.close()
        assert process.wait(60) == 0
