import random

import pytest

from phalanx.api.rank_router import Placement, RankRouter
from phalanx.protocol import Load, RankId

EMPTY = Load(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def load(prefill: int = 0, decode: int = 0) -> Load:
    return Load(prefill, decode, 1, 1, 0, 0, 0, 0, 0, 0, 0)


@pytest.fixture
def router() -> RankRouter:
    router = RankRouter(random.Random(0))
    for rank in range(3):
        router.attach(RankId(rank))
    return router


def place(router: RankRouter, prompt: int = 10, limit: int = 50) -> Placement:
    placement = router.place(prompt, limit)
    assert placement is not None
    return placement


def test_without_ranks_there_is_no_placement() -> None:
    assert RankRouter(random.Random(0)).place(10, 10) is None


def test_a_burst_spreads_before_any_report_comes_back(router: RankRouter) -> None:
    assert sorted(place(router).rank for _ in range(9)) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_report_of_others_work_adds_to_our_own_count_and_never_replaces_it(router: RankRouter) -> None:
    mine = place(router)
    router.report(mine.rank, EMPTY)
    assert router.ranks[mine.rank].work > 0
    router.report(RankId((mine.rank + 1) % 3), load(decode=1000))
    assert place(router).rank == (mine.rank + 2) % 3


def test_waiting_prompts_count_less_than_tokens_to_generate(router: RankRouter) -> None:
    router.report(RankId(0), load(prefill=100))
    router.report(RankId(1), load(decode=100))
    router.report(RankId(2), load(decode=100))
    assert place(router).rank == 0


def test_finished_and_released_requests_leave_no_work_behind(router: RankRouter) -> None:
    placements = [place(router, prompt=7 * n, limit=1 + n) for n in range(30)]
    for n, placement in enumerate(placements):
        for _ in range(min(n, 1 + n)):
            router.progress(placement, 1)
        router.release(placement, finished=n % 2 == 0)
    assert all((view.work, view.own_requests) == (0, 0) for view in router.ranks.values())


def test_a_request_past_its_expected_length_still_counts_as_work(router: RankRouter) -> None:
    placement = place(router, limit=2000)
    router.progress(placement, 1000)
    assert router.ranks[placement.rank].work >= placement.expected_tokens // 2


def test_the_expected_length_follows_what_finished_requests_took(router: RankRouter) -> None:
    for _ in range(200):
        placement = place(router, limit=2000)
        router.progress(placement, 10)
        router.release(placement, finished=True)
    assert place(router, limit=2000).expected_tokens == 10
    assert place(router, limit=4).expected_tokens == 4


def test_an_aborted_request_teaches_nothing_about_length(router: RankRouter) -> None:
    before = place(router, limit=2000).expected_tokens
    for _ in range(100):
        router.release(place(router, limit=2000), finished=False)
    assert place(router, limit=2000).expected_tokens == before


def test_a_detached_rank_gets_nothing_and_its_requests_are_forgotten(router: RankRouter) -> None:
    placements = [place(router) for _ in range(6)]
    router.detach(RankId(1))
    for placement in placements:
        router.progress(placement, 5)
        router.release(placement, finished=False)
    assert {place(router).rank for _ in range(10)} == {0, 2}


def test_a_rank_that_comes_back_starts_with_nothing_to_do(router: RankRouter) -> None:
    router.report(RankId(1), load(decode=10_000))
    router.attach(RankId(1))
    assert router.ranks[RankId(1)].work == 0
