"""Kill a process of a loaded service again and again, and see what its clients notice; beside vLLM where installed.

    python benchmarks/falls.py --model FOLDER [--fault rank|api-server] [--every 5] [--seconds 300] [--vllm INSTALL]

Two ranks, two API servers, `--concurrency` streams at a time. Half of the requests are greedy, half sampled with a
seed; what each gives undisturbed is seen first. Then one process after the other is killed with SIGKILL. A request
`finished` when its whole stream came, is `wrong` when its text is another than undisturbed (vLLM's texts may differ
without a fault too: they depend on what else is in the batch), was `cut` when its connection ended and `refused` when
it got none, or a status that is not 200. Who has been refused for ten seconds on end gives the service up.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import re
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from harness import Server, phalanx, table, vllm

GONE = 10.0
DISTINCT = 48
"""Different requests."""


@dataclass
class Outcome:
    """What became of one request. Times in seconds."""

    status: str = "refused"
    text: str = ""
    longest_pause: float = 0.0


@dataclass
class Tally:
    outcomes: list[Outcome] = field(default_factory=list)
    wrong: int = 0
    kills: int = 0
    recoveries: list[float] = field(default_factory=list)
    gone_after: float | None = None
    """Seconds from the first kill until nobody answered any more."""


def requests(server: Server, prompt: int, output: int) -> list[bytes]:
    chance = random.Random(7)
    return [
        json.dumps(
            {
                "model": server.model,
                "prompt": [chance.randrange(100, 4000) for _ in range(prompt)],
                "max_tokens": output,
                "temperature": 0 if number % 2 else 0.8,
                "seed": number,
                "ignore_eos": True,
                "stream": True,
            }
        ).encode()
        for number in range(DISTINCT)
    ]


async def stream(port: int, body: bytes) -> Outcome:
    outcome = Outcome()
    writer = None
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        outcome.status = "cut"
        if b" 200 " not in (await reader.readline() or b" 200 "):
            outcome.status = "refused"
            return outcome
        last = None
        while line := await reader.readline():
            if line.startswith(b"data: [DONE]"):
                outcome.status = "finished"
            elif line.startswith(b"data: {"):
                event = json.loads(line[6:])
                if "error" in event:
                    outcome.status = "error"
                    return outcome
                outcome.text += event["choices"][0]["text"]
                now = time.monotonic()
                if last is not None:
                    outcome.longest_pause = max(outcome.longest_pause, now - last)
                last = now
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        if writer is not None:
            writer.close()
    return outcome


def processes(server: Server, fault: str) -> list[int]:
    """Who may be killed, in order of their names."""
    pattern = server.engine if fault == "rank" else r"VLLM::APIServer|phalanx api"
    found = []
    for pid in server.tree():
        with contextlib.suppress(OSError):
            title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            comm = Path(f"/proc/{pid}/comm").read_text()
            if re.search(pattern, f"{comm} {title}"):
                found.append((title, pid))
    return [pid for _, pid in sorted(found)]


async def ask(port: int, path: str) -> bytes:
    """An answer's body; empty where there was none."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return b""
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return (await reader.read()).partition(b"\r\n\r\n")[2]
    except OSError:
        return b""
    finally:
        writer.close()


async def ranks(port: int) -> dict[int, int]:
    """Phalanx: the attached ranks and their incarnations, as one API server sees them; empty where none answers."""
    body = await ask(port, "/ready")
    return {rank["rank"]: rank["incarnation"] for rank in json.loads(body)["ranks"]} if body else {}


async def back(server: Server, fault: str, before: dict[int, int]) -> None:
    """Until what was killed serves again."""
    if fault == "api-server":
        # The kernel spreads them; those that fall to the dead one's socket wait there for its successor.
        await asyncio.gather(*(ask(server.port, "/health") for _ in range(16)))
        return
    while True:
        now = await ranks(server.port)
        if len(now) == len(before) and now != before:
            return
        await asyncio.sleep(0.02)


