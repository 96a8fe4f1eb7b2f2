"""A simulated machine full of children that start, stall, die, report, lie and ignore orders, for one `Fleet`.

The world keeps its own account of what is true, apart from the fleet's, and checks the fleet after each event.
Everything is a function of the seed.
"""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from phalanx.protocol import ChildId, Incarnation, Place, Role, StartupStage
from phalanx.supervisor.child_states import ChildState
from phalanx.supervisor.events import (
    Added,
    AnnounceBack,
    AnnounceDegraded,
    AnnounceFailure,
    AnnounceFall,
    AnnounceReady,
    AnnounceRestart,
    AnnounceStop,
    BecameReady,
    Begin,
    CallOff,
    Cause,
    ControlEnded,
    Dump,
    ExitCode,
    Exited,
    Finish,
    FleetEvent,
    Greeted,
    Kill,
    Launched,
    LaunchFailed,
    OutputEnded,
    Progressed,
    Pulsed,
    Reported,
    SendRefusal,
    SendStop,
    SendWelcome,
    Spawn,
    StopRequested,
    Tick,
    Vanished,
    Waiting,
)
from phalanx.supervisor.fleet import Fleet
from phalanx.supervisor.fleet_limits import FleetLimits
from phalanx.supervisor.state import FleetPhase

LIMITS = FleetLimits(startup=10.0, shutdown=3.0, step=10.0)
RESTARTING = FleetLimits(startup=10.0, shutdown=3.0, step=10.0, max_restarts=3, window=20.0)
NODE_LIMIT = 20.0
"""Seconds that a launch may wait for a node."""
MOST_LATE = 1.0
"""Seconds by which a tick may come late."""
STAGES = tuple(StartupStage)[:-1]
AT_REST = (ChildState.READY, ChildState.GONE, ChildState.LOST, ChildState.FALLEN)
DOWN_TO_EARTH = (FleetPhase.STOPPING, FleetPhase.FINISHED)
PLACES = [[Place(role, index) for index in range(6)] for role in (Role.API, Role.ENGINE)]


@dataclass(slots=True)
class Process:
    """What is true of one child, and what the fleet has been told of it."""

    id: ChildId
    remote: bool = False
    """On a node: its launch may take long, and it may vanish."""
    answered: bool = False
    """The launcher has said what became of its launch."""
    launched: bool = False
    doomed: bool = False
    """Its end is on its way to the fleet; it does nothing more."""
    hung: bool = False
    """It does nothing by itself any more."""
    told_exit: bool = False
    greeted: bool = False
    ready: bool = False
    unkillable: bool = False
    deaf: bool = False
    """To Stop."""
    words: str = ""
    """What it reported, be it still on its way."""
    words_at: float = 0.0
    steps: int = -1
    """As its last pulse had it."""
    due: float = 0.0
    """When it is late, had it made no further progress."""
    said: tuple[StartupStage, float | None] = (StartupStage.STARTED, None)


