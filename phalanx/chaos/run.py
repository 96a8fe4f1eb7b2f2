"""One run: the service is started, its answers are learnt, it is disturbed, and it is ended."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from phalanx.chaos import faults
from phalanx.chaos.fault_target import FaultTarget, NotRecovered
from phalanx.chaos.ledger import FaultRecord, Ledger
from phalanx.chaos.request_set import request_set
from phalanx.chaos.schedule import Fault, Kind, schedule
from phalanx.chaos.service_under_test import SERVE, ServiceUnderTest
from phalanx.chaos.traffic import Traffic
from phalanx.chaos.verdict import End

DISTINCT = 64
"""How many different requests there are."""
MEMORY_EVERY = 5.0
"""Seconds between two measurements of memory."""


@dataclass(frozen=True)
class Plan:
    """What is to be run."""

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
    """The options of `phalanx serve`."""
    join: bool = False
    """Whether the last rank comes by `phalanx join`, over TCP."""
    command: Sequence[str] = SERVE


@dataclass
class Outcome:
    """What has come of a run so far."""

    plan: Plan
    ledger: Ledger
    began: float
    """When the disturbed time began, on the monotonic clock, as all times of faults and requests are."""
    memory: list[tuple[float, dict[str, int]]] = field(default_factory=list)
    """Seconds into the disturbed time, each with the bytes by kind of process; measured while no process is missing."""
    complaints: list[str] = field(default_factory=list)
    """What else was not as it should be."""
    log: str = ""
    """The last words of the service, where there is something to explain."""

    @property
    def good(self) -> bool:
        """Whether nothing was wrong, lost or left behind."""
        ends = self.ledger.ends
        return not (ends[End.WRONG] or ends[End.LOST] or self.ledger.unended or self.complaints)


async def run(plan: Plan, live: Callable[[Outcome], None] = lambda outcome: None) -> Outcome:
    """Run to the end of the plan's time; `live` is called every second.

    Raises:
        StartFailed, Undisturbed: the service could not be disturbed.
    """
    service = ServiceUnderTest(plan.flags, plan.command, plan.join)
    ledger = Ledger(plan.ranks)
    traffic = Traffic(service, ledger, request_set(plan.seed, DISTINCT), plan.seed)
    target = FaultTarget(service, traffic, ledger, plan.ranks, plan.api_servers, plan.concurrency)
    outcome = Outcome(plan, ledger, time.monotonic())
    try:
        await service.start()
        await traffic.learn(plan.concurrency)
        outcome.began = time.monotonic()
        await _disturb(target, outcome, live)
    finally:
        complaints = await service.stop()
        outcome.complaints += complaints
        if not outcome.good:
            outcome.log = service.words()
        service.discard()
    return outcome


async def _disturb(target: FaultTarget, outcome: Outcome, live: Callable[[Outcome], None]) -> None:
    plan = outcome.plan
    clients = [asyncio.create_task(target.traffic.client(number)) for number in range(plan.concurrency)]
    aside = [
        asyncio.create_task(_every(1.0, lambda: live(outcome))),
        asyncio.create_task(_every(MEMORY_EVERY, lambda: _weigh(target, outcome))),
    ]
    disturbed = asyncio.create_task(_all_faults(target, outcome))
    ended: list[asyncio.Task[Any]] = [asyncio.create_task(each.wait()) for each in target.service.processes]
    work = asyncio.gather(disturbed, *clients)
    try:
        await asyncio.wait([disturbed, *ended], return_when=asyncio.FIRST_COMPLETED)
        target.traffic.end()
        await asyncio.wait([work, *ended], return_when=asyncio.FIRST_COMPLETED)
        if target.service.running:
            work.result()
            await _whole_again(target, outcome)
        else:
            outcome.complaints.append("the service did not live to the end of the run")
        _weigh(target, outcome)
    finally:
        await _cancelled([*aside, *clients, disturbed, *ended])
        with contextlib.suppress(asyncio.CancelledError):
            await work


async def _all_faults(target: FaultTarget, outcome: Outcome) -> None:
    """Let each fault happen at its time, or when what was struck before is back; wait until the last is over."""
    plan = outcome.plan
    turns = {kind.turn: asyncio.Lock() for kind in Kind}
    end = outcome.began + plan.seconds
    async with asyncio.TaskGroup() as group:
        for fault in schedule(plan.seed, plan.kinds, plan.every, plan.step_timeout):
            if fault.at >= plan.seconds:
                break
            await asyncio.sleep(max(0.0, outcome.began + fault.at - time.monotonic()))
            group.create_task(_one_fault(target, outcome, fault, turns, end))
        await asyncio.sleep(max(0.0, end - time.monotonic()))


async def _one_fault(
    target: FaultTarget, outcome: Outcome, fault: Fault, turns: dict[str, asyncio.Lock], end: float
) -> None:
    async with turns[fault.kind.turn]:
        if time.monotonic() >= end:
            return  # Its turn never came.
        record = FaultRecord(fault, time.monotonic())
        outcome.ledger.records.append(record)
        try:
            await faults.perform(target, record)
        except (NotRecovered, OSError) as error:
            outcome.complaints.append(f"{fault} ({record.note}): {error}")


async def _whole_again(target: FaultTarget, outcome: Outcome) -> None:
    try:
        await target.all_attached()
        await target.all_of("api")
    except NotRecovered as error:
        outcome.complaints.append(f"after the last fault: {error}")


def _weigh(target: FaultTarget, outcome: Outcome) -> None:
    process_tree, plan = target.service.process_tree, outcome.plan
    # While a process is missing, the sum says nothing of growth.
    if len(process_tree.of("engine")) == plan.ranks and len(process_tree.of("api")) == plan.api_servers:
        outcome.memory.append((time.monotonic() - outcome.began, process_tree.memory()))


async def _every(seconds: float, work: Callable[[], None]) -> None:
    while True:
        work()
        await asyncio.sleep(seconds)


async def _cancelled(tasks: Iterable[asyncio.Task[Any]]) -> None:
    waited = list(tasks)
    for task in waited:
        task.cancel()
    await asyncio.gather(*waited, return_exceptions=True)
