"""Clients that behave badly: they leave, come all at once, send half a request, or hardly read."""

import asyncio
import contextlib
import random

from phalanx.chaos.http_client import Address, HttpConnection
from phalanx.chaos.ledger import FaultRecord
from phalanx.chaos.request_set import RepeatableRequest
from phalanx.chaos.traffic import Enough, Traffic

LEAVERS = 12
HALVES = 50
READERS = 12
FLOOD = 10
"""So many times as many requests come at once as clients are kept going."""
SLOW_PACE, SLOW_PIECE, SLOW_BUFFER = 0.05, 1024, 4096
"""Seconds between two reads, the bytes of a read, and the bytes that the kernel may hold for such a client."""


async def disconnect(traffic: Traffic, record: FaultRecord, concurrency: int) -> None:
    """Let some clients begin a stream together and leave in its middle."""
    chance = _chance(record)
    streams = [request for request in traffic.requests if request.streamed and request.long]

    def after(pieces: int) -> Enough:
        return lambda response: len(response.arrivals) >= pieces

    await asyncio.gather(
        *(
            traffic.attempt(chance.choice(streams or traffic.requests), enough=after(chance.randint(1, 8)))
            for _ in range(LEAVERS)
        )
    )


async def flood(traffic: Traffic, record: FaultRecord, concurrency: int) -> None:
    """Send many requests at once, half of them long."""
    chance = _chance(record)
    count = FLOOD * concurrency
    long = [request for request in traffic.requests if request.long] or traffic.requests
    crowd = [chance.choice(long if number % 2 else traffic.requests) for number in range(count)]
    record.note = f"{count} requests"
    await asyncio.gather(*(traffic.attempt(request) for request in crowd))


async def half_sent(address: Address, record: FaultRecord) -> None:
    """Send half a head or half a body on each of many connections, and then nothing."""

    async def one(number: int) -> None:
        with contextlib.suppress(OSError):
            async with HttpConnection.open(address) as connection:
                head = connection.head("POST", "/v1/completions", 1000)
                connection.writer.write(head + b'{"prompt": ' if number % 2 else head[: len(head) // 2])
                await asyncio.sleep(record.fault.seconds)

    record.note = f"{HALVES} connections"
    await asyncio.gather(*(one(number) for number in range(HALVES)))


async def slow_readers(traffic: Traffic, record: FaultRecord) -> None:
    """Let some clients read their streams to the end, but hardly read."""
    chance = _chance(record)
    streams: list[RepeatableRequest] = [request for request in traffic.requests if request.streamed]
    record.note = f"{READERS} streams"
    await asyncio.gather(
        *(
            traffic.attempt(chance.choice(streams), pace=SLOW_PACE, piece=SLOW_PIECE, receive_buffer=SLOW_BUFFER)
            for _ in range(READERS)
        )
    )


def _chance(record: FaultRecord) -> random.Random:
    return random.Random(f"phalanx chaos {record.fault}")
