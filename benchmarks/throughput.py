"""Start-up, memory, throughput, latency and CPU a token, beside vLLM where it is installed; interleaved rounds.

    python benchmarks/throughput.py --model FOLDER [--model FOLDER ...] [--vllm INSTALL] [--rust] [--rounds 3]

Each round starts every server in turn, loads it, and stops it, so a drift of the machine's speed meets all alike.
The figures are medians over the rounds, with their range. INSTALL holds vLLM's virtual environment as
INSTALL/venv. `--shape front` is two ranks of one core each with two API servers under 32 requests at a time (64
in, 128 out); `--shape single` is one rank with all cores, 16 at a time and then 1 at a time (128 in, 128 out).
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

from harness import Run, Server, load, middle, percentile, phalanx, table, vllm


class Shape(NamedTuple):
    phalanx_flags: list[str]
    vllm_flags: list[str]
    vllm_bind: str
    loads: list[tuple[int, int]]
    """(requests, at a time)"""
    prompt: int
    output: int


SHAPES = {
    "front": Shape(
        ["-dp", "2", "--api-server-count", "2", "--max-model-len", "2048"],
        ["-dp", "2", "--enforce-eager"],
        "0|1",
        [(200, 32)],
        64,
        128,
    ),
    "single": Shape(["--max-model-len", "2048"], [], "auto", [(8, 1), (48, 16)], 128, 128),
}


class Measured(NamedTuple):
    start: float
    memory: float
    runs: list[Run]


def measure(server: Server, shape: Shape) -> Measured:
    with server.running() as seconds:
        memory = server.memory()
        load(server, 4, 4, shape.prompt, 8)
        runs = [load(server, requests, at_a_time, shape.prompt, shape.output) for requests, at_a_time in shape.loads]
        return Measured(seconds, memory, runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--shape", choices=SHAPES, default="front")
    parser.add_argument("--vllm", metavar="INSTALL", help="folder with vLLM's venv; absent: Phalanx alone")
    parser.add_argument("--rust", action="store_true", help="vLLM's compiled front-end as a third column")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=18100)
    options = parser.parse_args()
    shape = SHAPES[options.shape]
    port = options.port
    servers = [phalanx(options.model, port, *shape.phalanx_flags)]
    if options.vllm:
        api_servers = ["--api-server-count", "2"] if options.shape == "front" else []
        flags = [*shape.vllm_flags, *api_servers]
        servers.append(vllm(options.vllm, options.model, port, *flags, bind=shape.vllm_bind))
        if options.rust:
            servers.append(vllm(options.vllm, options.model, port, *shape.vllm_flags, rust=True, bind=shape.vllm_bind))
    results: list[list[Measured]] = [[] for _ in servers]
    for number in range(options.rounds):
        for server, mine in zip(servers, results, strict=True):
            mine.append(measure(server, shape))
            newest = mine[-1]
            rates = ", ".join(f"{run.throughput:,.0f}" for run in newest.runs)
            print(f"round {number + 1}: {server.name}: ready in {newest.start:.1f} s; tokens/s {rates}", flush=True)

    def row(label: str, figure: Callable[[Measured], float], digits: int = 1) -> list[str]:
        return [label, *(middle([figure(one) for one in mine], digits) for mine in results)]

    rows = [row("command to first completion, s", lambda m: m.start), row("memory (PSS), MB", lambda m: m.memory, 0)]
    for index, (_, at_a_time) in enumerate(shape.loads):

        def figure(take: Callable[[Run], float], index: int = index) -> Callable[[Measured], float]:
            return lambda measured: take(measured.runs[index])

        label = f"{at_a_time} at a time: "
        rows += [
            row(label + "output tokens/s", figure(lambda r: r.throughput), 0),
            row(label + "TTFT median, ms", figure(lambda r: percentile(r.ttft, 0.5) * 1e3)),
            row(label + "TTFT P99, ms", figure(lambda r: percentile(r.ttft, 0.99) * 1e3)),
            row(label + "TPOT median, ms", figure(lambda r: percentile(r.tpot, 0.5) * 1e3)),
            row(label + "front-end CPU a token, us", figure(lambda r: r.frontend_cpu)),
            row(label + "engine CPU a token, us", figure(lambda r: r.engine_cpu), 0),
            row(label + "failed requests", figure(lambda r: r.failed), 0),
        ]
    title = f"{servers[0].model}, {options.shape}: {shape.prompt} in / {shape.output} out, {options.rounds} rounds"
    table(title, ["", *(server.name for server in servers)], rows)


if __name__ == "__main__":
    main()
