"""The faults, one function each: do it, undo it, wait until who was struck serves again."""

import asyncio
import contextlib
import resource
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from phalanx.chaos import crowds
from phalanx.chaos.ledger import Record
from phalanx.chaos.processes import UNLIMITED, Process, links, pace
from phalanx.chaos.schedule import Kind
from phalanx.chaos.world import BACK, LOOK, Trouble, World, until
from phalanx.machine import free_memory

SETTLE = 20.0
"""Seconds that requests get to go on before the next fault strikes ranks."""
BEAT = 0.05
"""A slowed process runs and stands for so many seconds in turn."""
SLOW_RATE = 2048
"""Bytes a second on a slowed TCP link: less than two dozen streams need."""
SHARE, MOST = 0.5, 2 * 2**30
"""Of the memory that is free, and in bytes at most, what pressure takes."""


async def perform(world: World, record: Record) -> None:
    """Let a fault happen; returns when everything is as before.

    Raises:
        Trouble: it never was.
    """
    if record.fault.kind.strikes_ranks:
        await world.all_of("engine")
    try:
        await _SHELLS[record.fault.kind](world, record)
    finally:
        record.ended = time.monotonic()
    if record.fault.kind.strikes_ranks:
        # Requests go on before the next strike, or one could meet two between two of its tokens.
        since = record.ended
        with contextlib.suppress(Trouble):
            await until(lambda: world.ledger.settled_since(since), "every request has gone on", SETTLE)


# --- processes ---


def _strike(record: Record, *victims: Process) -> None:
    """From here on it counts."""
    record.seats = tuple(victim.seat for victim in victims)
    record.began = time.monotonic()
    record.note = ", ".join(f"{role} {index}" for role, index in record.seats)


async def _kill_ranks(world: World, record: Record, every: bool = False) -> None:
    before, ranks = await world.known(), await world.all_of("engine")
    victims = ranks if every else [ranks[record.fault.pick(len(ranks))]]
    _strike(record, *victims)
    for victim in victims:
        victim.struck = True
        victim.signal(signal.SIGKILL)
    await world.ranks_back(before, [victim.seat[1] for victim in victims])
    record.recovery = time.monotonic() - record.began


async def _kill_all_ranks(world: World, record: Record) -> None:
    await _kill_ranks(world, record, every=True)


async def _kill_api_server(world: World, record: Record) -> None:
    servers = await world.all_of("api")
    victim = servers[record.fault.pick(len(servers))]
    _strike(record, victim)
    victim.struck = True
    victim.signal(signal.SIGKILL)
    await world.api_server_back(victim.seat[1])
    record.recovery = time.monotonic() - record.began


async def _stop(world: World, record: Record, role: str) -> None:
    before = await world.known()
    processes = await world.all_of(role)
    victim = processes[record.fault.pick(len(processes))]
    _strike(record, victim)
    victim.struck = True
    victim.signal(signal.SIGSTOP)
    try:
        await _dies(victim, record.fault.seconds)
    finally:
        victim.signal(signal.SIGCONT)
    # What was declared dead while it was stopped may die of it only now.
    if not await _dies(victim, 1.0):
        victim.struck = False
        return
    if role == "engine":
        await world.ranks_back(before, [victim.seat[1]])
    else:
        await world.api_server_back(victim.seat[1])
    record.recovery = time.monotonic() - record.began
    record.note += ", declared dead"


async def _dies(victim: Process, within: float) -> bool:
    # Not `wait_for`, which loses a cancellation that comes together with what is waited for (Python 3.11).
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            await victim.death.wait()
    return victim.died_at is not None


async def _stop_rank(world: World, record: Record) -> None:
    await _stop(world, record, "engine")


async def _stop_api_server(world: World, record: Record) -> None:
    await _stop(world, record, "api")


# --- links ---


