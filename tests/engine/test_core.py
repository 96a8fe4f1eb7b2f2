"""The engine loop above a runner that fails: who pays for it."""

import gc
import os
from collections.abc import Iterator

import pytest

from phalanx.engine.api_links import ApiLinks, WakingQueue
from phalanx.engine.core import MAX_FAILURES, Engine, keep_collector_out_of_the_way
from phalanx.engine.kv_cache import KvCache
from phalanx.engine.scheduler import Scheduler
from phalanx.engine.sequence import Chunk, Progress, RankBroken, RequestKey, Sampled, Sequence
from phalanx.protocol import (
    ApiServerId,
    EngineHello,
    FinishReason,
    Incarnation,
    RankId,
    RequestId,
    RequestLimits,
    RequestOutput,
    SamplingParams,
)
from phalanx.transport.security import Security

API = ApiServerId(0)
POISON = 13


class FailingRunner:
    """Raises for a step with a token POISON in it, and for every step while `broken`."""

    block_size, num_blocks, vocab_size, eos_token_ids = 4, 100, 1000, (0,)
    broken = False

    def load(self, progress: Progress) -> None: ...

    def describe(self) -> str:
        return ""

    def execute(self, chunks: list[Chunk]) -> list[Sampled | None]:
        if self.broken or any(POISON in chunk.sequence.tokens for chunk in chunks):
            raise RuntimeError("kernel fault")
        return [Sampled(7) if chunk.samples else None for chunk in chunks]


class Rank:
    """An engine whose links stay silent; the test steps it by hand."""

    def __init__(self) -> None:
        self.runner = FailingRunner()
        self.scheduler = Scheduler(
            KvCache(100, 4), max_num_seqs=8, max_num_batched_tokens=64, max_model_len=100, eos_token_ids=(0,)
        )
        self.notices = WakingQueue()
        self.links = ApiLinks(self.notices, Security(b"secret"), EngineHello(RankId(0), Incarnation(0), 100, 8, 400))
        self.engine = Engine(self.runner, self.scheduler, RequestLimits(1000, 100, 400), self.links)
        self.requests = 0

    def add(self, prompt: list[int]) -> int:
        self.requests += 1
        key = RequestKey(API, RequestId(self.requests))
        self.scheduler.add(Sequence(key, prompt, len(prompt), SamplingParams(max_tokens=2), arrival=self.requests))
        return self.requests

    def step(self) -> dict[int, RequestOutput]:
        self.scheduler.complete(*self.engine.execute(self.scheduler.plan()))
        return {output.request_id: output for output in self.scheduler.take_outputs().get(API, [])}


@pytest.fixture
def rank() -> Iterator[Rank]:
    rank = Rank()
    yield rank
    rank.links._selector.close()
    os.close(rank.notices.fileno())


def test_a_request_that_the_runner_cannot_run_ends_alone(rank: Rank) -> None:
    well, sick, other = rank.add([1, 2]), rank.add([1, POISON]), rank.add([3])
    outputs = rank.step()
    assert outputs[sick].finish is FinishReason.ERROR
    assert outputs[sick].error == "the model could not run this request: RuntimeError: kernel fault"
    assert outputs[well].tokens == outputs[other].tokens == [7]
    assert rank.step()[well].finish is FinishReason.LENGTH


def test_a_step_in_which_several_run_and_none_can_is_the_ranks_fault(rank: Rank) -> None:
    rank.add([1, 2])
    rank.add([3])
    rank.runner.broken = True
    with pytest.raises(RuntimeError, match="kernel fault"):
        rank.step()


def test_a_rank_on_which_one_request_after_the_other_fails_is_at_fault_itself(rank: Rank) -> None:
    rank.runner.broken = True
    for _ in range(MAX_FAILURES - 1):
        number = rank.add([1, 2])
        assert rank.step()[number].finish is FinishReason.ERROR
    rank.add([1, 2])
    with pytest.raises(RuntimeError, match="kernel fault"):
        rank.step()


def test_one_request_that_runs_between_those_that_fail_clears_the_rank(rank: Rank) -> None:
    for _ in range(2 * MAX_FAILURES):
        sick = rank.add([POISON])
        assert rank.step()[sick].finish is FinishReason.ERROR
        rank.add([1])
        rank.step()
        rank.step()


def test_a_rank_that_is_broken_says_so_at_once_and_blames_no_request(
    rank: Rank, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[list[Chunk]] = []

    def execute(chunks: list[Chunk]) -> list[Sampled | None]:
        steps.append(chunks)
        raise RankBroken("worker 1 of rank 0 is gone")

    monkeypatch.setattr(rank.runner, "execute", execute)
    rank.add([1, 2])
    with pytest.raises(RankBroken, match="worker 1 of rank 0 is gone"):
        rank.step()
    assert len(steps) == 1
    assert rank.scheduler.take_outputs() == {}


def test_the_collector_leaves_what_start_up_made_and_full_collections_alone() -> None:
    before = gc.get_threshold()
    try:
        keep_collector_out_of_the_way()
        assert gc.get_freeze_count() > 1000
        assert gc.isenabled()
        assert gc.get_threshold()[2] >= 1_000_000
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
