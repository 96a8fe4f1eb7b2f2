"""`phalanx serve` and `phalanx join`: one service, ranks on two machines, and everything that can go wrong between."""

import contextlib
import http.client
import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from acceptance.test_start_stop import port_grabber  # noqa: F401 a fixture
from support.checkpoints import write_checkpoint
from support.clients import PersistentClient
from support.fake_supervisor import SECRET
from support.namespaces import HEAD, NODE, Machines, two_machines
from support.nodes import Program, join
from support.service import DEADLINE, SERVE, Service
from support.streams import streams, undisturbed

from phalanx.child import EXIT_ORPHANED
from phalanx.supervisor.events import ExitCode

WITH_SECRET = {"PHALANX_SECRET": SECRET}
STAGES = ("started", "imported", "weights", "cache", "warm-up", "attached")
OTHER_VERSION = "import phalanx; phalanx.__version__ = '0.0.9'; from phalanx.cli import main; main()"

Start = Callable[..., Service]


def serve(folder: Path, ranks: int, local: int, *flags: str) -> Service:
    """A service that waits for ranks from elsewhere."""
    parallel = ("-dp", str(ranks), "--data-parallel-size-local", str(local))
    where = () if any("address" in flag for flag in flags) else ("--data-parallel-address", "127.0.0.1")
    return Service(str(folder), "--engine", "synthetic", *parallel, *where, *flags, env=WITH_SECRET)


def control_of(service: Service) -> str:
    """Where it asks others to join; on this machine."""
    service.wait_for("phalanx join --control ")
    found = re.search(r"phalanx join --control (\S+)", service.stderr)
    assert found
    return found.group(1)


class ThroughOneServer:
    """HTTP connections that all go to one API server, whichever of those behind a port it is."""

    def __init__(self, address: str, pid: int) -> None:
        self._host, self._port = address.removeprefix("http://").split(":")
        self._pid = pid

    def _connected(self) -> http.client.HTTPConnection:
        while True:
            connection = http.client.HTTPConnection(self._host, int(self._port), timeout=DEADLINE)
            connection.request("GET", "/health")
            connection.getresponse().read()
            ours = connection.sock.getsockname()[:2]
            if any(peer.raddr[:2] == ours for peer in psutil.Process(self._pid).net_connections("tcp") if peer.raddr):
                return connection
            connection.close()

    def stream(self, model: str, max_tokens: int) -> Any:
        """A streamed completion whose first token has come."""
        connection = self._connected()
        body = {"model": model, "prompt": "Hello", "max_tokens": max_tokens, "stream": True, "ignore_eos": True}
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.readline().startswith(b"data: {")
        answer.connection = connection
        return answer

    def requests_in_each_rank(self) -> dict[int, int]:
        connection = self._connected()
        connection.request("GET", "/ready")
        ranks = json.load(connection.getresponse())["ranks"]
        connection.close()
        return {rank["rank"]: rank["own_requests"] for rank in ranks}


