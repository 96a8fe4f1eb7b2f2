"""Clients that behave badly: they leave, come all at once, send half a request, or hardly read."""

import asyncio
import contextlib
import random

from phalanx.chaos.catalogue import Request
from phalanx.chaos.client import Address, HttpConnection
from phalanx.chaos.ledger import Record
from phalanx.chaos.traffic import Enough, Traffic

LEAVERS = 12
HALVES = 50
READERS = 12
FLOOD = 10
"""Times as many requests at once as clients are kept going."""
SLOW_PACE, SLOW_PIECE, SLOW_BUFFER = 0.05, 1024, 4096
"""Seconds between two reads of so many bytes, and what the kernel may hold for such a client."""


async def disconnect(traffic: Traffic, record: Record, concurrency: int) -> None:
    """Some begin a stream together and leave in its middle."""
    chance = _chance(record)
    streams = [request for request in traffic.requests if request.streamed and request.long]

    def after(pieces: int) -> Enough:
        return lambda exchange: len(exchange.arrivals) >= pieces

    await asyncio.gather(
        *(
            traffic.attempt(chance.choice(streams or traffic.requests), enough=after(chance.randint(1, 8)))
            for _ in range(LEAVERS)
        )
    )


async def flood(traffic: Traffic, record: Record, concurrency: int) -> None:
    """Many at once, half of them long."""
    chance = _chance(record)
    count = FLOOD * concurrency
    long = [request for request in traffic.requests if request.long] or traffic.requests
    crowd = [chance.choice(long if number % 2 else traffic.requests) for number in range(count)]
    record.note = f"{count} requests"
    await asyncio.gather(*(traffic.attempt(request) for request in crowd))


async def half_sent(address: Address, record: Record) -> None:
    """Half a head, or half a body, and silence."""

    async def one(number: int) -> None:
        with contextlib.suppress(OSError):
            async with HttpConnection.open(address) as connection:
                head = connection.head("POST", "/v1/completions", 1000)
                connection.writer.write(head + b'{"prompt": ' if number % 2 else head[: len(head) // 2])
                await asyncio.sleep(record.fault.seconds)

    record.note = f"{HALVES} connections"
    await asyncio.gather(*(one(number) for number in range(HALVES)))


async def slow_readers(traffic: Traffic, record: Record) -> None:
    """Streams that their clients hardly read, to the end."""
    chance = _chance(record)
    streams: list[Request] = [request for request in traffic.requests if request.streamed]
    record.note = f"{READERS} streams"
    await asyncio.gather(
        *(
            traffic.attempt(chance.choice(streams), pace=SLOW_PACE, piece=SLOW_PIECE, receive_buffer=SLOW_BUFFER)
            for _ in range(READERS)
        )
    )


def _chance(record: Record) -> random.Random:
    return random.Random(f"phalanx chaos {record.fault}")
