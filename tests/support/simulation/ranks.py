"""Ranks of the joint simulation: the real engine loop, scheduler and cache, on a network and in a time of their own."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from support.simulation.api_servers import Client
from support.simulation.network import End
from support.simulation.processes import EOS, VOCABULARY, Process, token_after

from phalanx.engine.api_links import DIAL_TIMEOUT, FIRST_RETRY, LAST_RETRY, SHORT_LIVED, Attached, Event, Lost, Received
from phalanx.engine.core import Engine
from phalanx.engine.kv_cache import KvCache
from phalanx.engine.scheduler import Scheduler
from phalanx.engine.sequence import Chunk, Sampled
from phalanx.protocol import (
    Abort,
    ApiServerId,
    ApiServers,
    ChildId,
    EngineHello,
    Message,
    RankId,
    RequestLimits,
    StartupStage,
    ToEngine,
)
from phalanx.supervisor import events

if TYPE_CHECKING:
    from support.simulation.joint_world import World

_decoder: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)


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


class VirtualApiLinks:
    """`phalanx.engine.api_links` without sockets and threads: what it does, at the moments when it does it."""

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

    def update(self, api_servers: ApiServers) -> None:
        named = {endpoint.index for endpoint in api_servers.endpoints}
        for index in self._named - named:
            self._named.discard(index)
            self._dials.pop(index, None)
            if index in self.lines:
                self._lose(index, "the service no longer has it")
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
                    message = _decoder.decode(body)
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
        if not end.open:
            line.over = "closed at once"

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
            max_num_seqs=world.max_num_seqs,
            max_num_batched_tokens=world.step_tokens,
            max_model_len=world.max_model_len,
            eos_token_ids=(EOS,),
        )
        limits = RequestLimits(VOCABULARY, world.max_model_len, self.cache.tokens)
        hello = EngineHello(self.rank, child.incarnation, world.max_model_len, world.max_num_seqs, self.cache.tokens)
        self.peers = VirtualApiLinks(self, hello)
        self.engine = Engine(self, self.scheduler, limits, self.peers, self._attachment)  # type: ignore[arg-type]
        self.serves = False

    def serve(self) -> None:
        self.serves = True
        self.peers.update(self.world.api_servers)
        self._attachment(None)

    def _attachment(self, trouble: str | None) -> None:
        if self.serves and not self.ready:
            if self.peers.complete:
                self.become_ready()
            else:
                self.say(events.Progressed, StartupStage.ATTACHED, None, str(len(self.peers.lines)))

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
        assert len(chunks) <= len(running) <= world.max_num_seqs, f"{self.name} runs {len(running)} requests"
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
            assert sequence.priority == client.priority
            if conn.open and sequence.key.request_id not in conn.aborting:
                here = client.conn is conn and client.request_id == sequence.key.request_id
                assert here, f"{self.name} runs {client}, which went elsewhere"
                assert not client.ended, f"{self.name} runs {client}, which has ended ({client.ended})"

    @property
    def mailbox(self) -> list[Any]:
        return self.peers.mailbox

    def check_idle(self) -> None:
        assert not self.scheduler.unfinished
        assert self.cache.free_blocks == self.cache.num_blocks, f"{self.name} is idle and holds blocks"
