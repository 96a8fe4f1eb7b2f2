"""The Ray driver's process under test, and the nodes it starts, with a supervisor that the test plays itself."""

import contextlib
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
from support.rank_process import DEADLINE, EOF, Reader, accept, end_of, see_off
from support.ray_nodes import RayCluster

from phalanx.config import Config, EngineOptions, HttpOptions, ModelFacts, ModelOptions, ParallelOptions, ServiceOptions
from phalanx.protocol import (
    ApiServers,
    ClusterPlan,
    Failed,
    Hello,
    NodeEnded,
    NodeHello,
    NodeStarting,
    Place,
    Ready,
    ReleaseNode,
    Role,
    Stage,
    StartNode,
    Stop,
    ToSupervisor,
    Welcome,
)
from phalanx.transport.listener import address_of, bind_tcp, bind_unix

SECRET = "a secret that only these two know"
T = TypeVar("T")


def config(*, engine: dict[str, Any] | None = None, **parallel: Any) -> Config:
    """A service of synthetic ranks on Ray that ask for GPUs."""
    return Config(
        model=ModelOptions(),
        parallel=ParallelOptions(**{"data_parallel_backend": "ray", **parallel}),
        engine=EngineOptions(**{"engine": "synthetic", "device": "cuda", **(engine or {})}),
        http=HttpOptions(),
        service=ServiceOptions(),
        facts=ModelFacts("", "LlamaForCausalLM", 1000, 4096, (2,), {}),
    )


class Driver:
    """The process, welcomed; everything it reports, in order."""

    def __init__(self, folder: Path, configuration: Config, environment: dict[str, str]) -> None:
        self._listener = bind_unix(folder / f"control-{time.monotonic_ns()}")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "phalanx.ray_backend", "--control", address_of(self._listener), "--index", "0"],
            env={**inherited, "PHALANX_SECRET": SECRET, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ray makes a driver's working folder importable for its actors.
            cwd=folder,
        )
        self._control = Reader(accept(self._listener, SECRET.encode()), ToSupervisor)
        hello = self._control.until(Hello)
        assert hello.role is Role.RAY
        self.reports: list[Any] = []
        self.tell(Welcome(configuration, ApiServers(())))

    def tell(self, message: Any) -> None:
        self._control.channel.send(message)

    def until(self, kind: type[T]) -> T:
        """The next report of a kind; a failure or the end instead fails the test."""
        while True:
            message = self._control.next()
            self.reports.append(message)
            if isinstance(message, kind):
                return message
            assert message is not EOF, f"ended without {kind.__name__}: {self.reports} {self.wait()}"
            assert not isinstance(message, Failed), message

    def reports_until(self, kind: type[T], count: int) -> list[T]:
        """The reports of a kind so far, waiting until there are `count`."""
        while len(found := [report for report in self.reports if isinstance(report, kind)]) < count:
            self.until(kind)
        return found

    def until_detail(self, detail: str) -> None:
        while self.until(Stage).detail != detail:
            pass

    def failed(self) -> str:
        """The reason it gives up with; it must be told as one, without a traceback."""
        while True:
            message = self._control.next()
            self.reports.append(message)
            if isinstance(message, Failed):
                assert not message.traceback, message.traceback
                return message.reason
            assert message is not EOF, f"ended without a word: {self.reports} {self.wait()}"

    def ready(self) -> "Driver":
        self.until(Ready)
        return self

    @property
    def plan(self) -> ClusterPlan:
        return next(report for report in self.reports if isinstance(report, ClusterPlan))

    @property
    def details(self) -> list[str]:
        """What it has said on the way."""
        return [report.detail for report in self.reports if isinstance(report, Stage | Ready)]

    def start_node(self, control: str, place: Place | None = None, host: str = "") -> None:
        self.tell(StartNode(control, (place,) if place else (), host))

    def release(self, *places: Place, host: str = "") -> None:
        self.tell(ReleaseNode(places, host))

    def until_it_waits_for(self, words: str) -> None:
        while self.until(NodeStarting).waiting_for != words:
            pass

    def ended(self) -> NodeEnded:
        return self.until(NodeEnded)

    def stop(self) -> tuple[int, str]:
        self.tell(Stop())
        return self.wait()

    def wait(self) -> tuple[int, str]:
        """Its exit status and all it printed."""
        return end_of(self.process)

    def close(self) -> None:
        self._control.close()  # an orphan ends at once
        self._listener.close()
        see_off(self.process)


@contextlib.contextmanager
def running(
    folder: Path, cluster: RayCluster | None, environment: dict[str, str] | None = None, **parallel: Any
) -> Iterator[Driver]:
    """A driver that has been welcomed; with a cluster, it is told to join that."""
    if cluster is not None:
        parallel["ray_address"] = cluster.address
    driver = Driver(folder, config(**parallel), {**(cluster.environment if cluster else {}), **(environment or {})})
    try:
        yield driver
    finally:
        driver.close()


class NodeDesk:
    """The supervisor's TCP control listener: takes what nodes say first, and holds their connections."""

    def __init__(self) -> None:
        self._listener = bind_tcp("127.0.0.1")
        self.address = address_of(self._listener)
        self._arrived: queue.Queue[NodeHello] = queue.Queue()
        self._readers: list[Reader] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                reader = Reader(accept(self._listener, SECRET.encode()), ToSupervisor)
                self._readers.append(reader)
                self._arrived.put(reader.until(NodeHello))

    def next(self) -> NodeHello:
        """The next node that has dialled and proved that it knows the secret."""
        return self._arrived.get(timeout=DEADLINE)

    def gather(self, count: int) -> dict[Place, psutil.Process]:
        """The processes of so many nodes, by the place they bring."""
        found = {}
        for _ in range(count):
            hello = self.next()
            found[hello.places[0]] = psutil.Process(hello.pid)
        return found

    def hang_up(self) -> None:
        """Close all connections, so that the nodes end."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(DEADLINE)
        for reader in self._readers:
            reader.close()
        self._readers.clear()


def rank(index: int, worker: int = 0) -> Place:
    return Place(Role.ENGINE, index, worker)
