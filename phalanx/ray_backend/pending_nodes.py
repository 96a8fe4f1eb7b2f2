"""Orders to start a node that have no place yet: for a rank without a placement group, or for a machine that is away.

Nothing here blocks, and nothing here talks to Ray: `poll` is called time and again, while the driver goes on with all
else.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from phalanx.config import ParallelOptions
from phalanx.protocol import NodeEnded, NodeStarting, StartNode
from phalanx.ray_backend import placement_plan
from phalanx.ray_backend.placement_plan import ClusterNode, Demand, DoesNotFit

if TYPE_CHECKING:
    from phalanx.ray_backend.placement_groups import PlacementGroups, RankGroup

log = logging.getLogger(__name__)

SEARCH = 0.5
"""Seconds between two looks for room."""
PATIENCE = 5.0
"""Seconds for a group to come where there was room: after that somebody else was faster, and it is planned anew."""
SETTLED = 1.0
"""Seconds from a change of a group until Ray's numbers of what is free hold it for certain."""

Survey: TypeAlias = Callable[[bool], list[ClusterNode]]
"""Gives the nodes that live, and, where asked for, who holds what of them."""


@dataclass
class Placed:
    """An order has found the cluster node on which to start."""

    order: StartNode
    node: ClusterNode


Answer: TypeAlias = Placed | NodeStarting | NodeEnded


@dataclass
class _Wait:
    """The orders of one rank's workers, or of the API servers of one machine."""

    deadline: float = 0.0
    orders: dict[int, StartNode] = field(default_factory=dict)
    """The orders by worker."""
    told: dict[int, str] = field(default_factory=dict)
    """What the supervisor has been told that each waits for."""


