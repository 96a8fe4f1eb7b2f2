"""What a service does with twice the load it can carry, and with clients that hold on to it and do nothing.

    python benchmarks/overload.py [--engine synthetic] [--seconds 20] [--rounds 1] [--connections]

Two ranks and two API servers. The capacity is the best rate of output tokens under 64, 128 and 256 streamed
completions at a time; then as many requests a second are offered as make half of it, all of it, and twice as much,
whatever comes back (Poisson arrivals, a connection each). `--connections` measures a steady load of half the capacity
alone, and beside 1,000 idle connections, 200 readers that take 256 bytes a second of answers of 1,024 tokens, once
these have been computed, and 50 requests that are never sent to their end; who is cut off comes back.
"""

import argparse
import asyncio
import contextlib
import json
import random
import re
import resource
import socket
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from harness import Server, percentile, phalanx, table

AT_A_TIME = (64, 128, 256)
SEATS = 64
"""Running requests a rank; a queue of as many is allowed on top, or a short run would never fill it. With
`--connections` it is the default, that the slow readers' answers are computed side by side."""
PROMPT, OUTPUT = 32, 64
IDLE, SLOW, HALF = 1000, 200, 50
DEMO = Path(__file__).parent.parent / "phalanx" / "demo"


@dataclass
class Tally:
    """What became of the requests offered in `seconds`. Times in seconds."""

    begin: float
    seconds: float
    offered: int = 0
    accepted: int = 0
    refused: int = 0
    failed: int = 0
    ended: list[float] = field(default_factory=list)
    ttft: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    refusal: list[float] = field(default_factory=list)
    retry_after: list[int] = field(default_factory=list)

    @property
    def goodput(self) -> float:
        """Output tokens a second of what was finished while requests were offered, the first quarter left out."""
        begin, end = self.begin + self.seconds / 4, self.begin + self.seconds
        return OUTPUT * sum(begin < ended < end for ended in self.ended) / (end - begin)


def request(chance: random.Random, output: int = OUTPUT, vocabulary: int = 200) -> bytes:
    body = {
        "prompt": [chance.randrange(3, vocabulary) for _ in range(PROMPT)],
        "max_tokens": output,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
    }
    content = json.dumps(body).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    return head % len(content) + content


async def ask(port: int, body: bytes, tally: Tally) -> None:
    """Send one streamed completion and count what becomes of it."""
    begin = time.monotonic()
    tally.offered += 1
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        tally.failed += 1
        return
    try:
        writer.write(body)
        status = (await reader.readline()).split()[1]
        if status == b"429":
            tally.refused += 1
            while (line := await reader.readline()).strip():
                if line.lower().startswith(b"retry-after:"):
                    tally.retry_after.append(int(line.split(b":")[1]))
            tally.refusal.append(time.monotonic() - begin)
            return
        first = 0.0
        while line := await reader.readline():
            if line.startswith(b"data: {"):
                first = first or time.monotonic()
            elif line.startswith(b"data: [DONE]"):
                tally.accepted += 1
                tally.ttft.append(first - begin)
                tally.ended.append(time.monotonic())
                tally.whole.append(tally.ended[-1] - begin)
                return
        tally.failed += 1
    except (OSError, IndexError):
        tally.failed += 1
    finally:
        writer.close()


async def closed_loop(port: int, at_a_time: int, seconds: float) -> Tally:
    tally, chance = Tally(time.monotonic(), seconds), random.Random(at_a_time)
    end = tally.begin + seconds

    async def client() -> None:
        while time.monotonic() < end:
            await ask(port, request(chance), tally)

    await asyncio.gather(*(client() for _ in range(at_a_time)))
    return tally


async def open_loop(port: int, rate: float, seconds: float) -> Tally:
    """Offer `rate` requests a second, whatever becomes of them."""
    tally, chance = Tally(time.monotonic(), seconds), random.Random(int(rate))
    due = tally.begin
    end = due + seconds
    asked: set[asyncio.Task[None]] = set()
    while (due := due + chance.expovariate(rate)) < end:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        task = asyncio.get_running_loop().create_task(ask(port, request(chance), tally))
        asked.add(task)
        task.add_done_callback(asked.discard)
    await asyncio.gather(*asked)
    return tally


# --- clients that do nothing ---


async def idle(port: int, chance: random.Random) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await reader.read()
    finally:
        writer.close()


async def half_sent(port: int, chance: random.Random) -> None:
    body = request(chance)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(body[: chance.randrange(1, len(body))])
        await reader.read()
    finally:
        writer.close()


async def slow_reader(port: int, chance: random.Random) -> None:
    """Asks for a long answer and takes 256 bytes of it a second."""
    loop = asyncio.get_running_loop()
    with socket.socket() as connection:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(connection, ("127.0.0.1", port))
        await loop.sock_sendall(connection, request(chance, output=1024))
        taken = b"any"
        while taken:
            taken = await loop.sock_recv(connection, 256)
            await asyncio.sleep(1)


