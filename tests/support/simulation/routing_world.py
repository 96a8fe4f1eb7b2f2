"""A simulated fleet for the router: API servers with a router each, ranks that work in steps, reports that lag.

One tick is one engine step. In a step a rank computes up to `PREFILL_BUDGET` prompt tokens and brings every
running request one token. What a rank reports reaches the API servers `lag` ticks later.
"""

import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from phalanx.api.rank_router import Placement, RankRouter
from phalanx.protocol import Load, RankId, expected_remaining

SLOTS = 32
LIMIT = 2048
MEAN_OUTPUT = 100
PREFILL_BUDGET = 1024

Policy = Callable[["World", int, int], RankId]


@dataclass(slots=True, eq=False)
class Job:
    server: int
    arrived: int
    prefill: int
    decode: int
    expected: int = MEAN_OUTPUT
    placement: Placement | None = None
    produced: int = 0


@dataclass(slots=True)
class Rank:
    waiting: deque[Job] = field(default_factory=deque)
    running: list[Job] = field(default_factory=list)

    def loads(self, servers: int) -> list[Load]:
        """What each of the API servers is told: the work of all the others."""
        prefill, decode, requests = [0] * servers, [0] * servers, [0] * servers
        for job in (*self.waiting, *self.running):
            prefill[job.server] += job.prefill
            decode[job.server] += expected_remaining(job.expected, LIMIT, job.produced)
            requests[job.server] += 1
        return [
            Load(
                others_prefill_tokens=sum(prefill) - prefill[server],
                others_decode_tokens=sum(decode) - decode[server],
                others_requests=sum(requests) - requests[server],
                running=len(self.running),
                waiting=len(self.waiting),
                kv_used_tokens=0,
                kv_total_tokens=0,
                prefix_query_tokens=0,
                prefix_hit_tokens=0,
                preemptions=0,
                steps=0,
            )
            for server in range(servers)
        ]


@dataclass
class Outcome:
    """Latencies in ticks; `imbalance` is the mean over ticks of (busiest rank's requests / mean requests)."""

    latencies: list[int]
    imbalance: float
    herd: float
    """Largest share of the requests arriving within one report's lag that one rank got."""

    def latency(self, share: float) -> int:
        return sorted(self.latencies)[int(share * (len(self.latencies) - 1))]


class World:
    def __init__(self, seed: int, servers: int, ranks: int, lag: int, choices: int | None = None) -> None:
        self.chance = random.Random(seed)
        extra = () if choices is None else (choices,)
        self.routers = [RankRouter(random.Random(f"{seed} {n}"), *extra) for n in range(servers)]
        self.ranks = {RankId(n): Rank() for n in range(ranks)}
        for router in self.routers:
            for rank in self.ranks:
                router.attach(rank)
        self.lag = lag
        self._reports: deque[tuple[int, int, RankId, Load]] = deque()

    def route(self, server: int, job: Job, policy: Policy | None) -> RankId:
        router = self.routers[server]
        if policy is not None:
            return policy(self, server, job.prefill)
        job.placement = router.place(job.prefill, LIMIT)
        assert job.placement is not None
        job.expected = job.placement.expected_tokens
        return job.placement.rank

    def run(self, ticks: int, load: float, policy: Policy | None = None, warm_up: int = 200) -> Outcome:
        """Offer `load` (1 = all slots always taken) for `ticks` steps; lengths vary, the routers know only a limit."""
        rate = load * SLOTS * len(self.ranks) / MEAN_OUTPUT
        latencies: list[int] = []
        imbalances: list[float] = []
        recent: deque[Counter[RankId]] = deque(maxlen=max(1, self.lag))
        herd = 0.0
        for tick in range(ticks):
            while self._reports and self._reports[0][0] <= tick:
                _, server, rank, report = self._reports.popleft()
                self.routers[server].report(rank, report)
            arrivals = Counter[RankId]()
            for _ in range(self._poisson(rate)):
                server = self.chance.randrange(len(self.routers))
                output = 1 + int(self.chance.expovariate(1 / (MEAN_OUTPUT - 1)))
                job = Job(server, tick, self.chance.randint(16, 512), output)
                rank = self.route(server, job, policy)
                self.ranks[rank].waiting.append(job)
                arrivals[rank] += 1
            recent.append(arrivals)
            if tick >= warm_up:
                window = sum(recent, Counter[RankId]())
                if window.total() >= 64:
                    herd = max(herd, max(window.values()) / window.total())
            for rank, state in self.ranks.items():
                self._step(rank, state, tick, latencies)
            counts = [len(state.waiting) + len(state.running) for state in self.ranks.values()]
            if tick >= warm_up and sum(counts):
                imbalances.append(max(counts) * len(counts) / sum(counts))
        return Outcome(latencies, sum(imbalances) / len(imbalances), herd)

    def _step(self, rank: RankId, state: Rank, tick: int, latencies: list[int]) -> None:
        while state.waiting and len(state.running) < SLOTS:
            state.running.append(state.waiting.popleft())
        budget = PREFILL_BUDGET
        still: list[Job] = []
        for job in state.running:
            if job.prefill:
                chunk = min(budget, job.prefill)
                job.prefill -= chunk
                budget -= chunk
                if job.prefill:
                    still.append(job)
                    continue
            job.produced += 1
            router = self.routers[job.server]
            if job.placement is not None:
                router.progress(job.placement, 1)
            if job.produced == job.decode:
                latencies.append(tick - job.arrived)
                if job.placement is not None:
                    router.release(job.placement, finished=True)
            else:
                still.append(job)
        state.running = still
        for server, load in enumerate(state.loads(len(self.routers))):
            self._reports.append((tick + self.lag, server, rank, load))

    def _poisson(self, mean: float) -> int:
        count, left = 0, self.chance.expovariate(1.0)
        while left < mean:
            count += 1
            left += self.chance.expovariate(1.0)
        return count


def at_random(world: World, server: int, prompt_tokens: int) -> RankId:
    """The policy to beat: any rank."""
    return world.chance.choice(list(world.ranks))


def all_knowing(world: World, server: int, prompt_tokens: int) -> RankId:
    """The policy nobody can have: the rank with the fewest requests this very moment, over all servers."""
    return min(world.ranks, key=lambda rank: len(world.ranks[rank].waiting) + len(world.ranks[rank].running))
