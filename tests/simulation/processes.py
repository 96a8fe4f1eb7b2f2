"""The simulated processes of the joint simulation: their shells are played here, their decisions are the real ones.

An API server runs `phalanx.api.dispatcher` and its router; a rank runs `phalanx.engine.core` with its scheduler and
cache. Around them stands what the real shells do with sockets, threads and clocks.
"""

import itertools
import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from simulation.network import Alarm, End

from phalanx.api.dispatcher import DEATHS, Dispatcher, EngineDied, NoRank, RankLink, Request, Superseded
from phalanx.engine.core import Engine
from phalanx.engine.intake import Limits
from phalanx.engine.kv_cache import KvCache
from phalanx.engine.peers import DIAL_TIMEOUT, FIRST_RETRY, LAST_RETRY, SHORT_LIVED, Attached, Event, Lost, Received
from phalanx.engine.scheduler import Scheduler
from phalanx.engine.sequence import Chunk, Sampled
from phalanx.protocol import (
    Abort,
    ApiServerId,
    ChildId,
    EngineHello,
    FinishReason,
    Membership,
    Message,
    RankId,
    RequestId,
    RequestOutput,
    SamplingParams,
    StageName,
    StepOutput,
    Submit,
    ToEngine,
)
from phalanx.supervisor import events

if TYPE_CHECKING:
    from simulation.joint_world import World

EOS = 0
VOCABULARY = 50
STAGES = (StageName.IMPORTED, StageName.WEIGHTS, StageName.CACHE, StageName.WARM_UP)

_hello_decoder: msgspec.msgpack.Decoder[EngineHello] = msgspec.msgpack.Decoder(EngineHello)
_step_decoder: msgspec.msgpack.Decoder[StepOutput] = msgspec.msgpack.Decoder(StepOutput)
_engine_decoder: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)


def token_after(tokens: list[int], prompt_length: int, seed: int) -> int:
    """The model: a function of prompt, seed and position, and of the token before, so that an error goes on."""
    return hash((seed, prompt_length, tokens[0], tokens[-1], len(tokens))) % VOCABULARY


def undisturbed(prompt: list[int], sampling: SamplingParams, max_model_len: int) -> list[int]:
    """What the request must bring, computed without anything of what is tested."""
    tokens = list(prompt)
    while len(tokens) - len(prompt) < sampling.max_tokens and len(tokens) < max_model_len:
        tokens.append(token_after(tokens, len(prompt), sampling.seed))
        if tokens[-1] == EOS and not sampling.ignore_eos:
            break
    return tokens[len(prompt) :]


def brief(message: Any) -> str:
    """For a trace: what it is, and its values that say something."""
    match message:
        case ChildId(place, incarnation):
            return f"{place}.{incarnation}"
        case Submit():
            return f"Submit /{message.request_id}, {len(message.prompt)} + {len(message.generated)} tokens"
        case events.Failure():
            return f"{brief(message.child)} {message.cause}, waited for {message.waiting_for or 'nothing'}"
        case msgspec.Struct():
            values = [brief(getattr(message, name)) for name in message.__struct_fields__ if name != "at"]
            return " ".join([type(message).__name__, *filter(None, values)])
    return str(message)


