"""The paged KV cache: which block holds which tokens. Pure bookkeeping; keys and values are the runner's.

A block holds `block_size` tokens. One that is full is named by a hash chained over all tokens up to its end, so
a request that starts alike finds it and shares it; one that is not full belongs to one sequence alone. A shared
block is therefore never written. Blocks that nobody holds any more stay findable, and are overwritten in the
order in which they were last used.

The chained hash is blake2b with 128 bits, keyed: a collision would answer one user from another's prompt, so
chance (2**-64 for billions of blocks) and an attacker who knows the algorithm are both ruled out.
"""

from array import array
from collections import OrderedDict
from hashlib import blake2b

from phalanx.engine.sequence import BlockHash, BlockId, Sequence

HASH_BYTES = 16


class CacheTooSmall(ValueError):
    """The KV cache cannot hold one request of full length; says what to give."""


class KvCache:
    """Reference counts, free blocks and the table of findable ones.

    Args:
        key: up to 64 bytes that users of the service do not know; keys the hashes.
    """

    def __init__(self, num_blocks: int, block_size: int, *, prefix_caching: bool = True, key: bytes = b"") -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._prefix_caching = prefix_caching
        self._key = key
        self._references = [0] * num_blocks
        self._hash_of: list[BlockHash | None] = [None] * num_blocks
        self._block_of: dict[BlockHash, BlockId] = {}
        # Next to be overwritten first. A plain dict would scan over its deleted front.
        self._free: OrderedDict[BlockId, None] = OrderedDict.fromkeys(map(BlockId, range(num_blocks)))

    @property
    def free_blocks(self) -> int:
        """Blocks that no sequence holds, the findable ones among them included."""
        return len(self._free)

    @property
    def tokens(self) -> int:
        return self.num_blocks * self.block_size

    @property
    def used_tokens(self) -> int:
        """Tokens' worth of blocks that sequences hold."""
        return (self.num_blocks - len(self._free)) * self.block_size

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    # --- reuse ---

    def reuses(self, sequence: Sequence) -> bool:
        """Whether it may start from the cache. Prompt logprobs need the logits of every position computed."""
        return self._prefix_caching and not sequence.scores_prompt

    def lookup(self, sequence: Sequence) -> list[BlockId]:
        """The findable blocks that a sequence without blocks may start from; takes nothing.

        Never all of its tokens: the last one is always computed, since its logits choose the next.
        """
        if not self.reuses(sequence):
            return []
        found: list[BlockId] = []
        for index in range((len(sequence.tokens) - 1) // self.block_size):
            block = self._block_of.get(self._hash(sequence, index))
            if block is None:
                break
            found.append(block)
        return found

    def names(self, sequence: Sequence, start: int, length: int) -> list[BlockHash]:
        """Hashes of the blocks that computing tokens[start : start + length] fills."""
        if not self._prefix_caching:
            return []
        return [
            self._hash(sequence, index)
            for index in range(start // self.block_size, (start + length) // self.block_size)
        ]

    def overlap(self, sequence: Sequence, start: int, names: set[BlockHash]) -> int:
        """How many of a sequence's tokens from tokens[start] on are in blocks named in `names`, without a gap."""
        if not names or not self.reuses(sequence):
            return 0
        first = index = start // self.block_size
        usable = (len(sequence.tokens) - 1) // self.block_size
        while index < usable and self._hash(sequence, index) in names:
            index += 1
        return (index - first) * self.block_size

    def cost(self, sequence: Sequence, reused: list[BlockId]) -> int:
        """Free blocks that all present tokens of a sequence take, starting from `reused`."""
        unheld = sum(1 for block in reused if not self._references[block])
        return self.blocks_for(len(sequence.tokens)) - len(reused) + unheld

    def adopt(self, sequence: Sequence, reused: list[BlockId]) -> None:
        """Start a sequence from the blocks that `lookup` found."""
        for block in reused:
            if not self._references[block]:
                del self._free[block]
            self._references[block] += 1
        sequence.blocks = list(reused)
        sequence.computed = len(reused) * self.block_size

    def commit(self, sequence: Sequence, start: int) -> None:
        """Make findable the blocks that computing tokens[start : computed] has filled."""
        if not self._prefix_caching:
            return
        for index in range(start // self.block_size, sequence.computed // self.block_size):
            block_hash = self._hash(sequence, index)
            # Another sequence computed the same meanwhile: one findable copy is enough.
            if block_hash not in self._block_of:
                block = sequence.blocks[index]
                self._block_of[block_hash] = block
                self._hash_of[block] = block_hash

    def _hash(self, sequence: Sequence, index: int) -> BlockHash:
        """Name of a sequence's block `index`, all of whose tokens are known. Each block is hashed once."""
        hashes, size = sequence.block_hashes, self.block_size
        for block in range(len(hashes), index + 1):
            parent = hashes[block - 1] if block else self._root(sequence.sampling.cache_salt)
            content = array("I", sequence.tokens[block * size : (block + 1) * size]).tobytes()
            hashes.append(BlockHash(blake2b(parent + content, digest_size=HASH_BYTES, key=self._key).digest()))
        return hashes[index]

    def _root(self, salt: str) -> bytes:
        """What the first block's hash starts from: sequences of different salts have no hash in common."""
        if not salt:
            return b""
        return blake2b(salt.encode(), digest_size=HASH_BYTES, key=self._key, person=b"cache salt").digest()

    # --- holding ---

    def missing(self, sequence: Sequence) -> int:
        """Blocks that a sequence still lacks for its present tokens."""
        return self.blocks_for(len(sequence.tokens)) - len(sequence.blocks)

    def extend(self, sequence: Sequence, length: int) -> bool:
        """Give a sequence the blocks for its first `length` tokens. False, and nothing done, if too few are free."""
        missing = self.blocks_for(length) - len(sequence.blocks)
        if missing > len(self._free):
            return False
        for _ in range(missing):
            block, _ = self._free.popitem(last=False)
            overwritten = self._hash_of[block]
            if overwritten is not None:
                self._hash_of[block] = None
                del self._block_of[overwritten]
            self._references[block] = 1
            sequence.blocks.append(block)
        return True

    def release(self, sequence: Sequence) -> None:
        """Take a sequence's blocks back; what it has computed stays findable until it is overwritten."""
        # Tail first: a prefix is of use to more requests than what follows it, so it is overwritten later.
        for block in reversed(sequence.blocks):
            self._references[block] -= 1
            if not self._references[block]:
                self._free[block] = None
                if self._hash_of[block] is None:
                    self._free.move_to_end(block, last=False)
        sequence.blocks = []
        sequence.computed = 0

    def reclaimable(self, sequence: Sequence, spared: set[BlockId]) -> int:
        """Blocks outside `spared` that releasing this sequence would free."""
        return sum(1 for block in sequence.blocks if self._references[block] == 1 and block not in spared)
