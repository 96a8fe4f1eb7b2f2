"""A runner without a model: words at a set speed, for drills, start-up tests and front-end benchmarks.

The token at an output position is a function of the prompt, the request's seed and the position alone, so a
request continues on another rank as it would have; with tensor parallelism each worker draws its share of a step's
tokens. A request ends by itself after 16 to 127 tokens, by the same function, unless ignore_eos is set. Of the
sampling parameters those that say when to end and which log probabilities to report are honoured; those that shape a
distribution have none to shape.
"""

import math
import threading
import time
from array import array
from hashlib import blake2b
from pathlib import Path

from phalanx.checkpoint.vocabulary import read_vocabulary
from phalanx.config import Config
from phalanx.engine.sequence import Chunk, Progress, Sampled, Sequence
from phalanx.engine.tp_leader import Draw, WorkerGroup
from phalanx.protocol import Share, StartupStage, TokenLogprobs

CACHE_TOKENS = 262_144
"""Size of the cache where no flag sets it, or one sequence of the model's length where that is more."""
SHORTEST, LONGEST = 16, 127
"""Tokens, the end of sequence included, after which a request ends by itself."""
WORDS = 2048
"""Vocabulary entries to draw from, at most."""
WORD_BORDERS = "Ġ▁"
"""How byte-level and SentencePiece vocabularies write the space before a word."""
MASK = 2**64 - 1


