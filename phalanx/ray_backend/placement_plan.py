"""The plan that says which node of the cluster holds which rank.

It is pure: what the cluster has comes in, a plan or `DoesNotFit` goes out.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from types import MappingProxyType
from typing import Literal, TypeAlias

Rule: TypeAlias = Literal["strict", "fill", "span"]
Resource: TypeAlias = Literal["GPU", "CPU"]
Room: TypeAlias = "dict[ClusterNode, int]"
"""How many more workers fit on each node."""
WorkerNodes: TypeAlias = "tuple[ClusterNode, ...]"
"""The node of each worker of one rank."""

_GRAIN = 1e-4
"""Ray counts resources in ten-thousandths; shares that were given back may not sum up to the last of them."""


@dataclass(frozen=True)
class Holder:
    """Somebody who holds a part of a node's resource."""

    who: str
    amount: float


@dataclass(frozen=True)
class ClusterNode:
    """A Ray node that lives, and what it has of the resource that ranks ask for."""

    id: str
    address: str
    name: str
    free: float
    total: float
    here: bool = False
    """Whether it is the machine that this process runs on."""
    holders: tuple[Holder, ...] = ()
    raylet_port: int = 0
    """Where its raylet listens, at `address`."""


@dataclass(frozen=True)
class Demand:
    """What the service asks for: `ranks` times `workers` bundles of `amount` of `resource`, none of them divisible."""

    ranks: int
    workers: int
    resource: Resource
    amount: float = 1


@dataclass(frozen=True)
class PlacementPlan:
    """The node of each worker of each rank. Ranks that follow each other share a node where they can."""

    ranks: tuple[WorkerNodes, ...]

    @property
    def nodes(self) -> list[ClusterNode]:
        """The nodes that it uses, in order of their first rank."""
        return list(dict.fromkeys(node for rank in self.ranks for node in rank))

    def __str__(self) -> str:
        """`16 placement groups on 2 nodes: 8 + 8`"""
        first = [rank[0] for rank in self.ranks]
        counts = " + ".join(str(len(list(group))) for _, group in groupby(first))
        nodes = len(self.nodes)
        groups = f"{len(self.ranks)} placement group{'s' * (len(self.ranks) > 1)} on {nodes} node{'s' * (nodes > 1)}"
        spanning = sum(len(set(rank)) > 1 for rank in self.ranks)
        if spanning:
            return f"{groups}, {spanning} of them over several"
        return f"{groups}: {counts}" if nodes > 1 else groups


class DoesNotFit(Exception):
    """The ranks do not fit; says what was needed, what is free on each node, and who holds the rest."""


def pack(
    nodes: Iterable[ClusterNode], demand: Demand, rule: Rule, per_node: int | None = None, only: Sequence[str] = ()
) -> PlacementPlan:
    """Give every worker of every rank a node.

    - strict: exactly `per_node` ranks on every node used.
    - fill: as many whole ranks as fit on a node, this machine first, then the freest.
    - span: as fill; what is left over of several nodes then makes ranks too, each over as few nodes as possible.

    `only` names the nodes that may be used, by address or by name.

    Raises:
        DoesNotFit: there is no such plan, or no such node.
    """
    candidates = sorted(_restricted(list(nodes), only), key=lambda node: (not node.here, -node.free, node.address))
    room = {node: math.floor((node.free + _GRAIN) / demand.amount) for node in candidates}
    match rule:
        case "strict":
            placed = _strict(room, demand, per_node)
        case "fill":
            placed = _whole(room, demand)
            if len(placed) < demand.ranks:
                raise DoesNotFit(_in_numbers(candidates, demand, len(placed)))
        case "span":
            placed = _whole(room, demand)
            placed = _over_several(room, placed, demand)
    order = {node: number for number, node in enumerate(candidates)}
    return PlacementPlan(tuple(sorted(placed, key=lambda rank: [order[node] for node in rank])))


def pack_one(
    nodes: Iterable[ClusterNode],
    demand: Demand,
    rule: Rule,
    per_node: int | None = None,
    only: Sequence[str] = (),
    holding: Mapping[str, int] = MappingProxyType({}),
) -> WorkerNodes:
    """Give every worker of one more rank a node: of a rank that was added, or in place of one that was lost.

    The others stay where they are, so `strict` can but promise at most `per_node` ranks a node.

    Args:
        only: as for `pack`, but one that is not there may come back, and is no mistake.
        holding: by node id, how many ranks of this service are there.

    Raises:
        DoesNotFit: it does not fit now.
    """
    candidates = allowed(nodes, only)
    if rule == "strict":
        candidates = [node for node in candidates if holding.get(node.id, 0) < (per_node or 1)]
    one = replace(demand, ranks=1)
    # Among nodes with room for a whole rank there is nothing to be strict about any more.
    return pack(candidates, one, "span" if rule == "span" else "fill").ranks[0]


