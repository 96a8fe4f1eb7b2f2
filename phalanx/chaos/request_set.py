"""The requests of a run, which are distinct, repeatable and of every shape; they follow from the seed alone."""

import json
import random
from dataclasses import dataclass
from typing import Any

TEXT = """
the a of and to in rain water river cloud stone light house small old green slow story capital city France why what is
how does who when where number two seven animal bird cat day night sun moon sea mountain road tell me about write short
poem name colour because if then very good morning child learn count letter word
"""
WORDS = TEXT.split()
STOPS = (".", ",", " the", " of", "?", "\n")
LENGTHS = (1, 4, 16, 48, 96, 160)
"""Limits of the tokens to produce, of which each request has one."""
LONG = 96
"""A request counts as long from so many tokens on."""
PROMPTS = (1, 6, 24, 120)
"""Numbers of words, of which each prompt has one."""


@dataclass(frozen=True)
class RepeatableRequest:
    """A request that has to get the same answer each time it is sent."""

    number: int
    path: str
    body: dict[str, Any]

    @property
    def streamed(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def long(self) -> bool:
        return bool(self.body["max_tokens"] >= LONG)

    def encoded(self) -> bytes:
        return json.dumps(self.body).encode()

    def __str__(self) -> str:
        return f"POST {self.path} {json.dumps(self.body)}"


def request_set(seed: int, count: int) -> list[RepeatableRequest]:
    """Make so many chats and completions, streamed and not, greedy and sampled, short and long, in every mix."""
    chance = random.Random(f"phalanx chaos requests {seed}")
    return [_request(number, chance) for number in range(count)]


def _request(number: int, chance: random.Random) -> RepeatableRequest:
    words = " ".join(chance.choice(WORDS) for _ in range(chance.choice(PROMPTS)))
    # Of every two requests one is a chat, of every four one is sampled and streamed, and so on.
    chat, streamed, sampled, full = (bool(number >> bit & 1) for bit in range(4))
    body: dict[str, Any] = {"max_tokens": chance.choice(LENGTHS), "return_token_ids": True, "seed": number}
    body["temperature"] = chance.choice((0.6, 0.9, 1.2)) if sampled else 0
    if sampled and chance.random() < 0.5:
        body |= chance.choice(({"top_p": 0.9}, {"top_k": 20}, {"min_p": 0.05}, {"presence_penalty": 0.5}))
    if full:
        body["ignore_eos"] = True
    if chance.random() < 0.25:
        body["stop"] = chance.sample(STOPS, 2)
    if chance.random() < 0.25:
        body["logprobs"] = True if chat else 2
        if chat:
            body["top_logprobs"] = 2
    if chance.random() < 0.15:
        body["n"] = 2
    if streamed:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if chat:
        return RepeatableRequest(
            number, "/v1/chat/completions", body | {"messages": [{"role": "user", "content": words}]}
        )
    return RepeatableRequest(number, "/v1/completions", body | {"prompt": words})
