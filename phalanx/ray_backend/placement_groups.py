"""One placement group a rank, each bundle on the node that the plan gives it and nowhere else."""

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

from phalanx import running_time
from phalanx.ray_backend import node_table
from phalanx.ray_backend.errors import ClusterError
from phalanx.ray_backend.placement_plan import ClusterNode, Demand, describe

NODE_LABEL = "ray.io/node-id"
"""Set by Ray on every node. (The resource `node:ADDRESS` would pin a bundle too, but two nodes may share an address
over time, and its keys get mixed up with those of placement groups.)"""

POLL = 0.1
"""Seconds between two looks at the groups."""
RETELL = 5.0
"""Seconds between two words on a wait that has not moved, so that the stage's deadline does not pass meanwhile."""


@dataclass(eq=False)
class RankGroup:
    """The placement group of one rank."""

    rank: int
    nodes: tuple[ClusterNode, ...]
    """The node of each worker's bundle."""
    handle: PlacementGroup
    there: bool = False
    """Whether it holds its resources. Once it does, it always will, until one of its nodes dies."""

    @property
    def node_ids(self) -> set[str]:
        return {node.id for node in self.nodes}


class PlacementGroups:
    """The placement groups of one service. Ray removes them when this process, their job, ends by whatever cause."""

    def __init__(self, demand: Demand, service: str) -> None:
        self._demand = demand
        self._prefix = f"phalanx-{service}-rank-"
        self._groups: dict[int, RankGroup] = {}

    def make(self, rank: int, nodes: tuple[ClusterNode, ...]) -> RankGroup:
        """Ask for the group of a rank that has none; `poll` tells when it is there."""
        assert rank not in self._groups
        group = self._groups[rank] = RankGroup(
            rank,
            nodes,
            placement_group(
                [{self._demand.resource: self._demand.amount} for _ in nodes],
                strategy="PACK",
                name=f"{self._prefix}{rank}",
                bundle_label_selector=[{NODE_LABEL: node.id} for node in nodes],
            ),
        )
        return group

    def of(self, rank: int) -> RankGroup | None:
        return self._groups.get(rank)

    @property
    def all(self) -> list[RankGroup]:
        return list(self._groups.values())

    def poll(self) -> list[RankGroup]:
        """Ask Ray which are there by now. Returns those that are not."""
        waiting = [group for group in self._groups.values() if not group.there]
        if waiting:
            table: dict[str, dict[str, Any]] = placement_group_table()
            for group in waiting:
                group.there = table.get(group.handle.id.hex(), {}).get("state") == "CREATED"
        return [group for group in waiting if not group.there]

    def wait(self, timeout: float, tell: Callable[[float, str], None], check: Callable[[], None]) -> None:
        """Wait until all are there. `tell` is called with the progress; `check` may raise to end the wait.

        Raises:
            ClusterError: some are still pending after `timeout` seconds, or their node has died; says in numbers why.
        """
        deadline = running_time.now() + timeout
        told, told_at = -1, 0.0
        while pending := self.poll():
            now = running_time.now()
            if now > deadline:
                self._give_up(pending, f"within {timeout:g} s (--node-timeout)")
            if not {id for group in pending for id in group.node_ids} <= node_table.raylets().keys():
                self._give_up(pending, "any more")
            there = len(self._groups) - len(pending)
            if there != told or now > told_at + RETELL:
                told, told_at = there, now
                tell(there / len(self._groups), self._progress(pending))
            check()
            time.sleep(POLL)

    def remove(self, group: RankGroup) -> None:
        """Give back what it holds; what runs in it is killed."""
        del self._groups[group.rank]
        with contextlib.suppress(Exception):  # the cluster may be gone, and they with it
            remove_placement_group(group.handle)

    def remove_all(self) -> None:
        for group in self.all:
            self.remove(group)

    def lacks(self, nodes: Iterable[ClusterNode]) -> str:
        """The resources that a group on these nodes needs: `1 GPU on 10.0.0.2`."""
        wanted = [node.address for node in nodes]
        amounts = {address: wanted.count(address) * self._demand.amount for address in wanted}
        return ", ".join(f"{amount:g} {self._demand.resource} on {address}" for address, amount in amounts.items())

    def _progress(self, pending: list[RankGroup]) -> str:
        nodes, ranks = len({id for group in self.all for id in group.node_ids}), len(self._groups)
        has = f"{nodes} node{'s' * (nodes > 1)}"
        first = pending[0]
        there = f"placement group {ranks - len(pending)} of {ranks}"
        return f"{has}; {there}; rank {first.rank} waits for {self.lacks(first.nodes)}"

    def _give_up(self, pending: list[RankGroup], when: str) -> NoReturn:
        nodes = {node.id: node for node in node_table.nodes(self._demand.resource)}
        waiting = {node.id: node.address for group in pending for node in group.nodes}
        state = "; ".join(
            describe(nodes[id], self._demand.resource) if id in nodes else f"{address} has left the cluster"
            for id, address in waiting.items()
        )
        first = pending[0]
        ranks = f"rank {first.rank}" + (f" and {len(pending) - 1} more" if len(pending) > 1 else "")
        needs = f"rank {first.rank} needs {self.lacks(first.nodes)}"
        raise ClusterError(f"no placement group for {ranks} {when}; {needs}. {state}")
