"""A service manager holds the sockets, hears how things are, and restarts what is stuck: no connection is refused."""

import contextlib
import json
import os
import re
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.service import DEADLINE, Service
from support.systemd import Systemd

from phalanx.supervisor.events import ExitCode

SYNTHETIC = ("--engine", "synthetic", "-dp", "2", "--api-server-count", "2")
BODY = json.dumps({"prompt": [1, 2, 3], "max_tokens": 3}).encode()
REQUEST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (
    len(BODY),
    BODY,
)


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    with Systemd(tmp_path, listen=2) as manager:
        yield manager


def client(address: tuple[str, int] | Path) -> socket.socket:
    """Connected, its request sent; nobody needs to have accepted it."""
    if isinstance(address, Path):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(DEADLINE)
        sock.connect(str(address))
    else:
        sock = socket.create_connection(address, DEADLINE)
    sock.sendall(REQUEST)
    return sock


def answer(sock: socket.socket) -> tuple[int, str]:
    """Status, and which API server it was."""
    data = b""
    while part := sock.recv(65536):
        data += part
    sock.close()
    head = data.decode()
    server = re.search(r"(?i)^x-phalanx-api-server: (\d+)", head, re.MULTILINE)
    assert server, head
    return int(head.split(" ", 2)[1]), server[1]


@contextlib.contextmanager
def ends_of(service: Service) -> Iterator[Callable[[float], list[str]]]:
    """Watch its processes: which are left after so many seconds. Counted from the call; asks the kernel, not /proc."""
    with contextlib.ExitStack() as stack:
        watched = {}
        for name, pid in service.processes().items():
            watched[name] = os.pidfd_open(pid)
            stack.callback(os.close, watched[name])
        assert len(watched) == 5

        def left(within: float) -> list[str]:
            deadline = time.monotonic() + within
            ended = {
                name
                for name, ending in watched.items()
                if select.select([ending], [], [], max(0.0, deadline - time.monotonic()))[0]
            }
            return sorted(watched.keys() - ended)

        yield left


def test_a_service_serves_at_every_address_that_it_was_passed(tmp_path: Path) -> None:
    with Systemd(tmp_path, listen=1, hosts=("127.0.0.1", "127.0.0.2")) as systemd, systemd.start(*SYNTHETIC) as service:
        service.wait_ready()
        port = systemd.address[1]
        assert f" at http://127.0.0.1:{port} and http://127.0.0.2:{port} (2 API servers, 2 ranks)" in service.stdout
        for host in ("127.0.0.1", "127.0.0.2"):
            assert answer(client((host, port)))[0] == 200
        for name in ("api 0", "api 1"):
            os.kill(service.pid_of(name), signal.SIGKILL)
        # The connections wait for the successors, which inherit both sockets again.
        for host in ("127.0.0.1", "127.0.0.2"):
            assert answer(client((host, port)))[0] == 200


def test_a_socket_file_is_served_on_and_outlives_the_service(tmp_path: Path) -> None:
    file = tmp_path / "web.sock"
    with Systemd(tmp_path, file=file) as systemd:
        with systemd.start(*SYNTHETIC) as service:
            ready(systemd)
            service.wait_for(f" at unix:{file} (2 API servers, 2 ranks)")
            assert answer(client(file))[0] == 200
            assert service.stop() == 0
        waiting = client(file)
        with systemd.start(*SYNTHETIC) as successor:
            assert answer(waiting)[0] == 200
            assert successor.stop() == 0
        client(file).close()  # it is there


def ready(systemd: Systemd) -> str:
    """Until it says so; all the patience that it asked for on its way."""
    return " ".join(state.get("EXTEND_TIMEOUT_USEC", "") for state in systemd.hears(lambda state: "READY" in state))