class Client(Request):
    """A request and who sent it: checks what comes."""

    __slots__ = ("api", "conn", "ended", "expected", "got", "held", "losses", "poison_at")

    def __init__(
        self, api: "ApiServer", request_id: RequestId, prompt: list[int], sampling: SamplingParams, priority: int
    ) -> None:
        super().__init__(request_id, prompt, sampling, priority)
        self.api = api
        self.expected = undisturbed(prompt, sampling, api.world.max_model_len)
        self.got = 0
        self.ended = ""
        self.conn: End | None = None
        """The API server's end of the connection on which it was submitted last."""
        self.losses = 0
        """Connections that it lost without a token from them, but for those to ranks that were leaving."""
        self.held = False
        """Its client does not read."""
        self.poison_at: int | None = None
        """Ranks die when they compute its output token of this number."""

    def __str__(self) -> str:
        return f"request {self.sampling.seed} ({self.api.name}/{self.request_id})"

    def push(self, output: RequestOutput) -> None:
        assert not self.ended, f"{self} has ended ({self.ended}), and something comes: {output}"
        if output.tokens:
            self.losses = 0
        super().push(output)

    def fail(self, error: EngineDied | NoRank) -> None:
        if isinstance(error, EngineDied):
            assert self.losses == DEATHS, f"{self} is held to kill ranks: it was in {self.losses} that ended"
        else:
            assert not self.api.ranks_to_choose, f"{self} has waited for a rank in vain, and there is one"
        super().fail(error)

    def heard(self) -> None:
        try:
            output = self.take()
        except EngineDied:
            self.end("engine died")
        except NoRank:
            self.end("no rank")
        else:
            if output is not None:
                self._check(output)

    def _check(self, output: RequestOutput) -> None:
        was, self.got = self.got, self.got + len(output.tokens)
        due = self.expected[was : self.got]
        assert output.tokens == due, f"{self}: tokens {was} on are {output.tokens}; undisturbed they are {due}"
        if output.finish is not None:
            assert output.finish in (FinishReason.STOP, FinishReason.LENGTH), f"{self}: {output.error}"
            assert self.got == len(self.expected), f"{self} ended after {self.got} of {len(self.expected)} tokens"
            self.end("result")

    def end(self, how: str) -> None:
        assert not self.ended, f"{self} ends twice: {self.ended}, {how}"
        self.ended = how
        self.on_output = None
        self.api.open.remove(self)
        world = self.api.world
        world.ended(self, how)


class Process:
    """One incarnation of a child, as the supervisor sees it: start, stages, pulses, end."""

    def __init__(self, world: "World", child: ChildId) -> None:
        self.world = world
        self.id = child
        self.name = f"{child.place}.{child.incarnation}"
        self.timeline, self.rng = world.timeline, world.rng
        self.pid = 0
        """Until it is launched."""
        self.dead = False
        self.over = False
        """Dead, and the supervisor has been told."""
        self.ready = False
        self.silent = False
        """Stopped by a signal: nothing at all comes from it."""
        self.connected = False
        """The supervisor has welcomed it."""
        self.ends: list[End] = []
        self._told_at = 0.0

    def after(self, delay: float, happen: Callable[[], None]) -> Alarm:
        """It dies with the process."""
        return self.timeline.after(delay, lambda: None if self.dead else happen())

    def launched(self) -> None:
        self.pid = next(self.world.pids)
        self.world.tell(events.Launched(self.timeline.now, self.id, self.pid))
        self.after(self.rng.random() * 0.3, lambda: self.say(events.Greeted))

    def say(self, kind: Any, *what: Any) -> None:
        """To the supervisor, in order."""
        self._told_at = max(self._told_at, self.timeline.now + self.rng.random() * 0.02)
        self.timeline.upon(self._told_at, lambda: self.world.tell(kind(self.timeline.now, self.id, *what)))

    def welcomed(self) -> None:
        self.connected = True
        fate = self.rng.random()
        danger = self.world.danger_at_start
        if fate < danger:
            self.after(self.rng.random(), lambda: self.die(1))
        elif fate < danger * 1.5:
            return  # stuck while it starts
        self.after(self.rng.random() * 0.3, lambda: self.start(0))

    def start(self, stage: int) -> None:
        if stage < len(STAGES):
            self.say(events.Progressed, STAGES[stage], None, "")
            self.after(self.rng.random() * 0.5, lambda: self.start(stage + 1))
        else:
            self.serve()

    def serve(self) -> None:
        raise NotImplementedError

    def become_ready(self) -> None:
        if not self.ready:
            self.ready = True
            self.say(events.BecameReady, "", self.drains)
            self.after(1.0, self.beat)

    drains = False

    def beat(self) -> None:
        if not self.silent:
            self.say(events.Pulsed, *self.pulse())
        self.after(1.0, self.beat)

    def pulse(self) -> tuple[int, bool]:
        raise NotImplementedError

    def stop(self) -> None:
        """Told to end by the supervisor or an operator."""
        if not self.silent:
            self.after(self.rng.random() * 0.2, lambda: self.die(0))

    def die(self, status: int) -> None:
        if self.dead:
            return
        self.world.note(f"{self.name} dies ({status})")
        self.dead = True
        self.world.fell(self)
        for end in self.ends:
            end.die()

        def exited() -> None:
            self.over = True
            self.world.tell(events.Exited(self.timeline.now, self.id, status))

        random = self.rng.random
        self.timeline.after(0.01 + random() * 0.1, exited)
        self.timeline.after(random() * 0.2, lambda: self.world.tell(events.OutputEnded(self.timeline.now, self.id)))
        if self.connected:
            at = max(self._told_at - self.timeline.now, 0.0) + random() * 0.1
            self.timeline.after(at, lambda: self.world.tell(events.ControlEnded(self.timeline.now, self.id, "closed")))


