"""Ranks as Ray actors on a simulated cluster of two nodes: no address that nobody listens at, no start that hangs."""

import contextlib
import http.client
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from support.ray_nodes import GPUS, RayCluster, RayNode, wait_until
from support.service import Service
from support.streams import streams, undisturbed

STAGES = ("started", "imported", "weights", "cache", "warm-up", "attached")
BOUND = 30.0
"""Seconds from a fault to the end of the service, at most; what a half-open connection takes to be noticed included."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with RayCluster() as nodes:
        yield nodes


@pytest.fixture
def on_ray(cluster: RayCluster, start_service: Callable[..., Service]) -> Callable[..., Service]:
    def start(*flags: str, env: dict[str, str] | None = None) -> Service:
        ray = ("--data-parallel-backend", "ray", "--ray-address", cluster.address, "--device", "cuda")
        return start_service("--engine", "synthetic", *ray, *flags, env={**cluster.environment, **(env or {})})

    return start


def answers(address: str, pairs: int) -> set[tuple[str | None, str | None]]:
    """(API server, rank) of chats until `pairs` different ones have answered."""
    seen: set[tuple[str | None, str | None]] = set()
    body = json.dumps({"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 4})
    for _ in range(60 * pairs):
        # A connection of its own for each: the kernel spreads connections over the API servers.
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
        with contextlib.closing(connection):
            connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        assert answer.status == 200, text
        assert json.loads(text)["choices"][0]["message"]["content"]
        seen.add((answer.headers["x-phalanx-api-server"], answer.headers["x-phalanx-ranks"]))
        if len(seen) == pairs:
            break
    return seen


def process_of(cluster: RayCluster, name: str) -> psutil.Process:
    wait_until(lambda: name in below(cluster, name), f"the process of {name}")
    return below(cluster, name)[name]


def below(cluster: RayCluster, title: str) -> dict[str, psutil.Process]:
    """Processes on the cluster's nodes that call themselves `phalanx TITLE...`, by the rest of their name."""
    found = {}
    for node in cluster.nodes:
        for process in node.processes(f"phalanx {title}"):
            with_title = " ".join(process.cmdline()).strip()
            if with_title.startswith("phalanx "):
                found[with_title.removeprefix("phalanx ")] = process
    return found


def below_all(cluster: RayCluster, title: str) -> list[psutil.Process]:
    """As `below`, where several services have one of that name."""
    wanted = f"phalanx {title}"
    return [p for node in cluster.nodes for p in node.processes(wanted) if " ".join(p.cmdline()).strip() == wanted]


def assert_nothing_left(cluster: RayCluster) -> None:
    wait_until(lambda: not below(cluster, ""), "the end of every node and rank")


def listening(process: psutil.Process) -> set[tuple[str, int]]:
    return {(c.laddr.ip, c.laddr.port) for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}


def dialled(process: psutil.Process) -> set[tuple[str, int]]:
    established = [c for c in process.net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED]
    return {(c.raddr.ip, c.raddr.port) for c in established}


@pytest.mark.parametrize(("ranks", "servers"), [(8, 2), (16, 8)], ids=["TP1DP8 on one node", "TP1DP16 on two"])
def test_each_rank_reaches_each_api_server_at_a_real_address_and_answers_through_it(
    ranks: int, servers: int, cluster: RayCluster, on_ray: Callable[..., Service], tmp_path: Path
) -> None:
    audit = tmp_path / "audit"
    flags = ("-dp", str(ranks), "--api-server-count", str(servers))
    service = on_ray(*flags, env={"PHALANX_AUDIT_LISTENERS": str(audit)}).wait_ready()
    found = below(cluster, "engine")
    assert sorted(found) == sorted(f"engine {rank}" for rank in range(ranks))
    nodes = [{int(name.split()[1]) for name in below_one(node)} for node in cluster.nodes]
    assert [len(held) for held in nodes] == [8, ranks - 8]

    api = [psutil.Process(service.pid_of(f"api {index}")) for index in range(servers)]
    ports = [{port for _, port in listening(process)} for process in api]
    for process in found.values():
        # Each at an address of its own, none of it deferred: the kernel shows both ends of the connection.
        reached = dialled(process)
        assert all(any(port in held for _, port in reached) for held in ports)
        assert not {("0.0.0.0", port) for _, port in reached} & reached
    assert len({process.environ()["CUDA_VISIBLE_DEVICES"] + process.name() for process in found.values()}) >= 8
    told = audit.read_text().splitlines()
    assert len(told) > ranks * servers
    assert {line.partition(" ")[2] for line in told} == {"listens"}

    pairs = {(str(server), str(rank)) for server in range(servers) for rank in range(ranks)}
    assert answers(service.address, len(pairs)) == pairs
    assert service.stop() == 0
    assert_nothing_left(cluster)


