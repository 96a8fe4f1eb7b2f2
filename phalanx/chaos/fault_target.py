"""What faults act on, and how it is seen that what was struck is back."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from phalanx import running_time
from phalanx.chaos.http_client import HttpConnection
from phalanx.chaos.ledger import Ledger
from phalanx.chaos.processes import Process
from phalanx.chaos.service_under_test import ServiceUnderTest
from phalanx.chaos.traffic import Traffic

LOOK = 0.1
"""Seconds between two looks at whether what was struck is back."""
BACK = 120.0
"""Seconds that what was struck may take to be back."""


class NotRecovered(Exception):
    """The service did not come back from a fault; the message says from which."""


@dataclass
class FaultTarget:
    """The service, its clients, and the books of the run."""

    service: ServiceUnderTest
    traffic: Traffic
    ledger: Ledger
    ranks: int
    api_servers: int
    concurrency: int

    async def incarnations(self) -> dict[int, int]:
        """The attached ranks and their incarnations as an API server sees them; there are none where none answers."""
        with contextlib.suppress(OSError, TimeoutError, ValueError, KeyError):
            async with running_time.timeout(1), HttpConnection.open(self.service.address) as connection:
                answer = await connection.request("GET", "/ready")
                return {rank["rank"]: rank["incarnation"] for rank in json.loads(bytes(answer.body))["ranks"]}
        return {}

    async def all_of(self, role: str) -> list[Process]:
        """All processes of a role, once all of them live."""
        count = self.ranks if role == "engine" else self.api_servers
        await until(lambda: len(self.service.process_tree.of(role)) == count, f"{count} {role} processes live")
        return self.service.process_tree.of(role)

    async def all_attached(self) -> dict[int, int]:
        """The incarnations of all ranks, once every one is attached."""
        found: dict[int, int] = {}

        async def complete() -> bool:
            found.update(await self.incarnations())
            return len(found) == self.ranks

        await until(complete, "every rank is attached")
        return found

    async def ranks_back(self, before: dict[int, int], indices: list[int]) -> None:
        """Wait until newer incarnations of these ranks are attached."""

        async def back() -> bool:
            now = await self.incarnations()
            return all(now.get(index, -1) > before[index] for index in indices)

        await until(back, f"ranks {indices} serve again")

    async def api_server_back(self, index: int) -> None:
        """Wait until this API server answers a connection that is made from now on."""

        async def ask() -> bool:
            with contextlib.suppress(OSError, TimeoutError):
                async with running_time.timeout(BACK), HttpConnection.open(self.service.address) as connection:
                    answer = await connection.request("GET", "/health")
                    return answer.headers.get("x-phalanx-api-server") == str(index)
            return False

        asked: list[asyncio.Task[bool]] = []
        try:

            def answered() -> bool:
                asked.append(asyncio.create_task(ask()))
                return any(task.done() and task.result() for task in asked)

            await until(answered, f"api {index} listens again")
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str, patience: float = BACK) -> None:
    """Wait for a condition.

    Raises:
        NotRecovered: the condition is not met in time.
    """
    deadline = running_time.now() + patience
    while True:
        met = condition()
        if met if isinstance(met, bool) else await met:
            return
        if running_time.now() > deadline:
            raise NotRecovered(f"waited {patience:g} s until {what}")
        await asyncio.sleep(LOOK)
