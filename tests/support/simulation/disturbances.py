"""What clients, an operator and misfortune do to the service of the joint simulation."""

import itertools
import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from support.simulation.api_servers import ApiServer, Client
from support.simulation.processes import VOCABULARY, brief
from support.simulation.ranks import Rank

from phalanx.protocol import AdminRequest, AdminVerb, RankId, Role, SamplingParams
from phalanx.supervisor import administration
from phalanx.supervisor.state import FleetPhase

if TYPE_CHECKING:
    from support.simulation.joint_world import World

DISTURBED = 25.0
"""Seconds of disturbances after the service is ready."""


class Disturbances:
    def __init__(self, world: "World", without: frozenset[int]) -> None:
        """`without`: the numbers of those that are left out."""
        self.world = world
        self.going = False
        self.number = 0
        self.timeline, self.rng = world.timeline, world.rng
        self._without = without
        self._seeds = itertools.count(1)
        rng = self.rng
        self.prompts = [[rng.randrange(3, VOCABULARY) for _ in range(rng.randint(1, 20))] for _ in range(6)]

    def begin(self) -> None:
        self.going = True
        world, rng = self.world, random.Random(f"disturbances {self.world.seed}")
        self._arrive(rng.choice((0.4, 1.0, 4.0)) / (world.ranks * world.max_num_seqs))
        kinds = rng.choices(
            (
                self.kill_rank,
                self.kill_api,
                self.kill_some,
                self.freeze_rank,
                self.cut,
                self.slow,
                self.burst,
                self.poison,
                self.drain,
                self.restart,
                self.scale,
            ),
            (6, 3, 1, 4, 8, 4, 4, 2, 3, 2, 2),
            k=rng.choice((0, 3, 10, 25)),
        )
        self.number = len(kinds)
        for number, kind in enumerate(kinds):
            moment = rng.random() * DISTURBED
            if number not in self._without:
                self.timeline.after(moment, partial(self._happen, number, kind))
        self.timeline.after(DISTURBED, self._end)

    def _end(self) -> None:
        self.going = False
        self.world.calm()

    def _happen(self, number: int, kind: Callable[[], None]) -> None:
        if self.world.fleet.phase is FleetPhase.SERVING:
            self.world.note(f"--- disturbance {number}: {kind.__name__}")
            self.world.tally[kind.__name__] += 1
            kind()

    def _one(self, kind: type) -> list:
        living = self.world.living(kind)
        return [self.rng.choice(living)] if living else []

    def kill_rank(self) -> None:
        for rank in self._one(Rank):
            rank.die(-9)

    def kill_api(self) -> None:
        for api in self._one(ApiServer):
            api.die(-9)

    def kill_some(self) -> None:
        for process in list(self.world.processes.values()):
            if process.pid and self.rng.random() < 0.6:
                process.die(-9)

    def freeze_rank(self) -> None:
        for rank in self._one(Rank):
            rank.freeze(self.rng.random() < 0.5, self.rng.choice((1.0, 4.0, 1000.0)))

    def cut(self) -> None:
        if connections := self.world.network.connections:
            self.rng.choice(connections).cut()

    def slow(self) -> None:
        def fast() -> None:
            near.pace = near.peer.pace = 0.01

        if connections := self.world.network.connections:
            near = self.rng.choice(connections)
            near.pace = near.peer.pace = self.rng.choice((0.3, 3.0))
            self.timeline.after(self.rng.random() * 5, fast)

    def burst(self) -> None:
        self._submit(3 * self.world.ranks * self.world.max_num_seqs)

    def poison(self) -> None:
        for api in self._one(ApiServer):
            if api.ready:
                client = self.request(api)
                client.poison_at = self.rng.choice((0, 0, self.rng.randrange(len(client.expected))))
                self.world.poisons = True
                self.world.note(f"{client} is poison at token {client.poison_at}")
                api.submit(client)

    def drain(self) -> None:
        """Ranks are emptied, and soon, or in a while, wanted again; and then perhaps others instead."""
        ranks = self._some_ranks(1)
        self._ask(AdminVerb.DRAIN, ranks)
        pause = self.rng.choice((0.3, 10.0))
        self.timeline.after(self.rng.random() * pause, partial(self._ask, AdminVerb.RESUME, ranks))
        if self.rng.random() < 0.5 and self.going:
            self.timeline.after(self.rng.random() * pause, self.drain)

    def restart(self) -> None:
        self._ask(AdminVerb.RESTART, self._some_ranks(1))

    def scale(self) -> None:
        self._ask(AdminVerb.SCALE, self._some_ranks(0), self.rng.choice((None, self.rng.randint(1, 4))))

    def _some_ranks(self, least: int) -> tuple[RankId, ...]:
        ranks = [RankId(place.index) for place in self.world.fleet.children if place.role is Role.ENGINE]
        return tuple(self.rng.sample(ranks, self.rng.randint(least, min(2, len(ranks)))))

    def _ask(self, verb: AdminVerb, ranks: tuple[RankId, ...], size: int | None = None) -> None:
        """What an operator may ask; it may be refused."""
        request = AdminRequest(0, verb, ranks, size, self.rng.choice((0.0, 0.0, 2.0)))
        try:
            decided = administration.decide(self.world.fleet, request, self.timeline.now, workers=1, patience=5.0)
        except administration.AdminRefused as refusal:
            self.world.note(f"the operator asks {brief(request)}, and is refused: {refusal}")
            return
        self.world.note(f"the operator asks {brief(request)}")
        self.world.tally[f"operator: {verb}"] += 1
        for event in decided:
            self.world.tell(event)

    # --- clients ---

    def request(self, api: ApiServer) -> Client:
        rng = self.rng
        prompt = rng.choice(self.prompts)[: rng.randint(1, 20)] + [
            rng.randrange(3, VOCABULARY) for _ in range(rng.choice((0, 1, 6)))
        ]
        sampling = SamplingParams(
            max_tokens=rng.choice((1, 4, 12, 30)), seed=next(self._seeds), ignore_eos=rng.random() < 0.7
        )
        client = api.request(prompt[: self.world.max_model_len - 1], sampling, rng.choice((0, 0, 0, -1, 2)))
        fate = rng.random()
        if fate < 0.1:
            client.held = True
            api.after(rng.random() * 3, lambda: self._read(client))
        elif fate < 0.2:
            api.after(rng.expovariate(1.0), lambda: api.abort(client))
        return client

    def _read(self, client: Client) -> None:
        """It has not read for a while, and now does; or still does not."""
        # Behind tokens there may be an error.
        for _ in range(2):
            if not client.ended:
                client.heard()
        if not client.ended:
            client.held = self.rng.random() < 0.3
            if client.held:
                client.api.after(self.rng.random() * 3, lambda: self._read(client))
            else:
                client.on_output = client.heard

    def _arrive(self, mean: float) -> None:
        """One more client, at whichever API server takes its connection."""
        if self.going:
            if (
                sum(len(api.open) for api in self.world.living(ApiServer))
                < 3 * self.world.ranks * self.world.max_num_seqs
            ):
                self._submit(1)
            self.timeline.after(self.rng.expovariate(1 / mean), lambda: self._arrive(mean))

    def _submit(self, count: int) -> None:
        servers = [api for api in self.world.living(ApiServer) if api.ready]
        for _ in range(count if servers else 0):
            api = self.rng.choice(servers)
            client = self.request(api)
            self.world.note(f"{client}: {len(client.prompt)} + {len(client.expected)} tokens")
            api.submit(client)