def below_one(node: RayNode) -> list[str]:
    titles = [" ".join(process.cmdline()).strip() for process in node.processes("phalanx engine")]
    return [title.removeprefix("phalanx ") for title in titles if title.startswith("phalanx ")]


def test_a_rank_too_large_for_a_node_spans_two_and_is_refused_where_it_must_not(
    cluster: RayCluster, on_ray: Callable[..., Service]
) -> None:
    refused = on_ray("-tp", "9")
    assert refused.wait() == 1
    assert "127.0.0.2 (this machine): 8 of 8 GPUs free; 127.0.0.3: 8 of 8 GPUs free" in refused.stderr

    service = on_ray("-tp", "9", "--data-parallel-pack", "span", "--max-restarts", "0").wait_ready()
    assert sorted(len(below_one(node)) for node in cluster.nodes) == [1, 8]
    assert answers(service.address, 1) == {("0", "0")}
    lost = process_of(cluster, "engine 0 tp 8")
    lost.kill()
    assert service.wait(BOUND) == 1
    assert re.search(r"engine 0 tp 8 \(pid \d+ on 127\.0\.0\.3\) failed .*: killed by SIGKILL", service.stderr)
    assert_nothing_left(cluster)


def stuck_in_every_stage(cluster: RayCluster, on_ray: Callable[..., Service], other: str) -> dict[str, Service]:
    """A service for each stage, whose rank 1 is on the node `other` and stays in that stage; the last one serves."""
    strict = ("--data-parallel-pack", "strict", "--data-parallel-size-local", "1", "--startup-timeout", "60")
    where = ("--data-parallel-nodes", cluster.nodes[0].address, other, "--max-restarts", "0")
    stages = (*STAGES, "ready")
    services = {stage: on_ray("-dp", "2", *strict, *where, "--synthetic-stage", f"1:{stage}=hang") for stage in stages}
    for stage, service in services.items():
        service.wait_ready() if stage == "ready" else service.wait_for(f"engine 1   {stage}")
    # The stage `started` is shown before the rank has told its name.
    wait_until(lambda: len(below_all(cluster, "engine 1")) == len(services), "every rank 1")
    return services


def assert_all_end(services: dict[str, Service], node: str) -> None:
    for stage, service in services.items():
        assert service.wait(BOUND) == 1, stage
        where = "after serving" if stage == "ready" else f"in stage {stage}"
        found = re.search(rf"engine 1 \(pid \d+ on {re.escape(node)}\) failed {where}", service.stderr)
        assert found, f"{stage}: {service.stderr}"
        service.assert_nothing_left()


def test_an_actor_that_is_killed_in_any_stage_is_named_and_ends_the_service(
    cluster: RayCluster, on_ray: Callable[..., Service]
) -> None:
    services = stuck_in_every_stage(cluster, on_ray, cluster.nodes[1].address)
    for rank in below_all(cluster, "engine 1"):
        rank.parents()[1].kill()
    assert_all_end(services, cluster.nodes[1].address)
    assert_nothing_left(cluster)


def test_a_node_of_the_cluster_that_dies_in_any_stage_is_named_and_ends_the_service(
    cluster: RayCluster, on_ray: Callable[..., Service]
) -> None:
    doomed = cluster.add("127.0.0.4")
    services = stuck_in_every_stage(cluster, on_ray, doomed.address)
    doomed.kill("raylet")
    assert_all_end(services, doomed.address)
    assert_nothing_left(cluster)
    cluster.remove(doomed)


