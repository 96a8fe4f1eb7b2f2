"""`phalanx chaos`: start a service, disturb it, and check every answer against an undisturbed one."""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from phalanx.cli import serve
from phalanx.cli.numbers import above_zero, whole
from phalanx.cli.options import OPTIONS, Parser, UsageError, nearest
from phalanx.streams import say, show
from phalanx.supervisor.events import ExitCode

if TYPE_CHECKING:
    from phalanx.chaos.run import Outcome, Plan

SUMMARY = "disturb a service and check that no request is lost or changed"

DEFAULTS = {
    "port": "0",
    "data_parallel_size": "2",
    "api_server_count": "2",
    "step_timeout": "4",
    # The service is to last as long as the chaos does.
    "max_restarts": "1000000",
    # A larger cache fills for as long as the chaos lasts, and whether memory grows for ever could not be told.
    "kv_cache_tokens": "32768",
}
"""What `phalanx serve` is given where the command line does not say."""

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it: 128 and the number of SIGINT."""

EXPLAINED = 10
"""Seconds between the lines that say how it goes, where there is no terminal."""


def run(arguments: Sequence[str]) -> int:
    """Run the chaos, and return the exit status, which is 0 only where nothing was wrong, lost or left behind.

    Raises:
        UsageError: nothing was started.
    """
    own, behind = _split(arguments)
    wanted = plan(_parser().parse(own), behind)

    # Imported here, since `--help` and what is refused need none of it.
    import uvloop

    from phalanx.chaos import table
    from phalanx.chaos.run import run as run_chaos
    from phalanx.chaos.service_under_test import StartFailed
    from phalanx.chaos.traffic import Undisturbed

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            outcome = runner.run(run_chaos(wanted, _ProgressLine()))
    except KeyboardInterrupt:
        say(sys.stderr, "\nphalanx chaos: stopped, and the service with it")
        return INTERRUPTED
    except (StartFailed, Undisturbed) as error:
        say(sys.stderr, f"phalanx chaos: {error}")
        return ExitCode.FAILED
    show(f"\n{table.report(outcome)}")
    return ExitCode.OK if outcome.good else ExitCode.FAILED


def plan(given: dict[str, str], behind: Sequence[str]) -> "Plan":
    """What to run.

    Raises:
        UsageError: says which option cannot be, and why.
    """
    from phalanx.chaos.run import Plan
    from phalanx.chaos.schedule import Kind

    served = serve.parse(behind)
    flags = [*behind]
    for name, value in DEFAULTS.items():
        # Several options set the size of the cache, and exclude one another.
        others = {"kv_cache_memory_bytes", "kv_cache_memory_share"}
        in_another_way = name == "kv_cache_tokens" and not others.isdisjoint(served.origins)
        in_another_way |= name == "port" and "uds" in served.origins
        if name not in served.origins and not in_another_way:
            flags += [OPTIONS[name].flag, value]
    join = bool(given.get("join", False))
    options = serve.parse(flags).options
    parallel = options.parallel
    if join:
        if parallel.data_parallel_size < 2:
            raise UsageError("--join takes the last of at least two ranks: give -dp 2 or more")
        flags += ["--data-parallel-size-local", str(parallel.data_parallel_size - 1)]
        flags += [] if "data_parallel_address" in served.origins else ["--data-parallel-address", "127.0.0.1"]
    elif parallel.spans_machines or parallel.data_parallel_backend != "mp":
        raise UsageError("chaos reaches only processes of this machine: no Ray, no --data-parallel-size-local (--join)")
    if parallel.frontend_command is not None or parallel.api_servers_per_node is not None:
        raise UsageError("chaos knows the service's own API servers only, behind one port (--api-server-count)")
    if options.http.ssl_certfile is not None:
        raise UsageError("chaos speaks no TLS: start it without --ssl-certfile")
    if options.http.api_key:
        raise UsageError("chaos has no API key to send: start it without --api-key and PHALANX_API_KEY")
    names = [name.strip() for name in given.get("faults", "").split(",") if name.strip()]
    for name in names:
        if name not in list(Kind):
            raise UsageError(f"--faults: there is no {name}{nearest(name, list(Kind))}; all are {', '.join(Kind)}")
    return Plan(
        seconds=60 * above_zero(given["minutes"], "--minutes"),
        seed=whole(given["seed"], "--seed", 0),
        kinds=[Kind(name) for name in names] or list(Kind),
        every=above_zero(given["every"], "--every"),
        concurrency=whole(given["concurrency"], "--concurrency", 1),
        ranks=parallel.data_parallel_size,
        api_servers=parallel.own_api_servers,
        step_timeout=options.service.step_timeout,
        flags=flags,
        join=join,
    )


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    words = list(arguments)
    if "--" not in words:
        return words, []
    where = words.index("--")
    return words[:where], words[where + 1 :]


class _ProgressLine:
    """The line that says how it goes: it is redrawn on a terminal, and written now and then elsewhere."""

    def __init__(self) -> None:
        self._calls = 0
        self._width = 0

    def __call__(self, outcome: "Outcome") -> None:
        from phalanx.chaos.table import line

        text = line(outcome)
        if sys.stderr.isatty():
            with contextlib.suppress(OSError):  # The terminal may be gone.
                print(f"\r{text:<{self._width}}", end="", file=sys.stderr, flush=True)
            self._width = len(text)
        elif self._calls % EXPLAINED == 0:
            say(sys.stderr, text)
        self._calls += 1


def _parser() -> Parser:
    parser = Parser(
        prog="phalanx chaos",
        usage="phalanx chaos [--minutes M] [--seed S] [options] [-- options of phalanx serve]",
        description=(
            "Start a service, ask it a set of requests undisturbed, then disturb it and keep asking: every answer must "
            "be the same again. What stands behind -- goes to `phalanx serve`; without it: the demo model, "
            "-dp 2 --api-server-count 2 --step-timeout 4 --kv-cache-tokens 32768."
        ),
        epilog="Exit status 0: nothing wrong, nothing lost, nothing left behind; 1: something was; 2: not started.",
        allow_abbrev=False,
    )
    parser.add_argument("--minutes", metavar="M", default="3", help="how long to disturb it (default: 3)")
    parser.add_argument("--seed", metavar="S", default="0", help="chooses requests and faults (default: 0)")
    parser.add_argument("--faults", metavar="KIND,...", default="", help="only these kinds; see docs/chaos.md")
    parser.add_argument("--every", metavar="SECONDS", default="5", help="between two faults, on average (default: 5)")
    parser.add_argument("--concurrency", metavar="N", default="24", help="requests kept going at a time (default: 24)")
    parser.add_argument(
        "--join",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="bring the last rank by `phalanx join`, so that its links are TCP and can be slowed",
    )
    return parser
