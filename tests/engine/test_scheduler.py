"""The scheduler's policy, one behaviour at a time. Long random histories: `tests/simulation`."""

from typing import Any

import pytest

from phalanx.engine.kv_cache import KvCache
from phalanx.engine.scheduler import Scheduler
from phalanx.engine.sequence import Chunk, RequestKey, Sampled, Sequence
from phalanx.protocol import ApiServerId, FinishReason, RequestId, RequestOutput, SamplingParams

EOS = 0
API = ApiServerId(0)


class Rank:
    """A scheduler whose every sampled token is the same."""

    def __init__(self, blocks: int = 100, size: int = 4, seats: int = 8, step_tokens: int = 32, **further: Any) -> None:
        self.cache = KvCache(blocks, size, prefix_caching=further.pop("prefix_caching", True))
        self.scheduler = Scheduler(
            self.cache,
            max_num_seqs=seats,
            max_num_batched_tokens=step_tokens,
            max_model_len=min(blocks * size, further.pop("max_model_len", 10_000)),
            eos_token_ids=(EOS,),
        )
        assert not further
        self.arrivals = 0
        self.outputs: dict[int, list[RequestOutput]] = {}

    def add(
        self, prompt: list[int] | int, priority: int = 0, generated: list[int] | None = None, **sampling: Any
    ) -> int:
        """A request; a prompt given as a number is that many tokens that no other prompt has."""
        self.arrivals += 1
        tokens = [1000 * self.arrivals + i for i in range(prompt)] if isinstance(prompt, int) else prompt
        key = RequestKey(API, RequestId(self.arrivals))
        parameters = SamplingParams(**{"max_tokens": 100, **sampling})
        self.scheduler.add(Sequence(key, tokens + (generated or []), len(tokens), parameters, priority, self.arrivals))
        return self.arrivals

    def plan(self) -> dict[int, int]:
        """Tokens that the next step would run, by request. The step is not run: follow with `run`."""
        self.chunks: list[Chunk] = self.scheduler.plan()
        return {chunk.sequence.key.request_id: chunk.length for chunk in self.chunks}

    def run(self, token: int = 7) -> None:
        self.scheduler.complete(self.chunks, [Sampled(token) if chunk.samples else None for chunk in self.chunks])
        for output in self.scheduler.take_outputs().get(API, []):
            self.outputs.setdefault(output.request_id, []).append(output)

    def step(self, token: int = 7) -> dict[int, int]:
        planned = self.plan()
        self.run(token)
        return planned

    def finish(self, number: int) -> RequestOutput:
        while number not in self.outputs or self.outputs[number][-1].finish is None:
            self.step()
        return self.outputs[number][-1]


# --- sharing a step ---


def test_prompts_run_in_order_of_arrival_as_far_as_the_step_goes() -> None:
    rank = Rank(step_tokens=32)
    first, second, third = rank.add(20), rank.add(10), rank.add(20)
    assert rank.step() == {first: 20, second: 10, third: 2}
    assert rank.step() == {first: 1, second: 1, third: 18}
    assert rank.step() == {first: 1, second: 1, third: 1}


def test_running_requests_get_their_token_in_every_step_of_a_long_prompt() -> None:
    rank = Rank(step_tokens=16)
    short = rank.add(4)
    rank.step()
    long = rank.add(150)
    for _ in range(9):
        assert rank.step() == {short: 1, long: 15}


def test_short_prompts_overtake_a_long_one_which_keeps_half_of_the_step() -> None:
    rank = Rank(step_tokens=32, seats=8)
    long = rank.add(300)
    assert rank.step() == {long: 32}
    first, second = rank.add(6), rank.add(8)
    assert rank.step() == {long: 18, first: 6, second: 8}
    assert rank.step() == {long: 30, first: 1, second: 1}


def test_a_prompt_half_as_long_overtakes_and_one_that_is_longer_waits() -> None:
    rank = Rank(step_tokens=32, blocks=500)
    long, longer, medium = rank.add(400), rank.add(390), rank.add(100)
    assert rank.step() == {long: 16, medium: 16}
    assert longer not in rank.step()


def test_no_more_run_at_once_than_seats() -> None:
    rank = Rank(seats=2)
    first, second, third = rank.add(4, max_tokens=2), rank.add(4), rank.add(4)
    assert rank.step() == {first: 4, second: 4}
    assert rank.step() == {first: 1, second: 1}
    assert rank.step() == {second: 1, third: 4}


def test_a_step_of_fewer_tokens_than_seats_keeps_to_its_tokens() -> None:
    rank = Rank(seats=8, step_tokens=2)
    for _ in range(4):
        rank.add(1)
    assert [sum(rank.step().values()) for _ in range(4)] == [2, 2, 2, 2]


