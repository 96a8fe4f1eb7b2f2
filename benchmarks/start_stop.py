"""Start and stop a service again and again while a thief takes every port that becomes free.

    python benchmarks/start_stop.py [--times 200] [--no-grabber]

Each turn starts `phalanx serve --engine synthetic -dp 2 --api-server-count 2 --port 0`, sends one completion
through the port it printed, stops it with SIGINT and then looks for anything left: processes of its family, its
socket folder. Failures, hangs (over 60 s) and leftovers are counted; the exit code is non-zero if there were any.
"""

import argparse
import contextlib
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from harness import middle, percentile, table

COMMAND = ["phalanx", "serve", "--engine", "synthetic", "-dp", "2", "--api-server-count", "2", "--port", "0"]
HANG = 60.0


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


def turn(runtime: Path) -> tuple[float, float]:
    """One start and stop; returns seconds to a served completion and seconds to stop.

    Raises:
        RuntimeError: it failed, hung or left something.
    """
    begin = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        environment = {"XDG_RUNTIME_DIR": str(runtime), "PATH": str(Path(sys.executable).parent) + ":/usr/bin:/bin"}
        service = subprocess.Popen(COMMAND, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            address = _address(service, output.name, begin)
            body = json.dumps({"model": "phalanx-demo", "prompt": "hello", "max_tokens": 4}).encode()
            request = urllib.request.Request(f"{address}/v1/completions", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=HANG) as answer:
                answer.read()
            served = time.monotonic()
            service.send_signal(signal.SIGINT)
            code = service.wait(HANG)
            stopped = time.monotonic()
            if code != 0:
                raise RuntimeError(f"exit code {code} after SIGINT")
        except Exception as error:
            output.seek(0)
            raise RuntimeError(f"{error}\n{output.read()}") from None
        finally:
            service.kill()
            service.wait()
    left = [path.name for path in runtime.iterdir()]
    if left:
        raise RuntimeError(f"left behind: {left}")
    return served - begin, stopped - served


def _address(service: "subprocess.Popen[bytes]", log: str | int, begin: float) -> str:
    """The address the service prints once it is ready."""
    while time.monotonic() - begin < HANG:
        text = Path(f"/proc/self/fd/{log}").read_text()
        if found := re.search(r"(http://127\.0\.0\.1:[1-9]\d*)\S*\s", text):
            return found[1]
        if service.poll() is not None:
            raise RuntimeError(f"ended with exit code {service.returncode} before it was ready")
        time.sleep(0.01)
    raise RuntimeError("hangs: not ready")


def left_processes() -> list[str]:
    listing = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [line.strip() for line in listing.splitlines() if re.match(r"\s*\d+ phalanx (supervisor|api|engine)", line)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--grabber", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    if left_processes():
        raise SystemExit(f"other services are running here: {left_processes()}")
    starts, stops, failures = [], [], []
    with tempfile.TemporaryDirectory() as folder, port_grabber() if options.grabber else contextlib.nullcontext():
        for number in range(options.times):
            try:
                start, stop = turn(Path(folder))
                starts.append(start)
                stops.append(stop)
            except RuntimeError as failure:
                failures.append(f"turn {number}: {failure}")
                print(failures[-1], flush=True)
            if left := left_processes():
                failures.append(f"turn {number}: processes left behind: {left}")
                print(failures[-1], flush=True)
    header = ["tries", "failures", "start to first completion, s", "P99", "SIGINT to end, s", "P99"]
    row = [str(options.times), str(len(failures)), middle(starts, 2), f"{percentile(starts, 0.99):.2f}"]
    row += [middle(stops, 2), f"{percentile(stops, 0.99):.2f}"]
    table(
        "2 ranks x 2 API servers, synthetic engine" + (", port thief beside" if options.grabber else ""), header, [row]
    )
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
