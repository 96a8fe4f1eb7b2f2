"""Start and stop a service again and again while a thief takes every port that becomes free.

    python benchmarks/start_stop.py [--backend mp|join|ray] [--frontend COMMAND] [--times 200] [--no-grabber]
    python benchmarks/start_stop.py --matrix [--frontend COMMAND] [--times 3]

Each turn starts `phalanx serve --engine synthetic --port 0`, sends one completion through the port it printed, stops
it with SIGINT and then looks for anything left: processes of its family, its socket folder. Failures, hangs (over
60 s) and leftovers are counted; the exit code is non-zero if there were any.

`join`: half of the ranks come from a second `phalanx join` process over TCP. `ray`: the ranks are actors on a
simulated cluster of two nodes with eight GPUs each, at loopback addresses of their own. `--matrix` runs every way to
place 8 and 16 ranks with 1, 2, 4 and 8 API servers. `--frontend` names an executable to run in place of the Python
API servers (in the matrix: beside them).
"""

import argparse
import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import middle, percentile, table

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.ray_nodes import RayCluster

HANG = 60.0
SETTLE = 5.0
"""Seconds in which what another machine's process held must be gone, after the service has ended."""
OURS = re.compile(r"\s*\d+ (phalanx (supervisor|api|engine|node|ray)|\S*phalanx-tokens)")


