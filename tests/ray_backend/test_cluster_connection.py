"""Which cluster is meant, and what Ray's trouble means."""

import pytest

from phalanx.ray_backend.cluster_connection import ClusterChoice, choose_cluster, loopback_trouble, runtime_environment
from phalanx.ray_backend.errors import REASON_LIMIT, ClusterError, in_short


@pytest.mark.parametrize(
    ("option", "environment", "running", "expected"),
    [
        ("a:1", "b:2", "c:3", ClusterChoice("a:1", "--ray-address")),
        (None, "b:2", "c:3", ClusterChoice("b:2", "RAY_ADDRESS")),
        (None, None, "c:3", ClusterChoice("c:3", "the cluster last started on this machine", must=False)),
        ("auto", "", "c:3", ClusterChoice("c:3", "the cluster last started on this machine", must=False)),
        ("local", "b:2", "c:3", ClusterChoice(None, "--ray-address")),
        (None, "local", "c:3", ClusterChoice(None, "RAY_ADDRESS")),
        (None, None, None, ClusterChoice(None, "the cluster last started on this machine", must=False)),
    ],
)
def test_the_option_goes_before_the_environment_and_that_before_what_runs_here(
    option: str | None, environment: str | None, running: str | None, expected: ClusterChoice
) -> None:
    assert choose_cluster(option, environment, running) == expected


def test_other_machines_are_never_told_to_dial_a_loopback_address() -> None:
    trouble = loopback_trouble("127.0.0.1", ["127.0.0.2", "10.0.0.2"])
    assert trouble is not None
    assert "10.0.0.2 cannot dial this machine: say --data-parallel-address" in trouble
    assert loopback_trouble("127.0.0.1", ["127.0.0.1", "127.0.0.2"]) is None
    assert loopback_trouble("10.0.0.1", ["10.0.0.1", "10.0.0.2"]) is None


def test_a_runtime_environment_is_json_or_a_file_of_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("environment") / "environment.json"
    file.write_text('{"env_vars": {"A": "1"}}')
    assert runtime_environment(str(file)) == runtime_environment(file.read_text()) == {"env_vars": {"A": "1"}}
    assert runtime_environment(None) == {}
    for wrong in ("{]", "/nowhere", "[1]"):
        with pytest.raises(ClusterError, match="--ray-runtime-env"):
            runtime_environment(wrong)


def test_ray_s_words_are_cut_down_to_what_happened() -> None:
    died = (
        "The actor died unexpectedly before finishing this task.\n\tclass_name: NodeActor\n\tpid: 17\n"
        "The actor is dead because its worker process has died. End of file. "
        "Some common causes include: (1) the process was killed by the OOM killer"
    )
    assert in_short(RuntimeError(died)) == "The actor is dead because its worker process has died. End of file."
    assert in_short(TimeoutError()) == "TimeoutError"
    assert len(in_short(RuntimeError("word " * 1000))) <= REASON_LIMIT + 4
