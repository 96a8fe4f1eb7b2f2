"""Random histories of whole services: whatever children do, the fleet ends, in order, and tells the truth."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.simulation.fleet_world import World

HISTORIES = int(os.environ.get("PHALANX_HISTORIES", "10000"))
SEED = os.environ.get("PHALANX_SEED")
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
        tally[str(failure.cause) if failure else "stopped"] += 1
        tally["served"] += world.told_ready
        tally["restarts"] += world.restarts
        tally["given up"] += len(world.given_up)
        tally["ended for want of ranks"] += bool(failure and world.restarts and failure.child in world.falling)
    return tally


def test_random_histories_end_with_everything_accounted_for_and_the_first_failure_named() -> None:
    if SEED:
        play(range(int(SEED), int(SEED) + 1))
        return
    commands = [[sys.executable, __file__, str(first)] for first in range(PROCESSES)]
    players = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for command in commands]
    tally = Tally()
    for player in players:
        told, error = player.communicate()
        assert player.returncode == 0, error.decode()
        tally += Tally(json.loads(told))
    print(f"\n{dict(tally)}")
    # The histories are worth something only while they reach every kind of ending.
    endings = {"stopped", "served", "reported", "exited", "stalled", "disconnected", "not launched", "vanished"}
    assert set(tally) == endings | {"histories", "events", "restarts", "given up", "ended for want of ranks"}
    assert tally["histories"] == HISTORIES
    assert tally["events"] > 100_000


if __name__ == "__main__":
    print(json.dumps(play(range(int(sys.argv[1]), HISTORIES, PROCESSES))))
