"""A service on a socket file in place of a port (--uds)."""

import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from support.service import DEADLINE, Service

SYNTHETIC = ("--engine", "synthetic")
ADMIN = "an-admin-key-for-tests"
RANKS = (sys.executable, "-m", "phalanx", "ranks")


class FileService(Service):
    takes_port = False


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., FileService]]:
    with contextlib.ExitStack() as stack:

        def start(*flags: str) -> FileService:
            return stack.enter_context(FileService("--uds", str(tmp_path / "web.sock"), *SYNTHETIC, *flags))

        yield start


def client(path: Path) -> httpx.Client:
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost", timeout=DEADLINE)


def ask(path: Path) -> httpx.Response:
    with client(path) as http:
        return http.post("/v1/completions", json={"prompt": "x", "max_tokens": 2})


def test_several_api_servers_share_a_file_that_outlives_each_of_them_and_goes_with_the_service(
    serve: Callable[..., FileService], tmp_path: Path
) -> None:
    path = tmp_path / "web.sock"
    service = serve("--api-server-count", "2", "--uds-mode", "660", "--admin-key", ADMIN).wait_ready()
    assert f" at unix:{path} (2 API servers, 1 rank)" in service.stdout
    assert f"curl --unix-socket {path} http://localhost/v1/chat/completions" in service.stdout
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert ask(path).status_code == 200
    shown = subprocess.run(
        [*RANKS, "--uds", str(path)], capture_output=True, text=True, env=os.environ | {"PHALANX_ADMIN_KEY": ADMIN}
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "ranks that shall serve: 1; API servers: 2 serving" in shown.stdout
    os.kill(service.pid_of("api 0"), signal.SIGKILL)
    service.wait_until(lambda: service.stderr.count("api 0      ready") == 2, "the next API server")
    answered = set()
    while len(answered) < 2:
        answer = ask(path)
        assert answer.status_code == 200
        answered.add(answer.headers["x-phalanx-api-server"])

    ended: list[str] = []

    def ask_on() -> None:
        with contextlib.suppress(httpx.ConnectError):
            while True:
                answer = ask(path)
                if answer.status_code not in (200, 503):
                    ended.append(answer.text)

    asking = threading.Thread(target=ask_on)
    asking.start()
    assert service.stop() == 0
    asking.join(DEADLINE)
    assert not asking.is_alive()
    assert ended == []
    assert not path.exists()


def test_what_a_killed_service_left_is_replaced_and_a_running_one_is_not(
    serve: Callable[..., FileService], tmp_path: Path
) -> None:
    path = tmp_path / "web.sock"
    first = serve().wait_ready()
    second = serve()
    assert second.wait() == 3
    assert f"{path} is in use: another process listens there" in second.stderr
    assert ask(path).status_code == 200
    first.signal(signal.SIGKILL)
    first.wait()
    first.seconds_until_no_process_is_left()
    assert path.exists()
    third = serve().wait_ready()
    assert ask(path).status_code == 200
    assert third.stop() == 0
    assert not path.exists()
