"""A whole service in virtual time: the supervisor's fleet, API servers, ranks, clients, and a network that breaks.

Real are the fleet, the dispatcher and router of each API server, and the loop, scheduler and cache of each rank.
Everything is a function of the seed. The invariants are checked where something has happened, after each event.
"""

import itertools
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from unittest import mock

from support.simulation.api_servers import ApiServer, Client
from support.simulation.disturbances import Disturbances
from support.simulation.network import End, Network, Timeline
from support.simulation.processes import Process, brief
from support.simulation.ranks import Rank

from phalanx.api import service_ranks
from phalanx.engine import core
from phalanx.protocol import (
    ApiServerId,
    ApiServers,
    ChildId,
    Endpoint,
    Place,
    Role,
)
from phalanx.supervisor import events, leaving
from phalanx.supervisor.child_states import ChildState
from phalanx.supervisor.events import Finish, FleetAction, FleetEvent
from phalanx.supervisor.fleet import Fleet
from phalanx.supervisor.fleet_limits import FleetLimits
from phalanx.supervisor.state import FleetPhase

SETTLED_WITHIN = 40.0
"""Seconds after the last disturbance, or since a request has ended."""
PROCESSES: dict[Role, type[ApiServer] | type[Rank]] = {Role.API: ApiServer, Role.ENGINE: Rank}
_quiet = logging.Logger("a simulated rank", logging.CRITICAL)


