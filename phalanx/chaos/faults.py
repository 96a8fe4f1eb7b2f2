"""The faults, one function each, which does it, undoes it, and waits until what was struck serves again."""

import asyncio
import contextlib
import resource
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from phalanx import running_time
from phalanx.chaos import bad_clients
from phalanx.chaos.fault_target import BACK, LOOK, FaultTarget, NotRecovered, until
from phalanx.chaos.ledger import FaultRecord
from phalanx.chaos.processes import UNLIMITED, Process, links, pace
from phalanx.chaos.schedule import Kind
from phalanx.machine import free_memory

SETTLE = 20.0
"""Seconds that requests get to go on before the next fault strikes ranks."""
BEAT = 0.05
"""A slowed process runs and stands in turn, for so many seconds each."""
SLOW_RATE = 2048
"""Bytes a second on a slowed TCP link, which is less than two dozen streams need."""
SHARE, MOST = 0.5, 2 * 2**30
"""The share of free memory that pressure takes, and the most bytes that it takes."""


async def perform(target: FaultTarget, record: FaultRecord) -> None:
    """Let a fault happen; return when everything is as before.

    Raises:
        NotRecovered: something did not become as before.
    """
    if record.fault.kind.strikes_ranks:
        await target.all_of("engine")
    try:
        await _FAULTS[record.fault.kind](target, record)
    finally:
        record.ended = time.monotonic()
    if record.fault.kind.strikes_ranks:
        # Requests go on before the next strike, or one could meet two between two of its tokens.
        since = record.ended
        with contextlib.suppress(NotRecovered):
            await until(lambda: target.ledger.settled_since(since), "every request has gone on", SETTLE)


# --- processes ---


def _begin_strike(record: FaultRecord, *victims: Process) -> None:
    """Note what is struck and that the fault counts from now on."""
    record.struck = tuple(victim.name for victim in victims)
    record.began = time.monotonic()
    record.note = ", ".join(f"{role} {index}" for role, index in record.struck)


async def _kill_ranks(target: FaultTarget, record: FaultRecord, every: bool = False) -> None:
    before, ranks = await target.all_attached(), await target.all_of("engine")
    victims = ranks if every else [ranks[record.fault.pick(len(ranks))]]
    _begin_strike(record, *victims)
    for victim in victims:
        victim.struck = True
        victim.signal(signal.SIGKILL)
    await target.ranks_back(before, [victim.name[1] for victim in victims])
    record.recovery = time.monotonic() - record.began


async def _kill_all_ranks(target: FaultTarget, record: FaultRecord) -> None:
    await _kill_ranks(target, record, every=True)


async def _kill_api_server(target: FaultTarget, record: FaultRecord) -> None:
    servers = await target.all_of("api")
    victim = servers[record.fault.pick(len(servers))]
    _begin_strike(record, victim)
    victim.struck = True
    victim.signal(signal.SIGKILL)
    await target.api_server_back(victim.name[1])
    record.recovery = time.monotonic() - record.began


async def _stop(target: FaultTarget, record: FaultRecord, role: str) -> None:
    before = await target.all_attached()
    processes = await target.all_of(role)
    victim = processes[record.fault.pick(len(processes))]
    _begin_strike(record, victim)
    victim.struck = True
    victim.signal(signal.SIGSTOP)
    try:
        await _dies(victim, record.fault.seconds)
    finally:
        victim.signal(signal.SIGCONT)
    # A process that was declared dead while it was stopped may die of it only now.
    if not await _dies(victim, 1.0):
        victim.struck = False
        return
    if role == "engine":
        await target.ranks_back(before, [victim.name[1]])
    else:
        await target.api_server_back(victim.name[1])
    record.recovery = time.monotonic() - record.began
    record.note += ", declared dead"


async def _dies(victim: Process, within: float) -> bool:
    # Not `wait_for`, which loses a cancellation that comes together with what is waited for (Python 3.11).
    with contextlib.suppress(TimeoutError):
        async with running_time.timeout(within):
            await victim.death.wait()
    return victim.died_at is not None


async def _stop_rank(target: FaultTarget, record: FaultRecord) -> None:
    await _stop(target, record, "engine")


async def _stop_api_server(target: FaultTarget, record: FaultRecord) -> None:
    await _stop(target, record, "api")


# --- links ---


