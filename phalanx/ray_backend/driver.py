"""The Ray driver's life: join, plan, have the placement groups made, then start and watch nodes until told to stop."""

import contextlib
import os
import queue
import secrets
import time
from collections import Counter
from collections.abc import Callable
from typing import NoReturn, TypeAlias

from phalanx import running_time
from phalanx.child import EXIT_FAILED, Control
from phalanx.config import Config
from phalanx.protocol import ClusterPlan, Failed, ReleaseNode, StartNode, StartupStage, Stop, ToChild
from phalanx.ray_backend import node_table, placement_plan
from phalanx.ray_backend.cluster_connection import ClusterConnection, connect, loopback_trouble, runtime_environment
from phalanx.ray_backend.errors import ClusterError, Stopped
from phalanx.ray_backend.liveness import PATIENCE, ListenerWatch, NodeGone, death_of, no_answer, poll_liveness
from phalanx.ray_backend.node_actors import ActorFinished, ActorInspected, NodeActors
from phalanx.ray_backend.pending_nodes import PendingNodes, Placed
from phalanx.ray_backend.placement_groups import POLL, PlacementGroups
from phalanx.ray_backend.placement_plan import ClusterNode, Demand, DoesNotFit, PlacementPlan

SETTLING = 3.0
"""Seconds in which nothing more has come free of what a job that has just ended held, before a plan is refused."""
OWN_RANKS = 1024
"""Ranks for which a private cluster says that it has CPUs: more than a service can be scaled to."""
TICK = 0.5
"""Seconds between two looks at what no event tells."""

Event: TypeAlias = ToChild | ActorInspected | ActorFinished | NodeGone