def _strict(room: Room, demand: Demand, per_node: int | None) -> list[WorkerNodes]:
    if not per_node:
        raise DoesNotFit("--data-parallel-pack strict needs --data-parallel-size-local: the ranks on each node used")
    if demand.ranks % per_node:
        raise DoesNotFit(
            f"--data-parallel-pack strict: {demand.ranks} ranks cannot be {per_node} on every node: "
            f"--data-parallel-size must be a multiple of --data-parallel-size-local"
        )
    needed = demand.ranks // per_node
    able = [node for node, workers in room.items() if workers // demand.workers >= per_node]
    if len(able) < needed:
        each = _amount(per_node * demand.workers * demand.amount, demand.resource)
        raise DoesNotFit(
            f"--data-parallel-pack strict: {_ranks(demand)} as {per_node} a node need {needed} "
            f"node{'s' * (needed > 1)} with {each} free; {len(able) or 'no node'} {_has(len(able))} that. "
            f"{_state(room, demand.resource)}"
        )
    return [(node,) * demand.workers for node in able[:needed] for _ in range(per_node)]


def _whole(room: Room, demand: Demand) -> list[WorkerNodes]:
    """As many ranks as fit without dividing one, in the order of `room`."""
    fitting = [(node,) * demand.workers for node, workers in room.items() for _ in range(workers // demand.workers)]
    return fitting[: demand.ranks]


def _over_several(room: dict[ClusterNode, int], placed: list[WorkerNodes], demand: Demand) -> list[WorkerNodes]:
    """Ranks made of what whole ones leave; the nodes with most left first, so that each takes few nodes."""
    left = dict(room)
    for whole in placed:
        left[whole[0]] -= demand.workers
    ranks = list(placed)
    while len(ranks) < demand.ranks:
        if sum(left.values()) < demand.workers:
            raise DoesNotFit(_in_numbers(list(room), demand, len(ranks)))
        rank: list[ClusterNode] = []
        for node in sorted(left, key=lambda node: -left[node]):
            share = min(left[node], demand.workers - len(rank))
            left[node] -= share
            rank += [node] * share
        ranks.append(tuple(rank))
    return ranks


def _restricted(nodes: list[ClusterNode], only: Sequence[str]) -> list[ClusterNode]:
    for wanted in only:
        if not any(wanted in (node.address, node.name) for node in nodes):
            there = ", ".join(f"{node.address} ({node.name})" for node in nodes)
            raise DoesNotFit(f"--data-parallel-nodes: the cluster has no node {wanted!r}; it has {there or 'none'}")
    return allowed(nodes, only)


def allowed(nodes: Iterable[ClusterNode], only: Sequence[str]) -> list[ClusterNode]:
    """Those of the nodes that `--data-parallel-nodes` names; all where it names none."""
    return [node for node in nodes if not only or node.address in only or node.name in only]


# --- words ---


def _in_numbers(nodes: Sequence[ClusterNode], demand: Demand, fitting: int) -> str:
    needed = _amount(demand.ranks * demand.workers * demand.amount, demand.resource)
    each = f", {_amount(demand.workers * demand.amount, demand.resource)} each," if demand.workers > 1 else ""
    fit = f"only {fitting} fit" if fitting else "none fits"
    return f"{_ranks(demand)}{each} need {needed}, and {fit}. {_state(nodes, demand.resource)}"


def _state(nodes: Iterable[ClusterNode], resource: Resource) -> str:
    """`127.0.0.2 (this machine): 2 of 8 GPUs free, 6 held by ...; ...`"""
    return "; ".join(describe(node, resource) for node in nodes) or "The cluster has no node"


def lacks(nodes: Sequence[ClusterNode], demand: Demand, rule: Rule, per_node: int | None, only: Sequence[str]) -> str:
    """What a rank waits for that fits nowhere now: `2 GPUs on any of 10.0.0.2, 10.0.0.3`."""
    each = _amount(demand.workers * demand.amount, demand.resource)
    there = [node.address for node in allowed(nodes, only)]
    away = [name for name in only if not any(name in (node.address, node.name) for node in nodes)]
    match there:
        case []:
            where = f"on {' or '.join(away) or 'a node'}, which the cluster has not now"
        case [single]:
            where = f"on {single}"
        case _:
            where = f"{'over' if rule == 'span' and demand.workers > 1 else 'on any of'} {', '.join(there)}"
    return f"{each} {where}" + (f" with fewer than {per_node} ranks of ours (strict)" if rule == "strict" else "")


def describe(node: ClusterNode, resource: Resource) -> str:
    """What is free on a node, and who holds the rest, as far as it can be told."""
    text = f"{node.address}{' (this machine)' * node.here}: {node.free:g} of {_amount(node.total, resource)} free"
    held = [f"{holder.amount:g} held by {holder.who}" for holder in node.holders]
    unknown = node.total - node.free - sum(holder.amount for holder in node.holders)
    if unknown > _GRAIN:
        held.append(f"{unknown:g} held by tasks that Ray does not name")
    return ", ".join([text, *held])


def _ranks(demand: Demand) -> str:
    workers = f" of {demand.workers} workers" if demand.workers > 1 else ""
    return f"{demand.ranks} rank{'s' * (demand.ranks > 1)}{workers}"


def _has(count: int) -> str:
    return "has" if count <= 1 else "have"


def _amount(amount: float, resource: Resource) -> str:
    return f"{amount:g} {resource}{'s' * (amount != 1)}"