async def for_ever(client: Callable[[int, random.Random], Awaitable[None]], port: int, number: int) -> None:
    """Come back whenever the connection is ended."""
    chance = random.Random(number)
    while True:
        with contextlib.suppress(OSError):
            await client(port, chance)
        await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def held_on_to(port: int) -> AsyncIterator[None]:
    clients = [idle] * IDLE + [slow_reader] * SLOW + [half_sent] * HALF
    tasks = []
    for number, client in enumerate(clients):
        tasks.append(asyncio.create_task(for_ever(client, port, number)))
        if number % 50 == 0:
            await asyncio.sleep(0.02)
    await asyncio.to_thread(until_computed, port)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def until_computed(port: int) -> None:
    """Until the ranks have nothing left to do: what the slow readers asked for is load, and not what is asked here."""
    end = time.monotonic() + 300
    time.sleep(2)
    while time.monotonic() < end:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            text = answer.read().decode()
        if not sum(map(float, re.findall(r"^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)$", text, re.M))):
            return
        time.sleep(0.5)
    raise SystemExit("the slow readers' answers were not computed in five minutes")


# --- what is printed ---


def milliseconds(values: list[float], share: float) -> str:
    return f"{percentile(values, share) * 1e3:,.1f}" if values else "-"


def row(label: str, tally: Tally, best: float, before: float, after: float) -> list[str]:
    return [
        label,
        f"{tally.offered / tally.seconds:,.1f}",
        f"{tally.accepted:,}",
        f"{tally.refused:,}",
        f"{tally.failed:,}",
        f"{tally.goodput:,.0f}",
        f"{tally.goodput / best:.2f}",
        milliseconds(tally.ttft, 0.5),
        milliseconds(tally.ttft, 0.99),
        milliseconds(tally.whole, 0.99),
        milliseconds(tally.refusal, 0.99),
        f"{min(tally.retry_after)} to {max(tally.retry_after)}" if tally.retry_after else "-",
        f"{before:,.0f} to {after:,.0f}",
    ]


HEADER = ["load", "offered/s", "accepted", "refused", "failed", "tokens/s", "of best"]
HEADER += ["TTFT median, ms", "TTFT P99, ms", "whole P99, ms", "refusal P99, ms", "Retry-After, s", "API servers, MB"]


def capacity(server: Server, seconds: float) -> tuple[float, list[list[str]]]:
    """The best rate of tokens, and a row for each concurrency."""
    tallies = []
    memory = server.memory(server.frontend)
    for at_a_time in AT_A_TIME:
        tally = uvloop.run(closed_loop(server.port, at_a_time, seconds))
        tallies.append((at_a_time, tally, memory, memory := server.memory(server.frontend)))
    best = max(tally.goodput for _, tally, _, _ in tallies)
    if not best:
        raise SystemExit(f"no request was finished in {seconds:g} s: give more --seconds")
    return best, [row(f"{n} at a time", tally, best, before, after) for n, tally, before, after in tallies]


def too_much(server: Server, seconds: float) -> None:
    best, rows = capacity(server, seconds)
    for share in (0.5, 1.0, 2.0):
        before = server.memory(server.frontend)
        tally = uvloop.run(open_loop(server.port, share * best / OUTPUT, seconds))
        rows.append(row(f"{share:g} x capacity", tally, best, before, server.memory(server.frontend)))
    table(f"{PROMPT} in / {OUTPUT} out, {seconds:g} s each", HEADER, rows)


def holding_on(server: Server, seconds: float) -> None:
    best, rows = capacity(server, seconds)
    rate = 0.5 * best / OUTPUT

    async def beside() -> Tally:
        async with held_on_to(server.port):
            return await open_loop(server.port, rate, seconds)

    alone = []
    for label, load in (
        ("undisturbed", open_loop(server.port, rate, seconds)),
        (f"beside {IDLE} idle, {SLOW} slow, {HALF} half-sent", beside()),
        ("undisturbed again", open_loop(server.port, rate, seconds)),
    ):
        before = server.memory(server.frontend)
        tally = uvloop.run(load)
        alone.append(tally)
        rows.append(row(label, tally, best, before, server.memory(server.frontend)))
    table(f"{PROMPT} in / {OUTPUT} out, half the capacity, {seconds:g} s each", HEADER, rows)
    first, beside_them, second = alone
    for what, times in (("TTFT", lambda tally: tally.ttft), ("whole requests", lambda tally: tally.whole)):
        quiet = max(percentile(times(first), 0.99), percentile(times(second), 0.99))
        print(f"P99 of {what} beside them: {percentile(times(beside_them), 0.99) / quiet:.2f} x undisturbed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("model", "synthetic"), default="model", help="model: the bundled demo")
    parser.add_argument("--rate", type=float, default=50.0, help="synthetic: tokens a second a request")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--connections", action="store_true", help="clients that hold on, in place of too much load")
    parser.add_argument("--port", type=int, default=18200)
    parser.add_argument("flags", nargs="*", help="further flags of the service, after --")
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 16384)), hard))
    flags = ["-dp", "2", "--api-server-count", "2"]
    if not options.connections:
        flags += ["--max-num-seqs", str(SEATS), "--max-queued-requests", str(2 * SEATS)]
    if options.engine == "synthetic":
        flags += ["--engine", "synthetic", "--synthetic-rate", str(options.rate)]
    for _ in range(options.rounds):
        server = phalanx(str(DEMO), options.port, *flags, *options.flags)
        with server.running():
            (holding_on if options.connections else too_much)(server, options.seconds)


if __name__ == "__main__":
    main()