class ApiServer(Process):
    drains = True

    def __init__(self, world: "World", child: ChildId) -> None:
        super().__init__(world, child)
        self.index = ApiServerId(child.place.index)
        chance = random.Random(f"{world.seed} {self.name}")
        self.dispatcher = Dispatcher(chance, self.after, world.patience, lambda rank, requests, reason: None)
        self.accepts = False
        self.open: set[Client] = set()
        self.newest: dict[RankId, int] = {}
        """The newest incarnation of each rank that has said hello."""
        self.leaving: frozenset[RankId] = frozenset()
        self.draining = False
        self._ids = itertools.count(1)
        self._turns = itertools.count()

    @property
    def ranks_to_choose(self) -> bool:
        return any(rank not in self.leaving for rank in self.dispatcher.links)

    def serve(self) -> None:
        self.accepts = True
        self.leave(self.world.leaving)
        self.world.api_accepts(self)
        self.become_ready()

    def pulse(self) -> tuple[int, bool]:
        return next(self._turns), False

    # --- clients ---

    def request(self, prompt: list[int], sampling: SamplingParams, priority: int) -> Client:
        return Client(self, RequestId(next(self._ids)), prompt, sampling, priority)

    def submit(self, client: Client) -> None:
        self.open.add(client)
        self.world.clients[client.sampling.seed] = client
        if not client.held:
            client.on_output = client.heard
        self.dispatcher.submit(client)

    def abort(self, client: Client) -> None:
        if not client.ended:
            conn = client.conn if client.link is not None else None
            client.end("abort")
            self.dispatcher.abort(client)
            if conn is not None and conn.open:
                assert client.request_id in conn.aborting, f"{client} was aborted, and its rank is not told"

    def drain(self) -> None:
        self.draining = True
        self.drained()

    def drained(self) -> None:
        if self.draining and not self.open:
            self.draining = False
            self.say(events.HasDrained)

    def die(self, status: int) -> None:
        if not self.dead:
            for client in list(self.open):
                client.end("its server died")
        super().die(status)

    def leave(self, ranks: frozenset[RankId]) -> None:
        self.leaving = ranks
        self.dispatcher.leave(ranks)

    # --- ranks ---

    def accept(self, end: End) -> None:
        self.ends.append(end)
        end.received = partial(self._greeted, end)
        end.ended = lambda reason: None

    def _greeted(self, end: End, body: bytes) -> None:
        hello = _hello_decoder.decode(body)
        rank, newest = hello.rank, self.newest.get(hello.rank, -1)
        old = self.dispatcher.links.get(rank)
        superseded = old is not None and old.hello.incarnation > hello.incarnation
        if old is not None and not superseded:
            self._lost_by_clients(old)
        try:
            link = self.dispatcher.attach(hello, Port(self, end))
        except Superseded:
            assert superseded, f"{self.name} refuses rank {rank}, incarnation {hello.incarnation}"
            end.close()
            return
        assert not superseded, f"{self.name} lets incarnation {hello.incarnation} replace {newest} of rank {rank}"
        self.newest[rank] = max(newest, hello.incarnation)
        self.world.note(f"{self.name} attaches rank {rank}.{hello.incarnation}")
        if old is not None:
            assert not old.port.end.open, f"{self.name} keeps two connections to rank {rank}"
        end.received = partial(self._stepped, link)
        end.ended = partial(self._lost, link)

    def _stepped(self, link: RankLink, body: bytes) -> None:
        step = _step_decoder.decode(body)
        if self.world.tracing and step.outputs:
            parts = (f"/{o.request_id} {o.tokens}{' end' if o.finish is not None else ''}" for o in step.outputs)
            self.world.note(f"{self.name} hears rank {link.hello.rank}.{link.hello.incarnation}: {', '.join(parts)}")
        link.stepped(step)
        self.check_link(link.hello.rank)

    def _lost(self, link: RankLink, reason: str) -> None:
        self.world.note(f"{self.name} loses rank {link.hello.rank}.{link.hello.incarnation}: {reason}")
        if self.dispatcher.links.get(link.hello.rank) is link:
            self._lost_by_clients(link)
        self.dispatcher.detach(link, reason)

    def _lost_by_clients(self, link: RankLink) -> None:
        if link.hello.rank not in self.leaving:
            for client in self.open:
                if client.conn is link.port.end:
                    client.losses += 1

    # --- what must hold ---

    def check(self) -> None:
        """Each open request is in one place, and counted there."""
        dispatcher = self.dispatcher
        assert dispatcher.router.ranks.keys() == dispatcher.links.keys()
        for rank in dispatcher.links:
            self.check_link(rank)
        waiting = dispatcher._stranded
        running = sum(len(link.live) for link in dispatcher.links.values())
        assert running + len(waiting) == len(self.open) - self._untaken, (
            f"{self.name} has {len(self.open)} open requests; {running} run and {len(waiting)} wait for a rank"
        )
        assert not (waiting and self.ranks_to_choose), f"{self.name}: requests wait for a rank, and there is one"

    @property
    def _untaken(self) -> int:
        """Requests that have ended in the dispatcher, and whose clients have not read that yet."""
        return sum(1 for client in self.open if client.held and client.link is None and client.stranded is None)

    def check_link(self, rank: RankId) -> None:
        link = self.dispatcher.links.get(rank)
        if link is None:
            return
        view = self.dispatcher.router.ranks[rank]
        assert view.own_requests == len(link.live), f"{self.name} counts {view.own_requests}, {len(link.live)} run"
        assert view.own_prefill_tokens >= 0
        assert view.own_decode_tokens >= 0
        if not link.live:
            assert view.own_prefill_tokens == view.own_decode_tokens == 0, f"{self.name} counts work of nobody"