class SyntheticRunner:
    """Implements `phalanx.engine.sequence.Runner`."""

    num_blocks: int

    def __init__(self, config: Config, workers: WorkerGroup | None = None) -> None:
        """`workers`: those that this one leads; absent: it is alone, or a worker itself."""
        self._config = config
        self._workers = workers
        self.block_size = config.engine.block_size
        self.vocab_size = config.facts.vocab_size
        self.eos_token_ids = config.facts.eos_token_ids
        self._step_seconds = 1 / config.engine.synthetic_rate if config.engine.synthetic_rate else 0.0
        self._step_end = 0.0
        self._pause = threading.Event()
        self._digests: dict[Sequence, int] = {}

    def load(self, progress: Progress) -> None:
        progress(StartupStage.WEIGHTS, None, "")
        self._words = ordinary_words(self._config)
        progress(StartupStage.CACHE, None, "")
        longest = self._config.facts.max_model_len
        tokens = self._config.engine.kv_cache_tokens or max(CACHE_TOKENS, longest)
        self.num_blocks = max(1, tokens // self.block_size)
        progress(StartupStage.WARM_UP, None, "")

    def describe(self) -> str:
        rate = self._config.engine.synthetic_rate
        speed = f"{rate:g} tokens/s a request" if rate else "unlimited speed"
        workers = f"{self._workers.size} workers, " if self._workers else ""
        return f"synthetic, {workers}KV cache {self.num_blocks * self.block_size:,} tokens, {speed}"

    def take_share(self, share: Share) -> None:
        """One thread draws all words, and the cache exists in name only: no part of the machine changes anything."""

    def execute(self, chunks: list[Chunk]) -> list[Sampled | None]:
        self._digests = {chunk.sequence: self._digest(chunk.sequence) for chunk in chunks}
        for chunk in chunks:
            if chunk.sequence.scores_prompt:
                self._add_prompt_logprobs(chunk)
        if self._workers is None:
            results = [self._next(chunk.sequence) if chunk.samples else None for chunk in chunks]
        else:
            results = self._share_out(chunks, self._workers)
        if self._step_seconds:
            self._take_time()
        return results

    def draw(self, draws: list[Draw]) -> list[int]:
        """The place in the list of words that each draws."""
        return [self._place(digest, position) for digest, position in draws]

    def _share_out(self, chunks: list[Chunk], workers: WorkerGroup) -> list[Sampled | None]:
        sampling = [chunk.sequence for chunk in chunks if chunk.samples]
        draws = [(self._digests[sequence], sequence.generated) for sequence in sampling]
        places = iter(workers.share(draws, self.draw))
        return [self._next(chunk.sequence, next(places)) if chunk.samples else None for chunk in chunks]

    def _take_time(self) -> None:
        """Steps end at a steady beat while they follow on one another; after an idle time the beat starts anew."""
        now = time.monotonic()
        due = self._step_end + self._step_seconds
        self._step_end = due if due > now else now + self._step_seconds
        self._pause.wait(self._step_end - now)

    def _digest(self, sequence: Sequence) -> int:
        """Names (prompt, seed); kept while the sequence is in the steps."""
        digest = self._digests.get(sequence)
        if digest is None:
            prompt = array("I", sequence.tokens[: sequence.prompt_length]).tobytes()
            seed = sequence.sampling.seed.to_bytes(8, "little")
            digest = int.from_bytes(blake2b(prompt, digest_size=8, salt=seed).digest(), "little")
        return digest

    def _next(self, sequence: Sequence, drawn: int | None = None) -> Sampled:
        """`drawn`: the place of its word, where it is known already."""
        sampling, position, digest = sequence.sampling, sequence.generated, self._digests[sequence]
        length = SHORTEST + digest % (LONGEST - SHORTEST + 1)
        if position >= max(length - 1, sampling.min_tokens) and self.eos_token_ids and not sampling.ignore_eos:
            token = self.eos_token_ids[0]
            place = 0
        else:
            place = self._place(digest, position) if drawn is None else drawn
            if position < sampling.min_tokens:
                while self._words[place] in sampling.stop_token_ids:
                    place = (place + 1) % len(self._words)
            token = self._words[place]
        if sampling.logprobs is None:
            return Sampled(token)
        return Sampled(token, self._logprobs(token, place, sampling.logprobs))

    def _place(self, digest: int, position: int) -> int:
        """The place of the word that is drawn: every word is as likely (the finaliser of splitmix64)."""
        mixed = (digest + position * 0x9E3779B97F4A7C15) & MASK
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
        return (mixed >> 31) % len(self._words)

    def _logprobs(self, token: int, place: int, count: int) -> TokenLogprobs:
        """The token has probability 1/2, each further candidate half of the one before."""
        words = self._words
        others = (words[(place + step) % len(words)] for step in range(len(words)))
        top = [token, *(word for word in others if word != token)][:count] if count else []
        return TokenLogprobs(-math.log(2), 1, top, [-(rank + 1) * math.log(2) for rank in range(len(top))])

    def _add_prompt_logprobs(self, chunk: Chunk) -> None:
        sequence = chunk.sequence
        found, count = sequence.prompt_logprobs, sequence.sampling.prompt_logprobs or 0
        if not found:
            found.append(None)
        end = min(chunk.start + chunk.length + 1, sequence.prompt_length)
        for token in sequence.tokens[len(found) : end]:
            found.append(self._logprobs(token, token % len(self._words), count))


def ordinary_words(config: Config) -> list[int]:
    """Ids that any sequence of detokenises to readable text: whole words where the vocabulary has them, else letters.

    Where the checkpoint has no tokenizer.json, any ids that do not end a sequence.
    """
    facts = config.facts
    vocabulary = read_vocabulary(Path(facts.folder)) if facts.folder else None
    if vocabulary is not None:
        usable = [
            (text, token)
            for text, token in vocabulary.pieces.items()
            if token < facts.vocab_size and token not in facts.eos_token_ids
        ]
        words = [token for text, token in usable if text[:1] in WORD_BORDERS and _readable(text[1:])]
        found = words or [token for text, token in usable if _readable(text)]
        if found:
            return sorted(found)[:WORDS]
    return [token for token in range(min(WORDS, facts.vocab_size)) if token not in facts.eos_token_ids]


def _readable(text: str) -> bool:
    return text.isascii() and text.isalpha()
