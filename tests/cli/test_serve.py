"""`phalanx serve` with the real children and the synthetic engine."""

import contextlib
import json
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from support.checkpoints import write_checkpoint
from support.reports import stuck
from support.service import Service

from phalanx.cli.options import UsageError
from phalanx.cli.serve import configuration, parse
from phalanx.supervisor.events import ExitCode

FLEET = ("--engine", "synthetic", "-dp", "2")
STAGES = ("imported", "weights", "cache", "warm-up", "attached")


def test_a_service_of_2_by_2_answers(start_service: Callable[..., Service], checkpoint_folder: Path) -> None:
    service = start_service(
        *(str(checkpoint_folder), "--engine", "synthetic", "-dp", "2", "-asc", "2"),
        *("--served-model-name", "first", "second"),
    ).wait_ready()
    assert "Phalanx serves first at" in service.stdout
    body = {"model": "second", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
    request = urllib.request.Request(
        f"{service.address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
    assert answer["usage"]["completion_tokens"] == 5
    names = {"phalanx supervisor", "phalanx api 0", "phalanx api 1", "phalanx engine 0", "phalanx engine 1"}
    assert set(service.processes()) == names
    assert service.stop() == ExitCode.OK


@pytest.mark.parametrize("moment", ["starting", "ready", "in the middle of a request"])
def test_nothing_outlives_a_killed_supervisor_for_a_second(moment: str, checkpoint_folder: Path) -> None:
    flags = ["--synthetic-stage", "weights=hang"] if moment == "starting" else ["--synthetic-rate", "10"]
    with Service(str(checkpoint_folder), *FLEET, "-asc", "2", *flags) as service:
        if moment == "starting":
            service.wait_for("engine 0   weights").wait_for("engine 1   weights")
        else:
            service.wait_ready()
        with contextlib.ExitStack() as stack:
            if moment == "in the middle of a request":
                body = {"model": str(checkpoint_folder), "prompt": "Hi", "max_tokens": 1000, "stream": True}
                url = f"{service.address}/v1/completions"
                request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
                answer = stack.enter_context(urllib.request.urlopen(request, timeout=60))
                assert answer.readline().startswith(b"data: ")
            assert len(service.processes()) == 5
            service.signal(signal.SIGKILL)
            assert service.wait() == -signal.SIGKILL
            assert service.seconds_until_no_process_is_left() < 1.0


def test_a_key_given_by_file_or_environment_is_seen_by_nobody_in_ps(
    start_service: Callable[..., Service], checkpoint_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "phalanx.toml"
    file.write_text(f'model = "{checkpoint_folder}"\nengine = "synthetic"\napi-key = "a-secret-in-a-file"\n')
    by_file = start_service("--config", str(file)).wait_ready()
    by_environment = start_service(
        str(checkpoint_folder), "--engine", "synthetic", env={"PHALANX_API_KEY": "a-secret-in-the-environment"}
    ).wait_ready()
    for service in (by_file, by_environment):
        for command, pid in service.processes().items():
            assert "a-secret" not in command
            assert b"a-secret" not in Path(f"/proc/{pid}/environ").read_bytes() or pid == service.pid
        assert "a-secret" not in service.output
        assert "Bearer $PHALANX_API_KEY" in service.stdout


@pytest.mark.parametrize("way", ["exit", "raise", "abort"])
def test_a_rank_that_fails_in_a_stage_is_named(way: str, checkpoint_folder: Path) -> None:
    ending = {"exit": "exit status 3", "raise": "told to fail", "abort": "killed by SIGABRT"}[way]
    for stage in STAGES:
        with Service(str(checkpoint_folder), *FLEET, "--synthetic-stage", f"1:{stage}={way}") as service:
            assert service.wait() == ExitCode.FAILED
            report = service.stderr[service.stderr.rindex("\nengine 1 (pid") :]
            assert f"failed in stage {stage}, " in report
            assert ending in report
            service.assert_nothing_left()


def test_a_rank_that_hangs_in_a_stage_is_named(checkpoint_folder: Path) -> None:
    with contextlib.ExitStack() as stack:
        services = {}
        for stage in STAGES:  # one after another into their stages, then all wait together
            flags = (*FLEET, "--synthetic-stage", f"1:{stage}=hang", "--startup-timeout", "5")
            service = stack.enter_context(Service(str(checkpoint_folder), *flags))
            services[stage] = service.wait_for(f"engine 1   {stage}")
        for stage, service in services.items():
            assert service.wait() == ExitCode.FAILED
            assert stuck(service.stderr, 5)[:2] == ("engine 1", stage)
            service.assert_nothing_left()


def test_a_model_that_is_not_there_is_one_line_and_exit_code_2() -> None:
    with Service("/nowhere/at/all") as service:
        assert service.wait() == ExitCode.USAGE
        assert service.output == "phalanx serve: there is no folder /nowhere/at/all\n"


def test_a_chat_template_is_read_where_it_was_named_and_travels_as_text(
    checkpoint_folder: Path, tmp_path: Path
) -> None:
    template = tmp_path / "own.jinja"
    template.write_text("{{ messages[0].content }}")
    config = configuration(parse([str(checkpoint_folder), "--engine", "synthetic", "--chat-template", str(template)]))
    assert config.facts.chat_template == "{{ messages[0].content }}"
    template.write_bytes(b"\xff")
    with pytest.raises(UsageError, match="--chat-template: cannot read"):
        configuration(parse([str(checkpoint_folder), "--engine", "synthetic", "--chat-template", str(template)]))


def test_a_host_that_cannot_be_listened_on_is_named() -> None:
    for host, words in (("nowhere.invalid", "--host nowhere.invalid: "), ("192.0.2.1", "cannot listen on 192.0.2.1:")):
        with Service("--host", host) as service:
            assert service.wait() == ExitCode.ADDRESS
            assert words in service.stderr
            assert len(service.stderr.splitlines()) == 1


def test_an_option_that_does_not_fit_the_checkpoint_is_refused(checkpoint_folder: Path) -> None:
    with Service(str(checkpoint_folder), "--engine", "synthetic", "--kv-cache-tokens", "64") as service:
        assert service.wait() == ExitCode.USAGE
        assert "--kv-cache-tokens 64 cannot hold one request of --max-model-len 2048" in service.stderr
        assert len(service.stderr.splitlines()) == 1
        service.assert_nothing_left()


def test_a_cache_of_whole_blocks_must_hold_a_request_of_whole_blocks(tmp_path: Path) -> None:
    folder = str(write_checkpoint(tmp_path, max_position_embeddings=2050))
    with Service(folder, "--engine", "synthetic", "--kv-cache-tokens", "2050") as service:
        assert service.wait() == ExitCode.USAGE
        assert "give at least 2064, or a --max-model-len of at most 2048" in service.stderr