# --- reuse ---


def test_a_prompt_whose_start_another_computes_in_this_step_waits_and_then_finds_it() -> None:
    rank = Rank(step_tokens=64)
    prompt = list(range(1, 22))
    first, same = rank.add(prompt), rank.add([*prompt, 99])
    other = rank.add(5)
    assert rank.step() == {first: 21, other: 5}
    assert rank.step() == {first: 1, same: 2, other: 1}
    assert rank.outputs[same][0].cached_tokens == 20


def test_prompts_that_share_little_do_not_wait_for_one_another() -> None:
    rank = Rank(step_tokens=64)
    first, second = rank.add([1, 2, 3, 4, *range(100, 116)]), rank.add([1, 2, 3, 4, *range(200, 216)])
    assert rank.step() == {first: 20, second: 20}


def test_cached_tokens_are_told_once_with_the_first_tokens() -> None:
    rank = Rank()
    prompt = list(range(1, 10))
    rank.finish(rank.add(prompt, max_tokens=1))
    again = rank.add(prompt, max_tokens=3)
    rank.finish(again)
    assert [output.cached_tokens for output in rank.outputs[again]] == [8, 0, 0]
    load = rank.scheduler.view().seen_from(API)
    assert (load.prefix_query_tokens, load.prefix_hit_tokens) == (18, 8)


def test_with_prefix_caching_off_nothing_is_looked_up() -> None:
    rank = Rank(prefix_caching=False)
    for _ in range(2):
        number = rank.add(list(range(1, 10)), max_tokens=1)
        assert rank.finish(number).cached_tokens == 0
    assert rank.scheduler.view().seen_from(API).prefix_query_tokens == 0


# --- preemption ---


def test_when_blocks_run_out_the_last_in_order_gives_way_and_later_goes_on() -> None:
    rank = Rank(blocks=6, size=4)
    first, last = rank.add(7, max_tokens=13), rank.add(7, max_tokens=13)
    while last in (planned := rank.step()):
        assert first in planned
    had = sum(len(output.tokens) for output in rank.outputs[last])
    assert 0 < had < 13
    rank.finish(last)
    for number in (first, last):
        assert sum(len(output.tokens) for output in rank.outputs[number]) == 13
    assert rank.outputs[first][-1].finish is FinishReason.LENGTH
    assert rank.scheduler.view().seen_from(API).preemptions == 1
    assert rank.cache.free_blocks == 6


def test_a_newcomer_that_would_cause_a_preemption_at_once_waits() -> None:
    rank = Rank(blocks=6, size=4)
    running = rank.add(12)
    rank.step()
    waiting = rank.add(9)  # its three blocks are free, and the running one will need one of them
    assert rank.step() == {running: 1}
    rank.scheduler.abort(RequestKey(API, RequestId(running)))
    assert rank.step() == {waiting: 9}


def test_blocks_that_a_running_prompt_still_lacks_are_not_given_to_a_newcomer() -> None:
    rank = Rank(blocks=10, size=4, step_tokens=8)
    long = rank.add(32)
    rank.step()
    rank.add(7)
    assert rank.step() == {long: 8}
    assert rank.scheduler.view().seen_from(API).waiting == 1


def test_none_overtakes_a_request_that_waits_for_room() -> None:
    rank = Rank(blocks=6, size=4)
    running = rank.add(12)
    rank.step()
    rank.add(12)
    rank.add(1)
    assert rank.step() == {running: 1}


def test_a_request_of_higher_priority_runs_first_and_takes_a_seat() -> None:
    rank = Rank(seats=2)
    early, late = rank.add(4, priority=5), rank.add(4, priority=5)
    rank.step()
    urgent = rank.add(4, priority=1)
    assert rank.step() == {early: 1, urgent: 4}
    rank.scheduler.abort(RequestKey(API, RequestId(urgent)))
    assert late in rank.step()


def test_a_request_of_higher_priority_takes_blocks() -> None:
    rank = Rank(blocks=8, size=4)
    early, late = rank.add(10, priority=5), rank.add(10, priority=5)
    rank.step()
    urgent = rank.add(9, priority=1)
    assert rank.step() == {early: 1, urgent: 9}
    assert late not in rank.step()


def test_equal_priority_never_preempts_for_a_seat() -> None:
    rank = Rank(seats=1)
    first = rank.add(4)
    rank.step()
    rank.add(4)
    assert rank.step() == {first: 1}


def test_nobody_gives_way_where_that_would_not_be_enough() -> None:
    rank = Rank(blocks=8, size=4)
    firm, yielding = rank.add(15, priority=1), rank.add(4, priority=5)
    rank.step()
    rank.add(20, priority=2)
    assert rank.step() == {firm: 1, yielding: 1}