def test_ranks_are_added_released_and_replaced_and_no_stream_shows_it(
    cluster: RayCluster, on_ray: Callable[..., Service]
) -> None:
    """Their process, actor and machine die; a machine comes back."""
    second = cluster.nodes[1]
    doomed = cluster.add("127.0.0.4", gpus=2 * GPUS)  # so it is the one that strict takes beside ours
    flags = ("--data-parallel-pack", "strict", "--data-parallel-size-local", "1", "--api-servers-per-node", "1")
    admin = ("--admin-key", "an-admin-key-of-the-tests")
    service = on_ray("-dp", "2", *flags, "--synthetic-rate", "60", *admin).wait_ready()
    assert below_one(doomed) == ["engine 1"]
    wanted = undisturbed(service.address, 8)

    def scale(size: int) -> None:
        headers = {"authorization": f"Bearer {admin[1]}"}
        answer = httpx.post(f"{service.address}/admin/scale", json={"data_parallel_size": size}, headers=headers)
        assert answer.status_code == 202, answer.text

    with streams(service.address, 8) as started:
        scale(3)
        wait_until(lambda: ("0", "2") in answers(service.address, 3), "an answer of rank 2")
        assert below_one(second) == ["engine 2"]
        scale(2)
        assert [stream.result() for stream in started] == wanted
    wait_until(lambda: not below_one(second), "the end of rank 2")

    def come_back(kill: Callable[[], None], where: RayNode) -> None:
        """Kill something below eight streams."""
        before = service.stderr.count("engine 1 serves again")
        with streams(service.address, 8) as started:
            kill()
            assert [stream.result() for stream in started] == wanted
        service.wait_until(lambda: service.stderr.count("engine 1 serves again") > before, "engine 1")
        assert below_one(where) == ["engine 1"]

    come_back(lambda: process_of(cluster, "engine 1").kill(), doomed)
    come_back(lambda: process_of(cluster, "engine 1").parents()[1].kill(), doomed)
    assert "its actor on 127.0.0.4 has died" in service.stderr
    come_back(lambda: doomed.kill("raylet"), second)  # where rank 2 has left a place: strict allows one a machine
    service.wait_for("the API servers of 127.0.0.4 wait for the Ray node 127.0.0.4 to come back")

    cluster.remove(doomed)
    again = cluster.add("127.0.0.4")
    service.wait_for("api 1 serves again")
    ports = {port for host, port in listening(process_of(cluster, "api 1")) if host == again.address}
    # Each death has cost one fall, and no start has come to nothing.
    assert "could not be started" not in service.stderr
    assert len(re.findall(r"^engine 1 is started again now", service.stderr, re.MULTILINE)) == 3
    assert {("1", "0"), ("1", "1")} in [served_by(f"http://127.0.0.4:{port}") for port in ports]
    assert service.stop() == 0
    assert_nothing_left(cluster)
    cluster.remove(again)


def served_by(address: str) -> set[tuple[str | None, str | None]]:
    """As `answers` of two; nothing where nobody serves HTTP."""
    try:
        return answers(address, 2)
    except (http.client.HTTPException, OSError):
        return set()


def test_api_servers_on_every_node_are_one_membership(cluster: RayCluster, on_ray: Callable[..., Service]) -> None:
    strict = ("--data-parallel-pack", "strict", "--data-parallel-size-local", "1")
    service = on_ray("-dp", "2", *strict, "--api-servers-per-node", "2").wait_ready()
    here, there = re.findall(r"at (http://\S+) \(2 API servers", service.stdout)
    assert there.startswith("http://127.0.0.3:")
    assert answers(here, 4) == {(server, rank) for server in "01" for rank in "01"}
    assert answers(there, 4) == {(server, rank) for server in "23" for rank in "01"}
    counted = httpx.get(f"{there}/metrics").text
    assert re.search(r"^phalanx:api_servers\S* 4\.0$", counted, re.MULTILINE), counted
    assert service.stop() == 0
    assert_nothing_left(cluster)