@dataclass(frozen=True)
class Scenario:
    """One way to place a service."""

    backend: str
    ranks: int
    api_servers: int
    per_node: bool = False
    """API servers on the second machine too, as many."""
    frontend: str | None = None

    @property
    def flags(self) -> list[str]:
        flags = ["--engine", "synthetic", "-dp", str(self.ranks), "--port", "0"]
        flags += ["--api-servers-per-node" if self.per_node else "--api-server-count", str(self.api_servers)]
        if self.backend == "join":
            flags += ["--data-parallel-size-local", str(self.ranks // 2), "--data-parallel-address", "127.0.0.1"]
        if self.backend == "ray":
            flags += ["--data-parallel-backend", "ray", "--device", "cuda"]
        return [*flags, "--frontend-command", self.frontend] if self.frontend else flags

    @property
    def row(self) -> list[str]:
        machines = {"mp": "1", "join": "2", "ray": "1" if self.ranks <= 8 else "2"}[self.backend]
        servers = f"{self.api_servers} a node" if self.per_node else str(self.api_servers)
        return [self.backend, machines, str(self.ranks), servers, "external" if self.frontend else "Python"]


@contextlib.contextmanager
def port_grabber() -> Iterator[None]:
    script = Path(__file__).with_name("port_grabber.py")
    thief = subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert thief.stdout is not None
    print("port thief:", thief.stdout.readline().strip(), flush=True)
    try:
        yield
    finally:
        print("port thief:", thief.communicate("\n")[0].strip(), flush=True)


def turn(scenario: Scenario, runtime: Path, further: dict[str, str]) -> tuple[float, float]:
    """One start and stop; returns seconds to a served completion and seconds to stop.

    Raises:
        RuntimeError: it failed, hung or left something.
    """
    environment = {
        **further,
        "XDG_RUNTIME_DIR": str(runtime),
        "PATH": str(Path(sys.executable).parent) + ":/usr/bin:/bin",
        "HOME": os.environ.get("HOME", "/"),
        "PHALANX_SECRET": secrets.token_hex(16),
    }
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(Process("serve", *scenario.flags, environment=environment))
        if scenario.backend == "join":
            control = service.wait_for(r"--control (127\.0\.0\.1:\d+)")
            half = str(scenario.ranks // 2)
            where = ("--data-parallel-start-rank", half, "--data-parallel-size-local", half)
            node = stack.enter_context(Process("join", "--control", control, *where, environment=environment))
        address = service.wait_for(r"(?s) at (http://127\.0\.0\.1:[1-9]\d*).*\n        -d ")
        body = json.dumps({"model": "phalanx-demo", "prompt": [1, 2, 3], "max_tokens": 4}).encode()
        request = urllib.request.Request(f"{address}/v1/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=HANG) as answer:
            answer.read()
        served = time.monotonic()
        service.end(signal.SIGINT)
        stopped = time.monotonic()
        if scenario.backend == "join":
            node.end(None)
    left = [path.name for path in runtime.iterdir()]
    if left:
        raise RuntimeError(f"left behind: {left}")
    return served - begin, stopped - served


class Process:
    """A `phalanx` command with its output in a file; killed on the way out."""

    def __init__(self, *arguments: str, environment: dict[str, str]) -> None:
        self._output = tempfile.NamedTemporaryFile("w+")  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            ["phalanx", *arguments], stdout=self._output, stderr=subprocess.STDOUT, env=environment
        )

    def wait_for(self, pattern: str) -> str:
        """The first group of what it prints."""
        begin = time.monotonic()
        while time.monotonic() - begin < HANG:
            if found := re.search(pattern, self.printed):
                return found[1]
            if self._process.poll() is not None:
                raise RuntimeError(f"ended with exit code {self._process.returncode}\n{self.printed}")
            time.sleep(0.01)
        raise RuntimeError(f"hangs\n{self.printed}")

    def end(self, number: signal.Signals | None) -> None:
        if number is not None:
            self._process.send_signal(number)
        try:
            code = self._process.wait(HANG)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"hangs at its end\n{self.printed}") from None
        if code != 0:
            raise RuntimeError(f"exit code {code} at its end\n{self.printed}")

    @property
    def printed(self) -> str:
        return Path(self._output.name).read_text()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._output.close()


def left_processes() -> list[str]:
    listing = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [line.strip() for line in listing.splitlines() if OURS.match(line)]


def left_after(seconds: float) -> list[str]:
    begin = time.monotonic()
    while (left := left_processes()) and time.monotonic() - begin < seconds:
        time.sleep(0.05)
    return left


def measure(scenario: Scenario, times: int, further: dict[str, str]) -> tuple[list[str], int]:
    """A row of the table, and how many tries failed."""
    starts, stops, failures = [], [], 0
    with tempfile.TemporaryDirectory(prefix="ph-") as folder:
        for number in range(times):
            try:
                start, stop = turn(scenario, Path(folder), further)
                starts.append(start)
                stops.append(stop)
                if left := left_after(SETTLE if scenario.backend == "ray" else 0.0):
                    raise RuntimeError(f"processes left behind: {left}")
            except (RuntimeError, OSError) as failure:
                failures += 1
                print(f"{' '.join(scenario.row)}, turn {number}: {failure}", flush=True)
    row = [*scenario.row, str(times), str(failures)]
    row += [middle(starts, 2), f"{percentile(starts, 0.99):.2f}", middle(stops, 2)] if starts else ["", "", ""]
    print(*row, flush=True)
    return row, failures


def matrix(frontend: str | None) -> list[Scenario]:
    counts = (1, 2, 4, 8)
    placed = [("mp", 8), ("mp", 16), ("join", 8), ("join", 16), ("ray", 8), ("ray", 16)]
    scenarios = [Scenario(backend, ranks, count) for backend, ranks in placed for count in counts]
    scenarios += [Scenario("join", 16, 2, per_node=True), Scenario("ray", 16, 2, per_node=True)]
    if frontend is not None:
        scenarios += [Scenario("mp", 8, count, frontend=frontend) for count in counts]
        scenarios += [Scenario("join", 16, 4, frontend=frontend), Scenario("ray", 16, 4, frontend=frontend)]
    return scenarios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int)
    parser.add_argument("--backend", choices=["mp", "join", "ray"], default="mp")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--api-servers", type=int, default=2)
    parser.add_argument("--frontend", metavar="COMMAND")
    parser.add_argument("--matrix", action="store_true")
    parser.add_argument("--grabber", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    if left_processes():
        raise SystemExit(f"other services are running here: {left_processes()}")
    one = Scenario(options.backend, options.ranks, options.api_servers, frontend=options.frontend)
    scenarios = matrix(options.frontend) if options.matrix else [one]
    times = options.times or (3 if options.matrix else 200)
    rows, failures = [], 0
    with contextlib.ExitStack() as stack:
        further = {}
        if any(scenario.backend == "ray" for scenario in scenarios):
            cluster = stack.enter_context(RayCluster())
            further = {**cluster.environment, "RAY_ADDRESS": cluster.address}
        if options.grabber:
            stack.enter_context(port_grabber())
        for scenario in scenarios:
            row, failed = measure(scenario, times, further if scenario.backend == "ray" else {})
            rows.append(row)
            failures += failed
    header = ["backend", "machines", "ranks", "API servers", "front-end", "tries", "failures"]
    header += ["start to first completion, s", "P99", "SIGINT to end, s"]
    table("synthetic engine" + (", port thief beside" if options.grabber else ""), header, rows)
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
