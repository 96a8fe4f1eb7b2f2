"""`phalanx chaos` from its command line: a service that holds passes, one with a defect does not."""

import asyncio
import faulthandler
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from phalanx.chaos import traffic
from phalanx.chaos.run import Outcome, Plan, run
from phalanx.chaos.schedule import Kind
from phalanx.chaos.verdict import End
from phalanx.cli import chaos
from phalanx.cli.options import UsageError

DEFECTIVE = Path(__file__).parents[1] / "support" / "defective_service.py"
LIMIT = 420.0
"""Seconds: three minutes, the start, and what is under way at their end, on a machine with other things to do."""


def rows(text: str) -> dict[str, list[str]]:
    """All tables' rows by their first cell."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in cells}


def test_three_minutes_of_every_fault_lose_and_change_nothing(tmp_path: Path) -> None:
    # Longer than any test may hang; what hangs here is told by the run's own deadlines.
    faulthandler.cancel_dump_traceback_later()
    # Without a model, so that there is something left of the machine for the tests beside it.
    service = ["-dp", "2", "--api-server-count", "2", "--engine", "synthetic", "--synthetic-rate", "60"]
    flags = ["--minutes", "3", "--seed", "20", "--concurrency", "16", "--", *service, "--step-timeout", "4"]
    command = [sys.executable, "-m", "phalanx", "chaos", *flags]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = rows(ran.stdout)
    for kind in Kind:
        assert int(found[kind][0]) >= 1, f"{kind} never happened"
    assert (found[End.WRONG], found[End.LOST]) == (["0"], ["0"])
    sent = int(found["sent"][0])
    assert int(found[End.FINISHED][0]) > sent // 2
    assert int(found[End.ENGINE_DIED][0]) <= sent // 20
    assert "Nothing wrong, nothing lost, nothing left behind." in ran.stdout
    assert list(tmp_path.iterdir()) == []


def of_a_defective_service(defect: str) -> Outcome:
    """Ranks are killed under it, one after the other."""
    flags = ["--engine", "synthetic", "--synthetic-rate", "150", "-dp", "2", "--port", "0", "--max-restarts", "100"]
    command = (sys.executable, str(DEFECTIVE), defect)
    return asyncio.run(run(Plan(5.0, 1, [Kind.KILL_RANK], 1.5, 24, 2, 1, 4.0, flags, command=command)))


def test_a_service_that_repeats_a_token_after_a_death_is_found_out() -> None:
    outcome = of_a_defective_service("repeat")
    assert outcome.ledger.ends[End.WRONG] > 0
    assert not outcome.good
    assert outcome.complaints == []


def test_a_service_that_forgets_requests_of_a_dead_rank_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "PATIENCE", 6.0)
    outcome = of_a_defective_service("forget")
    assert outcome.ledger.ends[End.LOST] > 0
    assert outcome.ledger.ends[End.WRONG] == 0
    assert not outcome.good


def test_a_service_on_a_socket_file_is_disturbed_there(tmp_path: Path) -> None:
    flags = ["--engine", "synthetic", "--synthetic-rate", "150", "-dp", "2", "--uds", str(tmp_path / "a web.sock")]
    outcome = asyncio.run(run(Plan(4.0, 1, [Kind.KILL_RANK, Kind.HALF_SENT], 1.0, 8, 2, 1, 4.0, flags)))
    assert outcome.complaints == []
    assert outcome.good
    assert outcome.ledger.ends[End.FINISHED] > 0


def plan(*arguments: str) -> Plan:
    own, behind = chaos._split(arguments)
    return chaos.plan(chaos._parser().parse(own), behind)


def test_without_options_it_is_the_demo_model_with_two_ranks_and_two_api_servers() -> None:
    made = plan()
    assert (made.ranks, made.api_servers, made.seconds, made.concurrency) == (2, 2, 180.0, 24)
    assert list(made.kinds) == list(Kind)
    assert "--max-restarts" in made.flags


def test_what_stands_behind_two_dashes_goes_to_the_service_and_wins() -> None:
    made = plan("--seed", "5", "--", "some/model", "-dp", "3", "--step-timeout", "2", "--max-restarts=7")
    assert (made.ranks, made.api_servers, made.seed, made.step_timeout) == (3, 2, 5, 2.0)
    assert made.flags[:6] == ["some/model", "-dp", "3", "--step-timeout", "2", "--max-restarts=7"]
    assert made.flags.count("--step-timeout") == 1
    assert "--max-restarts" not in made.flags


def test_a_service_on_a_socket_file_has_no_port() -> None:
    assert "--port" in plan().flags
    assert "--port" not in plan("--", "--uds", "web.sock").flags


def test_the_cache_is_bounded_unless_its_size_is_asked_for() -> None:
    assert "--kv-cache-tokens" in plan().flags
    assert "--kv-cache-tokens" not in plan("--", "--kv-cache-memory-share", "0.1").flags
    assert plan("--", "--kv-cache-tokens", "4096").flags.count("--kv-cache-tokens") == 1


def test_join_leaves_the_last_rank_to_another_command() -> None:
    made = plan("--join", "--", "-dp", "3")
    place = made.flags.index("--data-parallel-size-local")
    assert made.flags[place + 1] == "2"
    assert made.join


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--faults", "kill-rnak"), "there is no kill-rnak; did you mean kill-rank?"),
        (("--minutes", "0"), "--minutes 0 is not a number above 0"),
        (("--every", "nan"), "--every nan is not a number above 0"),
        (("--seed", "-1"), "--seed -1 is not a whole number of at least 0"),
        (("--concurrency", "0"), "--concurrency 0 is not a whole number of at least 1"),
        (("--join", "--", "-dp", "1"), "-dp 2 or more"),
        (("--", "--ssl-certfile", "x"), "chaos speaks no TLS"),
        (("--", "--api-key", "x"), "chaos has no API key to send"),
        (("--", "-dp", "2", "-dpl", "1"), "chaos reaches only processes of this machine"),
        (("--", "--frontend-command", "true"), "chaos knows the service's own API servers only"),
        (("--", "--no-such-option"), "is not an option"),
        (("--minuets", "3"), "did you mean --minutes?"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError) as refused:
        plan(*arguments)
    assert re.search(re.escape(words), str(refused.value))
