"""What a person reads at night: who failed, where, for how long, with which last words. Pure."""

import logging
import signal
from collections.abc import Callable, Iterable

from phalanx.hosting.words import ending
from phalanx.protocol import ChildId, StartupStage
from phalanx.supervisor import events
from phalanx.supervisor.events import Cause, Failure, FleetAction, FleetEvent


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
    # How its connection ended is no word of its own: the report does not depend on whether that or its exit came first.
    own_words = bool(words or printed or (failure.reason and failure.cause is not Cause.DISCONNECTED))
    if not own_words and failure.pid is not None:
        lines += ["", "It printed nothing."]
    if failure.status == -signal.SIGKILL:
        lines += ["", "The supervisor did not kill it. Often the kernel does, out of memory: see `dmesg`."]
    if failure.cause is Cause.STALLED:
        option = "--startup-timeout" if failure.pid is not None else "--node-timeout"
        if failure.stage is StartupStage.READY:
            option = "--step-timeout"
        lines += ["", f"If it needs longer there: {option} SECONDS."]
    lines += [f"{name} did not end even after SIGKILL." for name in left_behind]
    return "\n".join(lines)


def news(action: FleetAction, last_words: Callable[[ChildId], Iterable[str]]) -> tuple[int, str] | None:
    """What an action is to the log, with its severity; None: nothing."""
    match action:
        case events.AnnounceFall(failure):
            return logging.ERROR, summary(failure)
        case events.AnnounceRestart(failure, delay):
            when = f"in {delay:.1f} s" if delay else "now"
            return logging.ERROR, f"{full(failure, last_words(failure.child))}\n{failure.child} is started again {when}"
        case events.AnnounceBack(back, after):
            return logging.INFO, f"{back} serves again, {after:.1f} s after it fell"
        case events.AnnounceDegraded(failure, why):
            end = f"{failure.child} is given up: {why}; the service goes on without it"
            return logging.ERROR, f"{full(failure, last_words(failure.child))}\n{end}"
        case events.AnnounceFailure(failure):
            return logging.ERROR, f"{summary(failure)}; stopping the others"
        case events.AnnounceLeft(rank):
            return logging.INFO, f"rank {rank} has left the service"
        case events.AnnounceStop(reason, 0.0):
            return logging.INFO, f"{reason}: stopping"
        case events.AnnounceStop(reason, draining):
            return logging.INFO, f"{reason}: running requests get {draining:g} s to finish; a second signal stops now"
        case events.Kill(child, reason) if reason:
            return logging.WARNING, f"killing {child}: {reason}"
        case _:
            return None


def wish(event: FleetEvent) -> str:
    """What an operator has brought about."""
    match event:
        case events.Leave(_, ranks, after, timeout):
            what = {
                events.AfterLeaving.GONE: "leave",
                events.AfterLeaving.RENEWED: "are restarted",
                events.AfterLeaving.HELD: "are drained",
            }
            return f"ranks {', '.join(map(str, ranks))} {what[after]}; running requests get {timeout:g} s to finish"
        case events.Resume(_, ranks):
            return f"ranks {', '.join(map(str, ranks))} stay"
        case events.Added(_, places):
            return f"ranks {', '.join(str(place.index) for place in places if place.worker == 0)} are added"
        case _:
            return type(event).__name__


def _where(failure: Failure) -> str:
    if failure.stage is StartupStage.READY:
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