async def _cut_link(world: World, record: Record) -> None:
    """Both ends live; what is between them does not."""
    await world.known()
    ranks = await world.all_of("engine")
    victim, port = ranks[record.fault.pick(len(ranks))], world.service.control_port
    cut = links(victim, port)
    _strike(record, victim)
    for link in cut.values():
        with link, contextlib.suppress(OSError):
            link.shutdown(socket.SHUT_RDWR)

    def dialled_again() -> bool:
        if victim.died_at is not None:
            raise Trouble(f"{record.note} died of a connection that was cut")
        now = links(victim, port)
        for link in now.values():
            link.close()
        return len(now.keys() - cut.keys()) >= len(cut)

    await until(dialled_again, f"{record.note} has dialled again")
    await world.known()
    record.recovery = time.monotonic() - record.began
    record.note += f", {len(cut)} connections"


async def _slow_link(world: World, record: Record) -> None:
    """A TCP link gets a bandwidth; what a socket file leads to is only as slow as the rank that writes to it."""
    ranks = await world.all_of("engine")
    victim = ranks[record.fault.pick(len(ranks))]
    for rank in ranks:
        with contextlib.ExitStack() as stack:
            found = [stack.enter_context(link) for link in links(rank, world.service.control_port).values()]
            tcp = [link for link in found if link.family != socket.AF_UNIX]
            if tcp:
                _strike(record, rank)
                record.note += f", {SLOW_RATE} bytes/s"
                for link in tcp:
                    pace(link, SLOW_RATE)
                await asyncio.sleep(record.fault.seconds)
                for link in tcp:
                    pace(link, UNLIMITED)
                return
    _strike(record, victim)
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


async def _full_disk(world: World, record: Record) -> None:
    """The log cannot grow for a while; when it can again, it has to."""
    service = world.service
    controls = list(service.runtime.rglob("control"))
    size = service.log.stat().st_size
    soft, hard = resource.prlimit(service.processes[0].pid, resource.RLIMIT_FSIZE)
    _limit(service.family.pids(), size, hard)
    try:
        await _knock(controls)
        await asyncio.sleep(record.fault.seconds)
    finally:
        # Who has come meanwhile inherited the limit.
        _limit(service.family.pids(), soft, hard)
    record.note = "and the log went on"
    before = service.log.stat().st_size
    knocked = time.monotonic()
    while service.log.stat().st_size == before:
        if time.monotonic() - knocked > BACK:
            raise Trouble("the log has said nothing more since the disk was full for a while")
        await _knock(controls)
        await asyncio.sleep(LOOK)


def _limit(pids: list[int], soft: int, hard: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


async def _knock(controls: list[Path]) -> None:
    """Say nonsense to the service's own sockets: it logs that it refused us."""
    for path in controls:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_unix_connection(path)
            writer.write(b"x" * 64)
            writer.close()


async def _memory_pressure(world: World, record: Record) -> None:
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


_SHELLS: dict[Kind, Callable[[World, Record], Awaitable[None]]] = {
    Kind.KILL_RANK: _kill_ranks,
    Kind.KILL_ALL_RANKS: _kill_all_ranks,
    Kind.STOP_RANK: _stop_rank,
    Kind.CUT_LINK: _cut_link,
    Kind.SLOW_LINK: _slow_link,
    Kind.KILL_API_SERVER: _kill_api_server,
    Kind.STOP_API_SERVER: _stop_api_server,
    Kind.FULL_DISK: _full_disk,
    Kind.MEMORY_PRESSURE: _memory_pressure,
    Kind.DISCONNECT: lambda world, record: crowds.disconnect(world.traffic, record, world.concurrency),
    Kind.FLOOD: lambda world, record: crowds.flood(world.traffic, record, world.concurrency),
    Kind.HALF_SENT: lambda world, record: crowds.half_sent(world.service.address, record),
    Kind.SLOW_READERS: lambda world, record: crowds.slow_readers(world.traffic, record),
}