class World:
    """One history; `without` leaves disturbances out, by number."""

    def __init__(
        self, seed: int, without: frozenset[int] = frozenset(), note: Callable[[float, str], None] | None = None
    ) -> None:
        self.seed = seed
        self.rng = rng = random.Random(seed)
        self.timeline = Timeline()
        self.network = Network(self.timeline, rng)
        self.tally = Counter[str]()
        self.steps = self.fleet_events = 0
        self.disturbances = Disturbances(self, without)
        self._note = note
        self.block_size = rng.choice((2, 4))
        self.num_blocks = rng.choice((12, 20, 40))
        self.max_num_seqs = rng.choice((1, 2, 4, 8))
        self.step_tokens = rng.choice((8, 16, 32))
        self.max_model_len = min(self.num_blocks * self.block_size, rng.choice((30, 60)))
        self.patience = rng.choice((0.5, 5.0, 20.0))
        self.servers = rng.choice((1, 2, 2, 3))
        self.ranks = rng.choice((1, 2, 2, 3, 4))
        limits = FleetLimits(
            startup=10.0,
            shutdown=3.0,
            step=rng.choice((3.0, 6.0)),
            max_restarts=rng.choice((0, 2, 4, 20, 20, 20, 20, 20)),
            window=60.0,
            backoff=0.5,
            longest_backoff=8.0,
            drain=5.0,
        )
        places = [Place(Role.API, n) for n in range(self.servers)] + [Place(Role.ENGINE, n) for n in range(self.ranks)]
        self.fleet = Fleet.of(places, limits)
        self.processes: dict[Place, ApiServer | Rank] = {}
        """The newest in each place."""
        self.clients: dict[int, Client] = {}
        """By seed, which is the number of the request."""
        self.poisons = False
        self.running_loop: ApiServer | None = None
        """Whose turn it is."""
        self.finish: Finish | None = None
        self.pids = itertools.count(1)
        self._backlog: dict[int, list[tuple[Rank, Callable[[End], None]]]] = {}
        self._retired: set[int] = set()
        self._deadline: float | None = None
        self._last_end = 0.0
        self._rotation = itertools.cycle(Place(Role.API, index) for index in range(self.servers))

    @property
    def events(self) -> int:
        """What reached somebody, what the fleet took, and steps."""
        return self.network.deliveries + self.fleet_events + self.steps

    @property
    def tracing(self) -> bool:
        return self._note is not None

    def note(self, text: str) -> None:
        if self._note is not None:
            self._note(self.timeline.now, text)

    def run(self) -> None:
        clock = SimpleNamespace(monotonic=lambda: self.timeline.now)
        collector = SimpleNamespace(collect=lambda: None)
        loops = SimpleNamespace(get_running_loop=lambda: self.running_loop)
        with (
            mock.patch.multiple(core, time=clock, gc=collector, log=_quiet),
            mock.patch.object(service_ranks, "asyncio", loops),
        ):
            self.tell(events.Begin(0.0))
            while self.finish is None:
                self._next()
                self._check()
            self._check_end()

    def _next(self) -> None:
        timeline, due = self.timeline, self._deadline
        if due is not None and due < timeline.next_at:
            timeline.now = max(timeline.now, due)
            self.tell(events.Tick(timeline.now))
        else:
            assert timeline.next_at < 1000.0, "it does not end"
            timeline.advance()

    # --- the supervisor ---

    def tell(self, event: FleetEvent) -> None:
        if self.finish is not None:
            assert self.fleet.step(event) == []
            return
        self.fleet_events += 1
        if self.tracing and not isinstance(event, events.Pulsed):
            self.note(f"the fleet hears {brief(event)}")
        for action in self.fleet.step(event):
            if self.tracing:
                self.note(f"the fleet says {brief(action)}")
            self._do(action)
        self._deadline = self.fleet.next_deadline()

    def _do(self, action: FleetAction) -> None:
        match action:
            case events.Spawn(child):
                self._spawn(child)
            case events.SendWelcome(child):
                process = self._ordered(child)
                process.hear(process.welcomed)
                if isinstance(process, ApiServer):
                    self._tell_ranks(process)
            case events.SendStop(child):
                process = self._ordered(child)
                process.hear(process.stop)
            case events.SendDrain(child):
                process = self._ordered(child)
                assert isinstance(process, ApiServer)
                process.hear(process.drain)
            case events.Dump(child):
                if self.rng.random() < 0.7:
                    self._signal(child, -6)
            case events.Kill(child):
                self._signal(child, -9)
            case events.TellRanks():
                for api in self.living(ApiServer):
                    if api.connected:
                        self._tell_ranks(api)
            case events.AnnounceLeft(_, children):
                self.tally["left for good"] += 1
                for child in children:
                    assert self.processes[child.place].over or not self.processes[child.place].pid
            case events.AnnounceReady():
                self.tally["served"] += 1
                self.disturbances.begin()
            case events.AnnounceRestart():
                self.tally["restarts"] += 1
            case events.AnnounceDegraded(failure):
                self.tally["given up"] += 1
                place = failure.child.place
                if place.role is Role.API:
                    self._retired.add(place.index)
                    self._api_servers_changed()
            case Finish():
                self.finish = action

    def _ordered(self, child: ChildId) -> ApiServer | Rank:
        process = self.processes[child.place]
        assert process.id == child, f"an order to {child}, incarnation {child.incarnation}; {process.name} is there"
        return process

    def _signal(self, child: ChildId, number: int) -> None:
        process = self._ordered(child)
        process.after(self.rng.random() * 0.02, lambda: process.die(number))

    def _tell_ranks(self, api: ApiServer) -> None:
        api.hear(partial(api.service_ranks.update, leaving.ranks_now(self.fleet)))

    def _spawn(self, child: ChildId) -> None:
        former = self.processes.get(child.place)
        if former is not None:
            assert former.over, f"{child} is started while {former.name} lives"
            assert child.incarnation > former.id.incarnation, f"{child} is started as what it was"
        process = self.processes[child.place] = PROCESSES[child.place.role](self, child)
        process.after(self.rng.random() * 0.1, process.launched)

    @property
    def api_servers(self) -> ApiServers:
        indices = (index for index in range(self.servers) if index not in self._retired)
        return ApiServers(tuple(Endpoint(ApiServerId(index), f"api {index}") for index in indices))

    def _api_servers_changed(self) -> None:
        api_servers = self.api_servers
        for rank in self.living(Rank):
            if rank.serves:
                rank.after(self.rng.random() * 0.1, partial(self._name, rank, api_servers))

    def _name(self, rank: Rank, api_servers: ApiServers) -> None:
        rank.peers.mailbox.append(api_servers)
        rank.wake()

    @property
    def danger_at_start(self) -> float:
        return 0.1 if self.disturbances.going else 0.002

    def fell(self, process: Process) -> None:
        self.tally[f"{process.id.place.role} deaths"] += 1

    # --- the network ---

    def knock(self, rank: Rank, index: int, accepted: Callable[[End], None]) -> None:
        """A rank dials: whoever serves the listener takes it, or it waits in the backlog, which lives on."""
        self.timeline.after(self.rng.random() * 0.02, lambda: self._knocked(rank, index, accepted))

    def _knocked(self, rank: Rank, index: int, accepted: Callable[[End], None]) -> None:
        api = self.processes[Place(Role.API, index)]
        if index in self._retired:
            return
        assert isinstance(api, ApiServer)
        if api.dead or not api.accepts:
            self._backlog.setdefault(index, []).append((rank, accepted))
            return
        near, far = self.network.connect()
        rank.ends.append(near)
        api.accept(far)
        if rank.dead:
            near.die()
        else:
            near.received, near.ended = (lambda body: None), (lambda reason: None)
            rank.after(self.rng.random() * 0.02, lambda: accepted(near))

    def api_accepts(self, api: ApiServer) -> None:
        for rank, accepted in self._backlog.pop(api.index, []):
            self.knock(rank, api.index, accepted)

    # --- clients ---

    def submitted(self, client: Client) -> None:
        self.tally["submissions"] += 1
        self.tally["replays"] += client.submissions > 0

    def ended(self, client: Client, how: str) -> None:
        self.tally[how] += 1
        self._last_end = self.timeline.now
        self.note(f"{client} ends: {how}")
        client.api.drained()

    def living(self, kind: type) -> list:
        return [p for p in self.processes.values() if isinstance(p, kind) and p.pid and not p.dead]

    # --- the end ---

    def calm(self) -> None:
        self.note("--- no more disturbances")
        self.network.calm = True
        for near in self.network.connections:
            near.pace = near.peer.pace = 0.01
        for rank in self.living(Rank):
            if rank.silent:
                rank.thaw()
        if self.fleet.phase is FleetPhase.SERVING:
            self.tell(events.Resume(self.timeline.now, tuple(self.fleet.departures)))
        self._last_end = self.timeline.now
        self._await_rest()

    def _await_rest(self) -> None:
        if self.fleet.phase is not FleetPhase.SERVING:
            return
        unsettled = list(self._unsettled())
        if unsettled:
            late = self.timeline.now > self._last_end + SETTLED_WITHIN
            assert not late, f"long after the last disturbance: {'; '.join(unsettled[:4])}"
            self.timeline.after(0.5, self._await_rest)
            return
        self.note("--- all is at rest")
        self.tally["settled"] += 1
        for rank in self.living(Rank):
            rank.check_idle()
        for api in self.living(ApiServer):
            assert not api.open
            api.check()
        self.tell(events.StopRequested(self.timeline.now, "the end", drain=True))

    def _unsettled(self) -> Iterator[str]:
        """What is not yet as it will be when nothing happens any more."""
        for client in self.clients.values():
            if not client.ended:
                yield f"{client} is open"
        for child in self.fleet.children.values():
            if child.state not in (ChildState.READY, ChildState.GONE, ChildState.LOST, ChildState.FALLEN):
                yield f"{child.id} is {child.state}"
        if self.fleet.departures:
            yield f"ranks are leaving: {self.fleet.departures}"
        ranks = self.living(Rank)
        for rank in ranks:
            if rank.scheduler.unfinished:
                yield f"{rank.name} runs {rank.scheduler.unfinished} requests"
        there = {rank.rank: rank.id.incarnation for rank in ranks}
        for api in self.living(ApiServer):
            attached = {rank: link.hello.incarnation for rank, link in api.dispatcher.links.items()}
            if attached != there:
                yield f"{api.name} has ranks {attached}; {there} live"

    def _check(self) -> None:
        """One process in turn, whole; what an event changes is checked where it does."""
        process = self.processes.get(next(self._rotation))
        if isinstance(process, ApiServer) and not process.dead:
            process.check()

    def _check_end(self) -> None:
        assert self.finish is not None
        assert not self.finish.left_behind
        failure = self.finish.failure
        self.tally["failed" if failure else "stopped"] += 1
        assert all(process.over for process in self.processes.values())
        for client in self.clients.values():
            assert client.ended, f"{client} never ended"
