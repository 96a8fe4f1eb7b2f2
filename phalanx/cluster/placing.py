"""Find a place for what has none: a rank whose group is lost or was never made, API servers whose machine is away.

Nothing here blocks: `look` is called time and again, while the driver goes on with all else.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from phalanx.cluster import census, packing
from phalanx.cluster.groups import Group, Groups
from phalanx.cluster.packing import Demand, Node, Refusal
from phalanx.config import ParallelOptions
from phalanx.protocol import NodeEnded, NodeStarting, StartNode

log = logging.getLogger(__name__)

SEARCH = 0.5
"""Seconds between two looks for room."""
PATIENCE = 5.0
"""Seconds for a group to come where there was room: after that somebody else was faster, and it is planned anew."""
SETTLED = 1.0
"""Seconds until what a group took is surely no longer told as free."""


@dataclass
class Found:
    """The node of an order can be started, here."""

    order: StartNode
    node: Node


Answer: TypeAlias = Found | NodeStarting | NodeEnded


@dataclass
class _Wait:
    """Of one rank's workers, or of the API servers of one machine."""

    deadline: float
    orders: dict[int, StartNode] = field(default_factory=dict)
    """By worker."""
    told: str = ""


class Placing:
    """Orders that wait for a place. On the driver's main thread."""

    def __init__(
        self,
        groups: Groups,
        demand: Demand,
        parallel: ParallelOptions,
        gone: Collection[str],
        use: Callable[[Node], None],
    ) -> None:
        """`gone`: ids of nodes that have died, whatever Ray still says of them; `use` hears of each node chosen."""
        self._groups = groups
        self._demand = demand
        self._rule = (parallel.data_parallel_pack, parallel.data_parallel_size_local, parallel.data_parallel_nodes)
        self._timeout = parallel.node_timeout
        self._gone = gone
        self._use = use
        self._ranks: dict[int, _Wait] = {}
        self._hosts: dict[str, _Wait] = {}
        self._search_at = 0.0

    @property
    def idle(self) -> bool:
        return not self._ranks and not self._hosts

    def add(self, order: StartNode) -> None:
        """Start its node as soon as there is a place for it."""
        wait = _Wait(0.0)
        if order.places:
            (place,) = order.places
            wait = self._ranks.setdefault(place.index, wait)
            wait.orders[place.worker] = order
        else:
            wait = self._hosts.setdefault(order.host, wait)
            wait.orders[0] = order
        wait.deadline, wait.told = time.monotonic() + self._timeout, ""
        self._search_at = 0.0

    def forget(self, rank: int) -> None:
        """It is not wanted any more."""
        self._ranks.pop(rank, None)

    def forget_host(self, host: str) -> None:
        """Its API servers are not wanted any more."""
        self._hosts.pop(host, None)

    def look(self) -> Iterator[Answer]:
        """What has come of the orders since."""
        if self.idle:
            return
        now = time.monotonic()
        for group in self._groups.look():
            if now > group.asked_at + PATIENCE:
                self._groups.remove(group)
        for rank in list(self._ranks):
            found = self._groups.of(rank)
            if found is not None and found.there:
                orders = self._ranks.pop(rank).orders
                yield from (Found(order, found.nodes[worker]) for worker, order in orders.items())
        if now > self._search_at and not self.idle:
            self._search_at = now + SEARCH
            yield from self._search(now)

    def _search(self, now: float) -> Iterator[Answer]:
        nodes = [node for node in census.take(self._demand.resource, who=False) if node.id not in self._gone]
        for host, wait in list(self._hosts.items()):
            node = next((node for node in nodes if node.address == host), None)
            if node is not None:
                del self._hosts[host]
                self._use(node)
                yield Found(wait.orders[0], node)
            elif now > wait.deadline:
                del self._hosts[host]
                yield from _over(wait, f"the Ray node {host} has not come back within {self._limit}")
            else:
                yield from self._tell(wait, f"the API servers of {host} wait", f"the Ray node {host} to come back")
        for rank, wait in sorted(self._ranks.items()):
            group = self._groups.of(rank) or self._plan(rank, nodes, now)
            lacks = self._groups.lacks(group.nodes) if group else packing.lacks(nodes, self._demand, *self._rule)
            if now > wait.deadline:
                del self._ranks[rank]
                if group:
                    self._groups.remove(group)
                yield from _over(wait, f"no placement group for rank {rank} within {self._limit}: it needs {lacks}")
            else:
                yield from self._tell(wait, "" if group else f"rank {rank} waits", lacks)

    def _plan(self, rank: int, nodes: list[Node], now: float) -> Group | None:
        """Ask for its group, where there is room."""
        holding = Counter(id for group in self._groups.all for id in group.node_ids)
        claimed = Counter(
            node.id
            for group in self._groups.all
            if not group.there or now < group.asked_at + SETTLED
            for node in group.nodes
        )
        room = [replace(node, free=max(0.0, node.free - claimed[node.id] * self._demand.amount)) for node in nodes]
        try:
            chosen = packing.pack_one(room, self._demand, *self._rule, holding)
        except Refusal:
            return None
        for node in chosen:
            self._use(node)
        group = self._groups.make(rank, chosen)
        log.warning("rank %d is placed on %s", rank, ", ".join(dict.fromkeys(node.address for node in chosen)))
        return group

    @property
    def _limit(self) -> str:
        return f"{self._timeout:g} s (--node-timeout)"

    def _tell(self, wait: _Wait, who: str, waiting_for: str) -> Iterator[NodeStarting]:
        """To the supervisor, and, where `who` is said, to people: of a wait that may last."""
        if waiting_for != wait.told:
            wait.told = waiting_for
            if who:
                log.warning("%s for %s", who, waiting_for)
            for order in wait.orders.values():
                yield NodeStarting(order.places, waiting_for, order.host, order.number, self._timeout)


def _over(wait: _Wait, reason: str) -> Iterator[NodeEnded]:
    return (NodeEnded(order.places, reason, order.host, order.number) for order in wait.orders.values())
