"""8 API servers route over 64 ranks on reports that are some steps old."""

import pytest
from support.simulation.routing_world import World, all_knowing, at_random

SERVERS, RANKS, TICKS, LOAD = 8, 64, 320, 0.9


@pytest.mark.parametrize("lag", [1, 5])
def test_load_spreads_over_the_ranks_far_better_than_by_chance_and_close_to_the_possible(lag: int) -> None:
    ours = World(1, SERVERS, RANKS, lag).run(TICKS, LOAD)
    chance = World(1, SERVERS, RANKS, lag).run(TICKS, LOAD, at_random)
    possible = World(1, SERVERS, RANKS, lag).run(TICKS, LOAD, all_knowing)
    print(f"lag {lag}: busiest rank over mean {ours.imbalance:.2f}, chance {chance.imbalance:.2f}, "
          f"all-knowing {possible.imbalance:.2f}")  # fmt: skip
    assert ours.imbalance - 1 < 0.4 * (chance.imbalance - 1)
    assert ours.latency(0.99) <= 1.05 * possible.latency(0.99)


def test_no_herd_gathers_on_one_rank_while_reports_are_under_way() -> None:
    for seed in range(2):
        ours = World(seed, SERVERS, RANKS, 20).run(TICKS, LOAD)
        chance = World(seed, SERVERS, RANKS, 20).run(TICKS, LOAD, at_random)
        assert ours.herd < 2 * chance.herd


def test_a_new_idle_rank_does_not_attract_every_request_of_all_servers() -> None:
    world = World(5, SERVERS, RANKS, 20)
    world.run(200, LOAD, warm_up=0)
    newcomer = next(iter(world.ranks))
    for router in world.routers:
        router.detach(newcomer)
        router.attach(newcomer)
    placed = [router.place(100, 200) for router in world.routers for _ in range(50)]
    share = sum(placement is not None and placement.rank == newcomer for placement in placed) / len(placed)
    assert 0 < share < 0.15
