"""The checkpoint's tokenizer: text to tokens without stalling the event loop, tokens to text."""

import asyncio
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

# Its own thread pool would start a thread a core in every API server; and long texts are given a thread here.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from tokenizers import Tokenizer

from phalanx.checkpoint.declared_tokens import declared_tokens
from phalanx.checkpoint.files import TOKENIZER
from phalanx.text.added_tokens import missing_tokens
from phalanx.text.detokenize import Detokenizer, TokenTexts, token_texts

log = logging.getLogger(__name__)

T = TypeVar("T")

INLINE_CHARACTERS = 4096
"""Texts up to this length are worked on in the event loop: about half a millisecond."""

_SLICE = 65536
"""Characters tokenised at a time while a long text is looked through for being far too long."""

_SLICE_SLACK = 64
"""More tokens than cutting a text in one place can add."""

_THREADS = 2


class TooLong(Exception):
    """The text has more tokens than `limit`; it was not read to its end."""

    def __init__(self, at_least: int) -> None:
        super().__init__(f"at least {at_least} tokens")
        self.at_least = at_least


class ModelTokenizer:
    def __init__(self, tokenizer: Tokenizer, special: dict[str, str]) -> None:
        """`special`: bos_token, eos_token, ... as texts, for chat templates."""
        # Some checkpoints carry the truncation or padding of their training.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.special = special
        self._shown: TokenTexts = token_texts(tokenizer, skip_special=True)
        self._all: TokenTexts = token_texts(tokenizer, skip_special=False)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="tokenize")

    @staticmethod
    def load(folder: Path) -> "ModelTokenizer":
        """Read tokenizer.json, and the tokens that the files beside it declare.

        Raises FileNotFoundError or ValueError that name the file.
        """
        path = folder / TOKENIZER
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: Phalanx reads tokenizers in the `tokenizers` library's format. "
                "Save the checkpoint's fast tokenizer into the folder."
            )
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            raise ValueError(f"{path} is not a tokenizer: {error}") from error
        declared = declared_tokens(folder)
        tokenizer.add_tokens(missing_tokens(declared, tokenizer.get_added_tokens_decoder()))
        for number, token in declared.by_id.items():
            if (known := tokenizer.token_to_id(token.content)) != number:
                log.warning(
                    "%s declares %r as token %d; its tokenizer knows it as %s", folder, token.content, number, known
                )
        if declared.split_special_tokens:
            tokenizer.encode_special_tokens = True
        return ModelTokenizer(tokenizer, declared.texts)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def encode(self, text: str, *, add_special_tokens: bool, limit: int) -> list[int]:
        """Raises TooLong where the text is far over `limit` tokens; one just over it is still encoded."""
        if len(text) <= INLINE_CHARACTERS:
            return self._encode(text, add_special_tokens)
        return await self.in_thread(lambda: self._encode_long(text, add_special_tokens, limit))

    async def decode(self, tokens: list[int], *, skip_special_tokens: bool) -> str:
        def work() -> str:
            # Of the library's calls only the batch ones release the interpreter lock.
            return self._tokenizer.decode_batch([tokens], skip_special_tokens=skip_special_tokens)[0]

        return work() if len(tokens) <= INLINE_CHARACTERS else await self.in_thread(work)

    async def in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        # As above, and it leaves out offsets, which nobody reads.
        return self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids

    def _encode_long(self, text: str, add_special_tokens: bool, limit: int) -> list[int]:
        """A hostile text must not cost minutes: its length in tokens is counted slice by slice first."""
        count = 0
        if len(text) > _SLICE:
            for start in range(0, len(text), _SLICE):
                count += max(len(self._encode(text[start : start + _SLICE], False)) - _SLICE_SLACK, 0)
                if count > limit:
                    raise TooLong(count)
        return self._encode(text, add_special_tokens)

    def detokenizer(self, *, skip_special_tokens: bool, context: list[int]) -> Detokenizer:
        """`context`: tokens whose text goes on; empty where a text of its own begins."""
        return (self._shown if skip_special_tokens else self._all).detokenizer(context)

    def token_bytes(self, token: int) -> bytes:
        """The token on its own; special tokens as they are written, nothing for one that the vocabulary lacks."""
        return self._all.token_bytes(token)

    def token_string(self, token: int) -> str | None:
        """The token as the vocabulary writes it."""
        return self._tokenizer.id_to_token(token)
