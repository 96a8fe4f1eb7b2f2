"""A rank's connections to API servers that stall, vanish or are replaced."""

import os
import select
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
from support.rank_process import SECRET, PlayedApiServer, accept

from phalanx.engine import api_links
from phalanx.engine.api_links import ApiLinks, Attached, Event, Lost, Received, WakingQueue
from phalanx.protocol import (
    Abort,
    ApiServers,
    EngineHello,
    Incarnation,
    Load,
    RankId,
    RequestId,
    RequestOutput,
    StepOutput,
    Stop,
    ToApi,
)
from phalanx.transport.channel import Channel, Closed
from phalanx.transport.security import Security

T = TypeVar("T")
LOAD = Load(*[0] * 11)
LARGE = StepOutput([RequestOutput(RequestId(1), list(range(60_000)))], LOAD)
decoder: msgspec.msgpack.Decoder[ToApi] = msgspec.msgpack.Decoder(ToApi)


class World:
    """A rank's connections, and one API server that the test plays."""

    def __init__(self, folder: Path) -> None:
        self.notices = WakingQueue()
        self.links = ApiLinks(self.notices, Security(SECRET), EngineHello(RankId(0), Incarnation(0), 100, 8, 400))
        self.api = PlayedApiServer(0, folder)
        self.channels: list[Channel] = []

    def wait(self, kind: type[T]) -> T:
        """Poll as the engine loop does, until something of this kind happens."""
        while True:
            for event in self.links.poll(block=True):
                if isinstance(event, kind):
                    return event

    def attach(self) -> Channel:
        """The API server accepts; it reads nothing yet."""
        with ThreadPoolExecutor(1) as thread:
            accepting = thread.submit(accept, self.api.listener)
            self.wait(Attached)
            self.channels.append(accepting.result())
        return self.channels[-1]

    def close(self) -> None:
        self.links.update(ApiServers(()))
        self.links._selector.close()
        os.close(self.notices.fileno())
        self.api.close()
        for channel in self.channels:
            channel.close()


@pytest.fixture
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="ph-", dir="/tmp") as folder:
        world = World(Path(folder))
        world.links.update(ApiServers((world.api.endpoint,)))
        try:
            yield world
        finally:
            world.close()


def test_messages_arrive_in_order_with_their_sender(world: World) -> None:
    channel = world.attach()
    messages = [Abort([RequestId(number)]) for number in range(5)]
    for message in messages:
        channel.send(message)
    received: list[Event] = []
    while len(received) < 5:
        received += world.links.poll(block=True)
    assert received == [Received(world.api.index, message) for message in messages]


def test_a_notice_from_another_thread_wakes_a_loop_that_waits(world: World) -> None:
    world.attach()
    threading.Timer(0.01, world.notices.put, (Stop(),)).start()
    assert world.links.poll(block=True) == [Stop()]
    assert world.links.poll(block=False) == []


def test_an_api_server_that_reads_late_gets_everything_in_order(world: World) -> None:
    channel = world.attach()
    for _ in range(20):
        world.links.send(world.api.index, LARGE)
    world.links.send(world.api.index, StepOutput([], LOAD))

    def read() -> list[ToApi]:
        messages = [channel.receive(decoder) for _ in range(22)]
        world.notices.put(Stop())
        return messages

    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(read)
        world.wait(Stop)
        hello, *steps = reading.result()
    assert isinstance(hello, EngineHello)
    assert steps == [*[LARGE] * 20, StepOutput([], LOAD)]


def test_an_api_server_that_never_reads_is_dropped_and_dialled_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_links, "MAX_PENDING", 1 << 20)
    world.attach()
    for _ in range(40):
        world.links.send(world.api.index, LARGE)
    assert world.wait(Lost).reason.endswith("bytes unread")
    world.attach()


def test_what_is_sent_to_one_who_has_gone_is_dropped_and_its_loss_is_told_once(world: World) -> None:
    world.attach().close()
    for _ in range(3):
        world.links.send(world.api.index, StepOutput([], LOAD))
    assert world.wait(Lost).api_server == world.api.index
    world.links.send(world.api.index, StepOutput([], LOAD))
    world.attach()


def test_a_connection_that_comes_after_its_dial_was_called_off_is_closed(world: World) -> None:
    # The dial has connected, and waits in the backlog for the handshake.
    select.select([world.api.listener], [], [])
    world.links.update(ApiServers(()))
    with ThreadPoolExecutor(1) as thread:
        channel = thread.submit(accept, world.api.listener).result()
    assert world.links.poll(block=True) == []
    assert world.links.attached == []
    with pytest.raises(Closed):
        channel.receive(decoder)
    channel.close()
