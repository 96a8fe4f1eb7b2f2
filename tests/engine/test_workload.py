"""What a rank counts and measures of its own work, for those who read metrics."""

import pytest

from phalanx.engine.kv_cache import KvCache
from phalanx.engine.scheduler import Scheduler
from phalanx.engine.sequence import RequestKey, Sampled, Sequence
from phalanx.engine.workload import StepSizes
from phalanx.protocol import ApiServerId, PhaseTimes, RequestId, RequestOutput, SamplingParams, StepTokens

API = ApiServerId(0)


class Rank:
    """A scheduler whose steps take as long as the test says; their tokens are all the same."""

    def __init__(self, *, blocks: int = 100, step_tokens: int = 16) -> None:
        self.scheduler = Scheduler(
            KvCache(blocks, 4),
            max_num_seqs=2,
            max_num_batched_tokens=step_tokens,
            max_model_len=4 * blocks,
            eos_token_ids=(0,),
        )
        self.requests = 0

    def add(self, prompt: int, at: float, generated: int = 0, priority: int = 0, max_tokens: int = 9) -> int:
        self.requests += 1
        key, tokens = RequestKey(API, RequestId(self.requests)), [100 * self.requests + 1] * (prompt + generated)
        sampling = SamplingParams(max_tokens)
        self.scheduler.add(Sequence(key, tokens, prompt, sampling, priority, self.requests, queued_at=at))
        return self.requests

    def step(self, start: float, end: float) -> dict[int, RequestOutput]:
        chunks = self.scheduler.plan(start)
        self.scheduler.complete(chunks, [Sampled(7) if chunk.samples else None for chunk in chunks], end)
        return {output.request_id: output for output in self.scheduler.take_outputs().get(API, [])}


def test_a_request_tells_with_its_first_token_alone_how_long_it_waited_and_was_computed() -> None:
    rank = Rank()
    number = rank.add(5, at=10.0)
    assert rank.step(12.0, 12.5)[number].times == PhaseTimes(2.0, 0.5)
    assert rank.step(12.5, 13.0)[number].times is None


def test_all_steps_of_a_long_prompt_are_prefill() -> None:
    rank = Rank(step_tokens=16)
    number = rank.add(40, at=1.0)
    assert rank.step(1.0, 2.0) == {}
    assert rank.step(2.0, 3.0) == {}
    assert rank.step(3.0, 4.0)[number].times == PhaseTimes(0.0, 3.0)


def test_who_finds_no_seat_waits_in_the_queue() -> None:
    rank = Rank()
    for _ in range(2):
        rank.add(2, at=0.0, max_tokens=2)
    third = rank.add(2, at=0.5)
    rank.step(1.0, 2.0)
    rank.step(2.0, 3.0)
    assert rank.step(3.0, 4.0)[third].times == PhaseTimes(2.5, 1.0)


def test_who_is_preempted_before_its_first_token_has_left_the_queue_once() -> None:
    rank = Rank(blocks=8, step_tokens=16)
    slow = rank.add(20, at=0.0, priority=1)
    assert rank.step(1.0, 2.0) == {}
    urgent = rank.add(20, at=2.0, max_tokens=1)
    outputs: dict[int, RequestOutput] = {}
    now = 2.0
    while slow not in outputs:
        outputs |= rank.step(now, now + 1)
        now += 1
    assert outputs[urgent].times == PhaseTimes(0.0, 2.0)
    assert rank.scheduler.view().seen_from(API).preemptions == 1
    assert outputs[slow].times == PhaseTimes(1.0, now - 1.0)


def test_a_request_that_comes_with_tokens_from_another_rank_tells_nothing() -> None:
    rank = Rank()
    number = rank.add(5, at=10.0, generated=2)
    assert rank.step(12.0, 12.5)[number].times is None


@pytest.mark.parametrize(("tokens", "place"), [(0, 0), (1, 0), (2, 1), (8, 1), (9, 2), (16_384, 12), (16_385, 13)])
def test_a_step_counts_up_to_the_bound_that_it_reaches(tokens: int, place: int) -> None:
    sizes = StepSizes()
    sizes.count(tokens)
    assert sizes.told() == StepTokens(tuple(int(place == each) for each in range(14)), tokens)


def test_prompt_and_output_tokens_of_a_step_count_alike() -> None:
    rank = Rank(step_tokens=16)
    rank.add(5, at=0.0)
    rank.step(0.0, 0.0)
    rank.add(12, at=0.0)
    rank.step(0.0, 0.0)
    told = rank.scheduler.step_tokens()
    assert told.tokens == 5 + 1 + 12
    assert told.steps[:4] == (0, 1, 1, 0)
