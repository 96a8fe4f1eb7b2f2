"""Run a command as the terminal's foreground job of its own: foreground.py COMMAND [ARGUMENT...].

For `make serve`: at Ctrl-C the terminal signals its whole foreground group, and make, hit too, reports a failure
whatever the command's exit code. In a group of its own the command alone gets the signal, and make its exit code.
Without a terminal the command simply runs.
"""

import contextlib
import os
import signal
import subprocess
import sys


def main() -> int:
    try:
        terminal = os.open("/dev/tty", os.O_RDWR)
        in_foreground = os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        in_foreground = False
    if not in_foreground:
        os.execvp(sys.argv[1], sys.argv[1:])

    child = subprocess.Popen(sys.argv[1:], process_group=0)
    # A background process that moves the terminal is stopped for it, unless it ignores this.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: child.send_signal(received))
    try:
        while True:
            os.tcsetpgrp(terminal, child.pid)
            _, status = os.waitpid(child.pid, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            # Ctrl-Z: stop with it, so that the shell takes over; at `fg` both go on.
            os.tcsetpgrp(terminal, os.getpgrp())
            os.killpg(0, signal.SIGTSTP)
            child.send_signal(signal.SIGCONT)
    finally:
        with contextlib.suppress(OSError):
            os.tcsetpgrp(terminal, os.getpgrp())


if __name__ == "__main__":
    sys.exit(main())
