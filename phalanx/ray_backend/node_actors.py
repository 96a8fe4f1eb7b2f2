"""The actors that run nodes: started in their placement group's bundle, watched, ended."""

import contextlib
import threading
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import msgspec
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

import phalanx
from phalanx import running_time
from phalanx.protocol import NodeEnded, NodeStarting, ReleaseNode, StartNode
from phalanx.ray_backend import actor as actor_module
from phalanx.ray_backend.actor import NodeActor
from phalanx.ray_backend.errors import in_short
from phalanx.ray_backend.liveness import NodeGone, death_of
from phalanx.ray_backend.placement_groups import RankGroup
from phalanx.ray_backend.placement_plan import ClusterNode, Demand
from phalanx.transport.security import Security
from phalanx.transport.tls import FLAGS

# By value: the other machine may have no phalanx, or another one, and must be able to say so.
ray.cloudpickle.register_pickle_by_value(actor_module)

NODE_PROGRAM = ("-m", "phalanx.node")
CAUSE = 0.2
"""Seconds from the end of an actor until its node is dialled: what ended it may still be on its way down."""
LAST_WORDS = 2
"""Lines of a node's output that go into the reason of its end."""


@dataclass(eq=False)
class ActorRecord:
    """One actor, the order that it was made for, and whether it has ended."""

    order: StartNode
    node: ClusterNode
    actor: Any
    deadline: float
    """When its actor must run, on the clock of `running_time`."""
    ended: bool = False

    @property
    def rank(self) -> int | None:
        """The rank whose worker runs there; None where only API servers do."""
        return self.order.places[0].index if self.order.places else None

    def starting(self, waiting_for: str) -> NodeStarting:
        return NodeStarting(self.order.places, waiting_for, self.order.host, self.order.number)

    def end(self, reason: str) -> NodeEnded:
        return NodeEnded(self.order.places, reason, self.order.host, self.order.number)


@dataclass
class ActorInspected:
    """An actor runs and has inspected its machine, or could not be started."""

    record: ActorRecord
    outcome: "Future[str | None]" = field(repr=False)


@dataclass
class ActorFinished:
    """A node has ended, or its actor has."""

    record: ActorRecord
    outcome: "Future[tuple[int, list[str]]]" = field(repr=False)


