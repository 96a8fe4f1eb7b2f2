"""Stop strings in a text that arrives in pieces, whatever their borders.

The automaton of A. Aho and M. Corasick ("Efficient string matching", CACM 18(6), 1975): the depth of its state is
the length of the longest end of the text that could still become a stop string, which is exactly what has to be
held back and no more.
"""

from collections import deque
from functools import lru_cache


class StopAutomaton:
    """Shared by all texts with the same stop strings; immutable once built."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.goto: list[dict[str, int]] = [{}]
        self.fail: list[int] = [0]
        self.depth: list[int] = [0]
        self.match: list[int] = [0]
        """Length of the longest stop string that ends in a state; 0 where none does."""
        for stop in stops:
            self._add(stop)
        self._link()

    def _add(self, stop: str) -> None:
        state = 0
        for character in stop:
            following = self.goto[state].get(character)
            if following is None:
                following = len(self.goto)
                self.goto[state][character] = following
                self.goto.append({})
                self.fail.append(0)
                self.depth.append(self.depth[state] + 1)
                self.match.append(0)
            state = following
        self.match[state] = len(stop)

    def _link(self) -> None:
        queue = deque(self.goto[0].values())
        while queue:
            state = queue.popleft()
            for character, following in self.goto[state].items():
                queue.append(following)
                self.fail[following] = self.step(self.fail[state], character)
            self.match[state] = self.match[state] or self.match[self.fail[state]]

    def step(self, state: int, character: str) -> int:
        goto, fail = self.goto, self.fail
        while state and character not in goto[state]:
            state = fail[state]
        return goto[state].get(character, 0)


@lru_cache(maxsize=64)
def stop_automaton(stops: tuple[str, ...]) -> StopAutomaton:
    return StopAutomaton(stops)


class StopMatcher:
    """One text. The stop that is completed first ends it; of several completed at once, the longest.

    What is looked through is what was generated; what is shown may be less, where special tokens are left out.
    """

    __slots__ = ("_automaton", "_held", "_keep", "_state", "found", "held")

    def __init__(self, stops: list[str], keep: bool = False) -> None:
        """`keep`: the stop string stays in the text."""
        self._automaton = stop_automaton(tuple(stops))
        self._keep = keep
        self._state = 0
        self._held: deque[tuple[str, str]] = deque()
        """Pieces not yet released: what was generated, and what is shown of it."""
        self.held = 0
        """Characters pushed and not yet released."""
        self.found: str | None = None

    def push(self, text: str, shown: str | None = None) -> str:
        """Take the next piece; give what can be shown of the text so far. Not to be called once `found` is set.

        `shown`: what is shown of the piece: its end, or nothing. None: all of it.
        """
        automaton = self._automaton
        state, step, match = self._state, automaton.step, automaton.match
        for end, character in enumerate(text, self.held + 1):
            state = step(state, character)
            if match[state]:
                self._hold(text, shown)
                before = self._release(end - match[state])
                generated = "".join([text for text, _ in self._held])
                self.found = generated[: match[state]]
                self._held.clear()
                self.held = 0
                return before + self.found if self._keep else before
        self._state = state
        if not self.held and not automaton.depth[state]:
            return text if shown is None else shown
        self._hold(text, shown)
        return self._release(self.held - automaton.depth[state])

    def finish(self) -> str:
        """The text ends here: give what was held back."""
        return self._release(self.held)

    def _hold(self, text: str, shown: str | None) -> None:
        self._held.append((text, text if shown is None else shown))
        self.held += len(text)

    def _release(self, count: int) -> str:
        """What is shown of the next `count` characters."""
        released = []
        self.held -= count
        while self._held and len(self._held[0][0]) <= count:
            text, shown = self._held.popleft()
            count -= len(text)
            released.append(shown)
        if count:
            text, shown = self._held[0]
            cut = max(count - len(text) + len(shown), 0)
            self._held[0] = text[count:], shown[cut:]
            released.append(shown[:cut])
        return "".join(released)
