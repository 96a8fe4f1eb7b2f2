"""The clients, which send requests and try again those that are refused; every answer is judged."""

import asyncio
import random
import re
import time
from collections.abc import Callable, Sequence

from phalanx import running_time
from phalanx.chaos.answers import Answer, Malformed, answer_of
from phalanx.chaos.http_client import CHUNK, HttpConnection, HttpResponse
from phalanx.chaos.ledger import Attempt, Ledger
from phalanx.chaos.processes import ProcessName
from phalanx.chaos.request_set import RepeatableRequest
from phalanx.chaos.service_under_test import ServiceUnderTest
from phalanx.chaos.verdict import End, Verdict, judge

PATIENCE = 180.0
"""A request that has not ended after so many seconds is lost: all deadlines of the service have passed by then."""
NOTICE = 2.0
"""The end of a process may be noticed so many seconds after the end of its connections."""
AGAIN = 1.0
"""A refused request is tried again after so many seconds, or less where the service says so."""

Enough = Callable[[HttpResponse], bool]


class Undisturbed(Exception):
    """The service does not answer even undisturbed; the message says how, and which request."""


class Traffic:
    """All requests of a run."""

    def __init__(
        self, service: ServiceUnderTest, ledger: Ledger, requests: Sequence[RepeatableRequest], seed: int
    ) -> None:
        self._service = service
        self._ledger = ledger
        self.requests = list(requests)
        self._seed = seed
        self.expected: dict[int, Answer] = {}
        self._over = False

    async def learn(self, at_once: int) -> None:
        """Make each request once, undisturbed, and keep its answer.

        Raises:
            Undisturbed: a request has no answer.
        """
        waiting = iter(list(self.requests))

        async def client() -> None:
            for request in waiting:
                async with HttpConnection.open(self._service.address) as connection:
                    response = await connection.request("POST", request.path, request.encoded())
                try:
                    answer = answer_of(response)
                except Malformed as error:
                    raise Undisturbed(f"what comes even undisturbed is no answer: {error}\n{request}") from None
                if answer.error is not None and answer.error.get("code") == "no_chat_template":
                    self.requests.remove(request)
                elif response.status != 200 or not answer.ended:
                    words = f"status {response.status}, {answer.error or response.trouble}"
                    raise Undisturbed(f"this is not answered even undisturbed: {words}\n{request}")
                else:
                    self.expected[request.number] = answer

        await asyncio.gather(*(client() for _ in range(at_once)))

    async def client(self, number: int) -> None:
        """Be one client until the run is over, with one request after the other, each until it ends."""
        chance = random.Random(f"phalanx chaos client {self._seed} {number}")
        while not self._over:
            request = chance.choice(self.requests)
            while not self._over:
                verdict, response = await self.attempt(request)
                if verdict.end is not End.REFUSED:
                    break
                await asyncio.sleep(min(AGAIN, float(response.headers.get("retry-after", AGAIN))))

    def end(self) -> None:
        """Let clients begin nothing new."""
        self._over = True

    async def attempt(
        self,
        request: RepeatableRequest,
        *,
        enough: Enough | None = None,
        pace: float = 0.0,
        piece: int = CHUNK,
        receive_buffer: int | None = None,
    ) -> tuple[Verdict, HttpResponse]:
        """Send a request once and judge what comes.

        A client with `enough` leaves where that says so; one with a `pace` reads slowly.
        """
        began = time.monotonic()
        attempt = Attempt(request, HttpResponse(sent_at=began), None)
        self._ledger.send(attempt)
        response = attempt.response
        try:
            async with (
                running_time.timeout(PATIENCE),
                HttpConnection.open(self._service.address, receive_buffer) as connection,
            ):
                # Which API server will have it is known before it is sent, and not only if an answer begins.
                attempt.api_server = _server(await connection.request("GET", "/health"))
                if attempt.api_server is not None:
                    await connection.request(
                        "POST",
                        request.path,
                        request.encoded(),
                        pace=pace,
                        piece=piece,
                        enough=enough or _never,
                        into=response,
                    )
                else:
                    response.trouble = "the connection ended before the request was sent"
        except TimeoutError:
            response.trouble = f"no end within {PATIENCE:g} s"
        except OSError as error:
            response.trouble = f"no connection: {error}"
        left = enough is not None and enough(response)
        died = bool(response.trouble) and await self._died(attempt.api_server, began)
        verdict = judge(self.expected[request.number], response, server_died=died, left=left)
        self._ledger.end(attempt, verdict, self.expected[request.number], paced=bool(pace))
        return verdict, response

    async def _died(self, api_server: ProcessName | None, since: float) -> bool:
        """Whether a fault brought down this API server since then, or any where it is not known."""
        until = running_time.now() + NOTICE
        while True:
            for process in self._service.deaths:
                ours = process.name == api_server or (api_server is None and process.name[0] == "api")
                if ours and process.struck and (process.died_at or 0) > since:
                    return True
            if running_time.now() > until:
                return False
            await asyncio.sleep(NOTICE / 20)


def _never(response: HttpResponse) -> bool:
    return False


def _server(response: HttpResponse) -> ProcessName | None:
    index = response.headers.get("x-phalanx-api-server", "")
    return ("api", int(index)) if response.complete and re.fullmatch(r"\d+", index) else None