class NodeActors:
    """All node actors of this service. Methods are called on the driver's main thread; `report` may be on any."""

    def __init__(
        self,
        demand: Demand,
        security: Security,
        kept: Iterable[str],
        startup_timeout: float,
        report: Callable[[ActorInspected | ActorFinished | NodeGone], None],
    ) -> None:
        """`kept` names the environment variables that the user has set for the actors."""
        self._demand = demand
        self._security = security
        self._kept = list(kept)
        self._startup_timeout = startup_timeout
        self._report = report
        self._actor_class = ray.remote(NodeActor)
        self._records: list[ActorRecord] = []

    def start(self, order: StartNode, node: ClusterNode, group: RankGroup | None) -> NodeStarting:
        """Have an actor made on `node`: in its worker's bundle of `group`, where there is one."""
        options: dict[str, Any] = {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0}
        if group is not None:
            (place,) = order.places
            options |= {"num_gpus" if self._demand.resource == "GPU" else "num_cpus": self._demand.amount}
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                group.handle, place.worker, placement_group_capture_child_tasks=False
            )
        else:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node.id, soft=False)
        for former in self._of(lambda record: (record.order.places, record.order.host) == (order.places, order.host)):
            self.drop(former)
        actor = self._actor_class.options(**options).remote()
        record = ActorRecord(order, node, actor, running_time.now() + self._startup_timeout)
        self._records.append(record)
        self._hear(actor.inspect.remote(phalanx.__version__), lambda outcome: ActorInspected(record, outcome))
        return record.starting(f"its actor on {node.address}")

    def inspected(self, event: ActorInspected) -> NodeStarting | NodeEnded | None:
        """Run the node, if its machine can run it."""
        record = event.record
        if record.ended:
            return None
        try:
            trouble = event.outcome.result()
        except Exception as error:
            return self._over(record, f"its actor on {record.node.address} could not be started: {in_short(error)}")
        if trouble:
            ship = """or ship it with --ray-runtime-env '{"py_modules": ["phalanx-VERSION.whl"]}'"""
            return self._over(record, f"{record.node.address} cannot run a node: {trouble}, {ship}")
        record.deadline = float("inf")
        self._hear(
            record.actor.run.remote(self._command(record), self._security.secret.decode(), self._kept),
            lambda outcome: ActorFinished(record, outcome),
        )
        return record.starting(f"its node on {record.node.address} to dial us")

    def finished(self, event: ActorFinished) -> NodeEnded | None:
        record = event.record
        if record.ended:
            return None
        try:
            status, lines = event.outcome.result()
        except Exception as error:
            return self._over(record, f"its actor on {record.node.address} has died: {in_short(error)}")
        ended = f"was killed by signal {-status}" if status < 0 else f"has ended with status {status}"
        words = ": " + " / ".join(lines[-LAST_WORDS:]) if lines else ""
        return self._over(record, f"its node on {record.node.address} {ended}{words}")

    def node_gone(self, node_id: str, ranks: Collection[int], reason: str) -> list[NodeEnded]:
        """A node of the cluster has died, and with it everything on it; Ray will come to say so too.

        `ranks` have lost their groups, and with them what they have on other nodes.
        """
        lost = self._of(lambda record: record.node.id == node_id or record.rank in ranks)
        return [self._over(record, reason) for record in lost]

    def overdue(self) -> list[NodeEnded]:
        """End those whose actor has not come up in time."""
        now = running_time.now()
        late = f"did not start within {self._startup_timeout:g} s, and Ray gives no reason"
        return [
            self._over(record, f"its actor on {record.node.address} {late}")
            for record in self._of(lambda record: record.deadline < now)
        ]

    @property
    def open(self) -> list[ActorRecord]:
        """The actors that have not ended."""
        return list(self._records)

    def release(self, order: ReleaseNode) -> set[int]:
        """End what an order names, and all else of the same ranks, without a report. Returns those ranks."""
        ranks = {place.index for place in order.places}
        for record in self._of(lambda record: record.rank in ranks if ranks else record.order.host == order.host):
            self.drop(record)
        return ranks

    def drop(self, record: ActorRecord) -> None:
        """Kill its actor; its node and what it runs die with it."""
        record.ended = True
        self._records.remove(record)
        with contextlib.suppress(Exception):  # it is gone already, or Ray is
            ray.kill(record.actor, no_restart=True)

    def _of(self, wanted: Callable[[ActorRecord], bool]) -> list[ActorRecord]:
        return [record for record in self._records if wanted(record)]

    def _over(self, record: ActorRecord, reason: str) -> NodeEnded:
        self.drop(record)
        return record.end(reason)

    def _command(self, record: ActorRecord) -> list[str]:
        order = record.order
        places = msgspec.json.encode(order.places).decode()
        files = self._security.files or ()
        return [
            *NODE_PROGRAM,
            *("--control", order.control, "--places", places, "--address", record.node.address),
            *(() if order.places else ("--serve",)),
            *(f"{flag}={path}" for flag, path in zip(FLAGS, files, strict=False)),
        ]

    def _hear(self, reference: Any, event: Callable[[Any], ActorInspected | ActorFinished]) -> None:
        def heard(outcome: "Future[Any]") -> None:
            if outcome.exception() is None:
                self._report(event(outcome))
            else:
                timer = threading.Timer(CAUSE, self._report_failure, [event(outcome)])
                timer.daemon = True
                timer.start()

        reference.future().add_done_callback(heard)

    def _report_failure(self, event: ActorInspected | ActorFinished) -> None:
        """Report the cause, and not its consequence: with a node of the cluster all its actors end."""
        self._report(death_of(event.record.node) or event)
