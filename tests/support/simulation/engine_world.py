"""A rank without a device: the scheduler, and a runner that keeps in its cache what it was told to compute.

The runner's "keys and values" of a token name all tokens up to it, so that a block table which leads to another
prefix, a block that was overwritten too early or one that two sequences write shows up as a wrong content.
"""

import random
from dataclasses import dataclass, field

from phalanx.engine.kv_cache import KvCache
from phalanx.engine.scheduler import Scheduler, order
from phalanx.engine.sequence import Chunk, RequestKey, Sampled, Sequence
from phalanx.protocol import ApiServerId, FinishReason, RequestId, RequestOutput, SamplingParams, expected_remaining

EOS = 0
STOP_TOKEN = 1
VOCABULARY = 40


def next_token(sequence: Sequence) -> Sampled:
    """A function of (seed, output position) alone, as sampling is (law 9). Ends come before min_tokens, too."""
    return Sampled(random.Random(sequence.sampling.seed * 1_000_003 + sequence.generated).randrange(VOCABULARY))


def expected_output(sequence: Sequence, max_model_len: int) -> list[int]:
    """What the request must bring, computed without any scheduler."""
    alone = Sequence(sequence.key, sequence.tokens[: sequence.prompt_length], sequence.prompt_length, sequence.sampling)
    sampling = alone.sampling
    while alone.generated < sampling.max_tokens and len(alone.tokens) < max_model_len:
        token = next_token(alone).token
        alone.tokens.append(token)
        ended = (token == EOS and not sampling.ignore_eos) or token in sampling.stop_token_ids
        if ended and alone.generated >= sampling.min_tokens:
            break
    return alone.tokens[alone.prompt_length :]


