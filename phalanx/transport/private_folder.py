"""The folder of one service's socket files, which nobody else may enter and which goes with the service."""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

LONGEST_BASE = 60
"""Bytes of the path that a private folder is made in."""

_FOLDER_PREFIX = "phalanx-"


class PrivateFolder:
    """A 0700 folder for one service's socket files, removed at `close`.

    A service that was killed leaves its folder behind; its lock is free then, and the next service that starts
    removes it.
    """

    def __init__(self, base: Path | None = None) -> None:
        """Make it in `base`, or where socket files of this user belong.

        Raises:
            OSError: no folder can be made; says where and why.
        """
        for folder in [base] if base is not None else _runtime_folders():
            try:
                self.path, self._lock = _private_folder(folder)
                return
            except OSError as error:
                trouble = OSError(error.errno, f"no folder for socket files can be made in {folder}: {error.strerror}")
        raise trouble

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _private_folder(base: Path) -> tuple[Path, int]:
    """A new folder, and the lock on it that is held for as long as it is wanted."""
    _sweep(base)
    # The lock is taken under another name first: a folder that can be swept always has its lock held.
    staging = Path(tempfile.mkdtemp(prefix=".phalanx-new-", dir=base))
    try:
        lock = os.open(staging / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        staging.rmdir()
        raise
    fcntl.flock(lock, fcntl.LOCK_EX)
    path = base / (_FOLDER_PREFIX + staging.name.removeprefix(".phalanx-new-"))
    staging.rename(path)
    return path, lock


def _runtime_folders() -> list[Path]:
    """Where socket files may live, the best first: local, short, and with a name that can be told to children."""
    candidates = [os.environ.get("XDG_RUNTIME_DIR", ""), *_temporary_folder(), "/tmp"]
    return [Path(name) for name in dict.fromkeys(candidates) if os.path.isabs(name) and _is_short_text(name)]


def _temporary_folder() -> list[str]:
    try:
        return [tempfile.gettempdir()]
    except FileNotFoundError:  # none can be written to
        return []


def _is_short_text(path: str) -> bool:
    """A socket's path holds 107 bytes, and an address is UTF-8."""
    try:
        return len(path.encode()) < LONGEST_BASE
    except UnicodeEncodeError:
        return False


def _sweep(base: Path) -> None:
    for folder in base.glob(_FOLDER_PREFIX + "*"):
        with contextlib.suppress(OSError):
            info = folder.lstat()
            if info.st_uid != os.getuid() or not stat.S_ISDIR(info.st_mode):
                continue
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