class Port:
    """An API server's way to a rank; takes down what is sent."""

    def __init__(self, api: ApiServer, end: End) -> None:
        self.api = api
        self.end = end

    def send(self, message: Message) -> None:
        if isinstance(message, Submit):
            client = self.api.world.clients[message.sampling.seed]
            assert not client.ended, f"{client} has ended ({client.ended}) and is submitted"
            assert client.losses < DEATHS, f"{client} is given to one more rank after {client.losses} have ended"
            assert len(message.generated) <= len(client.expected)
            self.api.world.submitted(client)
            client.conn = self.end
        elif isinstance(message, Abort) and self.end.open:
            self.end.aborting.update(message.request_ids)
        if self.api.world.tracing:
            self.api.world.note(f"{self.api.name} sends {brief(message)}")
        self.end.send(message)

    def close(self) -> None:
        self.end.close()


class Line:
    """A rank's connection to one API server, and what has come on it."""

    def __init__(self, end: End, since: float) -> None:
        self.end = end
        self.since = since
        self.arrived: list[bytes] = []
        self.over = ""


class Dialled(NamedTuple):
    dial: "Dial"
    line: Line


class Dial:
    """Goes on until it succeeds or is called off."""

    def __init__(self, index: ApiServerId) -> None:
        self.index = index
        self.retry = FIRST_RETRY
        self.tries = 0


