"""The clients: requests sent, tried again where refused, and every answer judged."""

import asyncio
import random
import re
import time
from collections.abc import Callable, Sequence

from phalanx.chaos.answers import Answer, Malformed, answer_of
from phalanx.chaos.catalogue import Request
from phalanx.chaos.client import CHUNK, Exchange, HttpConnection
from phalanx.chaos.ledger import Flight, Ledger
from phalanx.chaos.processes import Seat
from phalanx.chaos.service import Service
from phalanx.chaos.verdict import End, Verdict, judge

PATIENCE = 180.0
"""Seconds after which a request without an end is lost: all of the service's own deadlines have passed by then."""
NOTICE = 2.0
"""Seconds the end of a process may be noticed after that of its connections."""
AGAIN = 1.0
"""Seconds until a refused request is tried again, where it is told no less."""

Enough = Callable[[Exchange], bool]


class Undisturbed(Exception):
    """The service does not answer even undisturbed; says how, and which request."""


class Traffic:
    """All requests of a run."""

    def __init__(self, service: Service, ledger: Ledger, requests: Sequence[Request], seed: int) -> None:
        self._service = service
        self._ledger = ledger
        self.requests = list(requests)
        self._seed = seed
        self.expected: dict[int, Answer] = {}
        self._over = False

    async def learn(self, at_once: int) -> None:
        """Make each request once, undisturbed.

        Raises:
            Undisturbed: one has no answer.
        """
        waiting = iter(list(self.requests))

        async def client() -> None:
            for request in waiting:
                async with HttpConnection.open(self._service.address) as connection:
                    exchange = await connection.exchange("POST", request.path, request.encoded())
                try:
                    answer = answer_of(exchange)
                except Malformed as error:
                    raise Undisturbed(f"what comes even undisturbed is no answer: {error}\n{request}") from None
                if answer.error is not None and answer.error.get("code") == "no_chat_template":
                    self.requests.remove(request)
                elif exchange.status != 200 or not answer.ended:
                    words = f"status {exchange.status}, {answer.error or exchange.trouble}"
                    raise Undisturbed(f"this is not answered even undisturbed: {words}\n{request}")
                else:
                    self.expected[request.number] = answer

        await asyncio.gather(*(client() for _ in range(at_once)))

    async def client(self, number: int) -> None:
        """One client, until the run is over: one request after the other, each until it ends."""
        chance = random.Random(f"phalanx chaos client {self._seed} {number}")
        while not self._over:
            request = chance.choice(self.requests)
            while not self._over:
                verdict, exchange = await self.attempt(request)
                if verdict.end is not End.REFUSED:
                    break
                await asyncio.sleep(min(AGAIN, float(exchange.headers.get("retry-after", AGAIN))))

    def end(self) -> None:
        """Clients begin nothing new."""
        self._over = True

    async def attempt(
        self,
        request: Request,
        *,
        enough: Enough | None = None,
        pace: float = 0.0,
        piece: int = CHUNK,
        receive_buffer: int | None = None,
    ) -> tuple[Verdict, Exchange]:
        """Send it once and judge what comes. `enough`: when this client leaves; `pace`: it reads slowly."""
        began = time.monotonic()
        flight = Flight(request, Exchange(sent_at=began), None)
        self._ledger.send(flight)
        exchange = flight.exchange
        try:
            async with asyncio.timeout(PATIENCE):
                async with HttpConnection.open(self._service.address, receive_buffer) as connection:
                    # Which API server will have it is known before it is sent, and not only if an answer begins.
                    flight.seat = _server(await connection.exchange("GET", "/health"))
                    if flight.seat is not None:
                        await connection.exchange(
                            "POST",
                            request.path,
                            request.encoded(),
                            pace=pace,
                            piece=piece,
                            enough=enough or _never,
                            into=exchange,
                        )
                    else:
                        exchange.trouble = "the connection ended before the request was sent"
        except TimeoutError:
            exchange.trouble = f"no end within {PATIENCE:g} s"
        except OSError as error:
            exchange.trouble = f"no connection: {error}"
        left = enough is not None and enough(exchange)
        died = bool(exchange.trouble) and await self._died(flight.seat, began)
        verdict = judge(self.expected[request.number], exchange, server_died=died, left=left)
        self._ledger.end(flight, verdict, self.expected[request.number], paced=bool(pace))
        return verdict, exchange

    async def _died(self, seat: Seat | None, since: float) -> bool:
        """A fault brought the API server down since then. None: whichever it was."""
        until = time.monotonic() + NOTICE
        while True:
            for process in self._service.deaths:
                ours = process.seat == seat or (seat is None and process.seat[0] == "api")
                if ours and process.struck and (process.died_at or 0) > since:
                    return True
            if time.monotonic() > until:
                return False
            await asyncio.sleep(NOTICE / 20)


def _never(exchange: Exchange) -> bool:
    return False


def _server(exchange: Exchange) -> Seat | None:
    index = exchange.headers.get("x-phalanx-api-server", "")
    return ("api", int(index)) if exchange.complete and re.fullmatch(r"\d+", index) else None
