"""One placement group a rank, each bundle on the node that the plan gives it and nowhere else."""

import contextlib
import time
from collections.abc import Callable
from typing import Any, NoReturn

from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

from phalanx.cluster import census
from phalanx.cluster.errors import ClusterError
from phalanx.cluster.packing import Demand, Plan, describe

NODE_LABEL = "ray.io/node-id"
"""Set by Ray on every node. (The resource `node:ADDRESS` would pin a bundle too, but two nodes may share an address
over time, and its keys get mixed up with those of placement groups.)"""

POLL = 0.1
"""Seconds between two looks at the groups."""
RETELL = 5.0
"""Seconds between two words on a wait that has not moved, so that the stage's deadline does not pass meanwhile."""


class Groups:
    """The placement groups of one service. They belong to this job: when it ends, by whatever cause, they go."""

    def __init__(self, plan: Plan, demand: Demand, service: str) -> None:
        self.plan = plan
        self._demand = demand
        self._names = [f"phalanx-{service}-rank-{rank}" for rank in range(len(plan.ranks))]
        self.groups: list[PlacementGroup] = [
            placement_group(
                [{demand.resource: demand.amount} for _ in nodes],
                strategy="PACK",
                name=name,
                bundle_label_selector=[{NODE_LABEL: node.id} for node in nodes],
            )
            for name, nodes in zip(self._names, plan.ranks, strict=True)
        ]

    def wait(self, timeout: float, tell: Callable[[float, str], None], check: Callable[[], None]) -> None:
        """Until all are there; `tell` hears how far it is, `check` may raise to end the wait.

        Raises:
            ClusterError: some are still pending after `timeout` seconds, or their node has died; says in numbers why.
        """
        deadline = time.monotonic() + timeout
        told, told_at = -1, 0.0
        while pending := self._pending():
            now = time.monotonic()
            if now > deadline:
                self._give_up(pending, f"within {timeout:g} s (--node-timeout)")
            if not {node.id for rank in pending for node in self.plan.ranks[rank]} <= census.ports().keys():
                self._give_up(pending, "any more")
            there = len(self.groups) - len(pending)
            if there != told or now > told_at + RETELL:
                told, told_at = there, now
                tell(there / len(self.groups), self._progress(pending))
            check()
            time.sleep(POLL)

    def remove(self) -> None:
        for group in self.groups:
            with contextlib.suppress(Exception):  # the cluster may be gone, and they with it
                remove_placement_group(group)

    def _pending(self) -> list[int]:
        """Ranks whose group is not there yet."""
        table: dict[str, dict[str, Any]] = placement_group_table()
        states = [table.get(group.id.hex(), {}).get("state") for group in self.groups]
        return [rank for rank, state in enumerate(states) if state != "CREATED"]

    def _progress(self, pending: list[int]) -> str:
        nodes, ranks = len(self.plan.nodes), len(self.groups)
        has = f"{nodes} node{'s' * (nodes > 1)}"
        first = pending[0]
        return f"{has}; placement group {ranks - len(pending)} of {ranks}; rank {first} waits for {self._lacks(first)}"

    def _lacks(self, rank: int) -> str:
        """`1 GPU on 10.0.0.2`"""
        wanted = [node.address for node in self.plan.ranks[rank]]
        amounts = {address: wanted.count(address) * self._demand.amount for address in wanted}
        return ", ".join(f"{amount:g} {self._demand.resource} on {address}" for address, amount in amounts.items())

    def _give_up(self, pending: list[int], when: str) -> NoReturn:
        nodes = {node.id: node for node in census.take(self._demand.resource)}
        waiting = {node.id: node.address for rank in pending for node in self.plan.ranks[rank]}
        state = "; ".join(
            describe(nodes[id], self._demand.resource) if id in nodes else f"{address} has left the cluster"
            for id, address in waiting.items()
        )
        ranks = "rank " + str(pending[0]) + (f" and {len(pending) - 1} more" if len(pending) > 1 else "")
        raise ClusterError(
            f"no placement group for {ranks} {when}; rank {pending[0]} needs {self._lacks(pending[0])}. {state}"
        )
