"""The table of the cluster's living nodes: what is free on each, and who holds the rest.

Everything is asked of Ray's head directly. Ray's state API would tell the same with fewer private names, but it is
served by the dashboard, which many clusters do not run. A node is known by its id; resource keys that name a node or
a placement group are never read (a group's own keys hold the node's address too, and break such look-ups).
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import worker
from ray._private.state import available_resources_per_node, state
from ray.core.generated import gcs_pb2
from ray.util import placement_group_table

from phalanx.ray_backend.placement_plan import ClusterNode, Holder, Resource

COMMAND_LIMIT = 80
"""Characters of a job's command line that a message quotes."""


@dataclass(frozen=True)
class _Grip:
    """How much one placement group or actor holds on a node."""

    node: str
    job: str
    name: str
    amount: float


def nodes(resource: Resource, with_holders: bool = True) -> list[ClusterNode]:
    """The nodes that live, with what they have of a resource and, `with_holders` (which takes longer), who holds it."""
    own = own_node_id()
    alive = [node for node in ray.nodes() if node["Alive"]]
    # Asked for later, so that it has every node that lives; one that it has not has died in between.
    free = available_resources_per_node()
    holders = _holders(resource) if with_holders else {}
    return [
        ClusterNode(
            id=node["NodeID"],
            address=node["NodeManagerAddress"],
            name=node["NodeManagerHostname"],
            free=free[node["NodeID"]].get(resource, 0.0),
            total=node["Resources"].get(resource, 0.0),
            here=node["NodeID"] == own,
            holders=tuple(holders.get(node["NodeID"], ())),
            raylet_port=node["NodeManagerPort"],
        )
        for node in alive
        if node["NodeID"] in free
    ]


def own_node_id() -> str:
    """The id of this machine's node."""
    return str(ray.get_runtime_context().get_node_id())


def ask_head(timeout: float) -> None:
    """Ask the head any question. Raises Ray's own errors when it has not answered within `timeout` seconds."""
    worker.global_worker.gcs_client.internal_kv_get(b"alive", b"phalanx", timeout=timeout)


def raylets() -> dict[str, tuple[str, int]]:
    """Host and port at which the raylet of each living node listens, by node id."""
    return {
        node["NodeID"]: (node["NodeManagerAddress"], node["NodeManagerPort"]) for node in ray.nodes() if node["Alive"]
    }


def _holders(resource: Resource) -> dict[str, list[Holder]]:
    """The holders on each node, by node id: one holder a job, named after its groups and actors."""
    grips = [*_groups(resource), *_actors(resource)]
    commands = {job["JobID"]: job["Entrypoint"] for job in state.job_table()} if grips else {}
    by_job: dict[tuple[str, str], list[_Grip]] = defaultdict(list)
    for grip in grips:
        by_job[grip.node, grip.job].append(grip)
    holders: dict[str, list[Holder]] = defaultdict(list)
    for (node, job), held in by_job.items():
        names = sorted(grip.name for grip in held)
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        command = _in_short(commands.get(job, ""))
        who = f"{names[0]}{others} of job {job}" + (f" ({command})" if command else "")
        holders[node].append(Holder(who, sum(grip.amount for grip in held)))
    return holders


def _in_short(command: str) -> str:
    """A command line without its program's folder, and without the empty words of a process that has renamed itself."""
    program, _, arguments = command.replace(' ""', "").replace('"', "").partition(" ")
    return f"{program.rpartition('/')[2]} {arguments}".strip()[:COMMAND_LIMIT]


def _groups(resource: Resource) -> Iterator[_Grip]:
    table: dict[str, dict[str, Any]] = placement_group_table()
    for number, group in table.items():
        if group["state"] == "REMOVED":
            continue
        job = number[-8:]  # the last four bytes of a group's id are its job's
        for index, node in group["bundles_to_node_id"].items():
            amount = group["bundles"][index].get(resource, 0.0)
            if node and amount:
                yield _Grip(node, job, group["name"] or "a placement group", amount)


def _actors(resource: Resource) -> Iterator[_Grip]:
    """Actors that hold a node's own resources. One in a placement group holds the group's, which is counted already."""
    for data in state._connect_and_get_accessor().get_actor_table(None, None):
        actor = gcs_pb2.ActorTableData.FromString(data)
        amount = actor.required_resources.get(resource, 0.0)
        if actor.state == gcs_pb2.ActorTableData.ALIVE and amount and not actor.placement_group_id.strip(b"\xff"):
            name = f"actor {actor.name or actor.class_name}"
            yield _Grip(actor.address.node_id.hex(), actor.job_id.hex(), name, amount)