def test_blocks_that_the_newcomer_would_reuse_are_no_gain() -> None:
    rank = Rank(blocks=8, size=4)
    prompt = list(range(1, 13))
    firm, yielding = rank.add(13, priority=1), rank.add(prompt, priority=5)
    rank.step()
    rank.step()
    rank.add([*prompt, 20, 21, 22, 23, 24], priority=2)
    assert rank.step() == {firm: 1, yielding: 1}


def test_the_first_in_order_takes_blocks_from_those_that_decode() -> None:
    rank = Rank(blocks=8, size=4, step_tokens=8)
    small, other = rank.add(3, priority=5), rank.add(3, priority=5)
    rank.step()
    for _ in range(9):
        rank.step()  # each holds four blocks now
    urgent = rank.add(16, priority=1)
    planned = rank.step()
    assert planned[urgent] >= 4
    assert other not in planned
    rank.finish(urgent)
    assert len(rank.outputs[urgent]) == 16
    assert small in rank.outputs


# --- endings ---


@pytest.mark.parametrize(
    ("options", "token", "tokens", "finish", "stop_token"),
    [
        ({"max_tokens": 3}, 7, 3, FinishReason.LENGTH, None),
        ({}, EOS, 1, FinishReason.STOP, None),
        ({"max_tokens": 4, "ignore_eos": True}, EOS, 4, FinishReason.LENGTH, None),
        ({"stop_token_ids": (7, 8)}, 7, 1, FinishReason.STOP, 7),
        ({"min_tokens": 4}, EOS, 4, FinishReason.STOP, None),
        ({"min_tokens": 2, "stop_token_ids": (7,)}, 7, 2, FinishReason.STOP, 7),
        ({"max_tokens": 1, "stop_token_ids": (7,)}, 7, 1, FinishReason.STOP, 7),
        ({"ignore_eos": True, "stop_token_ids": (EOS,)}, EOS, 1, FinishReason.STOP, EOS),
    ],
)
def test_a_request_ends_when_its_parameters_say(
    options: dict[str, Any], token: int, tokens: int, finish: FinishReason, stop_token: int | None
) -> None:
    rank = Rank()
    number = rank.add(5, **options)
    while rank.scheduler.unfinished:
        rank.step(token)
    assert sum(len(output.tokens) for output in rank.outputs[number]) == tokens
    last = rank.outputs[number][-1]
    assert (last.finish, last.stop_token) == (finish, stop_token)
    assert last.tokens == [token]


def test_a_request_ends_at_the_models_length() -> None:
    rank = Rank(max_model_len=12)
    number = rank.add(9)
    assert rank.finish(number).finish is FinishReason.LENGTH
    assert len(rank.outputs[number]) == 3


def test_tokens_generated_elsewhere_count_as_output() -> None:
    rank = Rank()
    number = rank.add(5, generated=[7, 7, 7], max_tokens=5)
    assert rank.step() == {number: 8}
    rank.finish(number)
    assert sum(len(output.tokens) for output in rank.outputs[number]) == 2


def test_a_request_continued_with_its_last_token_ends_at_once() -> None:
    rank = Rank()
    number = rank.add(5, generated=[7, 7], max_tokens=2)
    [output] = rank.scheduler.take_outputs()[API]
    assert output == RequestOutput(RequestId(number), [], FinishReason.LENGTH)
    assert rank.scheduler.unfinished == 0


def test_an_error_of_the_runner_ends_its_request_and_no_other() -> None:
    rank = Rank()
    sick, well = rank.add(4), rank.add(4, max_tokens=1)
    chunks = rank.scheduler.plan()
    rank.scheduler.complete(chunks, [Sampled(0, error="not a number"), Sampled(7)])
    outputs = {output.request_id: output for output in rank.scheduler.take_outputs()[API]}
    assert (outputs[RequestId(sick)].finish, outputs[RequestId(sick)].error) == (FinishReason.ERROR, "not a number")
    assert outputs[RequestId(sick)].tokens == []
    assert outputs[RequestId(well)].tokens == [7]
    assert rank.cache.free_blocks == rank.cache.num_blocks
    view = rank.scheduler.view().seen_from(ApiServerId(9))
    assert (view.others_requests, view.others_prefill_tokens, view.others_decode_tokens) == (0, 0, 0)


def test_aborted_requests_that_wait_do_not_keep_their_prompts() -> None:
    rank = Rank(seats=1)
    rank.add(4)
    rank.step()
    for _ in range(500):
        rank.scheduler.abort(RequestKey(API, RequestId(rank.add(4))))
    assert len(rank.scheduler._waiting) < 50
