# ruff: noqa: SIM905 - word lists read best as one string
"""The writer of one conversation: its random source, its grammar, its noise and what has been told so far.

A wording such as ``[what is|tell me] the capital of {country}`` stands for all its expansions. One
expansion in sixteen, chosen by a checksum, is *held out*: training never sees it, the evaluation
asks nothing else. Slots are filled after that choice, so a held-out wording is held out for every
country.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

HELD_OUT_ONE_IN = 16

Node = str | list[list["Node"]]  # literal text, or alternatives that are sequences of nodes


@dataclass(frozen=True)
class Turn:
    """What the user says, what the model answers, and the text an answer must hold to be right."""

    user: str
    assistant: str
    key: str = ""


@cache
def _parse(grammar: str) -> list[Node]:
    def sequence(at: int, closing: str) -> tuple[list[Node], int]:
        nodes: list[Node] = []
        text = ""
        while at < len(grammar) and grammar[at] not in closing:
            if grammar[at] == "[":
                if text:
                    nodes.append(text)
                    text = ""
                alternatives: list[list[Node]] = []
                while True:
                    branch, at = sequence(at + 1, "|]")
                    alternatives.append(branch)
                    if grammar[at] == "]":
                        break
                if len(alternatives) == 1:  # "[really ]" is optional text
                    alternatives.append([])
                nodes.append(alternatives)
                at += 1
            else:
                text += grammar[at]
                at += 1
        if text:
            nodes.append(text)
        return nodes, at

    return sequence(0, "")[0]


def expand(rng: random.Random, nodes: Sequence[Node], lean: float = 0.0) -> str:
    """One expansion; with probability `lean` the first alternative, else any."""
    text = ""
    for node in nodes:
        if not isinstance(node, str):
            branch = node[0] if lean and rng.random() < lean else rng.choice(node)
            node = expand(rng, branch, lean)
        text += node
    return text


_OPENERS = [
    "please ",
    "ok, ",
    "so, ",
    "hey, ",
    "hi, ",
    "well, ",
    "now, ",
    "alright, ",
    "okay, ",
    "hmm, ",
    "great, ",
    "um, ",
    "i have a question: ",
    "quick question: ",
    "question: ",
    "i was wondering, ",
    "one more: ",
    "next question: ",
    "another question: ",
    "let me ask: ",
    "thanks. ",
    "thank you. ",
    "good. ",
    "nice. ",
    "cool. ",
    "hello. ",
    "hi! ",
    "my teacher asked me: ",
    "i am curious. ",
    "one thing i always wanted to know: ",
    "i am making a quiz. ",
    "hello there, ",
    "good morning! ",
    "could you tell me, ",
    "would you happen to know, ",
    "help me: ",
    "my friend asks: ",
    "so, tell me, ",
    "i need help. ",
    "listen, ",
    "dear model, ",
    "by the way, ",
    "now tell me, ",
    "and ",
    "then ",
    "but ",
    "wow. ",
    "ok ",
    "oh, ",
    "and now, ",
    "please tell me: ",
    "do you know: ",
    "tell me, ",
    "i want to ask: ",
    "excuse me, ",
    "my question is: ",
    "hello, ",
    "sure. ",
    "right, ",
]
_FILLERS = """really actually exactly just maybe please usually again now then like kindly simply probably
perhaps basically typically
quickly indeed also still finally honestly sort_of kind_of a_bit by_any_chance right_now""".split()
_FILLERS = [filler.replace("_", " ") for filler in _FILLERS]
_AFTERWORDS = [" I forgot.", " I need it for school.", " I am curious.", " Help me, please.", " It is for a quiz.",
    " Thanks in advance!",
               " I really want to know.", " My teacher asked me.", " Just wondering.", " Please answer.",
               " Thank you!", " I cannot remember."]  # fmt: skip
_CLOSERS = [
    " please",
    ", please",
    " thanks",
    ", thank you",
    " pls",
    " ok",
    ", thanks",
    " for me",
    " now",
    ", do you know",
]
_SHORTHAND = [
    ("what is", "whats"),
    ("what is", "what's"),
    ("do you", "do u"),
    ("please", "pls"),
    ("you", "u"),
    ("are", "r"),
]


@dataclass
class Writer:
    rng: random.Random
    held_out: bool = False
    told: dict[str, str] = field(default_factory=dict)  # what the user told about themselves
    turns: list[Turn] = field(default_factory=list)  # the conversation so far

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def choice(self, options: Sequence):
        return self.rng.choice(options)

    def wording(self, *grammars: str) -> str:
        """One expansion from the training side or the held-out side."""
        for _ in range(60):
            text = expand(self.rng, _parse(self.rng.choice(grammars)))
            if (zlib.crc32(text.encode()) % HELD_OUT_ONE_IN == 0) == self.held_out:
                return text
        return text

    def say(self, *grammars: str, **slots: object) -> str:
        """Model text: the first grammar most of the time, so that the likeliest answer stands out."""
        grammar = grammars[0] if len(grammars) == 1 or self.chance(0.85) else self.rng.choice(grammars[1:])
        text = expand(self.rng, _parse(grammar), 0.4).format(**slots).replace("..", ".").replace('!".', '!"')
        return text[:1].upper() + text[1:]

    def any(self, *grammars: str, **slots: object) -> str:
        """Model text where variety is wanted: every grammar alike."""
        return self.say(self.rng.choice(grammars), **slots)

    def ask(self, *grammars: str, mark: str = "?", **slots: object) -> str:
        """User text: a wording with its slots, politeness, and the small faults people type."""
        return self.roughen(self.wording(*grammars), mark, slots)

    def roughen(self, text: str, mark: str, slots: dict[str, object]) -> str:
        rng = self.rng
        if rng.random() < 0.16:
            text = rng.choice(_OPENERS) + text
        if rng.random() < 0.07:
            text += rng.choice(_CLOSERS)
        if rng.random() < 0.06:
            old, new = rng.choice(_SHORTHAND)
            text = re.sub(rf"\b{old}\b", new, text, count=1)
        if rng.random() < 0.06:
            text = self._typo(text)
        if rng.random() < 0.06:
            text = self._with_filler(text)
        if rng.random() < 0.05:
            text = self._without_word(text)
        text = " ".join(text.format(**slots).split())
        dice = rng.random()
        if dice < 0.25:
            text = text.lower()
        elif dice < 0.27:
            text = text.upper()
        else:
            text = re.sub(r"\bi\b", "I", text)
            text = text[:1].upper() + text[1:]
        if mark and rng.random() < 0.75:
            text += mark
            if rng.random() < 0.04:
                text += rng.choice(_AFTERWORDS)
        elif rng.random() < 0.1:
            text += rng.choice([".", "!", "...", "??", " ?", "!!"])
        return text

    def _with_filler(self, text: str) -> str:
        gaps = [m.end() for m in re.finditer(" ", text)]
        at = self.rng.choice(gaps) if gaps else 0
        return text[:at] + self.rng.choice(_FILLERS) + " " + text[at:]

    def _without_word(self, text: str) -> str:
        places = list(re.finditer(r"\b(the|a|an|of|do|does|is|me|to|in|are|please) ", text))
        if not places or len(text) < 16:
            return text
        word = self.rng.choice(places)
        return text[: word.start()] + text[word.end() :]

    def typed(self, text: str) -> str:
        """The text, now and then with a slip of the finger."""
        return self._typo(text) if self.rng.random() < 0.04 else text

    def favoured(self, options: Sequence, count: int = 1, seed: str = "") -> list:
        """Different options, the early ones likelier, in an order of their own for each seed.

        A free choice that is uniform in the text leaves the greedy answer to chance.
        """
        order = list(options)
        if seed:
            random.Random(zlib.crc32(seed.encode())).shuffle(order)
        picked = []
        for _ in range(count):
            weights = [3.0, *(0.95**i for i in range(len(order) - 1))]
            at = self.rng.choices(range(len(order)), weights)[0] if self.chance(0.7) else 0
            picked.append(order.pop(at))
        return picked

    def _typo(self, text: str) -> str:
        places = [m for m in re.finditer(r"[a-z]{4,}", text) if "{" not in text[max(0, m.start() - 1) : m.start()]]
        if not places:
            return text
        word = self.rng.choice(places)
        at = self.rng.randrange(word.start() + 1, word.end() - 1)
        match self.rng.randrange(3):
            case 0:
                return text[:at] + text[at + 1 :]
            case 1:
                return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
            case _:
                return text[:at] + text[at] + text[at:]


def article(noun: str) -> str:
    """The noun with its indefinite article."""
    vowel = noun[0].lower() in "aeio" and not noun.startswith("one")
    short_u = noun.startswith(("um", "un", "ug")) and not noun.startswith("uni")
    return ("an " if vowel or short_u or noun.startswith(("hour", "honest")) else "a ") + noun


def listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
