"""The folder of a service's socket files: where it is made, who may enter it, and who removes it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from phalanx.transport.listener import bind_unix
from phalanx.transport.private_folder import PrivateFolder


@pytest.fixture(autouse=True)
def _runtime_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_a_private_folder_is_ours_alone_and_goes_with_its_service(tmp_path: Path) -> None:
    folder = PrivateFolder()
    assert folder.path.stat().st_mode & 0o777 == 0o700
    folder.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "unfit", ["/proc", "relative", "/nowhere/at/all", "/tmp/" + "x" * 60, "/tmp/" + "ü" * 40, os.fsdecode(b"/tmp/\xff")]
)
def test_a_private_folder_is_made_elsewhere_where_the_first_place_is_unfit_for_socket_files(
    unfit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel takes 107 bytes as a socket's path; /proc has room for nothing."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", unfit)
    if unfit.startswith("/tmp/"):
        os.makedirs(unfit, exist_ok=True)
    folder = PrivateFolder()
    try:
        with bind_unix(folder.path / "workers-1023"):
            assert folder.path.parent in (tmp_path, Path("/tmp"))
    finally:
        folder.close()
        if unfit.startswith("/tmp/"):
            os.rmdir(unfit)


def test_where_no_private_folder_can_be_made_is_said() -> None:
    with pytest.raises(OSError, match=r"no folder for socket files can be made in /proc: "):
        PrivateFolder(Path("/proc"))


def test_the_next_service_sweeps_the_folder_of_a_killed_one_and_leaves_a_living_ones_alone(tmp_path: Path) -> None:
    script = (
        "import sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from phalanx.transport.private_folder import PrivateFolder\n"
        "print(PrivateFolder().path, flush=True); sys.stdin.read()"
    )
    victim = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert victim.stdout is not None
    left = Path(victim.stdout.readline().strip())
    living = PrivateFolder()
    assert left.exists()
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert left.exists()
    newcomer = PrivateFolder()
    assert not left.exists()
    assert living.path.exists()
    living.close()
    newcomer.close()
