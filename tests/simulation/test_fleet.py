"""Random histories of whole services: whatever children do, the fleet ends, in order, and tells the truth."""

import multiprocessing
import os
from collections import Counter

from simulation.fleet_world import World

HISTORIES = int(os.environ.get("PHALANX_HISTORIES", "100000"))
SEED = os.environ.get("PHALANX_SEED")
PART = 1000
PROCESSES = 2

Tally = Counter[str]


def play(seeds: range) -> Tally:
    """How these histories ended, and their events."""
    tally = Tally()
    for seed in seeds:
        world = World(seed)
        try:
            tally["events"] += world.run()
        except AssertionError as error:
            raise AssertionError(
                f"history {seed} at {world.now:.3f} s (replay: PHALANX_SEED={seed}): {error}"
            ) from error
        assert world.finish is not None
        failure = world.finish.failure
        tally["histories"] += 1
        tally[failure.cause if failure else "stopped"] += 1
        tally["served"] += world.told_ready
    return tally


def test_random_histories_end_with_everything_accounted_for_and_the_first_failure_named() -> None:
    if SEED:
        play(range(int(SEED), int(SEED) + 1))
        return
    tally = Tally()
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        parts = [range(first, min(first + PART, HISTORIES)) for first in range(0, HISTORIES, PART)]
        for part in pool.imap_unordered(play, parts):
            tally += part
        pool.close()
        pool.join()
    print(f"\n{dict(tally)}")
    # The histories are worth something only while they reach every kind of ending.
    endings = {"stopped", "served", "reported", "exited", "stalled", "disconnected", "not launched"}
    assert set(tally) == endings | {"histories", "events"}
    assert tally["histories"] == HISTORIES
    assert tally["events"] > 100_000