def test_a_killed_supervisor_is_started_again_and_everybody_who_waits_is_answered(systemd: Systemd) -> None:
    with systemd.start(*SYNTHETIC) as service:
        ready(systemd)
        service.wait_ready()
        assert service.address == systemd.url
        assert answer(client(systemd.address))[0] == 200
        for name in ("api 0", "api 1"):
            os.kill(service.pid_of(name), signal.SIGSTOP)
        waiting = [client(systemd.address) for _ in range(8)]
        with ends_of(service) as left:
            service.signal(signal.SIGKILL)
            assert left(1.0) == []
        service.wait()
        in_the_gap = [client(systemd.address) for _ in range(8)]
    with systemd.start(*SYNTHETIC) as successor:
        ready(systemd)
        answers = [answer(sock) for sock in (*waiting, *in_the_gap)]
        assert [status for status, _ in answers] == [200] * 16
        assert {server for _, server in answers} == {"0", "1"}
        successor.wait_ready()
        assert successor.stop() == 0
    client(systemd.address).close()  # nor is anybody refused after an orderly end


def test_it_is_told_how_things_are(tmp_path: Path) -> None:
    flags = ("--engine", "synthetic", "-dp", "2", "--max-restarts", "1", "--synthetic-stage", "1:weights=0.3")
    with Systemd(tmp_path, abstract=True) as systemd, systemd.start(*flags) as service:
        heard = systemd.hears(lambda state: "READY" in state)
        told = [state["STATUS"] for state in heard if "STATUS" in state]
        assert told[0].startswith("starting: 0 of 2 ranks, 0 of 1 API servers ready; ")
        assert any(status.startswith("starting: ") and " is in stage " in status for status in told)
        patience = [int(state["EXTEND_TIMEOUT_USEC"]) / 1e6 for state in heard if "EXTEND_TIMEOUT_USEC" in state]
        # --startup-timeout for the stage, and what an orderly end may take after it.
        assert patience
        assert all(125 < seconds < 200 for seconds in patience)
        serving = "serves: 2 of 2 ranks, 1 of 1 API servers"
        assert told[-1] == serving
        os.kill(service.pid_of("engine 1"), signal.SIGKILL)
        systemd.hears(lambda state: state.get("STATUS", "").startswith("degraded: 1 of 2 ranks, 1 of 1 API servers"))
        systemd.hears(lambda state: state.get("STATUS") == serving)
        service.signal(signal.SIGTERM)
        (*_, stopping) = systemd.hears(lambda state: "STOPPING" in state)
        assert stopping["STATUS"].startswith(("draining: ", "stopping: "))
        assert int(stopping["EXTEND_TIMEOUT_USEC"]) > 0
        assert service.wait() == 0


def test_a_supervisor_that_is_stuck_falls_silent(tmp_path: Path) -> None:
    with Systemd(tmp_path) as systemd, systemd.start("--engine", "synthetic", WATCHDOG_USEC="300000") as service:
        ready(systemd)
        for _ in range(3):
            systemd.hears(lambda state: state == {"WATCHDOG": "1"})
        service.signal(signal.SIGSTOP)
        with contextlib.suppress(BlockingIOError, TimeoutError):
            while True:  # what was sent before
                systemd.hears(lambda state: False, timeout=0)
        with pytest.raises(TimeoutError):
            systemd.hears(lambda state: "WATCHDOG" in state, timeout=0.6)
        service.signal(signal.SIGCONT)
        systemd.hears(lambda state: "WATCHDOG" in state)


def test_sockets_that_cannot_be_served_on_are_one_line_and_exit_code_3(systemd: Systemd) -> None:
    for flags, words in (
        (("--api-server-count", "1"), "2 sockets were passed for 1 API server: "),
        ((*SYNTHETIC, "--port", "1"), "--port 1 contradicts the sockets that the service manager passed"),
    ):
        with systemd.start(*flags) as service:
            assert service.wait() == ExitCode.ADDRESS
            assert service.stderr.startswith(f"phalanx serve: {words}")
            assert len(service.stderr.splitlines()) == 1