async def disturbed(server: Server, options: argparse.Namespace, bodies: list[bytes], texts: list[str]) -> Tally:
    tally = Tally()
    end = time.monotonic() + options.seconds
    order = itertools.cycle(range(len(bodies)))
    silent_since: float | None = None
    first_kill = 0.0

    async def client() -> None:
        nonlocal silent_since
        while time.monotonic() < end and tally.gone_after is None:
            number = next(order)
            outcome = await stream(server.port, bodies[number])
            tally.outcomes.append(outcome)
            tally.wrong += outcome.status == "finished" and outcome.text != texts[number]
            if outcome.status != "refused":
                silent_since = None
                continue
            now = time.monotonic()
            silent_since = silent_since or now
            if now - silent_since > GONE:
                tally.gone_after = silent_since - first_kill
            await asyncio.sleep(0.5)

    async def killer() -> None:
        nonlocal first_kill
        turn, due = 0, time.monotonic()
        while (due := due + options.every) < end and tally.gone_after is None:
            # By the clock: what has fallen may still be on its way back when the next one is killed.
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            victims = processes(server, options.fault)
            if not victims:
                continue
            ours = server.name == "Phalanx"
            before = await ranks(server.port) if ours else {}
            victim = victims[turn % len(victims)]
            turn += 1
            began = time.monotonic()
            first_kill = first_kill or began
            os.kill(victim, signal.SIGKILL)
            tally.kills += 1
            if ours:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(back(server, options.fault, before), options.every * 4)
                    tally.recoveries.append(time.monotonic() - began)

    await asyncio.gather(killer(), *(client() for _ in range(options.concurrency)))
    return tally


async def reference(server: Server, bodies: list[bytes], concurrency: int) -> list[str]:
    texts = [""] * len(bodies)
    waiting = iter(range(len(bodies)))

    async def client() -> None:
        for number in waiting:
            outcome = await stream(server.port, bodies[number])
            assert outcome.status == "finished", f"undisturbed, a request was {outcome.status}"
            texts[number] = outcome.text

    await asyncio.gather(*(client() for _ in range(concurrency)))
    return texts


def measure(server: Server, options: argparse.Namespace) -> list[str]:
    with server.running():
        bodies = requests(server, options.prompt, options.output)
        texts = asyncio.run(reference(server, bodies, options.concurrency))
        tally = asyncio.run(disturbed(server, options, bodies, texts))
    count = Counter(each.status for each in tally.outcomes)
    gone = "yes" if tally.gone_after is None else f"gone after {tally.gone_after:.1f} s"
    recoveries = sorted(tally.recoveries)
    return [
        server.name,
        str(tally.kills),
        str(len(tally.outcomes)),
        str(count["finished"]),
        str(tally.wrong),
        str(count["cut"] + count["error"]),
        str(count["refused"]),
        f"{max((each.longest_pause for each in tally.outcomes), default=0.0):.2f}",
        f"{recoveries[len(recoveries) // 2]:.2f} (to {recoveries[-1]:.2f})" if recoveries else "-",
        gone,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--fault", choices=["rank", "api-server"], default="rank")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two kills")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--concurrency", type=int, default=24)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--output", type=int, default=128)
    parser.add_argument("--vllm", metavar="INSTALL", help="folder with vLLM's venv; absent: Phalanx alone")
    parser.add_argument("--port", type=int, default=18200)
    options = parser.parse_args()
    flags = ["-dp", "2", "--api-server-count", "2", "--max-restarts", "1000"]
    servers = [phalanx(options.model, options.port, *flags, "--max-model-len", "2048")]
    if options.vllm:
        own = ["-dp", "2", "--api-server-count", "2", "--enforce-eager"]
        servers.append(vllm(options.vllm, options.model, options.port, *own, bind="0|1"))
    header = ["", "kills", "requests", "finished", "wrong", "cut", "refused", "longest pause, s", "serves again, s"]
    rows = [measure(server, options) for server in servers]
    title = (
        f"{options.fault} killed every {options.every:g} s for {options.seconds:g} s, {options.concurrency} at a time"
    )
    table(title, [*header, "still serving"], rows)


if __name__ == "__main__":
    main()
