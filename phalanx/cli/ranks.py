"""`phalanx ranks`: what the ranks of a running service do; drain, resume or restart one."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from phalanx.cli.admin_client import AdminError, FleetReport, RankReport
from phalanx.cli.admin_options import add_admin_options, admin_parser, client_for, number, timeout_of
from phalanx.cli.options import Parser, UsageError, nearest
from phalanx.cli.wait_for_ranks import wait
from phalanx.streams import say, show
from phalanx.supervisor.events import ExitCode

SUMMARY = "show the ranks of a running service; drain, resume or restart one"

VERBS = {
    "drain": "Give a rank nothing new; what runs there finishes, or goes on elsewhere after --timeout.",
    "resume": "Give a drained rank requests again.",
    "restart": "Drain a rank, start it again and give it requests.",
}
INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it: 128 and the number of SIGINT."""


def run(arguments: Sequence[str]) -> int:
    """Show or change ranks, and return the exit status.

    Raises:
        UsageError: nothing was asked of the service.
    """
    verb, given = parse(arguments)
    if verb is None:
        return exit_status_of("phalanx ranks", lambda: show(table(client_for(given).ask("GET", "/admin/ranks"))))
    return exit_status_of("phalanx ranks", lambda: _change(verb, given))


def parse(arguments: Sequence[str]) -> tuple[str | None, dict[str, Any]]:
    """The verb, or None where ranks are only to be shown, and the options.

    Raises:
        UsageError: says which option is wrong, and why.
    """
    if not arguments or not arguments[0] or arguments[0].startswith("-"):
        return None, _parser().parse(arguments)
    verb, *rest = arguments
    if verb not in VERBS:
        raise UsageError(f"{verb} is not one of {', '.join(VERBS)}{nearest(verb, VERBS)}")
    return verb, _verb_parser(verb).parse(rest)


def exit_status_of(command: str, act: Callable[[], None]) -> int:
    """Run `act` and return the exit status of the command; what goes wrong is told in one line on stderr."""
    try:
        act()
    except AdminError as error:
        say(sys.stderr, f"{command}: {error}")
        return ExitCode.FAILED
    except KeyboardInterrupt:
        say(sys.stderr, f"{command}: no longer waiting; the service goes on with it")
        return INTERRUPTED
    return ExitCode.OK


def _change(verb: str, given: dict[str, Any]) -> None:
    rank = number(given["rank"], "the number of a rank")
    timeout = timeout_of(given)
    client = client_for(given)
    body = {} if verb == "resume" else {"timeout": timeout}
    asked = client.ask("POST", f"/admin/ranks/{rank}/{verb}", body)
    if not given["wait"]:
        show(table(asked))
        return
    before = next(each.incarnation for each in asked.ranks if each.rank == rank)

    def done(report: FleetReport) -> bool:
        found = next((each for each in report.ranks if each.rank == rank), None)
        if found is None:
            raise AdminError(f"rank {rank} has gone: the service was scaled meanwhile")
        match verb:
            case "drain":
                return found.state == "drained"
            case "restart":
                return found.state == "serving" and found.incarnation > before
            case _:
                return found.state == "serving"

    wait(client, asked, done, show, rank)


HEADS = ("rank", "state", "for", "restarts", "pid", "machine", "running", "waiting", "KV cache", "")


def table(report: FleetReport) -> str:
    """A table with a line for each rank, and a line about the API servers."""
    rows = [HEADS, *(_row(rank) for rank in report.ranks)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    states = [server.state for server in report.api_servers]
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    return "\n".join(
        [*lines, "", f"ranks that shall serve: {report.data_parallel_size}; API servers: {counts or 'none'}"]
    )


def _row(rank: RankReport) -> tuple[str, ...]:
    share = ""
    if rank.kv_used_tokens is not None and rank.kv_total_tokens:
        share = f"{100 * rank.kv_used_tokens / rank.kv_total_tokens:.0f} %"
    return (
        str(rank.rank),
        rank.state,
        _since(rank.since),
        str(rank.restarts),
        _or_dash(rank.pid),
        rank.where or "-",
        _or_dash(rank.running),
        _or_dash(rank.waiting),
        share or "-",
        rank.detail,
    )


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def _since(seconds: float) -> str:
    """`12 s`, `3 min`, `5 h`, `9 d`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _parser() -> Parser:
    parser = admin_parser(
        "phalanx ranks",
        "phalanx ranks [drain N | resume N | restart N] [options]",
        "Show the ranks of a running service, or change one: "
        + " ".join(f"{verb}: {what}" for verb, what in VERBS.items()),
    )
    add_admin_options(parser)
    return parser


def _verb_parser(verb: str) -> Parser:
    parser = admin_parser(f"phalanx ranks {verb}", f"phalanx ranks {verb} N [options]", VERBS[verb])
    parser.add_argument("rank", metavar="N", help="the rank")
    add_admin_options(parser)
    if verb != "resume":
        parser.add_argument(
            "--timeout",
            metavar="SECONDS",
            help="for running requests to finish before they go on elsewhere (default: the service's --drain-timeout)",
        )
    parser.add_argument("--wait", action="store_true", help="until it is done, saying what changes")
    return parser
