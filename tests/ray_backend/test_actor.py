"""What an actor does on the other machine, without Ray around it."""

import json
import sys

import pytest

import phalanx
from phalanx.ray_backend.actor import KEPT_LINES, NodeActor

TELL = "import json, os, sys; print(json.dumps([sys.orig_argv, dict(os.environ)]))"


def told(kept: list[str]) -> tuple[list[str], dict[str, str]]:
    """The command line and the environment of what the actor has run."""
    actor = NodeActor()
    assert actor.inspect(phalanx.__version__) is None
    status, lines = actor.run(["-c", TELL], "the secret", kept)
    assert status == 0
    arguments, environment = json.loads("".join(lines))
    return arguments, environment


def test_a_node_gets_the_secret_in_its_environment_and_never_in_its_command_line() -> None:
    arguments, environment = told([])
    assert environment["PHALANX_SECRET"] == "the secret"
    assert not any("secret" in argument for argument in arguments)
    assert arguments[-2] == "--parent-pid"


def test_a_node_gets_the_devices_and_what_was_asked_for_and_nothing_of_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("RAY_ADDRESS", "somewhere")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    _, environment = told([])
    assert environment["CUDA_VISIBLE_DEVICES"] == "3"
    assert not {"RAY_ADDRESS", "OMP_NUM_THREADS"} & environment.keys()
    _, environment = told(["OMP_NUM_THREADS"])
    assert environment["OMP_NUM_THREADS"] == "1"


def test_the_last_lines_and_the_status_of_a_node_are_kept() -> None:
    status, lines = NodeActor().run(["-c", "print(*range(100), sep='\\n'); raise SystemExit(3)"], "the secret", [])
    assert (status, lines) == (3, [str(number) for number in range(100 - KEPT_LINES, 100)])


def test_a_machine_without_phalanx_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "phalanx", None)
    trouble = NodeActor().inspect("1.2")
    assert trouble is not None
    assert trouble.startswith(f"phalanx cannot be imported by {sys.executable} there")
