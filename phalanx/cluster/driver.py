"""The Ray driver's life: join, plan, have the placement groups made, then start and watch nodes until told to stop."""

import contextlib
import os
import queue
import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

from phalanx.child import EXIT_FAILED, Control
from phalanx.cluster import census, packing
from phalanx.cluster.errors import ClusterError, Stopped
from phalanx.cluster.groups import POLL, Groups
from phalanx.cluster.joining import Joined, join, loopback_trouble, runtime_environment
from phalanx.cluster.lifeline import PATIENCE, Lifeline, dial, pulse
from phalanx.cluster.packing import Demand, Node, Plan, Refusal
from phalanx.cluster.placing import Found, Placing
from phalanx.cluster.seats import Finished, Looked, Seats
from phalanx.config import Config
from phalanx.protocol import ClusterPlan, Failed, ReleaseNode, StageName, StartNode, Stop, ToChild

SETTLING = 3.0
"""Seconds in which what a job that has just ended held may come free, before a plan is refused."""
OWN_RANKS = 1024
"""For so many ranks a cluster of our own says that it has CPUs: any more than a service can be scaled to."""
TICK = 0.5
"""Seconds between two looks at what no event tells."""


@dataclass
class NodeGone:
    """A node of the cluster does not answer any more."""

    node: str
    reason: str


Event: TypeAlias = ToChild | Looked | Finished | NodeGone