class Driver:
    """Talks to Ray for the supervisor. All methods run on the main thread."""

    def __init__(self, control: Control, events: "queue.SimpleQueue[Event]") -> None:
        self._control = control
        self._config: Config = control.config
        self._events = events
        self._early: list[Event] = []
        """Orders that came before the driver was ready for them."""
        self._cluster: ClusterConnection | None = None
        self._groups: PlacementGroups | None = None
        self._pending: PendingNodes | None = None
        self._actors: NodeActors | None = None
        self._leaving = False
        self._watched: set[str] = set()
        """Ids of the nodes that are watched."""
        self._gone: set[str] = set()
        """Ids of the nodes that have died. Ray goes on for a while to tell that they live."""

    def run(self) -> None:
        """Serve until told to stop. Raises ClusterError, which ends the service. Call `leave` in either case."""
        with contextlib.suppress(Stopped):
            self._start()
            self._serve()

    # --- start ---

    def _start(self) -> None:
        parallel, demand = self._config.parallel, demand_of(self._config)
        cpus = None
        if demand.resource == "CPU":
            # A private cluster must not refuse what processes without Ray are allowed: to share cores.
            cpus = int(max(OWN_RANKS, demand.ranks) * demand.workers * demand.amount)
        environment = runtime_environment(parallel.ray_runtime_env)
        self._cluster = connect(parallel.ray_address, environment, cpus, self._tell)
        self._stopping()
        ListenerWatch(*self._cluster.head_target, PATIENCE, self._fail_because_gone("the Ray head"))
        poll_liveness(node_table.ask_head, self._fail_because_gone("the Ray head"))
        self._watch_own_node()
        plan = self._plan(demand)
        self._check_address(plan)
        for node in plan.nodes:
            self._watch(node)
        self._groups = PlacementGroups(demand, secrets.token_hex(2))
        for rank, nodes in enumerate(plan.ranks):
            self._groups.make(rank, nodes)
        self._groups.wait(parallel.node_timeout, self._progress, self._stopping)
        self._pending = PendingNodes(self._groups, self._survey, demand, parallel, self._watch)
        self._actors = NodeActors(
            demand,
            self._control.security,
            environment.get("env_vars", ()),
            self._config.service.startup_timeout,
            self._events.put,
        )
        self._control.send(
            ClusterPlan(
                address=parallel.data_parallel_address or self._cluster.local_address,
                nodes=tuple(node.address for rank in plan.ranks for node in rank),
                head=node_table.raylets().get(node_table.own_node_id(), ("", 0))[0],
            )
        )
        self._control.ready(str(plan))

    def _plan(self, demand: Demand) -> PlacementPlan:
        """Plan where all ranks go. Raises ClusterError: they do not fit, in numbers."""
        parallel = self._config.parallel
        deadline = running_time.now() + SETTLING
        most_free = 0.0
        told = ""
        while True:
            nodes = self._survey(True)
            if (free := sum(node.free for node in nodes)) > most_free:
                most_free, deadline = free, running_time.now() + SETTLING
            total = sum(node.total for node in nodes)
            found = f"{len(nodes)} node{'s' * (len(nodes) > 1)}, {total:g} {demand.resource}s"
            if self._cluster is not None and self._cluster.private is not None and demand.resource == "CPU":
                found = "1 node, whose CPUs are shared"
            if found != told:
                self._tell(found)
                told = found
            try:
                plan = placement_plan.pack(
                    nodes,
                    demand,
                    parallel.data_parallel_pack,
                    parallel.data_parallel_size_local,
                    parallel.data_parallel_nodes,
                )
                if not (dead := {node.id for node in plan.nodes if death_of(node)}):
                    return plan
                self._gone |= dead
                continue
            except DoesNotFit as error:
                busy = any(node.free < node.total for node in nodes)
                if not busy or running_time.now() > deadline:
                    raise ClusterError(str(error)) from None
            self._stopping()
            time.sleep(0.2)

    def _survey(self, with_holders: bool) -> list[ClusterNode]:
        """The nodes that live."""
        nodes = [n for n in node_table.nodes(demand_of(self._config).resource, with_holders) if n.id not in self._gone]
        # A machine whose node died and came back has two for a while, as Ray sees it.
        count = Counter(node.address for node in nodes)
        return [node for node in nodes if count[node.address] == 1 or not death_of(node)]

    def _check_address(self, plan: PlacementPlan) -> None:
        assert self._cluster is not None
        if self._config.parallel.data_parallel_address is None:
            trouble = loopback_trouble(self._cluster.local_address, [node.address for node in plan.nodes])
            if trouble:
                raise ClusterError(trouble)

    def _tell(self, detail: str) -> None:
        self._control.stage(StartupStage.ATTACHED, None, detail)

    def _progress(self, share: float, detail: str) -> None:
        self._control.stage(StartupStage.ATTACHED, share, detail)

    def _stopping(self) -> None:
        """Look whether the start is to be given up.

        Raises:
            Stopped: the supervisor has said so.
            ClusterError: a node of the plan has died.
        """
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
        assert self._actors is not None
        assert self._pending is not None
        for event in self._early:
            self._take(event)
        while True:
            with contextlib.suppress(queue.Empty):
                self._take(self._events.get(timeout=TICK if self._pending.idle else POLL))
            for over in self._actors.overdue():
                self._control.send(over)
            for answer in self._pending.poll(running_time.now()):
                if isinstance(answer, Placed):
                    self._start_actor(answer.order, answer.node)
                else:
                    self._control.send(answer)

    def _take(self, event: Event) -> None:
        assert self._actors is not None
        match event:
            case StartNode():
                self._start_node(event)
            case ReleaseNode():
                self._release(event)
            case ActorInspected():
                if (answer := self._actors.inspected(event)) is not None:
                    self._control.send(answer)
            case ActorFinished():
                if (over := self._actors.finished(event)) is not None:
                    self._control.send(over)
            case NodeGone():
                self._node_lost(event)
            case Stop():
                raise Stopped

    def _start_node(self, order: StartNode) -> None:
        """Start a node in its rank's group, if that is there; otherwise it waits for a place."""
        assert self._groups is not None
        assert self._pending is not None
        if order.places:
            (place,) = order.places
            group = self._groups.of(place.index)
            if group is not None and group.there:
                # The supervisor may have heard of the end of a machine before us.
                deaths = [death for node in dict.fromkeys(group.nodes) if (death := death_of(node)) is not None]
                for death in deaths:
                    self._node_lost(death)
                if not deaths and group.node_ids <= node_table.raylets().keys():
                    self._start_actor(order, group.nodes[place.worker])
                    return
                if not deaths:
                    self._groups.remove(group)
        self._pending.add(order, running_time.now())

    def _start_actor(self, order: StartNode, node: ClusterNode) -> None:
        assert self._groups is not None
        assert self._actors is not None
        group = self._groups.of(order.places[0].index) if order.places else None
        self._control.send(self._actors.start(order, node, group))

    def _release(self, order: ReleaseNode) -> None:
        assert self._groups is not None
        assert self._pending is not None
        assert self._actors is not None
        for rank in self._actors.release(order):
            self._pending.forget(rank)
            if (group := self._groups.of(rank)) is not None:
                self._groups.remove(group)
        self._pending.forget_host(order.host)

    def _node_lost(self, event: NodeGone) -> None:
        """A group is lost with any of its nodes: what it holds on others is of no use to anybody."""
        assert self._groups is not None
        assert self._actors is not None
        self._gone.add(event.node.id)
        lost = [group for group in self._groups.all if event.node.id in group.node_ids]
        for over in self._actors.node_gone(event.node.id, [group.rank for group in lost], event.reason):
            self._control.send(over)
        for group in lost:
            self._groups.remove(group)

    def _watch(self, node: ClusterNode) -> None:
        """Have its death told at once."""
        if node.id not in self._watched and not node.here:
            self._watched.add(node.id)
            ListenerWatch(node.address, node.raylet_port, 0, lambda why: self._events.put(NodeGone(node, why)))

    def _watch_own_node(self) -> None:
        own = node_table.raylets().get(node_table.own_node_id())
        if own is not None:
            ListenerWatch(*own, 0, self._own_node_gone)

    def _own_node_gone(self, reason: str) -> None:
        assert self._cluster is not None
        head_gone = no_answer(*self._cluster.head_target)
        if head_gone is not None:
            # The cause, and not its consequence: a node without its head soon ends.
            self._fail_because_gone("the Ray head")(head_gone)
        else:
            self._fail_because_gone("this machine's Ray node")(reason)

    def _fail_because_gone(self, what: str) -> Callable[[str], None]:
        """A callback that ends this process: `what` is gone, without which there is no driver.

        It is called on a thread of its own, since the main thread may be waiting for what is gone. Ray itself would
        end this process later, without a word to the supervisor.
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
        if self._actors is not None:
            # The supervisor tells nodes to stop; what they have to say last arrives meanwhile.
            deadline = running_time.now() + 0.4 * self._config.service.shutdown_timeout
            while self._actors.open and running_time.now() < deadline:
                with contextlib.suppress(queue.Empty):
                    event = self._events.get(timeout=0.1)
                    if isinstance(event, ActorFinished) and (over := self._actors.finished(event)) is not None:
                        self._control.send(over)
            for record in self._actors.open:
                self._actors.drop(record)
        if self._groups is not None:
            self._groups.remove_all()
        if self._cluster is not None:
            self._cluster.leave()

    def let_go(self) -> None:
        """Do what is left to do where leaving takes too long."""
        if self._cluster is not None:
            self._cluster.let_go()


def demand_of(config: Config) -> Demand:
    """What the ranks ask of the cluster."""
    ranks, workers = config.parallel.data_parallel_size, config.parallel.tensor_parallel_size
    if config.engine.device == "cuda":
        return Demand(ranks, workers, "GPU")
    return Demand(ranks, workers, "CPU", config.engine.cpu_threads or 1)
