"""`phalanx scale`: give a running service more ranks or fewer."""

from collections.abc import Sequence
from typing import Any

from phalanx.cli.admin_client import FleetReport
from phalanx.cli.admin_options import add_admin_options, admin_parser, client_for, number, timeout_of
from phalanx.cli.options import Parser, UsageError
from phalanx.cli.ranks import exit_status_of, table
from phalanx.cli.wait_for_ranks import wait
from phalanx.streams import show

SUMMARY = "give a running service more ranks or fewer"


def run(arguments: Sequence[str]) -> int:
    """Scale, and return the exit status.

    Raises:
        UsageError: nothing was asked of the service.
    """
    given = scale_parser().parse(arguments)
    body = request(given)
    return exit_status_of("phalanx scale", lambda: _scale(given, body))


def _scale(given: dict[str, Any], body: dict[str, Any]) -> None:
    client = client_for(given)
    asked = client.ask("POST", "/admin/scale", body)
    if not given["wait"]:
        show(table(asked))
        return
    wait(client, asked, is_settled, show)


def request(given: dict[str, Any]) -> dict[str, Any]:
    """The body of POST /admin/scale.

    Raises:
        UsageError: the options say neither how many ranks nor which, or a number is none.
    """
    body: dict[str, Any] = {}
    if given.get("size") is not None:
        body["data_parallel_size"] = number(given["size"], "a number of ranks", least=1)
    if given.get("retire") is not None:
        body["retire"] = [number(rank.strip(), "the number of a rank") for rank in given["retire"].split(",")]
    if not body:
        raise UsageError("give the number of ranks that there shall be, or --retire those that go")
    timeout = timeout_of(given)
    return body if timeout is None else body | {"timeout": timeout}


def is_settled(report: FleetReport) -> bool:
    """Whether the ranks that go are gone, and the others serve or were drained by an operator."""
    return set(report.states.values()) <= {"serving", "draining", "drained"}


def scale_parser() -> Parser:
    parser = admin_parser(
        "phalanx scale",
        "phalanx scale [K] [--retire RANKS] [options]",
        "Have K ranks from now on. New ones start while the others serve; what runs in those that go finishes, or goes "
        "on at others.",
    )
    parser.add_argument("size", nargs="?", metavar="K", help="ranks that there shall be")
    parser.add_argument("--retire", metavar="RANKS", help="who goes, for example 3,5; absent: the highest numbers")
    add_admin_options(parser)
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        help="for running requests to finish before they go on elsewhere (default: the service's --drain-timeout)",
    )
    parser.add_argument(
        "--wait", action="store_true", help="until the ranks serve and those that go are gone, saying what changes"
    )
    return parser
