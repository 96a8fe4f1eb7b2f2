"""Where a service may find itself: odd names, poor locales, no working folder, no standard streams."""

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from support.service import DEADLINE, SERVE, Service
from support.systemd import EXEC

from phalanx.cli.options import UsageError
from phalanx.cli.secret import given_secret
from phalanx.cli.serve import configuration, parse
from phalanx.hosting.children import environment
from phalanx.supervisor.events import ExitCode
from phalanx.supervisor.nodes import forwarded_environment
from phalanx.transport.listener import bind_http
from phalanx.transport.security import Security

PHALANX = (sys.executable, "-m", "phalanx")
IN_A_DELETED_FOLDER = ("sh", "-c", 'd=$(mktemp -d) && cd "$d" && rmdir "$d" && exec "$@"', "sh")
WITHOUT_STREAMS = ("sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh")
NOT_TEXT = os.fsdecode(b"/models/caf\xe9")


def test_letters_of_any_language_are_served_from_nowhere_in_a_locale_of_ascii(
    checkpoint_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "two words, größer, 模型"
    shutil.copytree(checkpoint_folder, folder)
    variables = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "HOME": ""}
    command = (*IN_A_DELETED_FOLDER, *SERVE)
    with Service(str(folder), "--engine", "synthetic", command=command, env=variables) as service:
        service.wait_ready()
        assert r"two words, gr\xf6\xdfer, \u6a21\u578b" in service.stdout
        children = psutil.Process(service.pid).children()
        assert {child.cwd() for child in children} == {"/"}
        with urllib.request.urlopen(f"{service.address}/v1/models", timeout=DEADLINE) as models:
            assert "模型" in models.read().decode()


def test_a_file_named_relative_to_a_deleted_folder_is_one_clear_line() -> None:
    command = (*IN_A_DELETED_FOLDER, *SERVE, "--engine", "synthetic", "--ssl-certfile", "certificate.pem")
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode == ExitCode.USAGE
    assert told.stderr == (
        "phalanx serve: the working folder was deleted: go to another one, or give the whole path of each file\n"
    )


def test_a_service_without_standard_streams_serves_and_no_socket_takes_their_place() -> None:
    with socket.create_server(("127.0.0.1", 0)) as http:
        port, descriptor = http.getsockname()[1], http.fileno()
        process = subprocess.Popen(
            [*WITHOUT_STREAMS, sys.executable, "-c", EXEC, str(descriptor), *SERVE, "--engine", "synthetic"],
            pass_fds=[descriptor],
            env={**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http"},
        )
        try:
            body = b'{"prompt": [1, 2, 3], "max_tokens": 2}'
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/v1/completions", body, {"Content-Type": "application/json"}
            )
            # The connection waits in the backlog until somebody serves.
            with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
                assert answer.status == 200
            assert [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)] == [os.devnull] * 3
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE) == ExitCode.OK
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["serve", "--help"]])
def test_what_was_asked_for_and_cannot_be_printed_is_a_failure(arguments: Sequence[str]) -> None:
    with open("/dev/full", "wb") as full:
        told = subprocess.run([*PHALANX, *arguments], stdout=full, stderr=subprocess.PIPE, text=True)
    assert told.returncode == ExitCode.FAILED
    program = "phalanx serve" if len(arguments) > 1 else "phalanx"
    assert told.stderr == f"{program}: standard output cannot be written: {os.strerror(errno.ENOSPC)}\n"


def test_a_reader_that_has_read_enough_is_no_news() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    told = subprocess.run([*PHALANX, "--help"], stdout=write_end, stderr=subprocess.PIPE, text=True)
    os.close(write_end)
    assert (told.returncode, told.stderr) == (ExitCode.FAILED, "")


def test_an_error_is_an_error_where_nobody_can_be_told() -> None:
    with open("/dev/full", "wb") as full:
        assert subprocess.run([*PHALANX, "serve", "--nonsense"], stderr=full).returncode == ExitCode.USAGE


@pytest.mark.parametrize(
    ("arguments", "origin"),
    [
        ([NOT_TEXT], "MODEL"),
        (["--served-model-name", "fine", NOT_TEXT], "--served-model-name"),
        (["--engine", NOT_TEXT], "--engine"),
        (["--config", NOT_TEXT], "--config"),
    ],
)
def test_bytes_that_are_no_text_are_refused_by_the_name_of_the_option(arguments: Sequence[str], origin: str) -> None:
    with pytest.raises(UsageError, match=f"^{origin}: it is not UTF-8 text; a folder or file of such a name needs"):
        parse(arguments)


def test_text_of_half_a_letter_in_a_configuration_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "service.yaml"
    file.write_text('served_model_name: "\\uD83D"\n')
    with pytest.raises(UsageError, match=r"service\.yaml: served_model_name: it is not UTF-8 text"):
        parse(["--config", str(file)])


def test_a_locale_without_the_letters_is_named(checkpoint_folder: Path) -> None:
    poor = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    told = subprocess.run([*SERVE, "/models/größer"], env=poor, capture_output=True, text=True)
    assert told.returncode == ExitCode.USAGE
    assert told.stderr == (
        "phalanx serve: MODEL: letters that the encoding of this locale, ascii, does not have: set another locale, "
        "such as LC_ALL=C.UTF-8\n"
    )


def test_a_folder_that_a_link_of_a_good_name_leads_to_is_told_too(checkpoint_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint_folder, tmp_path / os.path.basename(NOT_TEXT))
    (tmp_path / "good").symlink_to(tmp_path / os.path.basename(NOT_TEXT))
    with pytest.raises(ValueError, match="the name is not UTF-8 text: give the folder another one"):
        configuration(parse([str(tmp_path / "good"), "--engine", "synthetic"]))


def test_a_secret_that_is_no_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHALANX_SECRET", 2 * NOT_TEXT)
    with pytest.raises(UsageError, match="PHALANX_SECRET is not UTF-8 text"):
        given_secret()


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example"])
def test_what_cannot_be_the_name_of_a_host_is_an_address_that_cannot_be_had(host: str) -> None:
    with pytest.raises(OSError, match="it is no name of a host"):
        bind_http(host, 0, 1)


def test_children_print_what_their_supervisor_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    assert environment(Security(b"secret"))["PYTHONIOENCODING"] == "utf-8:backslashreplace"


def test_variables_that_are_no_text_do_not_travel_to_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", NOT_TEXT)
    monkeypatch.setenv("HF_ENDPOINT", "https://größer.example")
    environment = forwarded_environment()
    assert environment["HF_ENDPOINT"] == "https://größer.example"
    assert "HF_HUB_CACHE" not in environment