def answers(address: str, model: Path) -> int:
    """Tokens of one completion."""
    body = {"model": str(model), "prompt": "Hello", "max_tokens": 5, "ignore_eos": True}
    request = urllib.request.Request(
        f"{address}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=DEADLINE) as response:
        return int(json.load(response)["usage"]["completion_tokens"])


def test_every_rank_answers_through_every_api_server_and_every_address_told_listens(
    checkpoint_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHALANX_AUDIT_LISTENERS", str(tmp_path / "audit"))
    flags = ("--api-server-count", "2", "--synthetic-rate", "100")
    with serve(checkpoint_folder, 4, 2, *flags) as service, join(control_of(service), 2, 2) as joined:
        service.wait_ready()
        assert set(joined.processes()) == {"phalanx node", "phalanx engine 2", "phalanx engine 3"}
        assert set(service.processes()) >= {"phalanx engine 0", "phalanx engine 1"}
        for index in (0, 1):
            server = ThroughOneServer(service.address, service.pid_of(f"api {index}"))
            streams = []
            while 0 in server.requests_in_each_rank().values():
                assert len(streams) < 40
                streams.append(server.stream(str(checkpoint_folder), 150))
            assert set(server.requests_in_each_rank()) == {0, 1, 2, 3}
            for stream in streams:
                assert stream.read().endswith(b"data: [DONE]\n\n")
                stream.connection.close()
        assert service.stop() == 0
        assert joined.wait() == 0
        assert joined.stderr.endswith("\nthe service ended\n")
        joined.assert_nothing_left()
    told = (tmp_path / "audit").read_text().splitlines()
    # A control address in each child's arguments, two API servers to each child that enlists.
    assert len(told) >= 6 + 6 * 2
    assert {line.partition(" ")[2] for line in told} == {"listens"}


def test_api_servers_on_every_node_serve_the_whole_service(checkpoint_folder: Path) -> None:
    flags = ("--api-servers-per-node", "2")
    with serve(checkpoint_folder, 2, 1, *flags) as service, join(control_of(service), 1, 1) as joined:
        service.wait_ready()
        found = re.search(r"API servers at (\S+)", joined.stderr)
        assert found
        assert found.group(1) in service.stdout
        assert {"phalanx api 2", "phalanx api 3", "phalanx engine 1"} < set(joined.processes())
        for address, program, own in ((service.address, service, (0, 1)), (found.group(1), joined, (2, 3))):
            assert answers(address, checkpoint_folder) == 5
            for index in own:
                server = ThroughOneServer(address, program.pid_of(f"api {index}"))
                assert set(server.requests_in_each_rank()) == {0, 1}
        assert service.stop() == 0
        assert joined.wait() == 0
        joined.assert_nothing_left()


def asking_on(joined: Program) -> tuple[str, list[PersistentClient]]:
    """Where a node serves clients, and clients that ask there without end, on kept connections and on new ones."""
    found = re.search(r"API servers at (\S+)", joined.stderr)
    assert found
    clients = [PersistentClient(found.group(1), keep) for keep in (True, False) * 3]
    for client in clients:
        assert client.began.wait(DEADLINE)
    return found.group(1), clients


def test_who_asks_on_at_a_nodes_port_while_the_service_drains_is_answered_and_never_reset(
    checkpoint_folder: Path,
) -> None:
    flags = ("--api-servers-per-node", "2", "--synthetic-rate", "120")
    with serve(checkpoint_folder, 2, 1, *flags) as service, join(control_of(service), 1, 1) as joined:
        service.wait_ready()
        address, clients = asking_on(joined)
        with streams(address, 1) as (running,):
            service.signal(signal.SIGTERM)
            assert running.result()[1] == 120
        assert (service.wait(), joined.wait()) == (0, 0)
        for client in clients:
            client.assert_not_reset()
        joined.assert_nothing_left()


def test_who_asks_on_at_a_node_that_leaves_is_answered_and_never_reset(checkpoint_folder: Path) -> None:
    flags = ("--api-servers-per-node", "2", "--synthetic-rate", "60")
    with serve(checkpoint_folder, 2, 1, *flags) as service, join(control_of(service), 1, 1) as joined:
        service.wait_ready()
        address, clients = asking_on(joined)
        server = ThroughOneServer(address, joined.pid_of("api 2"))
        stream = server.stream(str(checkpoint_folder), 1500)
        joined.signal(signal.SIGTERM)
        assert b'"code":"stopping"' in stream.read()
        stream.connection.close()
        assert joined.wait() == 128 + signal.SIGTERM
        for client in clients:
            client.assert_not_reset()
        joined.assert_nothing_left()
        service.wait_for("rank 1 can join again")
        assert answers(service.address, checkpoint_folder) == 5
        assert service.stop() == 0


def test_a_rank_that_joins_brings_its_workers(checkpoint_folder: Path) -> None:
    flags = ("--tensor-parallel-size", "2")
    with serve(checkpoint_folder, 2, 1, *flags) as service, join(control_of(service), 1, 1) as joined:
        service.wait_ready()
        assert set(joined.processes()) == {"phalanx node", "phalanx engine 1", "phalanx engine 1 tp 1"}
        assert answers(service.address, checkpoint_folder) == 5
        assert service.stop() == 0
        assert joined.wait() == 0
        joined.assert_nothing_left()


def test_who_cannot_join_hears_why_and_the_service_waits_on(checkpoint_folder: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path, max_position_embeddings=512)
    with serve(checkpoint_folder, 4, 2) as service, contextlib.ExitStack() as stack:
        control = control_of(service)

        def refused(words: str, there: str, first: int, count: int, *flags: str, **further: Any) -> None:
            with join(control, first, count, *flags, **further) as program:
                assert program.wait() == 1
                (line,) = [line for line in program.stderr.splitlines() if line.startswith("phalanx join: ")]
                assert words in line
                program.assert_nothing_left()
            service.wait_for(there)

        refused(
            "the listener does not know the launch secret; PHALANX_SECRET and",
            "does not know the launch secret",
            *(2, 2),
            env={"PHALANX_SECRET": "not the secret of the service"},
        )
        refused(
            "turned us away: it runs phalanx 0.0.9, this service phalanx 0.1.0",
            "it runs phalanx 0.0.9",
            *(2, 2),
            program=(sys.executable, "-c", OTHER_VERSION, "join"),
        )
        refused(
            f"another model than the service's: in {other} config.json differs",
            f"another model than the service's: in {other} config.json differs",
            *(2, 2, "--model", str(other)),
        )
        refused("the service's own machine runs ranks 0 and 1", "turned away node", 0, 2)
        refused("this service has no rank 4", "this service has no rank 4", 3, 2)
        first = stack.enter_context(join(control, 2, 1))
        service.wait_for("engine 2   ready")
        refused("rank 2 joined already, from ", "rank 2 joined already", 2, 2)
        second = stack.enter_context(join(control, 3, 1))
        service.wait_ready()
        refused("rank 3 joined already, from ", "rank 3 joined already", 3, 1)
        assert answers(service.address, checkpoint_folder) == 5
        assert service.stop() == 0
        for program in (first, second):
            assert program.wait() == 0


@pytest.mark.parametrize("moment", ["starting", "serving"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_node_that_goes_ends_the_service_by_name(
    moment: str, number: signal.Signals, checkpoint_folder: Path
) -> None:
    drill = ("--synthetic-stage", "2:weights=hang") if moment == "starting" else ("--max-restarts", "0")
    with serve(checkpoint_folder, 3, 1, *drill) as service, join(control_of(service), 1, 2) as joined:
        service.wait_for("engine 2   weights") if moment == "starting" else service.wait_ready()
        joined.signal(number)
        status = joined.wait()
        assert status == (-signal.SIGKILL if number is signal.SIGKILL else 128 + signal.SIGINT)
        joined.assert_nothing_left()
        assert service.wait() == ExitCode.FAILED
        report = service.stderr[service.stderr.rindex("\nengine ") :]
        assert re.search(r"^engine [12] \(pid \d+ on 127.0.0.1\) failed ", report.strip())
        assert ("gave up: stopped by SIGINT" in report) == (number is signal.SIGINT)
        service.assert_nothing_left()


def test_what_a_killed_node_had_comes_back_with_others_that_join_and_no_stream_shows_it(
    checkpoint_folder: Path,
) -> None:
    flags = ("--api-servers-per-node", "1", "--synthetic-rate", "60")
    with serve(checkpoint_folder, 3, 1, *flags) as service, join(control_of(service), 1, 2) as joined:
        service.wait_ready()
        wanted = undisturbed(service.address, 8)
        with streams(service.address, 8) as started:
            joined.signal(signal.SIGKILL)
            assert [stream.result() for stream in started] == wanted
        joined.wait()
        joined.assert_nothing_left()
        service.wait_for("ranks 1 and 2 can join again: phalanx join ... --data-parallel-start-rank 1")
        with urllib.request.urlopen(f"{service.address}/ready") as ready:
            assert json.load(ready)["missing_ranks"] == [1, 2]
        # Not one machine but two, each with an API server: one in the place of that which is gone, and a new one.
        with join(control_of(service), 1, 1) as first, join(control_of(service), 2, 1) as second:
            service.wait_for("engine 1 serves again").wait_for("engine 2 serves again").wait_for("api 1 serves again")
            service.wait_for("api 2      ready")
            for successor in (first, second):
                found = re.search(r"API servers at (\S+)", successor.stderr)
                assert found
                (name,) = (name for name in successor.processes() if name.startswith("phalanx api "))
                server = ThroughOneServer(found.group(1), successor.processes()[name])
                assert set(server.requests_in_each_rank()) == {0, 1, 2}
                assert undisturbed(found.group(1), 8) == wanted
            assert service.stop() == 0
            assert (first.wait(), second.wait()) == (0, 0)


@pytest.mark.usefixtures("port_grabber")
def test_nodes_join_while_every_free_port_is_stolen(checkpoint_folder: Path) -> None:
    for _ in range(2):
        flags = ("--api-servers-per-node", "2", "--tensor-parallel-size", "2")
        with serve(checkpoint_folder, 2, 1, *flags) as service, join(control_of(service), 1, 1) as joined:
            service.wait_ready()
            assert answers(service.address, checkpoint_folder) == 5
            assert service.stop() == 0
            assert joined.wait() == 0


def test_nothing_of_a_node_outlives_a_killed_supervisor(checkpoint_folder: Path) -> None:
    with serve(checkpoint_folder, 2, 1) as service, join(control_of(service), 1, 1) as joined:
        service.wait_ready()
        service.signal(signal.SIGKILL)
        service.wait()
        assert joined.wait() == EXIT_ORPHANED
        assert re.search(r"phalanx join: the service at tcp:127.0.0.1:\d+ is gone: ", joined.stderr)
        joined.assert_nothing_left()
        service.seconds_until_no_process_is_left()


def test_a_rank_on_a_node_that_fails_is_named_with_its_machine_and_last_words(checkpoint_folder: Path) -> None:
    drill = ("--synthetic-stage", "1:cache=raise")
    with serve(checkpoint_folder, 2, 1, *drill) as service, join(control_of(service), 1, 1) as joined:
        assert service.wait() == ExitCode.FAILED
        assert re.search(r"\nengine 1 \(pid \d+ on 127.0.0.1\) failed in stage cache, ", service.stderr)
        assert "DrillFailure: rank 1 was told to fail" in service.stderr
        assert joined.wait() == 1
        assert joined.stderr.endswith("the service ended; engine 1 failed here: exit status 1\n")
        joined.assert_nothing_left()
        service.assert_nothing_left()


@pytest.fixture
def machines() -> Iterator[Machines]:
    with two_machines() as machines:
        yield machines


def test_two_machines_and_the_node_is_there_first(machines: Machines, checkpoint_folder: Path) -> None:
    with contextlib.ExitStack() as stack:
        early = stack.enter_context(join(f"{HEAD}:7000", 1, 1, on=machines.on_node))
        early.wait_for(f"waiting up to 600 s for tcp:{HEAD}:7000: Connection refused")
        flags = ("--data-parallel-rpc-port", "7000", "--api-servers-per-node", "1", "--host", "0.0.0.0", "--port=8000")
        service = stack.enter_context(
            Service(
                *(str(checkpoint_folder), "--engine", "synthetic", "-dp", "2", "--data-parallel-size-local", "1"),
                *flags,
                command=(*machines.on_head, *SERVE),
                env=WITH_SECRET,
            )
        ).wait_ready()
        assert f"http://{NODE}:8000" in service.stdout
        for url in (f"http://{NODE}:8000", f"http://{HEAD}:8000"):
            body = json.dumps({"model": str(checkpoint_folder), "prompt": "Hello", "max_tokens": 5})
            for on in (machines.on_head, machines.on_node):
                assert '"completion_tokens":5' in fetched(on, f"{url}/v1/completions", body)
            ranks = json.loads(fetched(machines.on_head, f"{url}/ready"))["ranks"]
            assert {rank["rank"] for rank in ranks} == {0, 1}
        assert service.stop() == 0
        assert early.wait() == 0
        early.assert_nothing_left()


def fetched(on: tuple[str, ...], url: str, body: str = "", key: str = "") -> str:
    """What a client on a machine is answered."""
    script = (
        "import sys, urllib.request as r; "
        "print(r.urlopen(r.Request(sys.argv[1], sys.argv[2].encode() or None,"
        " {'Content-Type': 'application/json', 'Authorization': sys.argv[3]}), timeout=60).read().decode())"
    )
    command = [*on, sys.executable, "-S", "-c", script, url, body, f"Bearer {key}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_a_cable_that_is_pulled_out_in_any_stage_is_noticed_at_both_ends(
    machines: Machines, checkpoint_folder: Path
) -> None:
    services: dict[str, tuple[Service, Program]] = {}
    with contextlib.ExitStack() as stack:
        for stage in (*STAGES, "serving"):  # one after another into their stages, then all wait together
            drill = ("--max-restarts", "0") if stage == "serving" else ("--synthetic-stage", f"{stage}=hang")
            service = stack.enter_context(
                Service(
                    *(str(checkpoint_folder), "--engine", "synthetic", "-dp", "1", "--data-parallel-size-local", "0"),
                    *("--data-parallel-address", HEAD, *drill),
                    command=(*machines.on_head, *SERVE),
                    env=WITH_SECRET,
                )
            )
            joined = stack.enter_context(join(control_of(service), 0, 1, on=machines.on_node))
            if stage == "serving":
                service.wait_ready()
            else:
                service.wait_for(f"engine 0   {stage}")
            services[stage] = service, joined
        machines.cut()
        for stage, (service, joined) in services.items():
            assert service.wait() == ExitCode.FAILED, stage
            where = "after serving for" if stage == "serving" else f"in stage {stage}, "
            # Its own connection or its node's: the kernel gives up on one of them first.
            named = rf"\nengine 0 \(pid \d+ on {NODE}\) failed {where}.*Connection timed out\)?\n"
            assert re.search(named, service.stderr), service.stderr
            service.assert_nothing_left()
            assert joined.wait() == EXIT_ORPHANED
            assert f"phalanx join: the service at tcp:{HEAD}:" in joined.stderr
            joined.assert_nothing_left()
