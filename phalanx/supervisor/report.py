"""What a person reads at night: who failed, where, for how long, with which last words. Pure."""

import signal
from collections.abc import Iterable

from phalanx.hosting.words import ending
from phalanx.protocol import StageName
from phalanx.supervisor.events import Cause, Failure


def summary(failure: Failure) -> str:
    """One line."""
    pid, where = (f"pid {failure.pid}" if failure.pid else ""), (f"on {failure.where}" if failure.where else "")
    known = " ".join(part for part in (pid, where) if part)
    who = f"{failure.child} ({known})" if known else f"{failure.child}"
    match failure.cause:
        case Cause.STALLED if failure.pid is None:
            return f"{who} could not be started: waited {failure.without_progress:.1f} s for {failure.waiting_for}"
        case Cause.NOT_LAUNCHED:
            return f"{who} could not be started: {failure.reason}"
        case Cause.STALLED:
            return (
                f"{who} is stuck in stage {failure.stage}: waited {failure.without_progress:.1f} s for "
                f"{failure.waiting_for}, {failure.in_stage:.1f} s in this stage"
            )
        case _:
            return f"{who} failed {_where(failure)}: {_what(failure)}"


def full(failure: Failure, tail: Iterable[str], left_behind: Iterable[str] = ()) -> str:
    """Several lines: the summary, the child's own words, what remains."""
    lines = [summary(failure)]
    words = failure.traceback.rstrip().splitlines()
    if words:
        lines += ["", "Its own report:", *("    " + line for line in words)]
    printed = list(tail)
    if printed:
        last = "Where it stood, as it was made to print" if failure.cause is Cause.STALLED else "The last it printed"
        lines += ["", f"{last} ({len(printed)} lines):", *("    " + line for line in printed)]
    if not words and not printed and failure.pid is not None:
        lines += ["", "It printed nothing."]
    if failure.status == -signal.SIGKILL:
        lines += ["", "The supervisor did not kill it. Often the kernel does, out of memory: see `dmesg`."]
    if failure.cause is Cause.STALLED:
        option = "--startup-timeout" if failure.pid is not None else "--node-timeout"
        lines += ["", f"If it needs longer there: {option} SECONDS."]
    lines += [f"{name} did not end even after SIGKILL." for name in left_behind]
    return "\n".join(lines)


def _where(failure: Failure) -> str:
    if failure.stage is StageName.READY:
        return f"after serving for {failure.in_stage:.1f} s"
    return f"in stage {failure.stage}, {failure.in_stage:.1f} s into it"


def _what(failure: Failure) -> str:
    end = ending(failure.status) if failure.status is not None else ""
    if failure.status == 0:
        end = "it ended by itself, exit status 0"
    match failure.cause:
        case Cause.DISCONNECTED if not end:
            return f"its control connection ended ({failure.reason})"
        case Cause.DISCONNECTED:
            return end
        case _ if failure.reason:
            return failure.reason + (f" ({end})" if end else "")
        case _:
            return end