class Peers:
    """`phalanx.engine.peers` without sockets and threads: what it does, at the moments when it does it."""

    def __init__(self, rank: "Rank", hello: EngineHello) -> None:
        self._rank = rank
        self._hello = hello
        self._named: set[ApiServerId] = set()
        self._dials: dict[ApiServerId, Dial] = {}
        self.lines: dict[ApiServerId, Line] = {}
        self.mailbox: list[Any] = []

    @property
    def attached(self) -> list[ApiServerId]:
        return list(self.lines)

    @property
    def complete(self) -> bool:
        return self.lines.keys() == self._named

    @property
    def news(self) -> bool:
        return bool(self.mailbox) or any(line.arrived or line.over for line in self.lines.values())

    def update(self, membership: Membership) -> None:
        named = {endpoint.index for endpoint in membership.api_servers}
        for index in self._named - named:
            self._named.discard(index)
            self._dials.pop(index, None)
            if index in self.lines:
                self._lose(index, "the membership no longer names it")
        for index in sorted(named - self._named):
            self._named.add(index)
            self._dial(index, 0.0)

    def poll(self, block: bool) -> list[Event]:
        found: list[Event] = []
        sources: list[ApiServerId | None] = [i for i, line in self.lines.items() if line.arrived or line.over]
        if self.mailbox:
            sources.append(None)
            if len(sources) > 1:
                self._rank.rng.shuffle(sources)
        for source in sources:
            if source is None:
                notices, self.mailbox = self.mailbox, []
                for notice in notices:
                    self._notice(notice, found)
                continue
            line = self.lines.get(source)
            if line is None:
                continue
            if line.arrived:
                bodies, line.arrived = line.arrived, []
                for body in bodies:
                    message = _engine_decoder.decode(body)
                    if isinstance(message, Abort):
                        line.end.peer.aborting.difference_update(message.request_ids)
                    found.append(Received(source, message))
            else:
                self._lose(source, line.over)
        return found

    def send(self, api_server: ApiServerId, message: Message) -> None:
        line = self.lines.get(api_server)
        if line is not None:
            line.end.send(message)

    def _notice(self, notice: Any, found: list[Event]) -> None:
        if not isinstance(notice, Dialled):
            found.append(notice)
            return
        dial, line = notice
        if self._dials.get(dial.index) is not dial:
            line.end.close()
            return
        del self._dials[dial.index]
        self.lines[dial.index] = line
        found.append(Attached(dial.index))
        line.end.send(self._hello)

    def _lose(self, index: ApiServerId, reason: str) -> None:
        line = self.lines.pop(index)
        line.end.close()
        self.mailbox.append(Lost(index, reason))
        if index in self._named:
            lived = self._rank.timeline.now - line.since
            self._dial(index, 0.0 if lived > SHORT_LIVED else LAST_RETRY / 4)

    def _dial(self, index: ApiServerId, pause: float) -> None:
        dial = self._dials[index] = Dial(index)
        self._rank.after(pause, lambda: self._try(dial))

    def _try(self, dial: Dial) -> None:
        if self._dials.get(dial.index) is dial:
            dial.tries += 1
            self._rank.world.knock(self._rank, dial.index, partial(self._accepted, dial))
            tries = dial.tries
            self._rank.after(DIAL_TIMEOUT, lambda: self._failed(dial, tries))

    def _failed(self, dial: Dial, tries: int) -> None:
        if self._dials.get(dial.index) is dial and dial.tries == tries:
            pause, dial.retry = dial.retry, min(2 * dial.retry, LAST_RETRY)
            self._rank.after(pause, lambda: self._try(dial))

    def _accepted(self, dial: Dial, end: End) -> None:
        """In the dial's thread; the loop hears of it when it looks."""
        line = Line(end, self._rank.timeline.now)

        def received(body: bytes) -> None:
            line.arrived.append(body)
            self._rank.wake()

        def ended(reason: str) -> None:
            line.over = reason
            self._rank.wake()

        end.received, end.ended = received, ended
        self.mailbox.append(Dialled(dial, line))
        self._rank.wake()


