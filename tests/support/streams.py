"""Streams that take long enough to disturb, with the texts that they must end in."""

import contextlib
import hashlib
import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any

from support.service import DEADLINE

SLOW = ("--engine", "synthetic", "--synthetic-rate", "60")
"""A stream of 120 tokens takes two seconds: long enough to die in, short enough to wait for."""


class Stream(threading.Thread):
    """One streamed completion, read to its end."""

    def __init__(self, address: str, seed: int, tokens: int = 120) -> None:
        super().__init__(daemon=True)
        self.began = threading.Event()
        self.text = ""
        self.tokens = 0
        self.ranks = ""
        """Where it began."""
        self.error: dict[str, Any] | None = None
        self._address = address.removeprefix("http://")
        self._body = {"prompt": [1, 2, seed], "max_tokens": tokens, "ignore_eos": True, "stream": True, "seed": seed}
        self._body |= {"return_token_ids": True}
        self.start()

    def run(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=DEADLINE)
        with contextlib.closing(connection):
            connection.request("POST", "/v1/completions", json.dumps(self._body), {"content-type": "application/json"})
            response = connection.getresponse()
            self.ranks = response.headers.get("x-phalanx-ranks", "")
            for line in response:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    self.error = event["error"]
                    return
                self.text += event["choices"][0]["text"]
                self.tokens += len(event["choices"][0].get("token_ids") or ())
                self.began.set()

    def result(self) -> tuple[str, int]:
        self.join(DEADLINE)
        assert not self.is_alive(), "it hangs"
        assert self.error is None, self.error
        return hashlib.sha256(self.text.encode()).hexdigest(), self.tokens


@contextlib.contextmanager
def streams(address: str, count: int) -> Iterator[list[Stream]]:
    """`count` streams, each of which has begun."""
    started = [Stream(address, seed) for seed in range(count)]
    for stream in started:
        assert stream.began.wait(DEADLINE), stream.error
    yield started


def undisturbed(address: str, count: int) -> list[tuple[str, int]]:
    with streams(address, count) as started:
        return [stream.result() for stream in started]