@dataclass
class Device:
    """Remembers, for each slot of the cache, which tokens its content was computed from."""

    cache: KvCache
    slots: dict[tuple[int, int], int] = field(default_factory=dict)

    def execute(self, chunks: list[Chunk]) -> list[Sampled | None]:
        return [self._run(chunk) for chunk in chunks]

    def _run(self, chunk: Chunk) -> Sampled | None:
        sequence, start, length = chunk
        size = self.cache.block_size
        prefix = 0
        for position in range(start + length):
            prefix = hash((prefix, sequence.tokens[position]))
            slot = (sequence.blocks[position // size], position % size)
            if position < start:
                assert self.slots.get(slot) == prefix, f"{sequence.key} reads another's keys at position {position}"
            else:
                self.slots[slot] = prefix
                if sequence.sampling.prompt_logprobs is not None and position < sequence.prompt_length:
                    sequence.prompt_logprobs.append(None)
        return next_token(sequence) if chunk.samples else None


@dataclass
class World:
    """One history: events come from `rng`, and after each the invariants are checked."""

    rng: random.Random
    num_blocks: int = 12
    block_size: int = 4
    max_num_seqs: int = 4
    step_tokens: int = 16
    prefix_caching: bool = True
    priorities: int = 1

    def __post_init__(self) -> None:
        self.cache = KvCache(self.num_blocks, self.block_size, prefix_caching=self.prefix_caching, key=b"k")
        self.max_model_len = min(self.num_blocks * self.block_size, self.rng.choice((12, 40, 1000)))
        self.scheduler = Scheduler(
            self.cache,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.step_tokens,
            max_model_len=self.max_model_len,
            eos_token_ids=(EOS,),
        )
        self.device = Device(self.cache)
        self.requests: dict[RequestKey, Sequence] = {}
        self.received: dict[RequestKey, list[int]] = {}
        self.finished: dict[RequestKey, FinishReason] = {}
        self.aborted: set[RequestKey] = set()
        self.prompt_logprobs_due: set[RequestKey] = set()
        self.prompts: list[list[int]] = []
        self.steps = 0

    # --- events ---

    def submit(self) -> None:
        rng = self.rng
        prompt = self._prompt()
        number = len(self.requests)
        sampling = SamplingParams(
            max_tokens=rng.choice((1, 8, 30)),
            min_tokens=rng.choice((0, 0, 5)),
            seed=rng.randrange(2**32),
            stop_token_ids=(STOP_TOKEN,) if rng.random() < 0.3 else (),
            ignore_eos=rng.random() < 0.5,
            prompt_logprobs=1 if rng.random() < 0.1 else None,
        )
        key = RequestKey(ApiServerId(number % 3), RequestId(number))
        sequence = Sequence(
            key, prompt, len(prompt), sampling, rng.randrange(self.priorities), number, rng.randrange(20)
        )
        self.received[key] = []
        if sampling.prompt_logprobs is not None:
            self.prompt_logprobs_due.add(key)
        elif rng.random() < 0.2:
            # It comes from a rank that fell, with some of its tokens.
            had = expected_output(sequence, self.max_model_len)[:-1]
            self.received[key] = had[: rng.randrange(len(had) + 1)]
            sequence.tokens = prompt + self.received[key]
        self.requests[key] = sequence
        self.scheduler.add(sequence)

    def _prompt(self) -> list[int]:
        rng = self.rng
        longest = self.max_model_len - 1
        fresh = [rng.randrange(3, VOCABULARY) for _ in range(rng.randint(1, longest))]
        if self.prompts and rng.random() < 0.8:
            base = rng.choice(self.prompts)
            fresh = (base[: rng.randint(1, len(base))] + fresh)[: rng.randint(1, longest)]
        self.prompts.append(fresh)
        return list(fresh)

    def abort(self) -> None:
        if self.requests:
            key = self.rng.choice(list(self.requests))
            self.scheduler.abort(key)
            if key not in self.finished:
                self.aborted.add(key)

    def lose_api_server(self) -> None:
        gone = ApiServerId(self.rng.randrange(3))
        self.collect()
        expected = {key for key in self.requests if key.api_server == gone} - self.finished.keys() - self.aborted
        assert self.scheduler.abort_all(gone) == len(expected)
        self.aborted |= expected

    def step(self) -> None:
        first = min((s for s in self._live()), key=order, default=None)
        chunks = self.scheduler.plan()
        self.check_plan(chunks, first)
        self.scheduler.complete(chunks, self.device.execute(chunks))
        self.steps += 1
        self.collect()

    def collect(self) -> None:
        for api_server, outputs in self.scheduler.take_outputs().items():
            for output in outputs:
                self._receive(RequestKey(api_server, output.request_id), output)

    def _receive(self, key: RequestKey, output: RequestOutput) -> None:
        assert key not in self.finished, f"{key} has ended already"
        if key in self.aborted:
            return
        if not self.received[key]:
            wanted = self.requests[key].prompt_length if key in self.prompt_logprobs_due else 0
            assert len(output.prompt_logprobs or ()) == wanted
        self.received[key] += output.tokens
        if output.finish is not None:
            self.finished[key] = output.finish

    # --- invariants ---

    def _live(self) -> list[Sequence]:
        return [s for key, s in self.requests.items() if key in self.scheduler]

    def check_plan(self, chunks: list[Chunk], first: Sequence | None) -> None:
        assert bool(chunks) == bool(self.scheduler.unfinished), "a step must run whenever a request is there"
        sequences = [chunk.sequence for chunk in chunks]
        assert len(set(sequences)) == len(sequences) <= self.max_num_seqs
        assert sum(chunk.length for chunk in chunks) <= self.step_tokens
        assert not first or not first.blocks or first in sequences, "the first in order must go on"
        written: list[int] = []
        for sequence, start, length in chunks:
            assert start == sequence.computed
            assert 0 < length <= len(sequence.tokens) - start
            assert len(sequence.blocks) == self.cache.blocks_for(start + length)
            written += sequence.blocks[start // self.block_size :]
        for block in written:
            assert written.count(block) == 1, f"block {block} is written by two"
            assert self.cache._references[block] == 1, f"block {block} is shared and written"
            assert self.cache._hash_of[block] is None, f"block {block} is findable and written"

    def check(self) -> None:
        cache, live = self.cache, self._live()
        held = [block for sequence in live for block in sequence.blocks]
        for block in range(cache.num_blocks):
            assert cache._references[block] == held.count(block)
            assert (cache._references[block] == 0) == (block in cache._free)
            name = cache._hash_of[block]
            assert name is None or cache._block_of[name] == block
        assert len(cache._block_of) == sum(name is not None for name in cache._hash_of)
        for sequence in live:
            assert sequence.computed < len(sequence.tokens)
            if not self.prefix_caching:
                assert sequence.cached == 0
        assert self.scheduler.unfinished == len(self.requests) - len(self.finished) - len(self.aborted)
        self._check_loads(live)

    def _check_loads(self, live: list[Sequence]) -> None:
        api_server = ApiServerId(self.steps % 4)  # one a step, in turn: all of them would take most of the time
        others = [s for s in live if s.key.api_server != api_server]
        load = self.scheduler.view().seen_from(api_server)
        assert load.others_requests == len(others)
        assert load.others_prefill_tokens == sum(len(s.tokens) - 1 - s.computed for s in others)
        left = [expected_remaining(s.expected_tokens, s.sampling.max_tokens, s.generated) for s in others]
        assert load.others_decode_tokens == sum(left)
        assert load.running == sum(bool(s.blocks) for s in live)
        assert load.waiting == len(live) - load.running
        assert load.kv_total_tokens == self.num_blocks * self.block_size
        assert load.prefix_hit_tokens <= load.prefix_query_tokens

    def finish(self) -> None:
        """Run everything to its end and compare it with what each request would have brought alone."""
        self.collect()
        bound = self.steps + sum(10 * (len(s.tokens) + s.sampling.max_tokens) for s in self._live())
        while self.scheduler.unfinished:
            self.step()
            self.check()
            assert self.steps <= bound, "requests do not end"
        assert self.cache.free_blocks == self.num_blocks, "blocks leaked"
        assert self.finished.keys() | self.aborted == self.requests.keys()
        assert not self.finished.keys() & self.aborted
        for key in self.finished:
            sequence = self.requests[key]
            assert self.received[key] == expected_output(sequence, self.max_model_len)
