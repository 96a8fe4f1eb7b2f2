"""What the benchmarks share: a server under test as a process tree, and a load of streamed completions."""

import asyncio
import contextlib
import http.client
import json
import os
import random
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Server:
    """A server's command, and how to tell its front-end processes from its engine processes."""

    name: str
    command: list[str]
    port: int
    model: str
    frontend: str
    engine: str
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def running(self, timeout: float = 600) -> Iterator[float]:
        """Start, wait until a completion of one token is answered, yield the seconds that took; stop at the end."""
        with tempfile.TemporaryFile() as log:
            begin = time.monotonic()
            environment = {**os.environ, **self.environment}
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
            try:
                while not self._answers():
                    if self.process.poll() is not None or time.monotonic() - begin > timeout:
                        log.seek(0)
                        raise SystemExit(f"{self.name} did not start:\n{log.read().decode()[-4000:]}")
                    time.sleep(0.02)
                yield time.monotonic() - begin
            finally:
                family = self.tree()
                self.process.send_signal(signal.SIGINT)
                try:
                    self.process.wait(30)
                except subprocess.TimeoutExpired:
                    self.process.kill()
                    self.process.wait()
                for pid in family:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    def _answers(self) -> bool:
        body = json.dumps({"model": self.model, "prompt": [5, 6, 7], "max_tokens": 1})
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def tree(self) -> list[int]:
        """The server's processes: the started one and all its descendants."""
        assert self.process is not None
        parents: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    stat = (entry / "stat").read_text()
                    parents[int(entry.name)] = int(stat[stat.rindex(")") + 2 :].split()[1])
        family = [self.process.pid]
        for pid in family:
            family += [child for child, parent in parents.items() if parent == pid]
        return family

    def memory(self, pattern: str = "") -> float:
        """Proportional memory (PSS: shared pages divided among their users) of the processes that match, in MB."""
        total = 0
        for pid in self.tree():
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if not re.search(pattern, f"{Path(f'/proc/{pid}/comm').read_text()} {command}"):
                    continue
                found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
                total += int(found[1]) if found else 0
        return total * 1024 / 1e6

    def cpu(self, pattern: str) -> float:
        """User and system seconds so far of the processes whose name or command line matches."""
        total = 0.0
        for pid in self.tree():
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                stat = Path(f"/proc/{pid}/stat").read_text()
                name, fields = stat[stat.index("(") + 1 : stat.rindex(")")], stat[stat.rindex(")") + 2 :].split()
                if re.search(pattern, f"{name} {command}"):
                    total += (int(fields[11]) + int(fields[12])) / TICK
        return total


def phalanx(folder: str, port: int, *flags: str) -> Server:
    name = Path(folder).name
    command = ["phalanx", "serve", folder, "--port", str(port), "--served-model-name", name, *flags]
    return Server("Phalanx", command, port, name, r"phalanx api", r"phalanx engine")


def vllm(install: str, folder: str, port: int, *flags: str, rust: bool = False, bind: str = "auto") -> Server:
    """vLLM's CPU build in the virtual environment `install`/venv; `rust` takes its compiled front-end."""
    name = Path(folder).name
    command = [f"{install}/venv/bin/vllm", "serve", folder, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--served-model-name", name, "--max-model-len", "2048", *flags]
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": bind,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "PATH": f"{install}/venv/bin:{os.environ['PATH']}",
        **({"VLLM_USE_RUST_FRONTEND": "1"} if rust else {}),
    }
    title = "vLLM, Rust front-end" if rust else "vLLM"
    frontend = r"VLLM::APIServer|vllm-rs frontend|vllm serve"
    return Server(title, command, port, name, frontend, r"VLLM::(Engine|Worker)", environment)


@dataclass
class Run:
    """One load's outcome. Times in seconds, CPU in microseconds a token."""

    throughput: float
    ttft: list[float]
    tpot: list[float]
    frontend_cpu: float
    engine_cpu: float
    failed: int


def load(server: Server, requests: int, concurrency: int, prompt: int, output: int, vocabulary: int = 8000) -> Run:
    """Send streamed completions of random token ids, `concurrency` at a time; every one runs to its full length."""
    chance = random.Random(0)
    bodies = [
        json.dumps(
            {
                "model": server.model,
                "prompt": [chance.randrange(100, vocabulary) for _ in range(prompt)],
                "max_tokens": output,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
            }
        ).encode()
        for _ in range(requests)
    ]
    before = server.cpu(server.frontend), server.cpu(server.engine)
    begin = time.monotonic()
    results = asyncio.run(_send_all(server.port, bodies, concurrency))
    seconds = time.monotonic() - begin
    after = server.cpu(server.frontend), server.cpu(server.engine)
    good = [times for times in results if len(times) > 1]
    tokens = len(good) * output
    return Run(
        throughput=tokens / seconds,
        ttft=[times[1] - times[0] for times in good],
        tpot=[(times[-1] - times[1]) / max(1, output - 1) for times in good],
        frontend_cpu=(after[0] - before[0]) / max(1, tokens) * 1e6,
        engine_cpu=(after[1] - before[1]) / max(1, tokens) * 1e6,
        failed=requests - len(good),
    )


async def _send_all(port: int, bodies: list[bytes], concurrency: int) -> list[list[float]]:
    """For each request: when it was sent, then when each piece of its stream arrived; empty if it failed."""
    waiting = iter(enumerate(bodies))
    results: list[list[float]] = [[] for _ in bodies]

    async def client() -> None:
        for index, body in waiting:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                results[index] = await _stream(port, body)

    await asyncio.gather(*(client() for _ in range(concurrency)))
    return results


async def _stream(port: int, body: bytes) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    times = [time.monotonic()]
    try:
        if b" 200 " not in await reader.readline():
            return []
        while line := await reader.readline():
            if line.startswith(b"data: "):
                if line.startswith(b"data: [DONE]"):
                    return times
                times.append(time.monotonic())
        return []
    finally:
        writer.close()


def table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print one table in Markdown, columns aligned."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    print(f"\n{title}\n")
    for row in (header, ["-" * width for width in widths], *rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
    print(flush=True)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def middle(values: list[float], digits: int = 1) -> str:
    """Median, and the range where there are several runs."""
    spread = f" ({min(values):,.{digits}f} to {max(values):,.{digits}f})" if len(values) > 1 else ""
    return f"{median(values):,.{digits}f}{spread}"