async def _cut_link(target: FaultTarget, record: FaultRecord) -> None:
    """Cut the connections between a rank and API servers, all of which live on."""
    await target.all_attached()
    ranks = await target.all_of("engine")
    victim, port = ranks[record.fault.pick(len(ranks))], target.service.control_port
    cut = links(victim, port)
    _begin_strike(record, victim)
    for link in cut.values():
        with link, contextlib.suppress(OSError):
            link.shutdown(socket.SHUT_RDWR)

    def dialled_again() -> bool:
        if victim.died_at is not None:
            raise NotRecovered(f"{record.note} died of a connection that was cut")
        now = links(victim, port)
        for link in now.values():
            link.close()
        return len(now.keys() - cut.keys()) >= len(cut)

    await until(dialled_again, f"{record.note} has dialled again")
    await target.all_attached()
    record.recovery = time.monotonic() - record.began
    record.note += f", {len(cut)} connections"


async def _slow_link(target: FaultTarget, record: FaultRecord) -> None:
    """Slow down the links of a rank.

    A TCP link gets a bandwidth; a Unix socket is only as slow as the rank that writes to it.
    """
    ranks = await target.all_of("engine")
    victim = ranks[record.fault.pick(len(ranks))]
    for rank in ranks:
        with contextlib.ExitStack() as stack:
            found = [stack.enter_context(link) for link in links(rank, target.service.control_port).values()]
            tcp = [link for link in found if link.family != socket.AF_UNIX]
            if tcp:
                _begin_strike(record, rank)
                record.note += f", {SLOW_RATE} bytes/s"
                for link in tcp:
                    pace(link, SLOW_RATE)
                await asyncio.sleep(record.fault.seconds)
                for link in tcp:
                    pace(link, UNLIMITED)
                return
    _begin_strike(record, victim)
    end = time.monotonic() + record.fault.seconds
    try:
        while time.monotonic() < end:
            victim.signal(signal.SIGSTOP)
            await asyncio.sleep(BEAT)
            victim.signal(signal.SIGCONT)
            await asyncio.sleep(BEAT)
    finally:
        victim.signal(signal.SIGCONT)


# --- the machine ---


async def _full_disk(target: FaultTarget, record: FaultRecord) -> None:
    """Keep the log from growing for a while; when it can grow again, it has to."""
    service = target.service
    controls = list(service.runtime.rglob("control"))
    size = service.log.stat().st_size
    soft, hard = resource.prlimit(service.processes[0].pid, resource.RLIMIT_FSIZE)
    _limit(service.process_tree.pids(), size, hard)
    try:
        await _knock(controls)
        await asyncio.sleep(record.fault.seconds)
    finally:
        # Processes that have come meanwhile inherited the limit.
        _limit(service.process_tree.pids(), soft, hard)
    record.note = "and the log went on"
    before = service.log.stat().st_size
    knocked = running_time.now()
    while service.log.stat().st_size == before:
        if running_time.now() - knocked > BACK:
            raise NotRecovered("the log has said nothing more since the disk was full for a while")
        await _knock(controls)
        await asyncio.sleep(LOOK)


def _limit(pids: list[int], soft: int, hard: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


async def _knock(controls: list[Path]) -> None:
    """Say nonsense to the service's own sockets, so that it logs a refusal."""
    for path in controls:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_unix_connection(path)
            writer.write(b"x" * 64)
            writer.close()


async def _memory_pressure(target: FaultTarget, record: FaultRecord) -> None:
    size = int(min(MOST, SHARE * free_memory()))
    async with _balloon(size):
        record.note = f"{size / 2**20:,.0f} MiB"
        await asyncio.sleep(record.fault.seconds)


@contextlib.asynccontextmanager
async def _balloon(size: int) -> AsyncIterator[None]:
    command = (sys.executable, "-m", "phalanx.chaos.balloon", str(size))
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE)
    try:
        yield
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


_FAULTS: dict[Kind, Callable[[FaultTarget, FaultRecord], Awaitable[None]]] = {
    Kind.KILL_RANK: _kill_ranks,
    Kind.KILL_ALL_RANKS: _kill_all_ranks,
    Kind.STOP_RANK: _stop_rank,
    Kind.CUT_LINK: _cut_link,
    Kind.SLOW_LINK: _slow_link,
    Kind.KILL_API_SERVER: _kill_api_server,
    Kind.STOP_API_SERVER: _stop_api_server,
    Kind.FULL_DISK: _full_disk,
    Kind.MEMORY_PRESSURE: _memory_pressure,
    Kind.DISCONNECT: lambda target, record: bad_clients.disconnect(target.traffic, record, target.concurrency),
    Kind.FLOOD: lambda target, record: bad_clients.flood(target.traffic, record, target.concurrency),
    Kind.HALF_SENT: lambda target, record: bad_clients.half_sent(target.service.address, record),
    Kind.SLOW_READERS: lambda target, record: bad_clients.slow_readers(target.traffic, record),
}
