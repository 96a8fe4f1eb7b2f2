"""One run: start the service, learn its answers, disturb it, end it, tell."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from phalanx.chaos import faults
from phalanx.chaos.catalogue import catalogue
from phalanx.chaos.ledger import Ledger, Record
from phalanx.chaos.schedule import Fault, Kind, schedule
from phalanx.chaos.service import SERVE, Service
from phalanx.chaos.traffic import Traffic
from phalanx.chaos.verdict import End
from phalanx.chaos.world import Trouble, World

DISTINCT = 64
"""Requests that differ."""
MEMORY_EVERY = 5.0
"""Seconds between two looks at the memory."""


@dataclass(frozen=True)
class Plan:
    seconds: float
    seed: int
    kinds: Sequence[Kind]
    every: float
    """Seconds between faults, on average."""
    concurrency: int
    ranks: int
    api_servers: int
    step_timeout: float
    flags: Sequence[str]
    """Of `phalanx serve`."""
    join: bool = False
    """The last rank comes by `phalanx join`, over TCP."""
    command: Sequence[str] = SERVE


@dataclass
class Outcome:
    plan: Plan
    ledger: Ledger
    began: float
    """Of the disturbed time, on the monotonic clock; the times of records are on the same."""
    memory: list[tuple[float, dict[str, int]]] = field(default_factory=list)
    """Seconds into the disturbed time, and bytes by kind of process while none is missing."""
    complaints: list[str] = field(default_factory=list)
    """What else was not as it should be."""
    log: str = ""
    """The service's last words, where there is something to explain."""

    @property
    def good(self) -> bool:
        ends = self.ledger.ends
        return not (ends[End.WRONG] or ends[End.LOST] or self.ledger.unended or self.complaints)


async def run(plan: Plan, live: Callable[[Outcome], None] = lambda outcome: None) -> Outcome:
    """Run to the end of its time; `live` is called every second.

    Raises:
        StartFailed, Undisturbed: it came to no disturbance.
    """
    service = Service(plan.flags, plan.command, plan.join)
    ledger = Ledger(plan.ranks)
    traffic = Traffic(service, ledger, catalogue(plan.seed, DISTINCT), plan.seed)
    world = World(service, traffic, ledger, plan.ranks, plan.api_servers, plan.concurrency)
    outcome = Outcome(plan, ledger, time.monotonic())
    try:
        await service.start()
        await traffic.learn(plan.concurrency)
        outcome.began = time.monotonic()
        await _disturb(world, outcome, live)
    finally:
        complaints = await service.stop()
        outcome.complaints += complaints
        if not outcome.good:
            outcome.log = service.words()
        service.discard()
    return outcome


async def _disturb(world: World, outcome: Outcome, live: Callable[[Outcome], None]) -> None:
    plan = outcome.plan
    clients = [asyncio.create_task(world.traffic.client(number)) for number in range(plan.concurrency)]
    aside = [
        asyncio.create_task(_every(1.0, lambda: live(outcome))),
        asyncio.create_task(_every(MEMORY_EVERY, lambda: _weigh(world, outcome))),
    ]
    disturbed = asyncio.create_task(_all_faults(world, outcome))
    ended: list[asyncio.Task[Any]] = [asyncio.create_task(each.wait()) for each in world.service.processes]
    work = asyncio.gather(disturbed, *clients)
    try:
        await asyncio.wait([disturbed, *ended], return_when=asyncio.FIRST_COMPLETED)
        world.traffic.end()
        await asyncio.wait([work, *ended], return_when=asyncio.FIRST_COMPLETED)
        if world.service.running:
            work.result()
            await _whole_again(world, outcome)
        else:
            outcome.complaints.append("the service did not live to the end of the run")
        _weigh(world, outcome)
    finally:
        await _cancelled([*aside, *clients, disturbed, *ended])
        with contextlib.suppress(asyncio.CancelledError):
            await work


async def _all_faults(world: World, outcome: Outcome) -> None:
    """Let each happen at its time, or as soon as who was struck before it is back; wait for the last to be over."""
    plan = outcome.plan
    turns = {kind.turn: asyncio.Lock() for kind in Kind}
    end = outcome.began + plan.seconds
    async with asyncio.TaskGroup() as group:
        for fault in schedule(plan.seed, plan.kinds, plan.every, plan.step_timeout):
            if fault.at >= plan.seconds:
                break
            await asyncio.sleep(max(0.0, outcome.began + fault.at - time.monotonic()))
            group.create_task(_one_fault(world, outcome, fault, turns, end))
        await asyncio.sleep(max(0.0, end - time.monotonic()))


async def _one_fault(world: World, outcome: Outcome, fault: Fault, turns: dict[str, asyncio.Lock], end: float) -> None:
    async with turns[fault.kind.turn]:
        if time.monotonic() >= end:
            return  # Its turn never came.
        record = Record(fault, time.monotonic())
        outcome.ledger.records.append(record)
        try:
            await faults.perform(world, record)
        except (Trouble, OSError) as error:
            outcome.complaints.append(f"{fault} ({record.note}): {error}")


async def _whole_again(world: World, outcome: Outcome) -> None:
    try:
        await world.known()
        await world.all_of("api")
    except Trouble as error:
        outcome.complaints.append(f"after the last fault: {error}")


def _weigh(world: World, outcome: Outcome) -> None:
    family, plan = world.service.family, outcome.plan
    # While one is missing the sum says nothing of growth.
    if len(family.of("engine")) == plan.ranks and len(family.of("api")) == plan.api_servers:
        outcome.memory.append((time.monotonic() - outcome.began, family.memory()))


async def _every(seconds: float, work: Callable[[], None]) -> None:
    while True:
        work()
        await asyncio.sleep(seconds)


async def _cancelled(tasks: Iterable[asyncio.Task[Any]]) -> None:
    waited = list(tasks)
    for task in waited:
        task.cancel()
    await asyncio.gather(*waited, return_exceptions=True)