class Rank(Process):
    def __init__(self, world: "World", child: ChildId) -> None:
        super().__init__(world, child)
        self.rank = RankId(child.place.index)
        self.pace = self.rng.choice((0.02, 0.05, 0.1))
        self.rounds = 0
        self.running = False
        """A step is."""
        self.stuck = False
        """No step gets on; a pulse still comes."""
        self._held: Callable[[], None] | None = None
        self.cache = KvCache(world.num_blocks, world.block_size, key=b"k")
        self.scheduler = Scheduler(
            self.cache,
            max_num_seqs=world.seats,
            max_num_batched_tokens=world.step_tokens,
            max_model_len=world.max_model_len,
            eos_token_ids=(EOS,),
        )
        limits = Limits(VOCABULARY, world.max_model_len, self.cache.tokens)
        hello = EngineHello(self.rank, child.incarnation, world.max_model_len, world.seats, self.cache.tokens)
        self.peers = Peers(self, hello)
        self.engine = Engine(self, self.scheduler, limits, self.peers, self._attachment)  # type: ignore[arg-type]
        self.serves = False

    def serve(self) -> None:
        self.serves = True
        self.peers.update(self.world.membership)
        self._attachment("")

    def _attachment(self, trouble: str) -> None:
        if self.serves and not self.ready:
            if self.peers.complete:
                self.become_ready()
            else:
                self.say(events.Progressed, StageName.ATTACHED, None, str(len(self.peers.lines)))

    def pulse(self) -> tuple[int, bool]:
        return self.rounds, self.running or self.stuck

    @property
    def frozen(self) -> bool:
        return self.stuck or self.silent

    def wake(self) -> None:
        """Something has come; between steps the loop looks at it at once."""
        if not self.running and not self.dead and not self.frozen:
            self.turn()

    def freeze(self, silent: bool, seconds: float) -> None:
        """Stopped by a signal, or stuck in a step or on its way to one."""
        self.silent, self.stuck = silent, not silent
        self.after(seconds, self.thaw)

    def thaw(self) -> None:
        self.silent = self.stuck = False
        held, self._held = self._held, None
        if held is not None:
            held()
        else:
            self.wake()

    # --- the loop of `Engine.run`, with time in it ---

    def turn(self) -> None:
        while True:
            self.rounds += 1
            self.engine.receive()
            chunks = self.scheduler.plan()
            self.check(chunks)
            if chunks:
                break
            assert not self.scheduler.unfinished
            self.engine.send()
            if not self.peers.news:
                return
        self.running = True
        random = self.rng.random
        duration = self.pace * (0.5 + random()) + (0.5 if random() < 0.01 else 0.0)
        poison = self.world.poisons and self._poison(chunks)
        if poison:
            self.after(duration * random(), partial(self._poisoned, poison))
        else:
            self.after(duration, partial(self._end_of_step, chunks))

    def _end_of_step(self, chunks: list[Chunk]) -> None:
        if self.frozen:
            self._held = partial(self._end_of_step, chunks)
            return
        self.running = False
        self.world.steps += 1
        self.scheduler.complete(*self.engine.execute(chunks))
        self.engine.send()
        self.turn()

    def execute(self, chunks: list[Chunk]) -> list[Sampled | None]:
        return [
            Sampled(token_after(s.tokens, s.prompt_length, s.sampling.seed))
            if start + length == len(s.tokens)
            else None
            for s, start, length in chunks
        ]

    def _poison(self, chunks: list[Chunk]) -> Client | None:
        for chunk in chunks:
            client = self.world.clients[chunk.sequence.sampling.seed]
            if client.poison_at is not None and chunk.samples and chunk.sequence.generated >= client.poison_at:
                return client
        return None

    def _poisoned(self, client: Client) -> None:
        if self.frozen:
            self._held = partial(self._poisoned, client)
            return
        self.world.note(f"{client} kills {self.name}")
        self.world.tally["ranks killed by poison"] += 1
        self.die(-11)

    # --- what must hold ---

    def check(self, chunks: list[Chunk]) -> None:
        """Whatever runs is wanted, by an API server that is there; and it fits."""
        world, lines = self.world, self.peers.lines
        running = self.scheduler._running
        assert len(chunks) <= len(running) <= world.seats, f"{self.name} runs {len(running)} requests"
        assert sum(chunk.length for chunk in chunks) <= world.step_tokens
        blocks = {block for sequence in running for block in sequence.blocks}
        assert len(blocks) == self.cache.num_blocks - self.cache.free_blocks, f"{self.name} leaks blocks"
        if world.tracing and chunks:
            parts = (f"{c.sequence.sampling.seed}[{c.start}+{c.length}]" for c in chunks)
            world.note(f"{self.name} runs {' '.join(parts)}")
        for chunk in chunks:
            sequence = chunk.sequence
            client = world.clients[sequence.sampling.seed]
            line = lines.get(sequence.key.api_server)
            if line is None:
                pending = any(isinstance(n, Lost) and n.api_server == sequence.key.api_server for n in self.mailbox)
                assert pending, f"{self.name} runs {client} of an API server that is gone"
                continue
            conn = line.end.peer
            assert sequence.key.request_id == client.request_id
            assert sequence.priority == client.priority
            if conn.open:
                aborting = client.request_id in conn.aborting
                assert client.conn is conn or aborting, f"{self.name} runs {client}, which went elsewhere"
                assert not client.ended or aborting, f"{self.name} runs {client}, which has ended ({client.ended})"

    @property
    def mailbox(self) -> list[Any]:
        return self.peers.mailbox

    def check_idle(self) -> None:
        assert not self.scheduler.unfinished
        assert self.cache.free_blocks == self.cache.num_blocks, f"{self.name} is idle and holds blocks"
