"""Which tokens run next. A pure state machine: requests come and go, `plan` says what one step runs.

Continuous batching: every running request that only lacks its next token gets it in every step; what is left of
the step's tokens goes to prompts, in chunks (see `prefill`). Order is (priority, arrival) everywhere. When the
cache is full, the last in order gives its blocks up and waits, keeping its tokens; what it had computed stays
findable until it is overwritten. So the first in order always goes on, and with it everything.
"""

from bisect import bisect_left, insort
from collections import defaultdict, deque
from heapq import heapify, heappop, heappush

from phalanx.engine.kv_cache import KvCache
from phalanx.engine.prefill import PrefillBudget
from phalanx.engine.prompt_step import Full, PromptStep, SkipOnce, Start
from phalanx.engine.sequence import BlockId, Chunk, RequestKey, Sampled, Sequence
from phalanx.engine.workload import Account, RankView, StepSizes
from phalanx.protocol import ApiServerId, FinishReason, PhaseTimes, RequestOutput, StepTokens

LOOKAHEAD = 32
"""Waiting requests that one step may pass over on its way to one that can start: bounds the work a step."""


def order(sequence: Sequence) -> tuple[int, int]:
    return sequence.priority, sequence.arrival


class Scheduler:
    """The requests of one rank.

    Args:
        max_num_seqs: most requests running at once.
        max_num_batched_tokens: most tokens in one step.
        max_model_len: tokens at which a request ends, prompt included. At most the tokens of the cache, so that
            the first in order always fits.
        eos_token_ids: the checkpoint's own ends of sequence.
    """

    def __init__(
        self,
        cache: KvCache,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_model_len: int,
        eos_token_ids: tuple[int, ...],
    ) -> None:
        assert max_model_len <= cache.tokens
        self._cache = cache
        self._max_num_seqs = max_num_seqs
        self._step_tokens = max_num_batched_tokens
        self._max_model_len = max_model_len
        self._eos = frozenset(eos_token_ids)
        self._live: dict[RequestKey, Sequence] = {}
        self._running: list[Sequence] = []
        """All that run, in order."""
        self._waiting: list[tuple[int, int, Sequence]] = []
        """A heap in order; entries of requests that have ended meanwhile are dropped when they surface."""
        self._accounts: defaultdict[ApiServerId, Account] = defaultdict(Account)
        self._prefix_query_tokens = 0
        self._prefix_hit_tokens = 0
        self._preemptions = 0
        self._steps = 0
        self._sizes = StepSizes()

    # --- events ---

    def add(self, sequence: Sequence) -> None:
        """Take a request whose key is not in use and whose prompt leaves room for output (see `intake`)."""
        assert sequence.key not in self._live
        account = self._accounts[sequence.key.api_server]
        if sequence.generated >= sequence.sampling.max_tokens or len(sequence.tokens) >= self._max_model_len:
            # It was continued with the last token it may have.
            account.outputs.append(RequestOutput(sequence.key.request_id, [], FinishReason.LENGTH))
            return
        self._live[sequence.key] = sequence
        account.opened(sequence)
        self._wait(sequence)

    def abort(self, key: RequestKey) -> None:
        """Forget a request; nothing more is said about it. One that has ended already is no error: aborts race."""
        if key in self._live:
            self._remove(self._live[key])

    def abort_all(self, api_server: ApiServerId) -> int:
        """Forget every request of an API server that is gone, and what it was still to be told."""
        lost = [sequence for key, sequence in self._live.items() if key.api_server == api_server]
        for sequence in lost:
            self._remove(sequence)
        self._accounts[api_server].outputs = []
        return len(lost)

    def fail(self, key: RequestKey, reason: str) -> None:
        """End a request with an error, whether it runs, waits or was never taken."""
        self.abort(key)
        output = RequestOutput(key.request_id, [], FinishReason.ERROR, error=reason)
        self._accounts[key.api_server].outputs.append(output)

    def complete(self, chunks: list[Chunk], results: list[Sampled | None], now: float = 0.0) -> None:
        """The step has run: `results` has, for each chunk, its next token, or None where it did not sample.

        `now`: seconds, on the clock that `plan` is told.
        """
        self._steps += 1
        size, accounts, step_tokens = self._cache.block_size, self._accounts, 0
        for (sequence, start, length), sampled in zip(chunks, results, strict=True):
            step_tokens += length
            computed = sequence.computed = start + length
            if computed % size < length:
                self._cache.commit(sequence, start)
            account = accounts[sequence.key.api_server]
            if sampled is None:
                account.prefill_tokens -= length
                continue
            token, logprobs, error = sampled
            if error:
                account.prefill_tokens -= length
                self.fail(sequence.key, error)
                continue
            sequence.tokens.append(token)
            generated = len(sequence.tokens) - sequence.prompt_length
            account.prefill_tokens -= length - 1
            account.progressed(sequence)
            finish = self._finish(sequence, token, generated)
            if finish is None and logprobs is None and generated > 1:
                account.outputs.append(RequestOutput(sequence.key.request_id, [token]))
                continue
            prompt_logprobs, cached, times = None, 0, None
            if generated == 1:
                cached = sequence.cached
                times = PhaseTimes(sequence.started_at - sequence.queued_at, now - sequence.started_at)
                if sequence.scores_prompt:
                    prompt_logprobs, sequence.prompt_logprobs = sequence.prompt_logprobs, []
                    sequence.prompt_told = True
            account.outputs.append(
                RequestOutput(
                    sequence.key.request_id,
                    [token],
                    finish,
                    token if finish is FinishReason.STOP and not self._ends_by_itself(sequence, token) else None,
                    None if logprobs is None else [logprobs],
                    prompt_logprobs,
                    cached,
                    times=times,
                )
            )
            if finish is not None:
                self._remove(sequence)
        self._sizes.count(step_tokens)

    # --- the plan ---

    def plan(self, now: float = 0.0) -> list[Chunk]:
        """What the next step runs; empty only where no request is left. Allocates the blocks it needs.

        `now`: seconds, on any clock that is the same in every call; nothing is decided by it.
        """
        size = self._cache.block_size
        preemptions = self._preemptions
        decodes: list[Chunk] = []
        prompts: list[Sequence] = []
        # _make_room may pop from the end of _running while we iterate: safe, because we walk from front to back.
        for sequence in self._running:
            start = sequence.computed
            if len(sequence.tokens) > start + 1:
                prompts.append(sequence)
            elif start < len(sequence.blocks) * size or self._make_room(sequence, start + 1):
                decodes.append(Chunk(sequence, start, 1))
        if not prompts and not self._waiting:
            return decodes
        budget = PrefillBudget(self._step_tokens - len(decodes), self._step_tokens)
        chunks = self._plan_prompts(prompts, PromptStep(budget, list(prompts), now))
        if self._preemptions != preemptions:
            decodes = [chunk for chunk in decodes if chunk.sequence.blocks]
        return decodes + chunks

    def _plan_prompts(self, prompts: list[Sequence], step: PromptStep) -> list[Chunk]:
        """Chunks of prompts that run already and of prompts that wait, merged in order."""
        queue, budget = deque(prompts), step.budget
        while budget.left:
            waiting = self._first_waiting() if step.admit else None
            if queue and (waiting is None or order(queue[0]) < order(waiting)):
                self._continue_prompt(step, queue.popleft())
            elif waiting is not None:
                self._start_prompt(step, waiting)
            else:
                break
        for sequence in step.passed:
            self._wait(sequence)
        if step.long is not None and budget.left:
            sequence, start, length = step.chunks[step.long]
            length = min(length + budget.left, len(sequence.tokens) - start)
            if self._cache.extend(sequence, start + length):
                step.chunks[step.long] = Chunk(sequence, start, length)
        return step.chunks

    def _continue_prompt(self, step: PromptStep, sequence: Sequence) -> None:
        if not sequence.blocks:
            return  # preempted a moment ago, for one before it
        remaining = len(sequence.tokens) - sequence.computed
        length = step.budget.offer(remaining)
        if length:
            preemptions = self._preemptions
            if self._make_room(sequence, sequence.computed + length):
                self._run_prompt(step, sequence, length)
            if self._preemptions != preemptions:
                # What was planned for those that gave way is dropped: they must not come back in this step.
                step.admit = False

    def _start_prompt(self, step: PromptStep, sequence: Sequence) -> None:
        """Admit the head of waiting, or pass it over in this step."""
        heappop(self._waiting)
        reused = self._cache.lookup(sequence)
        hit = len(reused) * self._cache.block_size
        length = step.budget.offer(len(sequence.tokens) - hit)
        match self._admission(step, sequence, reused, length):
            case SkipOnce():
                step.passed.append(sequence)
                step.admit = len(step.passed) < LOOKAHEAD
            case Full():
                step.passed.append(sequence)
                step.admit = False
            case Start(victims):
                for victim in victims:
                    self._preempt(victim)
                step.admit = not victims  # as in _continue_prompt
                self._admit(sequence, reused, step.now)
                extended = self._cache.extend(sequence, hit + length)
                assert extended, "a request was admitted without room for it"
                step.unfinished.append(sequence)
                self._run_prompt(step, sequence, length)

    def _admission(
        self, step: PromptStep, sequence: Sequence, reused: list[BlockId], length: int
    ) -> Start | SkipOnce | Full:
        """Whether a waiting request starts in this step, from the blocks `reused` and with `length` tokens.

        There is room for it where its tokens, those that running prompts still lack blocks for, and a block more for
        every running request fit: so a newcomer does not cause a preemption at once. Those of lower priority that run
        give way to it, the last in order first.
        """
        cache = self._cache
        hit = len(reused) * cache.block_size
        if not length:
            return SkipOnce()
        if 2 * cache.overlap(sequence, hit, step.computing) > len(sequence.tokens) - hit:
            # Most of what it needs is computed by another in this very step: in the next the cache has it.
            return SkipOnce()
        promised = sum(map(cache.missing, step.unfinished))
        cost = cache.cost(sequence, reused)
        running, free = len(self._running), cache.free_blocks
        victims: list[Sequence] = []
        spared = set(reused) if running and self._running[-1].priority > sequence.priority else set()
        while running >= self._max_num_seqs or cost + promised + running > free:
            if not running or self._running[running - 1].priority <= sequence.priority:
                return Full()
            running -= 1
            victims.append(self._running[running])
            free += cache.reclaimable(victims[-1], spared)
        return Start(victims)

    def _admit(self, sequence: Sequence, reused: list[BlockId], now: float) -> None:
        """It runs from now on, with the blocks that the prefix cache had for it."""
        cache = self._cache
        cache.adopt(sequence, reused)
        self._accounts[sequence.key.api_server].prefill_tokens -= sequence.computed
        if not sequence.admitted:
            sequence.admitted = True
            sequence.started_at = now
            sequence.cached = min(sequence.computed, sequence.prompt_length)
            if cache.reuses(sequence):
                self._prefix_query_tokens += sequence.prompt_length
                self._prefix_hit_tokens += sequence.cached
        insort(self._running, sequence, key=order)

    def _run_prompt(self, step: PromptStep, sequence: Sequence, length: int) -> None:
        remaining = len(sequence.tokens) - sequence.computed
        if step.budget.is_long(remaining):
            step.long = len(step.chunks)
        step.budget.take(remaining, length)
        step.chunks.append(Chunk(sequence, sequence.computed, length))
        if length == remaining:
            step.unfinished.remove(sequence)
        if self._waiting:
            step.computing.update(self._cache.names(sequence, sequence.computed, length))

    # --- running and waiting ---

    def _make_room(self, sequence: Sequence, length: int) -> bool:
        """Give a running sequence blocks for `length` tokens; the last in order pay for it. False: it was the last."""
        while not self._cache.extend(sequence, length):
            victim = self._running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _preempt(self, victim: Sequence) -> None:
        """Take `victim`, the last in order, out of the running; it keeps its tokens and computes them anew."""
        self._running.pop()
        self._preemptions += 1
        self._accounts[victim.key.api_server].prefill_tokens += victim.computed
        self._cache.release(victim)
        victim.prompt_logprobs.clear()
        self._wait(victim)

    def _wait(self, sequence: Sequence) -> None:
        heappush(self._waiting, (*order(sequence), sequence))

    def _first_waiting(self) -> Sequence | None:
        while self._waiting:
            sequence = self._waiting[0][2]
            if self._live.get(sequence.key) is sequence:
                return sequence
            heappop(self._waiting)
        return None

    def _remove(self, sequence: Sequence) -> None:
        del self._live[sequence.key]
        self._accounts[sequence.key.api_server].closed(sequence)
        place = bisect_left(self._running, order(sequence), key=order)
        if place < len(self._running) and self._running[place] is sequence:
            del self._running[place]
            self._cache.release(sequence)
        elif len(self._waiting) > 2 * (len(self._live) - len(self._running)) + LOOKAHEAD:
            # Mostly entries of aborted requests, whose prompts they keep in memory.
            self._waiting = [entry for entry in self._waiting if self._live.get(entry[2].key) is entry[2]]
            heapify(self._waiting)

    # --- ending ---

    def _finish(self, sequence: Sequence, token: int, generated: int) -> FinishReason | None:
        sampling = sequence.sampling
        if generated >= sampling.min_tokens and (
            self._ends_by_itself(sequence, token) or token in sampling.stop_token_ids
        ):
            return FinishReason.STOP
        if generated >= sampling.max_tokens or len(sequence.tokens) >= self._max_model_len:
            return FinishReason.LENGTH
        return None

    def _ends_by_itself(self, sequence: Sequence, token: int) -> bool:
        return token in self._eos and not sequence.sampling.ignore_eos

    # --- what is known ---

    @property
    def unfinished(self) -> int:
        """Requests taken and not ended."""
        return len(self._live)

    def __contains__(self, key: RequestKey) -> bool:
        return key in self._live

    def take_outputs(self) -> dict[ApiServerId, list[RequestOutput]]:
        """What has happened to each API server's requests since the last call."""
        taken = {}
        for api_server, account in self._accounts.items():
            if account.outputs:
                taken[api_server] = account.outputs
                account.outputs = []
        return taken

    def view(self) -> RankView:
        """The load at this moment, from which each API server gets its own view."""
        running = len(self._running)
        return RankView(
            self._accounts,
            running=running,
            waiting=len(self._live) - running,
            kv_used_tokens=self._cache.used_tokens,
            kv_total_tokens=self._cache.tokens,
            prefix_query_tokens=self._prefix_query_tokens,
            prefix_hit_tokens=self._prefix_hit_tokens,
            preemptions=self._preemptions,
            steps=self._steps,
        )

    def step_tokens(self) -> StepTokens:
        """How many tokens the steps have run, since the start."""
        return self._sizes.told()
