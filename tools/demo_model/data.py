"""Training rows: conversations written on the fly by worker processes, tokenized and packed whole.

A row holds several conversations, none of them cut; `documents` tells them apart, so that attention
does not cross from one to the next. Row arrays have shape [rows, length].
"""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import stories
from .conversation import write
from .countries import capital
from .facts import small_fact
from .writer import Writer

LENGTH = 2048
ANSWER, PLAIN, REST = 10, 5, 1  # weight of a token's loss: the model's words, running text, all other words


class Rows(NamedTuple):
    tokens: np.ndarray  # int16
    weights: np.ndarray  # uint8, the weight of this token as a target
    documents: np.ndarray  # int16, -1 where the row is padding


def written(rng: random.Random) -> list[tuple[str, str]]:
    """One document as (text, role) pieces; running text has the role ''."""
    if rng.random() < 0.03:
        w = Writer(rng)
        if w.chance(0.5):
            return [(stories.plain_story(w), "")]
        return [(" ".join(w.choice([capital, small_fact])(w)[0].assistant for _ in range(rng.randrange(2, 7))), "")]
    conversation = write(rng)
    pieces = [(conversation.system, "system")] if conversation.system else []
    for turn in conversation.turns:
        pieces += [(turn.user.strip(), "user"), (turn.assistant, "assistant")]
    return pieces


def _documents(tokenizer, rng: random.Random) -> Iterator[tuple[list[int], list[int]]]:
    ids = {name: tokenizer.token_to_id(f"<|{name}|>") for name in ("bos", "end", "system", "user", "assistant")}
    while True:
        documents = [written(rng) for _ in range(200)]
        encoded = iter(tokenizer.encode_batch_fast([t for d in documents for t, _ in d], add_special_tokens=False))
        for document in documents:
            tokens, weights = [ids["bos"]], [0]
            for _, role in document:
                text = next(encoded).ids
                weight = {"assistant": ANSWER, "": PLAIN}.get(role, REST)
                if role:
                    tokens.append(ids[role])
                    weights.append(0)
                tokens += [*text, ids["end"]]
                weights += [weight] * len(text) + [weight if role in ("assistant", "") else 0]
            if len(tokens) <= LENGTH:
                yield tokens, weights


def rows(tokenizer_file: Path, seed: int, count: int) -> Iterator[Rows]:
    """Batches of `count` rows, without end."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    rng = random.Random(seed)
    documents = _documents(tokenizer, rng)
    waiting: list[tuple[list[int], list[int]]] = [next(documents) for _ in range(64)]
    while True:
        batch = Rows(
            np.zeros((count, LENGTH), np.int16),
            np.zeros((count, LENGTH), np.uint8),
            np.full((count, LENGTH), -1, np.int16),
        )
        for row in range(count):
            at = index = 0
            while True:
                fitting = next((i for i, (tokens, _) in enumerate(waiting) if len(tokens) <= LENGTH - at), None)
                if fitting is None:
                    break
                tokens, weights = waiting.pop(fitting)
                waiting.append(next(documents))
                end = at + len(tokens)
                batch.tokens[row, at:end], batch.weights[row, at:end], batch.documents[row, at:end] = (
                    tokens,
                    weights,
                    index,
                )
                at, index = end, index + 1
        yield batch


def _worker(queue, tokenizer_file: Path, seed: int, count: int) -> None:
    for batch in rows(tokenizer_file, seed, count):
        queue.put(batch)


class Workers:
    """Processes that write rows ahead of the training step."""

    def __init__(self, tokenizer_file: Path, processes: int, count: int, seed: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._queue = context.Queue(maxsize=64)
        self._processes = [
            context.Process(target=_worker, args=(self._queue, tokenizer_file, seed * 1000 + i, count), daemon=True)
            for i in range(processes)
        ]
        for process in self._processes:
            process.start()

    def next(self) -> Rows:
        return self._queue.get()

    def stop(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()
