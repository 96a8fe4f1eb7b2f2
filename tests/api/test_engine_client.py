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
    ApiServerId,
    EngineHello,
    FinishReason,
    Incarnation,
    Load,
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

SECRET = b"a launch secret"
LOAD = Load(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
SAMPLING = SamplingParams(max_tokens=100)
TO_ENGINE: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)


class Scene:
    def __init__(self, listener: socket.socket) -> None:
        self.changed = asyncio.Event()
        self.client = EngineClient(ApiServerId(0), self.changed.set)
        self.listener = listener
        self.channels: list[Channel] = []

    async def rank(self, number: int, incarnation: int = 0) -> "Rank":
        """A rank that has said hello and is attached."""
        self.changed.clear()
        channel = await asyncio.to_thread(dial, address_of(self.listener), SECRET, 10)
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

    async def say(self, message: EngineHello | StepOutput | Abort) -> None:
        await asyncio.to_thread(self.channel.send, message)

    async def step(self, *outputs: RequestOutput, load: Load = LOAD) -> None:
        await self.say(StepOutput(list(outputs), load))

    async def hear(self) -> ToEngine:
        return await asyncio.to_thread(self.channel.receive, TO_ENGINE)

    async def submit(self) -> Submit:
        message = await self.hear()
        assert isinstance(message, Submit)
        return message


@contextlib.asynccontextmanager
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    stage = Scene(bind_unix(tmp_path / "engine"))
    await stage.client.listen([stage.listener], SECRET)
    try:
        yield stage
    finally:
        stage.client.close()
        for channel in stage.channels:
            channel.close()


def played(play: Callable[[Scene], Awaitable[None]], tmp_path: Path) -> None:
    async def whole() -> None:
        async with scene(tmp_path) as stage:
            await play(stage)

    asyncio.run(asyncio.wait_for(whole(), 30))


def out(request: RequestId, *tokens: int, finish: FinishReason | None = None) -> RequestOutput:
    return RequestOutput(request, list(tokens), finish)


async def drained(generation: Generation) -> list[int]:
    tokens: list[int] = []
    while True:
        output = await generation.next()
        tokens += output.tokens
        if output.finish is not None:
            return tokens


def test_without_a_rank_a_request_is_told_so_at_once(tmp_path: Path) -> None:
    async def play(stage: Scene) -> None:
        with pytest.raises(NoRank):
            stage.client.generate([1], SAMPLING)

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


def test_requests_of_a_rank_that_dies_end_in_an_error_after_the_tokens_it_sent(tmp_path: Path) -> None:
    async def play(stage: Scene) -> None:
        rank = await stage.attached(3)
        generation = stage.client.generate([1], SAMPLING)
        submit = await rank.submit()
        await rank.step(out(submit.request_id, 1))
        rank.channel.close()
        assert (await generation.next()).tokens == [1]
        with pytest.raises(EngineDied, match="rank 3"):
            await generation.next()
        generation.abort()
        with pytest.raises(NoRank):
            stage.client.generate([1], SAMPLING)

    played(play, tmp_path)


def test_the_death_of_one_rank_leaves_the_requests_of_another_alone(tmp_path: Path) -> None:
    async def play(stage: Scene) -> None:
        ranks = [await stage.attached(0), await stage.attached(1)]
        generations = [stage.client.generate([1], SAMPLING) for _ in range(2)]
        submits = [await rank.submit() for rank in ranks]
        stage.changed.clear()
        ranks[0].channel.close()
        await stage.changed.wait()
        await ranks[1].step(out(submits[1].request_id, 8, finish=FinishReason.STOP))
        survivor = [g for g in generations if g._error is None]
        assert len(survivor) == 1
        assert await drained(survivor[0]) == [8]

    played(play, tmp_path)


def test_a_newer_incarnation_takes_the_place_of_an_older_one_and_never_the_reverse(tmp_path: Path) -> None:
    async def play(stage: Scene) -> None:
        old = await stage.attached(0, incarnation=1)
        generation = stage.client.generate([1], SAMPLING)
        await old.submit()
        new = await stage.attached(0, incarnation=2)
        with pytest.raises(EngineDied, match="came back"):
            await generation.next()
        with pytest.raises(Closed):
            await old.hear()
        ghost = await stage.rank(0, incarnation=1)
        with pytest.raises(Closed):
            await ghost.hear()
        stage.client.generate([2], SAMPLING)
        assert (await new.submit()).prompt == [2]
        assert [status.incarnation for status in stage.client.ranks()] == [2]

    played(play, tmp_path)


def test_a_rank_that_talks_nonsense_loses_its_connection_and_its_requests_get_an_error(tmp_path: Path) -> None:
    async def play(stage: Scene) -> None:
        rank = await stage.attached(0)
        generation = stage.client.generate([1], SAMPLING)
        await rank.submit()
        await rank.say(Abort([RequestId(1)]))
        with pytest.raises(EngineDied, match="does not decode"):
            await generation.next()

    played(play, tmp_path)


def test_a_connection_that_does_not_begin_with_hello_is_dropped(tmp_path: Path) -> None:
    async def play(stage: Scene) -> None:
        channel = await asyncio.to_thread(dial, address_of(stage.listener), SECRET, 10)
        stage.channels.append(channel)
        rank = Rank(channel)
        await rank.step()
        with pytest.raises(Closed):
            await rank.hear()
        assert stage.client.ranks() == []

    played(play, tmp_path)


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
