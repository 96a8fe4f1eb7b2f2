"""Random histories of whole services: whatever children do, the fleet ends, in order, and tells the truth."""

import os
from collections import Counter

import pytest
from simulation.fleet_world import World

HISTORIES = int(os.environ.get("PHALANX_HISTORIES", "30000"))
SEED = os.environ.get("PHALANX_SEED")


def test_random_histories_end_with_everything_accounted_for_and_the_first_failure_named() -> None:
    endings: Counter[str] = Counter()
    events = 0
    for seed in [int(SEED)] if SEED else range(HISTORIES):
        world = World(seed)
        try:
            events += world.run()
        except AssertionError as error:
            pytest.fail(f"history {seed} at {world.now:.3f} s (replay: PHALANX_SEED={seed}): {error}")
        assert world.finish is not None
        failure = world.finish.failure
        endings[failure.cause if failure else "stopped"] += 1
        endings["served"] += world.told_ready
    print(f"\n{sum(endings.values()) - endings['served']:,} histories, {events:,} events: {dict(endings)}")
    if not SEED:
        # The histories are worth something only while they reach every kind of ending.
        assert set(endings) == {"stopped", "served", "reported", "exited", "stalled", "disconnected", "not launched"}
        assert events > 100_000
