"""The Ray driver plans in numbers, starts nodes where it planned, and tells every end of one by name."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from support.dispositions import ignored_by, ignored_here
from support.driver_process import DEADLINE, SECRET, NodeDesk, rank, running
from support.ray_nodes import ADDRESSES, GPUS, RayCluster, wait_until

import phalanx
from phalanx.protocol import NodeStarting

SUPPORT = Path(__file__).parents[1] / "support"
FIRST, SECOND = ADDRESSES


@contextmanager
def another_job(cluster: RayCluster, gpus: int) -> Iterator[None]:
    """Somebody else's actor holds so many GPUs of the head's node."""
    job = subprocess.Popen(
        [sys.executable, str(SUPPORT / "holder.py"), cluster.address, str(gpus)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **cluster.environment},
    )
    try:
        assert job.stdout is not None
        assert job.stdout.readline() == b"held\n"
        yield
    finally:
        job.communicate()


def test_nodes_start_where_planned_each_with_gpus_of_its_own_and_stop_leaves_nothing(
    ray_cluster: RayCluster, desk: NodeDesk, tmp_path: Path
) -> None:
    with running(
        tmp_path, ray_cluster, data_parallel_size=5, tensor_parallel_size=3, data_parallel_pack="span"
    ) as driver:
        driver.ready()
        # Two whole ranks on each node, and the fifth over what is left of both.
        assert driver.plan.nodes == (FIRST,) * 6 + (FIRST, FIRST, SECOND) + (SECOND,) * 6
        assert (driver.plan.head, driver.plan.address) == (FIRST, "127.0.0.1")
        assert driver.details[-1] == "5 placement groups on 2 nodes, 1 of them over several"
        places = [rank(2, worker) for worker in range(3)] + [rank(3)]
        for place in places:
            driver.start_node(desk.address, place)
        hellos = {hello.places[0]: hello for hello in (desk.next() for _ in places)}
        assert {place: hello.address for place, hello in hellos.items()} == {
            rank(2, 0): FIRST,
            rank(2, 1): FIRST,
            rank(2, 2): SECOND,
            rank(3): SECOND,
        }
        nodes = {place: psutil.Process(hello.pid) for place, hello in hellos.items()}
        devices = {place: node.environ()["CUDA_VISIBLE_DEVICES"] for place, node in nodes.items()}
        assert devices[rank(2, 0)] != devices[rank(2, 1)]
        assert devices[rank(2, 2)] != devices[rank(3)]
        waits = [report.waiting_for for report in driver.reports_until(NodeStarting, 2 * len(places))]
        assert waits.count(f"its actor on {SECOND}") == waits.count(f"its node on {SECOND} to dial us") == 2
        desk.hang_up()  # as a supervisor that ends does: nodes end by themselves
        assert driver.stop() == (0, "")
    assert all(not node.is_running() or node.status() == psutil.STATUS_ZOMBIE for node in nodes.values())
    with running(tmp_path, ray_cluster, data_parallel_size=2 * GPUS) as successor:
        successor.ready()  # every GPU is free again


def test_a_node_inherits_what_is_meant_for_it_and_nothing_that_is_meant_for_ray(
    ray_cluster: RayCluster, desk: NodeDesk, tmp_path: Path
) -> None:
    runtime = '{"env_vars": {"OMP_NUM_THREADS": "3", "NCCL_DEBUG": "WARN"}}'
    with running(tmp_path, ray_cluster, ray_runtime_env=runtime) as driver:
        driver.ready().start_node(desk.address, rank(0))
        node = psutil.Process(desk.next().pid)
        environment = node.environ()
        assert (environment["OMP_NUM_THREADS"], environment["NCCL_DEBUG"]) == ("3", "WARN")
        assert not any(name.startswith("RAY_") for name in environment)
        assert node.ppid() in {process.pid for process in ray_cluster.nodes[0].processes("NodeActor")}
        # Ray keeps what it was told in files: the secret is in none, and in no command line.
        assert "phalanx-" in ray_cluster.records()
        assert SECRET not in ray_cluster.records()


def test_what_the_driver_was_started_to_ignore_it_ignores_whatever_ray_sets(
    ray_cluster: RayCluster, tmp_path: Path
) -> None:
    with ignored_here(signal.SIGTERM, signal.SIGHUP), running(tmp_path, ray_cluster) as driver:
        driver.ready()
        assert {signal.SIGTERM, signal.SIGHUP} <= ignored_by(driver.process.pid)
        assert driver.stop() == (0, "")


def test_a_node_that_only_serves_starts_on_the_machine_asked_for(
    ray_cluster: RayCluster, desk: NodeDesk, tmp_path: Path
) -> None:
    with running(tmp_path, ray_cluster, data_parallel_nodes=(SECOND,)) as driver:
        driver.ready()
        assert driver.plan.nodes == (SECOND,)
        driver.start_node(desk.address, host=SECOND)
        hello = desk.next()
        assert (hello.places, hello.serves, hello.address) == ((), True, SECOND)
        psutil.Process(hello.pid).kill()
        ended = driver.ended()
        assert (ended.places, ended.host) == ((), SECOND)
        assert ended.reason == f"its node on {SECOND} was killed by signal 9"


def test_a_node_or_actor_that_dies_is_told_and_can_be_started_again(
    ray_cluster: RayCluster, desk: NodeDesk, tmp_path: Path
) -> None:
    with running(tmp_path, ray_cluster, data_parallel_size=2) as driver:
        driver.ready()
        for index in (0, 1):
            driver.start_node(desk.address, rank(index))
        nodes = desk.gather(2)
        nodes[rank(0)].kill()
        ended = driver.ended()
        assert (ended.places, ended.reason) == ((rank(0),), f"its node on {FIRST} was killed by signal 9")

        psutil.Process(nodes[rank(1)].ppid()).kill()
        ended = driver.ended()
        assert ended.places == (rank(1),)
        assert ended.reason.startswith(f"its actor on {FIRST} has died: The actor is dead because its worker process")
        assert "\n" not in ended.reason
        wait_until(lambda: not alive(nodes[rank(1)]), "the end of the node whose actor died")

        for index in (1, 0):
            driver.start_node(desk.address, rank(index))
        assert set(desk.gather(2)) == {rank(0), rank(1)}


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_node_of_another_release_is_told_with_what_to_do(
    ray_cluster: RayCluster, desk: NodeDesk, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "phalanx"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("__version__ = '0.0.1'\n")
    (other / "child.py").write_text("")
    runtime = f'{{"env_vars": {{"PYTHONPATH": "{other.parent}"}}}}'
    with running(tmp_path, ray_cluster, ray_runtime_env=runtime) as driver:
        driver.ready().start_node(desk.address, rank(0))
        reason = driver.ended().reason
        assert reason.startswith(f"{FIRST} cannot run a node: phalanx is 0.0.1 there, {phalanx.__version__} here: ")
        assert "install the same release, or ship it with --ray-runtime-env" in reason


def test_what_does_not_fit_is_refused_in_numbers_with_who_holds_the_rest(
    ray_cluster: RayCluster, tmp_path: Path
) -> None:
    with another_job(ray_cluster, 3), running(tmp_path, ray_cluster, data_parallel_size=6) as other:
        other.ready()
        with (
            running(tmp_path, ray_cluster, data_parallel_size=2 * GPUS) as driver,
            running(tmp_path, ray_cluster, data_parallel_size=2 * GPUS) as impatient,
        ):
            # It gives what has just ended a moment to come free; told to stop meanwhile, it stops.
            impatient.until_detail("2 nodes, 16 GPUs")
            assert impatient.stop() == (0, "")
            reason = driver.failed()
            assert driver.wait()[0] == 1
    fields = re.fullmatch(r"16 ranks need 16 GPUs, and only 7 fit\. (.*); (.*)", reason)
    assert fields, reason
    head = next(part for part in fields.groups() if part.startswith(FIRST))
    assert re.match(rf"{FIRST} \(this machine\): \d of 8 GPUs free, ", head)
    assert re.search(r"3 held by actor Trainer of job \S+ \(python \S*holder\.py ", head)
    assert re.search(r"\d held by phalanx-[0-9a-f]{4}-rank-\d and \d more of job", reason)


def test_a_group_that_stays_pending_is_given_up_in_numbers(ray_cluster: RayCluster, tmp_path: Path) -> None:
    with running(tmp_path, ray_cluster, data_parallel_size=GPUS - 1, data_parallel_nodes=(SECOND,)) as other:
        other.ready()
        late = subprocess.run(
            [sys.executable, str(SUPPORT / "late_group.py"), ray_cluster.address],
            capture_output=True,
            text=True,
            env={**os.environ, **ray_cluster.environment},
            timeout=DEADLINE,
        )
    told = late.stdout.splitlines()
    waiting = rf"0\.5 1 node; placement group 1 of 2; rank (\d) waits for 1 GPU on {SECOND}"
    first = next(found for line in told if (found := re.fullmatch(waiting, line))).group(1)
    reason = told[-1]
    assert reason.startswith(
        f"no placement group for rank {first} within 0.5 s (--node-timeout); rank {first} needs 1 GPU on {SECOND}. "
        f"{SECOND}: 0 of 8 GPUs free, "
    )
    assert re.search(r"1 held by phalanx-late-rank-\d of job \S+ \(python \S*late_group\.py ", reason), reason
    assert re.search(r"7 held by phalanx-\S+ and 6 more of job \S+ \(phalanx ray\)", reason), reason


def test_a_driver_that_is_killed_leaves_no_group_and_no_node(
    ray_cluster: RayCluster, desk: NodeDesk, tmp_path: Path
) -> None:
    with running(tmp_path, ray_cluster, data_parallel_size=2 * GPUS) as driver:
        driver.ready().start_node(desk.address, rank(15))
        node = desk.gather(1)[rank(15)]
        driver.process.kill()
    wait_until(lambda: not alive(node), "the end of the node")
    with running(tmp_path, ray_cluster, data_parallel_size=2 * GPUS) as successor:
        successor.ready()


@pytest.mark.parametrize(
    ("parallel", "reason"),
    [
        ({"ray_address": "127.0.0.1:1"}, r"--ray-address 127\.0\.0\.1:1: no Ray cluster answers there \(.*refused\)"),
        ({"ray_address": "ray://here:1"}, r"--ray-address ray://here:1: give HOST:PORT of the Ray head; .*"),
        ({"ray_address": "nonsense"}, r"--ray-address nonsense: not HOST:PORT \(.*\)"),
        ({"ray_runtime_env": "{]"}, r"--ray-runtime-env: .*"),
    ],
)
def test_an_address_that_leads_nowhere_is_refused_at_once(
    parallel: dict[str, str], reason: str, tmp_path: Path
) -> None:
    with running(tmp_path, None, **parallel) as driver:
        assert re.fullmatch(reason, driver.failed())
        assert driver.wait() == (1, "")


def test_an_address_left_over_in_the_environment_is_refused_by_its_name(tmp_path: Path) -> None:
    with running(tmp_path, None, {"RAY_ADDRESS": "127.0.0.1:1"}) as driver:
        assert driver.failed().startswith("RAY_ADDRESS 127.0.0.1:1: no Ray cluster answers there")


def test_what_ran_on_a_node_that_died_waits_for_room_or_for_its_machine_and_a_dead_head_ends_the_service(
    desk: NodeDesk, tmp_path: Path
) -> None:
    span = {"data_parallel_size": 5, "tensor_parallel_size": 3, "data_parallel_pack": "span"}
    with RayCluster() as cluster, running(tmp_path, cluster, **span) as driver:
        driver.ready()  # two whole ranks on each node, and rank 2 over both
        for place in (rank(0), rank(2), rank(2, 2), rank(3)):
            driver.start_node(desk.address, place)
        nodes = desk.gather(4)
        cluster.nodes[1].kill("raylet")
        ended = [driver.ended() for _ in range(3)]
        lost = {rank(2), rank(2, 2), rank(3)}  # a rank goes as a whole, and gives back what it has elsewhere
        assert {report.places[0] for report in ended} == lost
        gone = rf"the Ray node {SECOND} is gone: nobody answers at \S+ any more \(.*\)"
        assert all(re.fullmatch(gone, report.reason) for report in ended), ended
        wait_until(lambda: not any(alive(nodes[place]) for place in lost), "the end of what ran there")
        assert alive(nodes[rank(0)])

        # Ray still counts its eight GPUs as free; we know better, and wait without holding up anybody else.
        for place in sorted(lost, key=str):
            driver.start_node(desk.address, place)
        driver.start_node(desk.address, host=SECOND)
        waits = {report.places: report.waiting_for for report in (driver.until(NodeStarting) for _ in range(4))}
        assert waits.pop(()) == f"the Ray node {SECOND} to come back"
        assert waits == {(place,): f"3 GPUs on {FIRST}" for place in lost}

        # What somebody gives back is used at once, by the rank that waits with the lowest number ...
        driver.release(rank(0))
        arrived = [desk.next(), desk.next()]
        assert {(hello.places[0], hello.address) for hello in arrived} == {(rank(2), FIRST), (rank(2, 2), FIRST)}
        assert not alive(nodes[rank(0)])
        # ... and so is a node that joins, by whoever waits: for room, or for that machine.
        cluster.add(SECOND)
        arrived = [desk.next(), desk.next()]
        assert {(hello.places, hello.address) for hello in arrived} == {((rank(3),), SECOND), ((), SECOND)}

        # Ranks that there were not at first are placed like them; and the new node is watched, too.
        driver.start_node(desk.address, rank(12))
        assert ((hello := desk.next()).places, hello.address) == ((rank(12),), SECOND)
        cluster.nodes[2].kill("raylet")
        ended = [driver.ended() for _ in range(3)]
        assert {report.places for report in ended} == {(), (rank(3),), (rank(12),)}
        assert all(re.fullmatch(gone, report.reason) for report in ended), ended

        cluster.nodes[0].freeze_launcher()  # it would end this machine's node too: another way to hear of it
        cluster.nodes[0].kill("gcs_server")
        assert driver.failed() == (
            f"the Ray head is gone: nobody answers at {cluster.address} any more (Connection refused)"
        )
        status, printed = driver.wait()
        assert status == 1
        assert set(printed.splitlines()) == {
            f"WARNING: the API servers of {SECOND} wait for the Ray node {SECOND} to come back",
            f"WARNING: rank 2 waits for 3 GPUs on {FIRST}",
            f"WARNING: rank 3 waits for 3 GPUs on {FIRST}",
            f"INFO: rank 2 is placed on {FIRST}",
            f"INFO: rank 3 is placed on {SECOND}",
            f"INFO: rank 12 is placed on {SECOND}",
        }


def test_a_node_that_dies_before_its_groups_are_there_ends_the_start(tmp_path: Path) -> None:
    with RayCluster() as cluster:
        cluster.nodes[1].freeze("raylet")  # it takes no order any more, and Ray has not noticed yet
        with running(tmp_path, cluster, data_parallel_nodes=(SECOND,)) as driver:
            driver.until_detail("joining the Ray cluster at " + cluster.address)
            driver.until_detail(f"1 node; placement group 0 of 1; rank 0 waits for 1 GPU on {SECOND}")
            cluster.nodes[1].kill("raylet")
            assert driver.failed().startswith(f"the Ray node {SECOND} is gone: ")


def test_a_cluster_that_wants_a_token_says_so_and_the_end_of_this_machine_s_node_is_told(tmp_path: Path) -> None:
    with RayCluster(ADDRESSES[:1], token="0" * 32 + "1" * 32) as cluster:
        with running(tmp_path, cluster, {"RAY_AUTH_TOKEN": "2" * 64}) as stranger:
            assert stranger.failed() == (
                f"the Ray cluster at {cluster.address} does not let us in: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN "
                "(or RAY_AUTH_TOKEN_PATH) to the cluster's own (RAY_AUTH_MODE is token)"
            )
        with running(tmp_path, cluster) as driver:
            driver.ready()
            cluster.nodes[0].freeze_launcher()  # it would end the head too, and then that would be told
            cluster.nodes[0].kill("raylet")
            assert driver.failed().startswith("this machine's Ray node is gone: nobody answers at ")
            assert driver.wait() == (1, "")


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_cluster_of_the_service_s_own_is_gone_after_it(end: str, desk: NodeDesk, tmp_path: Path) -> None:
    """Also where the driver is killed: its files, and Ray's processes, which would go on for half a minute."""
    with running(
        tmp_path,
        None,
        {"HOME": str(tmp_path)},
        ray_address="local",
        data_parallel_size=3,
        engine={"device": "cpu"},
    ) as driver:
        # One of those that it was started with, and one more: here ranks share the cores, as without Ray.
        driver.ready().start_node(desk.address, rank(2))
        further = rank(2 * (os.cpu_count() or 1) + 3)
        driver.start_node(desk.address, further)
        node = desk.gather(2)[rank(2)]
        processes = psutil.Process(driver.process.pid).children(recursive=True)
        folder = folder_of(processes)
        assert node in processes
        if end == "stop":
            desk.hang_up()
            status, printed = driver.stop()
            assert status == 0
            assert re.fullmatch(rf"INFO: rank {further.index} is placed on \S+\n", printed)
        else:
            driver.process.kill()
    wait_until(lambda: not any(map(alive, processes)) and not folder.exists(), "the end of the cluster")
    assert not (tmp_path / ".ray").exists()


def folder_of(processes: list[psutil.Process]) -> Path:
    """Of the cluster they make up."""
    arguments = " ".join(argument for process in processes for argument in process.cmdline())
    found = re.search(r"/tmp/phalanx-\w+", arguments)
    assert found, arguments
    return Path(found.group())