class Driver:
    """The one that talks to Ray. All methods run on the main thread."""

    def __init__(self, control: Control, events: "queue.SimpleQueue[Event]") -> None:
        self._control = control
        self._config: Config = control.config
        self._events = events
        self._early: list[Event] = []
        """Orders that came before we were ready for them."""
        self._joined: Joined | None = None
        self._groups: Groups | None = None
        self._placing: Placing | None = None
        self._seats: Seats | None = None
        self._leaving = False
        self._watched: set[str] = set()
        """Ids of nodes whose end we shall hear of."""
        self._gone: set[str] = set()
        """Those that have died: Ray goes on for a while to tell that they live."""

    def run(self) -> None:
        """Serve until told to stop. Raises ClusterError: what ends the service; `leave` is due in any case."""
        with contextlib.suppress(Stopped):
            self._start()
            self._serve()

    # --- start ---

    def _start(self) -> None:
        parallel, demand = self._config.parallel, demand_of(self._config)
        cpus = None
        if demand.resource == "CPU":
            # A cluster of our own must not refuse what processes without Ray are allowed: to share cores.
            cpus = int(max(OWN_RANKS, demand.ranks) * demand.workers * demand.amount)
        environment = runtime_environment(parallel.ray_runtime_env)
        self._joined = join(parallel.ray_address, environment, cpus, self._tell)
        self._stopping()
        Lifeline(*self._joined.head_target, PATIENCE, self._cut_off("the Ray head"))
        pulse(census.ask_head, self._cut_off("the Ray head"))
        self._watch_own_node()
        plan = self._plan(demand)
        self._check_address(plan)
        for node in plan.nodes:
            self._watch(node)
        self._groups = Groups(demand, secrets.token_hex(2))
        for rank, nodes in enumerate(plan.ranks):
            self._groups.make(rank, nodes)
        self._groups.wait(parallel.node_timeout, self._progress, self._stopping)
        self._placing = Placing(self._groups, self._survey, demand, parallel, self._watch)
        self._seats = Seats(
            demand,
            self._control.secret.decode(),
            environment.get("env_vars", ()),
            self._config.service.startup_timeout,
            self._events.put,
        )
        self._control.send(
            ClusterPlan(
                address=parallel.data_parallel_address or self._joined.local_address,
                nodes=tuple(node.address for rank in plan.ranks for node in rank),
                head=census.ports().get(census.here(), ("", 0))[0],
            )
        )
        self._control.ready(str(plan))

    def _plan(self, demand: Demand) -> Plan:
        """Raises ClusterError: the ranks do not fit, in numbers."""
        parallel = self._config.parallel
        deadline = time.monotonic() + SETTLING
        told = ""
        while True:
            nodes = self._survey(True)
            total = sum(node.total for node in nodes)
            found = f"{len(nodes)} node{'s' * (len(nodes) > 1)}, {total:g} {demand.resource}s"
            if self._joined is not None and self._joined.own is not None and demand.resource == "CPU":
                found = "1 node, whose CPUs are shared"
            if found != told:
                self._tell(found)
                told = found
            try:
                plan = packing.pack(
                    nodes,
                    demand,
                    parallel.data_parallel_pack,
                    parallel.data_parallel_size_local,
                    parallel.data_parallel_nodes,
                )
                if not (dead := {node.id for node in plan.nodes if not _answers(node)}):
                    return plan
                self._gone |= dead
                continue
            except Refusal as refusal:
                busy = any(node.free < node.total for node in nodes)
                if not busy or time.monotonic() > deadline:
                    raise ClusterError(str(refusal)) from None
            self._stopping()
            time.sleep(0.2)

    def _survey(self, who: bool) -> list[Node]:
        """The nodes that live."""
        nodes = [n for n in census.take(demand_of(self._config).resource, who) if n.id not in self._gone]
        # A machine whose node died and came back has two for a while, as Ray sees it.
        count = Counter(node.address for node in nodes)
        return [node for node in nodes if count[node.address] == 1 or _answers(node)]

    def _check_address(self, plan: Plan) -> None:
        assert self._joined is not None
        if self._config.parallel.data_parallel_address is None:
            trouble = loopback_trouble(self._joined.local_address, [node.address for node in plan.nodes])
            if trouble:
                raise ClusterError(trouble)

    def _tell(self, detail: str) -> None:
        self._control.stage(StageName.ATTACHED, None, detail)

    def _progress(self, share: float, detail: str) -> None:
        self._control.stage(StageName.ATTACHED, share, detail)

    def _stopping(self) -> None:
        """Raises Stopped: the supervisor has said so. Raises ClusterError: a node of the plan has died."""
        while True:
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                return
            if isinstance(event, Stop):
                raise Stopped
            if isinstance(event, NodeGone):
                raise ClusterError(f"{event.reason}, before its placement groups were there")
            self._early.append(event)

    # --- serving ---

    def _serve(self) -> NoReturn:
        assert self._seats is not None
        assert self._placing is not None
        for event in self._early:
            self._take(event)
        while True:
            with contextlib.suppress(queue.Empty):
                self._take(self._events.get(timeout=TICK if self._placing.idle else POLL))
            for over in self._seats.overdue():
                self._control.send(over)
            for answer in self._placing.look(time.monotonic()):
                if isinstance(answer, Found):
                    self._sit(answer.order, answer.node)
                else:
                    self._control.send(answer)

    def _take(self, event: Event) -> None:
        assert self._seats is not None
        match event:
            case StartNode():
                self._start_node(event)
            case ReleaseNode():
                self._release(event)
            case Looked():
                if (answer := self._seats.looked(event)) is not None:
                    self._control.send(answer)
            case Finished():
                if (over := self._seats.finished(event)) is not None:
                    self._control.send(over)
            case NodeGone():
                self._lose(event)
            case Stop():
                raise Stopped

    def _start_node(self, order: StartNode) -> None:
        """In its rank's group, as long as that is there."""
        assert self._groups is not None
        assert self._placing is not None
        if order.places:
            (place,) = order.places
            group = self._groups.of(place.index)
            if group is not None and group.there:
                if group.node_ids <= census.ports().keys():
                    self._sit(order, group.nodes[place.worker])
                    return
                self._groups.remove(group)
        self._placing.add(order, time.monotonic())

    def _sit(self, order: StartNode, node: Node) -> None:
        assert self._groups is not None
        assert self._seats is not None
        group = self._groups.of(order.places[0].index) if order.places else None
        self._control.send(self._seats.start(order, node, group))

    def _release(self, order: ReleaseNode) -> None:
        assert self._groups is not None
        assert self._placing is not None
        assert self._seats is not None
        for rank in self._seats.release(order):
            self._placing.forget(rank)
            if (group := self._groups.of(rank)) is not None:
                self._groups.remove(group)
        self._placing.forget_host(order.host)

    def _lose(self, event: NodeGone) -> None:
        """A group is lost with any of its nodes: what it holds on others is of no use to anybody."""
        assert self._groups is not None
        assert self._seats is not None
        self._gone.add(event.node)
        lost = [group for group in self._groups.all if event.node in group.node_ids]
        for over in self._seats.node_gone(event.node, [group.rank for group in lost], event.reason):
            self._control.send(over)
        for group in lost:
            self._groups.remove(group)

    def _watch(self, node: Node) -> None:
        """Be told at once when it dies."""
        if node.id not in self._watched and not node.here:
            self._watched.add(node.id)
            Lifeline(*census.ports().get(node.id, (node.address, 0)), 0, self._on_node_gone(node))

    def _watch_own_node(self) -> None:
        own = census.ports().get(census.here())
        if own is not None:
            Lifeline(*own, 0, self._own_node_gone)

    def _on_node_gone(self, node: Node) -> Callable[[str], None]:
        def gone(reason: str) -> None:
            self._events.put(NodeGone(node.id, f"the Ray node {node.address} is gone: {reason}"))

        return gone

    def _own_node_gone(self, reason: str) -> None:
        assert self._joined is not None
        host, port = self._joined.head_target
        try:
            dial(host, port).close()
        except OSError as error:
            # The cause, and not its consequence: a node without its head soon ends.
            self._cut_off("the Ray head")(f"nobody answers at {host}:{port} any more ({error.strerror or error})")
        else:
            self._cut_off("this machine's Ray node")(reason)

    def _cut_off(self, what: str) -> Callable[[str], None]:
        """What to do when something is gone without which there is no driver.

        On a thread of its own: the main thread may be waiting for what is gone. Ray itself would end this process
        later, without a word to the supervisor.
        """

        def gone(reason: str) -> None:
            if self._leaving:
                return
            with contextlib.suppress(OSError):
                self._control.send(Failed(f"{what} is gone: {reason}"))
            self.let_go()
            os._exit(EXIT_FAILED)

        return gone

    # --- end ---

    def leave(self) -> None:
        """Let nodes end, kill those that do not, and leave the cluster as if we had never been there.

        Bounded by the caller: any call to Ray may block while its head is in trouble.
        """
        self._leaving = True
        if self._seats is not None:
            # The supervisor tells nodes to stop; what they have to say last arrives meanwhile.
            deadline = time.monotonic() + 0.4 * self._config.service.shutdown_timeout
            while self._seats.open and time.monotonic() < deadline:
                with contextlib.suppress(queue.Empty):
                    event = self._events.get(timeout=0.1)
                    if isinstance(event, Finished) and (over := self._seats.finished(event)) is not None:
                        self._control.send(over)
            for seat in self._seats.open:
                self._seats.drop(seat)
        if self._groups is not None:
            self._groups.remove_all()
        if self._joined is not None:
            self._joined.leave()

    def let_go(self) -> None:
        """All that is left to do where leaving takes too long."""
        if self._joined is not None:
            self._joined.let_go()


def _answers(node: Node) -> bool:
    """Whether its raylet listens: one that died a moment ago is told by Ray as living."""
    try:
        dial(*census.ports().get(node.id, (node.address, 0))).close()
    except OSError:
        return False
    return True


def demand_of(config: Config) -> Demand:
    """What the ranks ask of the cluster."""
    ranks, workers = config.parallel.data_parallel_size, config.parallel.tensor_parallel_size
    if config.engine.device == "cuda":
        return Demand(ranks, workers, "GPU")
    return Demand(ranks, workers, "CPU", config.engine.cpu_threads or 1)
