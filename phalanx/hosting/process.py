"""Start a child on this machine: exec with inherited sockets, the same path for every executable.

The child gets its sockets by the systemd convention (sd_listen_fds(3)): descriptors from 3 on, their number in
LISTEN_FDS, their names in LISTEN_FDNAMES, its own pid in LISTEN_PID; stdin is /dev/null, stdout and stderr are one
pipe, and it holds no other descriptor. It leads a session of its own, so a Ctrl-C at the terminal reaches the
supervisor alone, and it is killed with everything it started.
"""

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import NoReturn

from phalanx.child import FIRST_INHERITED

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class LaunchError(OSError):
    """The program could not be started; says which and why."""


class LocalProcess:
    """A started child: its pid, a descriptor that becomes readable at its end, and one with its output."""

    def __init__(self, pid: int, output: int) -> None:
        self.pid = pid
        self.ended = os.pidfd_open(pid)
        """A descriptor that becomes readable once the process has ended, from any cause."""
        self.output = output
        """The non-blocking read end of its stdout and stderr."""
        self._status: int | None = None

    def signal(self, number: signal.Signals) -> None:
        """Signal the child alone; nothing once it has ended."""
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.ended, number)

    def kill(self) -> None:
        """SIGKILL the child and whatever it started in its session."""
        if self._status is None:
            # The leader is not reaped yet, so the group's number cannot be anybody else's.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def reap(self) -> int | None:
        """Take in its end, and kill what it left running.

        Returns its exit status, or minus its signal's number; None if it still runs.
        """
        if self._status is None:
            ended = os.waitid(os.P_PIDFD, self.ended, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return None
            self.kill()
            os.waitid(os.P_PIDFD, self.ended, os.WEXITED)
            self._status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        return self._status

    def close(self) -> None:
        """Give the descriptors back."""
        for descriptor in (self.ended, self.output):
            os.close(descriptor)


def launch(
    command: Sequence[str], sockets: Sequence[tuple[str, socket.socket]], environment: Mapping[str, str]
) -> LocalProcess:
    """Start `command` with `sockets`, each with its name, and `environment` as its whole environment.

    Returns once the program has been executed. Must be called on the main thread: the child is killed when the
    thread that started it ends.

    Raises:
        LaunchError: there is no such program, or the system refused.
    """
    program = shutil.which(command[0])
    if program is None:
        raise LaunchError(f"{command[0]}: there is no such program, or it is not executable")
    targets = range(FIRST_INHERITED, FIRST_INHERITED + len(sockets))
    environment = dict(environment)
    for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environment.pop(variable, None)
    if sockets:
        environment |= {"LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": ":".join(name for name, _ in sockets)}

    output_read, output_write = os.pipe()
    error_read, error_write = os.pipe()
    parent = os.getpid()
    # A signal between fork and exec must not run this process's handlers in the child: they share its wake-up pipe.
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _become(
                program, command, environment, [sock for _, sock in sockets], targets, output_write, error_write, parent
            )
    except OSError as error:
        os.close(output_read)
        os.close(error_read)
        raise LaunchError(f"cannot start {program}: {error.strerror}") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        # A parent that keeps its own copy of a pipe's write end never sees its end.
        os.close(output_write)
        os.close(error_write)

    with os.fdopen(error_read, "rb") as errors:
        reason = errors.read().decode(errors="replace")
    if reason:
        os.waitpid(pid, 0)
        os.close(output_read)
        raise LaunchError(f"cannot start {program}: {reason}")
    os.set_blocking(output_read, False)
    return LocalProcess(pid, output_read)


def _become(
    program: str,
    command: Sequence[str],
    environment: dict[str, str],
    sockets: list[socket.socket],
    targets: range,
    output: int,
    error: int,
    parent: int,
) -> NoReturn:
    """The child's side of the fork: turn into the program, or say why not through `error`."""
    try:
        # Every source is first copied above the targets, so that no dup2 overwrites one that is still to come.
        above = targets.stop
        error = fcntl.fcntl(error, fcntl.F_DUPFD_CLOEXEC, above + 1)
        die_with_parent(parent)
        os.setsid()
        signal.set_wakeup_fd(-1)
        _set_signals()
        _leave_deleted_folder()
        sources = [fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, above + 1) for sock in sockets]
        output = fcntl.fcntl(output, fcntl.F_DUPFD_CLOEXEC, above + 1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        for source, target in zip(sources, targets, strict=True):
            os.dup2(source, target)
        error = os.dup2(error, above, inheritable=False)
        # Not only what this process opened: what it inherited itself must not reach the child either.
        os.closerange(above + 1, os.sysconf("SC_OPEN_MAX"))
        if sockets:
            environment["LISTEN_PID"] = str(os.getpid())
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(program, list(command), environment)
    except BaseException as failure:
        os.write(error, str(failure).encode())
    os._exit(127)


def _set_signals() -> None:
    """What the service was started to ignore, the child ignores; everything else is as if it was started afresh."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    # The first two this interpreter ignores for itself; ends of children and dumps are for the child to hear of.
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGABRT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _leave_deleted_folder() -> None:
    """Libraries fail where they cannot be told where they are, Intel's among them."""
    try:
        os.getcwd()
    except FileNotFoundError:
        os.chdir("/")


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, even by SIGKILL."""
    if _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        # It died between fork and prctl; the kernel will not tell.
        os._exit(127)
