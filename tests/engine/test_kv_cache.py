"""The KV cache's bookkeeping: what is shared, what is found again, what is overwritten first."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phalanx.engine.kv_cache import KvCache
from phalanx.engine.sequence import RequestKey, Sequence
from phalanx.protocol import ApiServerId, RequestId, SamplingParams

SIZE = 4


def sequence(tokens: list[int], prompt_logprobs: int | None = None, salt: str = "") -> Sequence:
    sampling = SamplingParams(max_tokens=8, prompt_logprobs=prompt_logprobs, cache_salt=salt)
    return Sequence(RequestKey(ApiServerId(0), RequestId(0)), list(tokens), len(tokens), sampling)


def compute(cache: KvCache, tokens: list[int], salt: str = "") -> Sequence:
    """A sequence all of whose tokens have been computed, after reusing what there was."""
    new = sequence(tokens, salt=salt)
    cache.adopt(new, cache.lookup(new))
    start = new.computed
    assert cache.extend(new, len(tokens))
    new.computed = len(tokens)
    cache.commit(new, start)
    return new


def reusable(cache: KvCache, tokens: list[int], salt: str = "") -> int:
    """Tokens that a new request with these would find."""
    return len(cache.lookup(sequence(tokens, salt=salt))) * cache.block_size


def test_a_prompt_that_starts_alike_shares_the_full_blocks_it_has_in_common() -> None:
    cache = KvCache(8, SIZE)
    first = compute(cache, [1, 2, 3, 4, 5, 6, 7, 8, 9])
    second = compute(cache, [1, 2, 3, 4, 5, 6, 7, 8, 10, 11])
    assert second.blocks[:2] == first.blocks[:2]
    assert second.blocks[2] != first.blocks[2]
    assert cache.free_blocks == 8 - 4


def test_the_last_token_is_always_computed() -> None:
    cache = KvCache(8, SIZE)
    compute(cache, [1, 2, 3, 4, 5, 6, 7, 8])
    assert reusable(cache, [1, 2, 3, 4, 5, 6, 7, 8]) == 4
    assert reusable(cache, [1, 2, 3, 4, 5, 6, 7, 8, 9]) == 8


def test_an_equal_block_after_another_start_is_not_found() -> None:
    cache = KvCache(8, SIZE)
    compute(cache, [1, 2, 3, 4, 5, 6, 7, 8])
    assert reusable(cache, [9, 2, 3, 4, 5, 6, 7, 8, 9]) == 0
    assert reusable(cache, [5, 6, 7, 8, 9]) == 0


def test_a_salt_finds_what_was_computed_with_the_same_salt_and_nothing_else() -> None:
    cache, tokens = KvCache(16, SIZE, key=b"secret"), [1, 2, 3, 4, 5, 6, 7, 8, 9]
    compute(cache, tokens, salt="a")
    assert [reusable(cache, tokens, salt) for salt in ("a", "b", "aa", "")] == [8, 0, 0, 0]
    compute(cache, tokens)
    compute(cache, tokens, salt="b")
    assert [reusable(cache, tokens, salt) for salt in ("a", "b", "aa", "")] == [8, 8, 0, 8]


def test_a_salt_counts_for_blocks_that_are_still_being_computed() -> None:
    cache, tokens = KvCache(16, SIZE), [1, 2, 3, 4, 5, 6, 7, 8, 9]
    computing = set(cache.names(sequence(tokens, salt="a"), 0, 8))
    assert [cache.overlap(sequence(tokens, salt=salt), 0, computing) for salt in ("a", "b", "")] == [8, 0, 0]


def test_what_is_not_computed_yet_is_not_found() -> None:
    cache = KvCache(8, SIZE)
    running = sequence([1, 2, 3, 4, 5, 6, 7, 8, 9])
    cache.extend(running, 9)
    running.computed = 4
    cache.commit(running, 0)
    assert reusable(cache, [1, 2, 3, 4, 5, 6, 7, 8, 9]) == 4


def test_two_that_compute_the_same_at_once_keep_one_findable_copy() -> None:
    cache = KvCache(4, SIZE)
    first, second = sequence([1, 2, 3, 4, 5]), sequence([1, 2, 3, 4, 6])
    for each in (first, second):
        cache.extend(each, 5)
        each.computed = 5
    cache.commit(first, 0)
    cache.commit(second, 0)
    cache.release(second)
    third = compute(cache, [1, 2, 3, 4, 7])
    assert third.blocks[0] == first.blocks[0]


def test_released_blocks_stay_findable_and_prefixes_are_overwritten_last() -> None:
    cache = KvCache(4, SIZE)
    old = compute(cache, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13])
    cache.release(old)
    assert cache.free_blocks == 4
    asked = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    found = []
    for _ in range(4):
        found.append(reusable(cache, asked))
        assert cache.extend(sequence([0]), 1)
    assert found == [12, 12, 8, 4]  # the unfinished block goes first, then the tail
    assert reusable(cache, asked) == 0
    assert cache.free_blocks == 0


def test_what_was_used_last_is_overwritten_last() -> None:
    cache = KvCache(3, SIZE)
    for start in (1, 5, 9):
        cache.release(compute(cache, list(range(start, start + 4))))
    cache.release(compute(cache, [1, 2, 3, 4, 0]))  # uses the first again, and overwrites the second for its tail
    compute(cache, [20])
    compute(cache, [21])
    assert reusable(cache, [1, 2, 3, 4, 0]) == 4
    assert reusable(cache, [9, 10, 11, 12, 0]) == 0


def test_a_block_two_hold_is_free_only_after_both_have_let_go() -> None:
    cache = KvCache(4, SIZE)
    first, second = compute(cache, [1, 2, 3, 4, 5]), compute(cache, [1, 2, 3, 4, 6])
    cache.release(first)
    assert cache.free_blocks == 2
    cache.release(second)
    assert cache.free_blocks == 4


def test_too_few_free_blocks_change_nothing() -> None:
    cache = KvCache(2, SIZE)
    held = sequence([0] * 12)
    assert cache.extend(held, 4)
    assert not cache.extend(held, 12)
    assert (len(held.blocks), cache.free_blocks) == (1, 1)


def test_cost_counts_reused_blocks_that_would_stop_being_free() -> None:
    cache = KvCache(8, SIZE)
    held = compute(cache, [1, 2, 3, 4, 5])
    newcomer = sequence([1, 2, 3, 4, 6, 7])
    assert cache.cost(newcomer, cache.lookup(newcomer)) == 1
    cache.release(held)
    assert cache.cost(newcomer, cache.lookup(newcomer)) == 2


@pytest.mark.parametrize(("caching", "prompt_logprobs", "expected"), [(True, None, 4), (False, None, 0), (True, 0, 0)])
def test_reuse_can_be_off_and_is_off_for_prompt_logprobs(
    caching: bool, prompt_logprobs: int | None, expected: int
) -> None:
    cache = KvCache(8, SIZE, prefix_caching=caching)
    compute(cache, [1, 2, 3, 4, 5])
    newcomer = sequence([1, 2, 3, 4, 5], prompt_logprobs)
    assert len(cache.lookup(newcomer)) * SIZE == expected
    assert cache.overlap(newcomer, 0, set(cache.names(sequence([1, 2, 3, 4, 5]), 0, 5))) == expected


def test_hashes_depend_on_the_key() -> None:
    names = [KvCache(4, SIZE, key=key).names(sequence([1, 2, 3, 4]), 0, 4) for key in (b"one", b"two")]
    assert names[0] != names[1]


def test_hashing_block_by_block_equals_hashing_at_once() -> None:
    cache = KvCache(8, SIZE)
    whole = sequence(list(range(12)))
    growing = sequence([0])
    for token in range(1, 12):
        growing.tokens.append(token)
        if (token + 1) % SIZE == 0:
            cache.names(growing, token, 1)
    cache.names(whole, 0, 12)
    assert growing.block_hashes == whole.block_hashes
    assert len(whole.block_hashes) == 3


few_tokens = st.lists(st.integers(0, 2), min_size=1, max_size=14)


@settings(max_examples=300, deadline=None)
@given(histories=st.lists(few_tokens, min_size=1, max_size=12), size=st.integers(1, 5))
def test_reuse_never_crosses_different_prefixes(histories: list[list[int]], size: int) -> None:
    cache = KvCache(12, size)
    content: dict[int, tuple[int, ...]] = {}
    for tokens in histories:
        new = sequence(tokens)
        for index, block in enumerate(cache.lookup(new)):
            assert content[block] == tuple(tokens[: (index + 1) * size])
        if cache.blocks_for(len(tokens)) <= cache.num_blocks:
            computed = compute(cache, tokens)
            for index, block in enumerate(computed.blocks):
                content[block] = tuple(tokens[: (index + 1) * size])
            cache.release(computed)