class PendingNodes:
    """Orders that wait for a place. On the driver's main thread; times are on the clock of `running_time`."""

    def __init__(
        self,
        groups: "PlacementGroups",
        survey: Survey,
        demand: Demand,
        parallel: ParallelOptions,
        use: Callable[[ClusterNode], None],
    ) -> None:
        """`use` is called with each node that is chosen."""
        self._groups = groups
        self._survey = survey
        self._demand = demand
        self._rule = (parallel.data_parallel_pack, parallel.data_parallel_size_local, parallel.data_parallel_nodes)
        self._timeout = parallel.node_timeout
        self._use = use
        self._ranks: dict[int, _Wait] = {}
        self._hosts: dict[str, _Wait] = {}
        self._changed: dict[int, float] = {}
        """When the group of a rank was asked for, or, since it is there, has come."""
        self._search_at = 0.0

    @property
    def idle(self) -> bool:
        return not self._ranks and not self._hosts

    def add(self, order: StartNode, now: float) -> None:
        """Start its node as soon as there is a place for it."""
        if order.places:
            (place,) = order.places
            wait, worker = self._ranks.setdefault(place.index, _Wait()), place.worker
        else:
            wait, worker = self._hosts.setdefault(order.host, _Wait()), 0
        wait.orders[worker] = order
        wait.told.pop(worker, None)
        wait.deadline = now + self._timeout
        self._search_at = now

    def forget(self, rank: int) -> None:
        """Drop the orders of a rank that is not wanted any more."""
        self._ranks.pop(rank, None)

    def forget_host(self, host: str) -> None:
        """Drop the order for API servers that are not wanted any more."""
        self._hosts.pop(host, None)

    def poll(self, now: float) -> Iterator[Answer]:
        """Look for places again. Yields what there is to do, or to tell the supervisor."""
        if self.idle:
            return
        for group in self._groups.poll():
            if now > self._changed[group.rank] + PATIENCE:
                self._groups.remove(group)
        for rank in list(self._ranks):
            found = self._groups.of(rank)
            if found is not None and found.there:
                orders = self._ranks.pop(rank).orders
                self._changed[rank] = now
                yield from (Placed(order, found.nodes[worker]) for worker, order in orders.items())
        if now >= self._search_at and not self.idle:
            self._search_at = now + SEARCH
            nodes = self._survey(False)
            yield from self._find_hosts(nodes, now)
            yield from self._find_room(nodes, now)

    def _find_hosts(self, nodes: list[ClusterNode], now: float) -> Iterator[Answer]:
        for host, wait in list(self._hosts.items()):
            node = next((node for node in nodes if node.address == host), None)
            if node is not None:
                del self._hosts[host]
                self._use(node)
                yield Placed(wait.orders[0], node)
            elif now > wait.deadline:
                del self._hosts[host]
                yield from _over(wait, f"the Ray node {host} has not come back within {self._limit}")
            else:
                yield from self._tell(wait, f"the API servers of {host} wait", f"the Ray node {host} to come back")

    def _find_room(self, nodes: list[ClusterNode], now: float) -> Iterator[Answer]:
        # What a group took may be counted twice: in these numbers already, and below as its claim. A rank that seems to
        # lack room may then have it. Groups that are asked for below are in no numbers yet.
        settled = not any(self._is_recent(group, now) for group in self._groups.all)
        for rank, wait in sorted(self._ranks.items()):
            group = self._groups.of(rank) or self._ask(rank, nodes, now, settled)
            if now > wait.deadline:
                del self._ranks[rank]
                yield from _over(wait, f"no placement group for rank {rank} within {self._limit}: {self._why(group)}")
            elif group is not None:
                yield from self._tell(wait, None, self._groups.lacks(group.nodes))
            elif settled:
                lacking = placement_plan.lacks(nodes, self._demand, *self._rule)
                yield from self._tell(wait, f"rank {rank} waits", lacking)

    def _ask(self, rank: int, nodes: list[ClusterNode], now: float, settled: bool) -> "RankGroup | None":
        """Ask for the rank's placement group, if there is room for it."""
        claims = [group for group in self._groups.all if not group.there or self._is_recent(group, now)]
        claimed = Counter(node.id for group in claims for node in group.nodes)
        room = [replace(node, free=max(0.0, node.free - claimed[node.id] * self._demand.amount)) for node in nodes]
        try:
            chosen = self._plan(room)
        except DoesNotFit:
            return None
        if len(set(chosen)) > 1 and not settled:
            return None  # What is counted twice for a moment divides no rank that would fit whole.
        for node in chosen:
            self._use(node)
        self._changed[rank] = now
        log.info("rank %d is placed on %s", rank, ", ".join(dict.fromkeys(node.address for node in chosen)))
        return self._groups.make(rank, chosen)

    def _is_recent(self, group: "RankGroup", now: float) -> bool:
        """Whether Ray's numbers may not hold yet what the group took."""
        return now < self._changed.get(group.rank, -SETTLED) + SETTLED

    def _plan(self, nodes: list[ClusterNode]) -> tuple[ClusterNode, ...]:
        holding = Counter(id for group in self._groups.all for id in group.node_ids)
        return placement_plan.pack_one(nodes, self._demand, *self._rule, holding)

    def _why(self, group: "RankGroup | None") -> str:
        """Say in numbers why the rank has not been placed, and give up its group."""
        if group is not None:
            self._groups.remove(group)
            return f"{self._groups.lacks(group.nodes)} did not come"
        try:
            self._plan(self._survey(True))
        except DoesNotFit as refusal:
            return str(refusal)
        return "what it needs has come free too late"

    @property
    def _limit(self) -> str:
        return f"{self._timeout:g} s (--node-timeout)"

    def _tell(self, wait: _Wait, who: str | None, waiting_for: str) -> Iterator[NodeStarting]:
        """Tell the supervisor of a wait that may last, and, with `who`, the people who read the log."""
        if who is not None and waiting_for not in wait.told.values():
            log.warning("%s for %s", who, waiting_for)
        for worker, order in wait.orders.items():
            if wait.told.get(worker) != waiting_for:
                wait.told[worker] = waiting_for
                yield NodeStarting(order.places, waiting_for, order.host, order.number, self._timeout)


def _over(wait: _Wait, reason: str) -> Iterator[NodeEnded]:
    return (NodeEnded(order.places, reason, order.host, order.number) for order in wait.orders.values())
