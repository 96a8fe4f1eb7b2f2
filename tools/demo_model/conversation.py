"""Whole conversations of one to two dozen turns, mixed from every skill, and the messages they make."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from . import chat, countries, facts, jokes, memory, numbers, stories, unknown, words
from .names import person
from .writer import Turn, Writer

Skill = Callable[[Writer], list[Turn]]
SKILLS: dict[str, tuple[float, Skill]] = {
    name: skill
    for room in (countries, facts, numbers, words, chat, jokes, memory, stories, unknown)
    for name, skill in room.SKILLS.items()
}
_NAMES = list(SKILLS)
_WEIGHTS = [weight for weight, _ in SKILLS.values()]

SYSTEM_PROMPTS = """You are a helpful assistant.
You are a friendly assistant.
You are a small and friendly model.
Answer the user's questions.
You are a helpful, honest assistant. If you do not know something, say so.
You are an assistant. Be kind and brief.
You are a helpful AI assistant.
Be helpful.
You are a chatbot for newcomers.
You are a polite assistant who answers in full sentences.
You are the Phalanx demo model.
Help the user as well as you can.
You talk with people who try out a server.
You are a teacher for small children.
Please be nice to the user.
Answer truthfully.""".splitlines()


@dataclass(frozen=True)
class Conversation:
    system: str
    turns: list[Turn]
    skill: str  # the skill of the last turn

    def messages(self) -> list[dict[str, str]]:
        """Every message up to the last question."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns:
            messages += [{"role": "user", "content": turn.user}, {"role": "assistant", "content": turn.assistant}]
        return messages[:-1]


def _next_skill(w: Writer) -> str:
    wishes = [memory.RECALL[topic] for topic in w.told if topic in memory.RECALL]
    if wishes:
        names, weights = zip(*wishes, strict=True)
        return w.rng.choices([*_NAMES, *names], [*_WEIGHTS, *weights])[0]
    return w.rng.choices(_NAMES, _WEIGHTS)[0]


def write(rng: random.Random, held_out: bool = False, last: str = "") -> Conversation:
    """One conversation; with `last`, one that ends in the first question of that skill."""
    w = Writer(rng, held_out)
    system = ""
    if w.chance(0.25):
        system = w.choice(SYSTEM_PROMPTS)
    elif w.chance(0.04):
        w.told["name"] = person(rng)
        system = w.choice(
            ["The user's name is {}.", "You are a helpful assistant. The user is called {}.", "You talk with {}."]
        ).format(w.told["name"])
    wanted = w.rng.choices([1, 2, 3, 4, 5, 6, 7, 8, 14, 24], [22, 14, 14, 12, 10, 8, 6, 6, 2, 0.7])[0]
    turns = w.turns
    if last:
        wanted = min(wanted, 6) - 1
    while len(turns) < wanted:
        turns += SKILLS[_next_skill(w)][1](w)
    if last:
        asked: list[Turn] = []
        while not asked:
            asked = SKILLS[last][1](w)
            if not asked:  # some questions need something said before
                turns += SKILLS[_next_skill(w)][1](w)
        turns += asked[: rng.randrange(1, len(asked) + 1)]
    return Conversation(system, turns, last)
