"""API servers of the joint simulation: the real dispatcher and router, and clients that check what they get."""

import itertools
import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from support.simulation.network import Alarm, End
from support.simulation.processes import Process, brief, undisturbed

from phalanx.api.dispatcher import DEATHS, Dispatcher, EngineDied, EngineRequest, NoRank, RankLink, Superseded
from phalanx.api.service_ranks import ServiceRanks
from phalanx.protocol import (
    Abort,
    Alive,
    ApiServerId,
    ChildId,
    EngineHello,
    FinishReason,
    Message,
    RankId,
    RanksVacated,
    RequestId,
    RequestOutput,
    SamplingParams,
    StepOutput,
    Submit,
    ToApi,
)
from phalanx.supervisor import events

if TYPE_CHECKING:
    from support.simulation.joint_world import World

_hello_decoder: msgspec.msgpack.Decoder[EngineHello] = msgspec.msgpack.Decoder(EngineHello)
_decoder: msgspec.msgpack.Decoder[ToApi] = msgspec.msgpack.Decoder(ToApi)


class Client(EngineRequest):
    """A request and who sent it: checks what comes."""

    __slots__ = ("api", "conn", "ended", "expected", "got", "held", "losses", "poison_at", "submissions")

    def __init__(self, api: "ApiServer", prompt: list[int], sampling: SamplingParams, priority: int) -> None:
        super().__init__(prompt, sampling, priority)
        self.api = api
        self.expected = undisturbed(prompt, sampling, api.world.max_model_len)
        self.got = 0
        self.ended = ""
        self.conn: End | None = None
        """The API server's end of the connection on which it was submitted last."""
        self.submissions = 0
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
        self.service_ranks = ServiceRanks(self, self._vacated, 0)  # type: ignore[arg-type]
        self.draining = False
        self._turns = itertools.count()

    @property
    def ranks_to_choose(self) -> bool:
        return any(rank not in self.leaving for rank in self.dispatcher.links)

    def serve(self) -> None:
        self.accepts = True
        self.world.api_accepts(self)
        self.become_ready()

    def pulse(self) -> tuple[int, bool]:
        return next(self._turns), False

    # --- clients ---

    def request(self, prompt: list[int], sampling: SamplingParams, priority: int) -> Client:
        return Client(self, prompt, sampling, priority)

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

    # --- the ranks that the supervisor names, told to the real `ServiceRanks` ---

    def after(self, delay: float, happen: Callable[[], None]) -> Alarm:
        return super().after(delay, lambda: self._in_loop(happen))

    call_later = after

    def _in_loop(self, happen: Callable[[], None]) -> None:
        self.world.running_loop = self
        happen()

    def leave(self, ranks: frozenset[RankId], moving: frozenset[RankId]) -> None:
        self.leaving = ranks
        self.dispatcher.leave(ranks, moving)
        for rank in moving:
            self.check_link(rank)
            assert not self.running_on(rank), f"{self.name} goes on using rank {rank}"

    def running_on(self, rank: RankId) -> int:
        link = self.dispatcher.links.get(rank)
        return len(link.live) if link is not None else 0

    def _vacated(self, message: RanksVacated) -> None:
        self.say(events.HasVacated, message.number, message.ranks)

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
            link = self.dispatcher.attach(hello, Port(self, end, rank))
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
        step = _decoder.decode(body)
        if isinstance(step, Alive):
            link.answered(step.number)
            return
        assert isinstance(step, StepOutput)
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

    def __init__(self, api: ApiServer, end: End, rank: RankId) -> None:
        self.api = api
        self.end = end
        self.rank = rank
        self.carries: dict[RequestId, Client] = {}
        """What was submitted on it, by the number under which it was."""

    def send(self, message: Message) -> None:
        if isinstance(message, Submit):
            client = self.api.world.clients[message.sampling.seed]
            assert not client.ended, f"{client} has ended ({client.ended}) and is submitted"
            # One that waited for a sign of life was placed before.
            new = self.rank not in self.api.leaving or client.deaths
            assert new, f"{client} is given to rank {self.rank}, which leaves"
            assert client.losses < DEATHS, f"{client} is given to one more rank after {client.losses} have ended"
            assert len(message.generated) <= len(client.expected)
            self.api.world.submitted(client)
            client.conn = self.end
            client.submissions += 1
            self.carries[message.request_id] = client
        elif isinstance(message, Abort):
            for request_id in message.request_ids:
                client = self.carries.pop(request_id)
                if client.conn is self.end:
                    client.conn = None
            if self.end.open:
                self.end.aborting.update(message.request_ids)
        if self.api.world.tracing:
            self.api.world.note(f"{self.api.name} sends {brief(message)}")
        self.end.send(message)

    def close(self) -> None:
        self.end.close()
