"""The API server's end of the engine plane, with ranks played by the test over real sockets."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from phalanx.api.engine_client import EngineClient, EngineDied, Generation, NoRank
from phalanx.protocol import (
    Abort,
    Alive,
    ApiServerId,
    EngineHello,
    FinishReason,
    Incarnation,
    Load,
    Probe,
    RankId,
    RequestId,
    RequestOutput,
    SamplingParams,
    StepOutput,
    Submit,
    ToEngine,
    TokenLogprobs,
)
from phalanx.transport.channel import Channel, Closed, dial
from phalanx.transport.listener import address_of, bind_unix
from phalanx.transport.security import Security

SECURITY = Security(b"a launch secret")
LOAD = Load(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
SAMPLING = SamplingParams(max_tokens=100)
TO_ENGINE: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)


class Scene:
    def __init__(self, listener: socket.socket, patience: float) -> None:
        self.changed = asyncio.Event()
        self.client = EngineClient(ApiServerId(0), self.changed.set, patience)
        self.listener = listener
        self.channels: list[Channel] = []

    async def rank(self, number: int, incarnation: int = 0) -> "Rank":
        """A rank that has said hello and is attached."""
        self.changed.clear()
        channel = await asyncio.to_thread(dial, address_of(self.listener), SECURITY, 10)
        self.channels.append(channel)
        rank = Rank(channel)
        await rank.say(EngineHello(RankId(number), Incarnation(incarnation), 2048, 16, 65536))
        return rank

    async def attached(self, number: int, incarnation: int = 0) -> "Rank":
        rank = await self.rank(number, incarnation)
        await self.changed.wait()
        return rank


class Rank:
    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    async def say(self, message: EngineHello | StepOutput | Alive) -> None:
        await asyncio.to_thread(self.channel.send, message)

    async def step(self, *outputs: RequestOutput, load: Load = LOAD) -> None:
        await self.say(StepOutput(list(outputs), load))

    async def hear(self) -> ToEngine:
        return await asyncio.to_thread(self.channel.receive, TO_ENGINE)

    async def submit(self) -> Submit:
        """The next request, before which it may be asked whether it lives."""
        while isinstance(message := await self.hear(), Probe):
            await self.say(Alive(message.number))
        assert isinstance(message, Submit)
        return message


@contextlib.asynccontextmanager
async def scene(tmp_path: Path, patience: float) -> AsyncIterator[Scene]:
    stage = Scene(bind_unix(tmp_path / "engine"), patience)
    await stage.client.listen([stage.listener], SECURITY)
    try:
        yield stage
    finally:
        stage.client.close()
        for channel in stage.channels:
            channel.close()


def played(play: Callable[[Scene], Awaitable[None]], tmp_path: Path, patience: float = 0.0) -> None:
    async def whole() -> None:
        async with scene(tmp_path, patience) as stage:
            await play(stage)

    asyncio.run(asyncio.wait_for(whole(), 30))


def out(request: RequestId, *tokens: int, finish: FinishReason | None = None) -> RequestOutput:
    return RequestOutput(request, list(tokens), finish)


async def arrived(generation: Generation, tokens: int) -> None:
    """Until so many tokens have come in, taken or not."""
    come = asyncio.Event()
    generation.on_output = come.set
    while len(generation.tokens) < tokens:
        await come.wait()
        come.clear()
    generation.on_output = None


async def drained(generation: Generation) -> list[int]:
    tokens: list[int] = []
    while True:
        output = await generation.next()
        tokens += output.tokens
        if output.finish is not None:
            return tokens


def test_without_a_rank_a_request_is_told_so_after_its_patience(tmp_path: Path) -> None:
    async def play(stage: Scene) -> None:
        generation = stage.client.generate([1], SAMPLING)
        with pytest.raises(NoRank, match="for 0 s"):
            await generation.next()
        generation.abort()

    played(play, tmp_path)


def test_a_request_waits_for_a_rank(tmp_path: Path) -> None:
    async def play(stage: Scene) -> None:
        generation = stage.client.generate([1], SAMPLING)
        unwanted = stage.client.generate([2], SAMPLING)
        unwanted.abort()
        rank = await stage.attached(0)
        submit = await rank.submit()
        assert submit.prompt == [1]
        await rank.step(out(submit.request_id, 7, finish=FinishReason.STOP))
        assert await drained(generation) == [7]

    played(play, tmp_path, patience=30.0)


def test_a_request_goes_on_at_another_rank_from_the_tokens_it_has(tmp_path: Path) -> None:
    async def play(stage: Scene) -> None:
        ranks = {0: await stage.attached(0), 1: await stage.attached(1)}
        generation = stage.client.generate([5, 6], SAMPLING, priority=3)
        assert generation.rank is not None
        first = ranks.pop(generation.rank)
        submit = await first.submit()
        await first.step(out(submit.request_id, 10, 11))
        assert (await generation.next()).tokens == [10, 11]
        await first.step(out(submit.request_id, 12))
        await arrived(generation, 3)
        first.channel.close()
        [second] = ranks.values()
        again = await second.submit()
        assert (again.prompt, again.generated, again.priority) == ([5, 6], [10, 11, 12], 3)
        assert again.sampling == submit.sampling
        await second.step(out(again.request_id, 13, finish=FinishReason.STOP))
        assert await drained(generation) == [12, 13]

    played(play, tmp_path)


def test_a_request_on_which_two_ranks_die_in_a_row_does_not_get_a_third(tmp_path: Path) -> None:
    async def play(stage: Scene) -> None:
        ranks = {index: await stage.attached(index) for index in range(3)}
        killer = stage.client.generate([1], SAMPLING)
        for _ in range(2):
            assert killer.rank is not None
            rank = ranks.pop(killer.rank)
            await rank.submit()
            stage.changed.clear()
            rank.channel.close()
            await stage.changed.wait()
        with pytest.raises(EngineDied, match="2 ranks have died on it"):
            await killer.next()
        innocent = stage.client.generate([2], SAMPLING)
        [last] = ranks.values()
        submit = await last.submit()
        assert submit.prompt == [2]
        await last.step(out(submit.request_id, 3, finish=FinishReason.STOP))
        assert await drained(innocent) == [3]

    played(play, tmp_path)


def test_ranks_that_die_on_a_request_now_and_then_are_not_held_against_it(tmp_path: Path) -> None:
    async def play(stage: Scene) -> None:
        generation = stage.client.generate([1], SAMPLING)
        for index in range(5):
            rank = await stage.attached(index)
            submit = await rank.submit()
            assert submit.generated == list(range(index))
            await rank.step(out(submit.request_id, index))
            await arrived(generation, index + 1)
            stage.changed.clear()
            rank.channel.close()
            await stage.changed.wait()
        rank = await stage.attached(9)
        submit = await rank.submit()
        await rank.step(out(submit.request_id, 5, finish=FinishReason.LENGTH))
        assert await drained(generation) == list(range(6))

    played(play, tmp_path, patience=30.0)


def test_a_request_that_nobody_takes_up_again_ends_after_the_tokens_it_has(tmp_path: Path) -> None:
    async def play(stage: Scene) -> None:
        rank = await stage.attached(3)
        generation = stage.client.generate([1], SAMPLING)
        submit = await rank.submit()
        await rank.step(out(submit.request_id, 1))
        await arrived(generation, 1)
        rank.channel.close()
        assert (await generation.next()).tokens == [1]
        with pytest.raises(NoRank):
            await generation.next()
        generation.abort()

    played(play, tmp_path)


def test_ranks_that_die_together_are_not_held_against_the_requests_of_one(tmp_path: Path) -> None:
    async def play(stage: Scene) -> None:
        ranks = [await stage.attached(0), await stage.attached(1)]
        generation = stage.client.generate([1], SAMPLING)
        assert generation.rank is not None
        first, other = ranks.pop(generation.rank), ranks[0]
        submit = await first.submit()
        first.channel.close()
        probe = await other.hear()
        assert isinstance(probe, Probe), "dead it may be, and the request must not be sent into its end"
        other.channel.close()
        successor = await stage.attached(0, 1)
        again = await successor.submit()
        assert again.prompt == submit.prompt
        await successor.step(out(again.request_id, 7, finish=FinishReason.STOP))
        assert await drained(generation) == [7]

    played(play, tmp_path, patience=30)


def test_a_request_that_comes_back_to_a_rank_it_was_moved_away_from_takes_no_token_of_that_time_twice(
    tmp_path: Path,
) -> None:
    async def play(stage: Scene) -> None:
        rank, alone = await stage.attached(0), frozenset({RankId(0)})
        generation = stage.client.generate([1], SAMPLING)
        first = await rank.submit()
        await rank.step(out(first.request_id, 10))
        await arrived(generation, 1)
        stage.client.leave(alone, moving=alone)
        stage.client.leave(frozenset())
        # Sent before it heard of any of that.
        await rank.step(out(first.request_id, 11))
        assert await rank.hear() == Abort([first.request_id])
        again = await rank.submit()
        assert again.generated == [10]
        await rank.step(out(again.request_id, 11))
        await rank.step(out(again.request_id, 12, finish=FinishReason.STOP))
        assert await drained(generation) == [10, 11, 12]

    played(play, tmp_path, patience=30)


def test_who_leaves_before_the_next_rank_has_answered_costs_it_nothing(tmp_path: Path) -> None:
    async def play(stage: Scene) -> None:
        ranks = [await stage.attached(0), await stage.attached(1)]
        generation = stage.client.generate([1], SAMPLING)
        assert generation.rank is not None
        first, rank = ranks.pop(generation.rank), ranks[0]
        await first.submit()
        first.channel.close()
        probe = await rank.hear()
        assert isinstance(probe, Probe)
        generation.abort()
        await rank.say(Alive(probe.number))
        other = stage.client.generate([2], SAMPLING)
        assert (await rank.submit()).prompt == [2]
        assert stage.client.ranks()[0].own_requests == 1
        other.abort()

    played(play, tmp_path)


def test_a_request_reaches_a_rank_whole_and_its_tokens_come_back_in_order(tmp_path: Path) -> None:
    async def play(stage: Scene) -> None:
        rank = await stage.attached(0)
        generation = stage.client.generate([5, 6, 7], SAMPLING, priority=-2)
        submit = await rank.submit()
        assert (submit.prompt, submit.sampling, submit.priority) == ([5, 6, 7], SAMPLING, -2)
        assert submit.expected_tokens >= 1
        for token in range(50):
            await rank.step(out(submit.request_id, token))
        await rank.step(out(submit.request_id, 50, finish=FinishReason.STOP))
        assert await drained(generation) == list(range(51))

    played(play, tmp_path)


def test_steps_that_a_slow_reader_missed_are_merged_with_their_logprobs(tmp_path: Path) -> None:
    async def play(stage: Scene) -> None:
        rank = await stage.attached(0)
        slow, marker = stage.client.generate([1], SAMPLING), stage.client.generate([2], SAMPLING)
        first, second = await rank.submit(), await rank.submit()
        logprobs = [TokenLogprobs(-float(n), 1, [n], [-float(n)]) for n in range(3)]
        for n in range(3):
            output = RequestOutput(first.request_id, [n], logprobs=[logprobs[n]], cached_tokens=4 if n == 0 else 0)
            await rank.step(output)
        await rank.step(out(second.request_id, 9))
        assert (await marker.next()).tokens == [9]
        merged = await slow.next()
        assert (merged.tokens, merged.logprobs, merged.cached_tokens) == ([0, 1, 2], logprobs, 4)

    played(play, tmp_path)


def test_an_abort_reaches_the_rank_once_and_late_tokens_are_nobodys(tmp_path: Path) -> None:
    async def play(stage: Scene) -> None:
        rank = await stage.attached(0)
        generation = stage.client.generate([1], SAMPLING)
        submit = await rank.submit()
        generation.abort()
        generation.abort()
        assert await rank.hear() == Abort([submit.request_id])
        assert stage.client.ranks()[0].own_requests == 0
        await rank.step(out(submit.request_id, 1))
        other = stage.client.generate([2], SAMPLING)
        assert isinstance(await rank.hear(), Submit)
        other.abort()

    played(play, tmp_path)


def test_a_finished_request_is_never_aborted(tmp_path: Path) -> None:
    async def play(stage: Scene) -> None:
        rank = await stage.attached(0)
        generation = stage.client.generate([1], SAMPLING)
        submit = await rank.submit()
        await rank.step(out(submit.request_id, 1, finish=FinishReason.LENGTH))
        assert await drained(generation) == [1]
        generation.abort()
        stage.client.generate([2], SAMPLING)
        assert isinstance(await rank.hear(), Submit)

    played(play, tmp_path)


def test_the_death_of_one_rank_moves_its_requests_and_leaves_those_of_another_alone(tmp_path: Path) -> None:
    async def play(stage: Scene) -> None:
        ranks = [await stage.attached(0), await stage.attached(1)]
        generations = [stage.client.generate([1], SAMPLING) for _ in range(2)]
        submits = [await rank.submit() for rank in ranks]
        stage.changed.clear()
        ranks[0].channel.close()
        await stage.changed.wait()
        moved = await ranks[1].submit()
        assert moved.prompt == submits[0].prompt
        for submit in (submits[1], moved):
            await ranks[1].step(out(submit.request_id, 8, finish=FinishReason.STOP))
        assert [await drained(generation) for generation in generations] == [[8], [8]]

    played(play, tmp_path)


def test_a_newer_incarnation_takes_the_place_of_an_older_one_and_never_the_reverse(tmp_path: Path) -> None:
    async def play(stage: Scene) -> None:
        old = await stage.attached(0, incarnation=1)
        generation = stage.client.generate([1], SAMPLING)
        await old.submit()
        new = await stage.attached(0, incarnation=2)
        moved = await new.submit()
        assert moved.prompt == [1]
        await new.step(out(moved.request_id, 4, finish=FinishReason.STOP))
        assert await drained(generation) == [4]
        with pytest.raises(Closed):
            await old.hear()
        ghost = await stage.rank(0, incarnation=1)
        with pytest.raises(Closed):
            await ghost.hear()
        stage.client.generate([2], SAMPLING)
        assert (await new.submit()).prompt == [2]
        assert [status.incarnation for status in stage.client.ranks()] == [2]

    played(play, tmp_path)


def test_a_rank_that_talks_nonsense_loses_its_connection_and_its_requests_go_elsewhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def play(stage: Scene) -> None:
        rank = await stage.attached(0)
        generation = stage.client.generate([1], SAMPLING)
        await rank.submit()
        await rank.say(Abort([RequestId(1)]))
        with pytest.raises(Closed):
            await rank.hear()
        other = await stage.attached(1)
        submit = await other.submit()
        await other.step(out(submit.request_id, 4, finish=FinishReason.STOP))
        assert await drained(generation) == [4]

    played(play, tmp_path, patience=30.0)
    assert "engine rank 0 has gone, 1 requests go on elsewhere: rank 0 sent what does not decode" in caplog.text


def test_a_connection_that_does_not_begin_with_hello_is_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "phalanx.api.engine_client")

    async def play(stage: Scene) -> None:
        channel = await asyncio.to_thread(dial, address_of(stage.listener), SECURITY, 10)
        stage.channels.append(channel)
        rank = Rank(channel)
        await rank.step()
        with pytest.raises(Closed):
            await rank.hear()
        assert stage.client.ranks() == []

    played(play, tmp_path)
    assert "a rank, in place of EngineHello, sent what does not decode" in caplog.text


def test_ranks_are_listed_with_the_load_they_reported(tmp_path: Path) -> None:
    async def play(stage: Scene) -> None:
        second, first = await stage.attached(1), await stage.attached(0)
        generation = stage.client.generate([1], SamplingParams(max_tokens=1))
        rank = first if (await _which(stage)) == 0 else second
        await rank.step(out((await rank.submit()).request_id, 1, finish=FinishReason.LENGTH))
        await drained(generation)
        statuses = stage.client.ranks()
        assert [status.rank for status in statuses] == [0, 1]
        assert LOAD in [status.load for status in statuses]
        assert {status.own_requests for status in statuses} == {0}

    async def _which(stage: Scene) -> int:
        return next(status.rank for status in stage.client.ranks() if status.own_requests)

    played(play, tmp_path)
