"""A child's stdout and stderr: cut into lines, passed on, the last ones kept as its last words."""

from collections import deque
from collections.abc import Callable

KEPT_LINES = 40
LINE_LIMIT = 4096
"""Bytes; a longer line is cut in pieces, so that a child cannot make the supervisor hold its output."""


class Output:
    """Takes bytes as they come, gives whole lines on."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._rest = b""
        self.tail: deque[str] = deque(maxlen=KEPT_LINES)

    def feed(self, data: bytes) -> None:
        # A progress bar redraws its line with \r; each state of it is a line here.
        *lines, self._rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._pass_on(line)
        while len(self._rest) >= LINE_LIMIT:
            self._pass_on(self._rest[:LINE_LIMIT])
            self._rest = self._rest[LINE_LIMIT:]

    def end(self) -> None:
        """Pass on a last line that has no end."""
        self._pass_on(self._rest)
        self._rest = b""

    def _pass_on(self, line: bytes) -> None:
        for start in range(0, len(line), LINE_LIMIT):
            text = line[start : start + LINE_LIMIT].decode(errors="replace").rstrip()
            if text:
                self.tail.append(text)
                self._on_line(text)
