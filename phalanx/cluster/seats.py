"""The actors that hold nodes: started in their placement group's bundle, watched, ended."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import msgspec
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

import phalanx
from phalanx.cluster import actor as actor_module
from phalanx.cluster.actor import NodeActor
from phalanx.cluster.errors import in_short
from phalanx.cluster.groups import Group
from phalanx.cluster.packing import Demand, Node
from phalanx.protocol import NodeEnded, NodeStarting, ReleaseNode, StartNode
from phalanx.transport import tls

# By value: the other machine may have no phalanx, or another one, and must be able to say so.
ray.cloudpickle.register_pickle_by_value(actor_module)

NODE_PROGRAM = ("-m", "phalanx.node")
WORSE_NEWS = 0.2
"""Seconds from the end of an actor until it is told: the end of its whole machine may be heard of a moment later."""
LAST_WORDS = 2
"""Lines of a node's output that go into the reason of its end."""


@dataclass(eq=False)
class Seat:
    """One actor and what has come of it."""

    order: StartNode
    node: Node
    actor: Any
    deadline: float
    """When its actor must run, as a monotonic time."""
    ended: bool = False

    @property
    def rank(self) -> int | None:
        """Whose worker it is; None: it only holds API servers."""
        return self.order.places[0].index if self.order.places else None

    def starting(self, waiting_for: str) -> NodeStarting:
        return NodeStarting(self.order.places, waiting_for, self.order.host, self.order.number)

    def end(self, reason: str) -> NodeEnded:
        return NodeEnded(self.order.places, reason, self.order.host, self.order.number)


@dataclass
class Looked:
    """An actor runs and has looked for phalanx, or has failed to."""

    seat: Seat
    outcome: "Future[str]" = field(repr=False)


@dataclass
class Finished:
    """A node has ended, or its actor has."""

    seat: Seat
    outcome: "Future[tuple[int, list[str]]]" = field(repr=False)


class Seats:
    """All actors of this service. Methods are called on the driver's main thread; `report` may be on any."""

    def __init__(
        self,
        demand: Demand,
        secret: str,
        kept: Iterable[str],
        startup_timeout: float,
        report: Callable[[Looked | Finished], None],
    ) -> None:
        """`kept`: environment variables that the user has set for the actors."""
        self._demand = demand
        self._secret = secret
        self._kept = list(kept)
        self._startup_timeout = startup_timeout
        self._report = report
        self._actors = ray.remote(NodeActor)
        self._seats: list[Seat] = []

    def start(self, order: StartNode, node: Node, group: Group | None) -> NodeStarting:
        """Have an actor made on `node`, in the bundle of its place where it has one."""
        options: dict[str, Any] = {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0}
        if group is not None:
            (place,) = order.places
            options |= {"num_gpus" if self._demand.resource == "GPU" else "num_cpus": self._demand.amount}
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                group.handle, place.worker, placement_group_capture_child_tasks=False
            )
        else:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node.id, soft=False)
        for former in self._of(lambda seat: (seat.order.places, seat.order.host) == (order.places, order.host)):
            self.drop(former)
        actor = self._actors.options(**options).remote()
        seat = Seat(order, node, actor, time.monotonic() + self._startup_timeout)
        self._seats.append(seat)
        self._hear(actor.look.remote(phalanx.__version__), lambda outcome: Looked(seat, outcome))
        return seat.starting(f"its actor on {node.address}")

    def looked(self, event: Looked) -> NodeStarting | NodeEnded | None:
        """Run the node, if it can be run there."""
        seat = event.seat
        if seat.ended:
            return None
        try:
            trouble = event.outcome.result()
        except Exception as error:
            return self._over(seat, f"its actor on {seat.node.address} could not be started: {in_short(error)}")
        if trouble:
            ship = """or ship it with --ray-runtime-env '{"py_modules": ["phalanx-VERSION.whl"]}'"""
            return self._over(seat, f"{seat.node.address} cannot run a node: {trouble}, {ship}")
        seat.deadline = float("inf")
        self._hear(
            seat.actor.run.remote(self._command(seat), self._secret, self._kept),
            lambda outcome: Finished(seat, outcome),
        )
        return seat.starting(f"its node on {seat.node.address} to dial us")

    def finished(self, event: Finished) -> NodeEnded | None:
        seat = event.seat
        if seat.ended:
            return None
        try:
            status, lines = event.outcome.result()
        except Exception as error:
            return self._over(seat, f"its actor on {seat.node.address} has died: {in_short(error)}")
        ended = f"was killed by signal {-status}" if status < 0 else f"has ended with status {status}"
        words = ": " + " / ".join(lines[-LAST_WORDS:]) if lines else ""
        return self._over(seat, f"its node on {seat.node.address} {ended}{words}")

    def node_gone(self, node_id: str, ranks: Collection[int], reason: str) -> list[NodeEnded]:
        """A node of the cluster has died, and with it everything on it; Ray will come to say so too.

        `ranks` have lost their groups, and with them what they have on other nodes.
        """
        lost = self._of(lambda seat: seat.node.id == node_id or seat.rank in ranks)
        return [self._over(seat, reason) for seat in lost]

    def overdue(self) -> list[NodeEnded]:
        """Those whose actor has not come up in time."""
        now = time.monotonic()
        late = f"did not start within {self._startup_timeout:g} s, and Ray gives no reason"
        return [
            self._over(seat, f"its actor on {seat.node.address} {late}")
            for seat in self._of(lambda seat: seat.deadline < now)
        ]

    @property
    def open(self) -> list[Seat]:
        """Those that have not ended."""
        return list(self._seats)

    def release(self, order: ReleaseNode) -> set[int]:
        """End what an order names, and all else of the same ranks, without a word; the ranks."""
        ranks = {place.index for place in order.places}
        for seat in self._of(lambda seat: seat.rank in ranks if ranks else seat.order.host == order.host):
            self.drop(seat)
        return ranks

    def drop(self, seat: Seat) -> None:
        """Kill its actor; its node and what it runs die with it."""
        seat.ended = True
        self._seats.remove(seat)
        with contextlib.suppress(Exception):  # it is gone already, or Ray is
            ray.kill(seat.actor, no_restart=True)

    def _of(self, wanted: Callable[[Seat], bool]) -> list[Seat]:
        return [seat for seat in self._seats if wanted(seat)]

    def _over(self, seat: Seat, reason: str) -> NodeEnded:
        self.drop(seat)
        return seat.end(reason)

    def _command(self, seat: Seat) -> list[str]:
        order = seat.order
        places = msgspec.json.encode(order.places).decode()
        files = tls.Files.named_by(os.environ) or ()
        return [
            *NODE_PROGRAM,
            *("--control", order.control, "--places", places, "--address", seat.node.address),
            *(() if order.places else ("--serve",)),
            *(f"{flag}={path}" for flag, path in zip(tls.FLAGS, files, strict=False)),
        ]

    def _hear(self, reference: Any, event: Callable[[Any], Looked | Finished]) -> None:
        def heard(outcome: "Future[Any]") -> None:
            if outcome.exception() is None:
                self._report(event(outcome))
            else:
                timer = threading.Timer(WORSE_NEWS, self._report, [event(outcome)])
                timer.daemon = True
                timer.start()

        reference.future().add_done_callback(heard)
