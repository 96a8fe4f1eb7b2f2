"""A client that asks on while what it asks goes away."""

import contextlib
import http.client
import json
import threading
from collections import Counter

from support.service import DEADLINE


class PersistentClient(threading.Thread):
    """Asks without a pause, on kept connections or on new ones, until nobody listens any more."""

    def __init__(self, address: str, keep: bool) -> None:
        super().__init__(daemon=True)
        self._host = address.removeprefix("http://")
        self._keep = keep
        self.seen: Counter[str] = Counter()
        self.began = threading.Event()
        self.start()

    def run(self) -> None:
        while True:
            connection = http.client.HTTPConnection(self._host, timeout=DEADLINE)
            try:
                connection.connect()
            except ConnectionRefusedError:
                return
            answered = 0
            with contextlib.closing(connection):
                while connection.sock is not None:
                    try:
                        connection.request("POST", "/v1/completions", json.dumps({"prompt": "hi", "max_tokens": 1}))
                        answer = connection.getresponse()
                        answer.read()
                    except http.client.RemoteDisconnected:
                        # A kept connection may end between two requests; one that was made for this one may not.
                        self.seen["ended" if answered else "ended without an answer"] += 1
                        break
                    except OSError as error:
                        self.seen[repr(error)] += 1
                        break
                    answered += 1
                    self.seen[str(answer.status)] += 1
                    self.began.set()
                    if answer.status == 503 and answer.getheader("connection") != "close":
                        self.seen["refused and kept"] += 1
                    if not self._keep:
                        break

    def assert_not_reset(self) -> None:
        """It has seen answers and closed ports only, and has ended."""
        self.join(DEADLINE)
        assert not self.is_alive()
        assert set(self.seen) <= {"200", "503", "ended"}, self.seen