@dataclass(slots=True)
class World:
    """Runs one history; `run` returns the number of events the fleet took."""

    seed: int
    fleet: Fleet = field(init=False)
    now: float = 0.0
    events: int = 0
    rng: random.Random = field(init=False)
    processes: dict[ChildId, Process] = field(default_factory=dict)
    culprit: ChildId | None = None
    stop_asked: bool = False
    told_ready: int = 0
    finish: Finish | None = None
    falling: set[ChildId] = field(default_factory=set)
    """Announced as fallen, and not yet started again or given up."""
    restarts: int = 0
    given_up: set[Place] = field(default_factory=set)
    machines: int = 1
    _queue: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: "itertools.count[int]" = field(default_factory=itertools.count)

    def run(self) -> int:
        self.rng = rng = random.Random(self.seed)
        api, ranks = rng.choice(((1, 1), (1, 1), (1, 2), (2, 1), (2, 2), (3, 5)))
        limits = rng.choice((LIMITS, RESTARTING))
        self.fleet = Fleet.of(PLACES[0][:api] + PLACES[1][:ranks], limits)
        self.machines = rng.choice((1, 1, 2))
        if self.machines > 1 and rng.random() < 0.5:
            self.at(rng.random() * 3, self.add)
        for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 3))):
            self.at(rng.choice((rng.random(), rng.random() * 40)), self.ask_stop)
        self.at(60.0, self.ask_stop)  # every history ends
        self.tell(Begin(0.0))
        while self.finish is None:
            deadline = self.fleet.next_deadline()
            assert self._queue or deadline is not None, "nothing will ever happen again, and it has not ended"
            time = self._queue[0][0] if self._queue else self.now + 1000.0
            if deadline is not None and deadline < time:
                # Now and then the tick comes late, as on a loaded machine.
                self.now = max(
                    self.now, deadline if rng.random() < 0.8 else min(time, deadline + rng.random() * MOST_LATE)
                )
                self.tick()
            else:
                _, _, happen = heapq.heappop(self._queue)
                self.now = time
                happen()
            assert self.now < 120.0, "it does not end"
        self.check_end()
        return self.events

    # --- what happens in the world ---

    def at(self, delay: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + delay, next(self._order), happen))

    def ask_stop(self) -> None:
        if self.culprit is None:
            self.stop_asked = True
        again = self.fleet.phase in DOWN_TO_EARTH
        self.tell(StopRequested(self.now, "SIGTERM"))
        if again:
            assert not any(child.state is ChildState.STOPPING for child in self.fleet.children.values()), "no hurry"

    def add(self) -> None:
        """A node has brought an API server; late in some histories."""
        self.tell(Added(self.now, (Place(Role.API, 5),)))

    def tick(self) -> None:
        if self.culprit is None and not self.stop_asked and not self.forgiving:
            late = [p for p in self.processes.values() if not p.told_exit and p.due <= self.now]
            if late:
                first = min(late, key=lambda p: p.due)
                assert first.due > self.now - MOST_LATE - 1e-9, f"{first.id} was late for long, and nobody noticed"
                self.culprit = first.id
        self.tell(Tick(self.now))

    def spawn(self, child: ChildId) -> None:
        process = self.processes[child] = Process(child, due=self.now + LIMITS.startup)
        rng = self.rng
        process.unkillable = rng.random() < 0.01
        process.deaf = rng.random() < 0.1
        process.remote = self.machines > 1 and rng.random() < 0.7
        if process.remote:
            self.launch_elsewhere(process)
            return
        fate = rng.random()
        if fate < 0.01:
            self.at(rng.random() * 0.1, lambda: self.launch_failed(process))
        elif fate < 0.99:
            self.at(rng.random() * 0.1, lambda: self.launched(process))
        # else: the launcher never answers

    def launch_elsewhere(self, process: Process) -> None:
        """It waits for this and that, each once or said again and again, before it is launched; or for ever."""
        rng = self.rng

        def wait(name: str) -> None:
            if not process.answered and not process.launched:
                before = self.fleet.children[process.id.place].wait
                if self.fleet.phase is FleetPhase.STARTING and before is not None and before.name != name:
                    process.due = self.now + NODE_LIMIT
                self.tell(Waiting(self.now, process.id, name, NODE_LIMIT))

        def repeat() -> None:
            wait("a node")
            if not process.answered and self.now < 50.0:
                self.at(5.0, repeat)

        self.at(rng.random() * 0.1, lambda: wait("a node"))
        fate = rng.random()
        if fate < 0.02:
            self.at(1.0, repeat)
        elif fate < 0.04:
            self.at(rng.random() * 5, lambda: self.launch_failed(process))
        else:
            self.at(rng.random() * 5, lambda: wait("its launch"))
            if fate < 0.9:
                self.at(0.2 + rng.random() * 9, lambda: self.launched(process))
            else:  # its own connection is faster than its node's
                self.at(0.2 + rng.random() * 9, lambda: self.greet_early(process))
                self.at(9.3, lambda: self.launched(process))

    def greet_early(self, process: Process) -> None:
        if not process.answered and self.fleet.phase not in DOWN_TO_EARTH:
            process.launched = True
            self.hello(process)
            self.at(self.rng.random(), lambda: self.live(process, 0))

    def call_off(self, process: Process) -> None:
        if process.remote and self.rng.random() < 0.8:
            self.at(self.rng.random() * 0.1, lambda: self.launch_failed(process, "called off"))

    def launch_failed(self, process: Process, reason: str = "no such program") -> None:
        if process.answered or process.launched:
            return
        process.answered = process.doomed = True
        self.blame(process)
        self.tell(LaunchFailed(self.now, process.id, reason))

    def launched(self, process: Process) -> None:
        if process.answered or process.doomed:
            return
        process.answered = True
        if not process.launched:
            process.launched = True
            self.progress(process)
            self.at(self.rng.random(), lambda: self.live(process, -1))
        self.tell(Launched(self.now, process.id, 4711))

    def live(self, process: Process, stage: int) -> None:
        """Its own next step: -1 is Hello, then the stages, then ready, then service."""
        rng = self.rng
        if process.hung or process.doomed:
            return
        fate = rng.random()
        # Where falls are forgiven, most should come when they are.
        danger = 0.04 if not self.fleet.limits.max_restarts else 0.2 if self.forgiving else 0.004
        if fate < danger:
            self.misfortune(process)
            if process.hung or process.doomed:
                return
        elif fate < danger + 0.06:
            self.lie(process)
        pace = 0.3 if rng.random() < 0.97 else 15.0
        if stage == -1:
            self.hello(process)
            self.at(rng.random() * pace, lambda: self.live(process, 0))
        elif stage < len(STAGES):
            if process.greeted:
                share = rng.choice((None, None, 0.5, 1.0))
                self.say(process, STAGES[stage], share)
            step = 0 if rng.random() < 0.3 else rng.choice((1, 1, 2))
            self.at(rng.random() * pace, lambda: self.live(process, stage + step))
        elif not process.ready and process.greeted:
            if self.fleet.phase not in DOWN_TO_EARTH:
                process.ready, process.due = True, float("inf")
                self.at(1.0, lambda: self.pulse(process, 0))
            self.tell(BecameReady(self.now, process.id, ""))
            self.at(rng.random() * (4 if self.forgiving else 30), lambda: self.live(process, stage))
        elif process.ready and self.forgiving:
            self.at(rng.random() * 4, lambda: self.live(process, stage))

    def pulse(self, process: Process, steps: int) -> None:
        """A sign of life every second, until it is stuck; then none, or one that tells of no progress."""
        if process.doomed or (process.hung and process.deaf):
            return
        busy = self.rng.random() < 0.5 or process.hung
        if not busy or steps != process.steps or process.steps < 0:
            process.steps, process.due = steps, self.now + LIMITS.step
        self.tell(Pulsed(self.now, process.id, steps, busy))
        self.at(1.0, lambda: self.pulse(process, steps if process.hung else steps + 1))

    def hello(self, process: Process) -> None:
        answer = self.tell(Greeted(self.now, process.id))
        if any(isinstance(action, SendWelcome) for action in answer):
            process.greeted = True
            self.progress(process)

    def say(self, process: Process, stage: StartupStage, share: float | None) -> None:
        before, now = list(StartupStage).index(process.said[0]), list(StartupStage).index(stage)
        if now > before or (now == before and share != process.said[1]):
            process.said = (stage, share)
            self.progress(process)
        self.tell(Progressed(self.now, process.id, stage, share, ""))

    def progress(self, process: Process) -> None:
        process.due = self.now + LIMITS.startup

    def misfortune(self, process: Process) -> None:
        match self.rng.randrange(6 if process.remote and process.launched else 5):
            case 5:
                self.vanish(process)
            case 0:
                self.end(process, self.rng.choice((0, 1, 3, -6, -9, -11)))
            case 1:
                self.report(process)
                self.end(process, 1)
            case 2:  # says that it failed, and stays
                self.report(process)
            case 3:
                self.drop_control(process)
            case 4:
                process.hung = True
                process.deaf = process.deaf or self.rng.random() < 0.5
                if self.rng.random() < 0.5:
                    self.babble(process)

    def babble(self, process: Process) -> None:
        """Stuck, and talking."""
        if not process.doomed and self.now < 50.0:
            self.lie(process)
            self.at(2.0, lambda: self.babble(process))

    def lie(self, process: Process) -> None:
        older = ChildId(process.id.place, Incarnation(process.id.incarnation - 1))
        nobody = ChildId(Place(Role.ENGINE, 99), Incarnation(0))
        stranger = self.rng.choice((older, nobody))
        match self.rng.randrange(6):
            case 0:
                answer = self.tell(Greeted(self.now, stranger))
                assert any(isinstance(action, SendRefusal) for action in answer) or self.finish
            case 1:
                self.tell(Exited(self.now, stranger, 1))
            case 2:
                self.tell(Reported(self.now, stranger, "not I", ""))
            case 3 if process.greeted:  # the same again is no progress
                self.tell(Progressed(self.now, process.id, *process.said, ""))
            case 4 if process.greeted:  # backwards is no progress
                self.tell(Progressed(self.now, process.id, StartupStage.STARTED, 0.1, ""))
                if process.said[0] is StartupStage.STARTED:
                    if process.said[1] != 0.1:
                        self.progress(process)
                    process.said = (StartupStage.STARTED, 0.1)
            case 5 if process.greeted:
                answer = self.tell(Greeted(self.now, process.id))
                assert not any(isinstance(action, SendWelcome) for action in answer)

    def report(self, process: Process) -> None:
        """Its Failed message arrives, or is on its way and arrives after its exit."""
        if not process.greeted:
            return

        def arrive() -> None:
            self.blame(process)
            self.tell(Reported(self.now, process.id, process.words, "Traceback"))

        process.words = "so it is"
        if self.rng.random() < 0.5:
            arrive()
        else:
            process.words_at = self.now + self.rng.random() * 0.3
            self.at(process.words_at - self.now, arrive)

    def vanish(self, process: Process) -> None:
        """Its node is gone: its connection ends and the node's does, in any order; Ray may have to say more."""
        process.doomed = True
        rng = self.rng

        def control_ended() -> None:
            if process.greeted:
                process.greeted = False
                self.blame(process)
                self.tell(ControlEnded(self.now, process.id, "closed"))

        def gone() -> None:
            process.told_exit = True
            process.greeted = False
            self.blame(process)
            self.tell(Vanished(self.now, process.id, process.words or "its node is gone"))

        delay = max(process.words_at - self.now, 0.0)
        self.at(delay + 0.01 + rng.random() * 0.1, control_ended)
        self.at(delay + 0.01 + rng.random() * 0.1, gone)
        if rng.random() < 0.5:
            self.at(delay + 0.2, gone)

    def drop_control(self, process: Process) -> None:
        if process.greeted and process.words_at < self.now:
            process.greeted = False
            self.blame(process)
            self.tell(ControlEnded(self.now, process.id, "closed"))

    def end(self, process: Process, status: int) -> None:
        """It dies now; the fleet is told of its exit and of the ends of its pipes, in any order."""
        process.doomed = True
        rng = self.rng

        def told() -> None:
            process.told_exit = True
            self.blame(process)
            self.tell(Exited(self.now, process.id, status))

        def control_ended() -> None:
            if process.greeted:
                process.greeted = False
                self.blame(process)
                self.tell(ControlEnded(self.now, process.id, "closed"))

        self.at(0.01 + rng.random() * 0.1, told)
        # In the order of the connection: what it reported comes before the connection's end.
        self.at(max(process.words_at - self.now, 0.0) + 0.01 + rng.random() * 0.1, control_ended)
        if rng.random() < 0.95:  # else a grandchild holds the pipe
            self.at(rng.random() * 0.2, lambda: self.tell(OutputEnded(self.now, process.id)) and None)

    def blame(self, process: Process) -> None:
        """The first to fail before anybody asked to stop is the culprit, unless it can be replaced."""
        if self.culprit is None and not self.stop_asked and not self.forgiving:
            self.culprit = process.id

    @property
    def forgiving(self) -> bool:
        """Whether what fails now is started again."""
        return self.fleet.phase is FleetPhase.SERVING and self.fleet.limits.max_restarts > 0

    # --- between world and fleet ---

    def tell(self, event: FleetEvent) -> list[object]:
        if self.finish is not None:
            assert self.fleet.step(event) == []
            return []
        self.events += 1
        actions = self.fleet.step(event)
        for action in actions:
            self.do(action)
        self.check(event)
        return list(actions)

    def do(self, action: object) -> None:
        assert self.finish is None, f"{action} after the end"
        match action:
            case Spawn(child):
                assert child not in self.processes, f"{child} spawned twice"
                for former in self.processes.values():
                    if former.id.place == child.place:
                        assert former.told_exit or not former.launched, f"{child} of two incarnations at once"
                        assert former.id.incarnation < child.incarnation
                self.spawn(child)
            case AnnounceFall(failure):
                assert self.fleet.limits.max_restarts
                assert self.culprit is None
                assert failure.child not in self.falling
                self.falling.add(failure.child)
            case AnnounceRestart(failure):
                # Given up: its end was not seen in time, and now it has come after all.
                assert failure.child in self.falling or failure.child.place in self.given_up
                self.falling.discard(failure.child)
                self.given_up.discard(failure.child.place)
                self.restarts += 1
            case AnnounceDegraded(failure):
                assert failure.child in self.falling or failure.child.place in self.given_up
                self.falling.discard(failure.child)
                self.given_up.add(failure.child.place)
            case AnnounceBack(child):
                assert self.processes[child].ready
                assert child.incarnation > 0
            case CallOff(child):
                self.call_off(self.processes[child])
            case SendStop(child):
                process = self.living(child)
                assert process.greeted, f"Stop to {child}, which is not connected"
                if not process.deaf and not process.doomed:
                    delay = self.rng.random() if self.rng.random() < 0.9 else 5.0
                    self.at(delay, lambda: None if process.doomed else self.end(process, 0))
            case Dump(child):
                process = self.living(child)
                if not process.doomed and self.rng.random() < 0.7:
                    self.at(0.1, lambda: None if process.doomed else self.end(process, -6))
            case Kill(child):
                process = self.living(child)
                if not process.doomed and not process.unkillable:
                    self.end(process, -9)
            case AnnounceReady():
                self.told_ready += 1
                assert self.culprit is None
                assert all(process.ready for process in self.processes.values())
            case AnnounceStop():
                assert self.stop_asked
                assert self.culprit is None
            case AnnounceFailure(failure):
                if failure.child in self.falling:  # the last straw: nothing is left that could serve
                    assert self.fleet.limits.max_restarts
                    self.culprit = failure.child
                assert failure.child == self.culprit, f"{failure.child} blamed, {self.culprit} failed first"
            case Finish():
                self.finish = action

    def living(self, child: ChildId) -> Process:
        process = self.processes[child]
        assert process.launched, f"an order to {child}, which nobody has launched"
        assert not process.told_exit, f"an order to {child}, which has ended"
        return process

    # --- what must hold ---

    def check(self, event: FleetEvent) -> None:
        fleet = self.fleet
        stopping = fleet.phase in DOWN_TO_EARTH
        for child in fleet.children.values():
            state, wait = child.state, child.wait
            if state in AT_REST and not (state is ChildState.READY and wait is not None):
                assert wait is None, f"{child.id} is {state} and waited for"
            else:
                assert wait is not None, f"{child.id} is {state}, and nobody waits for it"
                assert wait.name
                assert wait.deadline <= self.now + NODE_LIMIT, f"{child.id} is waited for too long: {wait}"
                assert self.now <= wait.deadline or not isinstance(event, Tick)
            if stopping:
                assert state is not ChildState.READY, f"{child.id} runs on while the service stops"
                assert state is not ChildState.STARTING, f"{child.id} starts on while the service stops"
            process = self.processes.get(child.id)
            if process is not None and process.launched and not process.told_exit:
                accounted = state not in (ChildState.ENDED, ChildState.GONE, ChildState.LAUNCHING)
                assert accounted, f"{child.id} lives and the fleet has it as {state}"
        if self.culprit is not None or self.stop_asked:
            assert stopping, f"{self.culprit or 'a signal'} should have stopped everything"
        assert self.told_ready <= 1
        alive = [p.id.place for p in self.processes.values() if p.launched and not p.told_exit]
        assert len(alive) == len(set(alive)), "two incarnations of one place"

    def check_end(self) -> None:
        finish = self.finish
        assert finish is not None
        for child, process in self.processes.items():
            if process.launched and not process.told_exit:
                assert child in finish.left_behind, f"{child} lives on and is not named"
                assert process.unkillable
        assert (finish.failure is None) == (self.culprit is None)
        if finish.failure is not None:
            assert finish.exit_code is ExitCode.FAILED
            assert finish.failure.child == self.culprit
            assert finish.failure.cause in Cause
            words = self.processes[finish.failure.child].words
            assert finish.failure.reason == words or not words, "its own words are lost"
        else:
            assert self.stop_asked
            assert finish.exit_code is (ExitCode.LEFT_BEHIND if finish.left_behind else ExitCode.OK)
        assert self.fleet.next_deadline() is None
        assert self.fleet.step(Tick(self.now + 1000.0)) == []
