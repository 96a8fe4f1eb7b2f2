"""Random histories of whole services: whatever falls, each accepted request ends once, with the tokens it would have.

One of them, line by line: `python tests/simulation/test_joint.py --seed SEED [--without 0,3,7]`.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter, deque
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.simulation.joint_world import World

HISTORIES = 400
PARTS = 4
PROCESSES = 2
LAST_LINES = 40

Tally = Counter[str]


def fails(seed: int, without: frozenset[int]) -> str:
    """How this history fails, with its last lines; empty: it does not."""
    lines: deque[str] = deque(maxlen=LAST_LINES)
    world = World(seed, without, lambda at, text: lines.append(f"{at:9.3f}  {text}"))
    try:
        world.run()
    except Exception as error:
        return "\n".join((*lines, f"at {world.timeline.now:.3f} s: {type(error).__name__}: {error}"))
    return ""


def shrunk(seed: int, disturbances: int) -> frozenset[int]:
    """The disturbances that the failure does not need, left out one after the other."""
    without: frozenset[int] = frozenset()
    for number in range(disturbances):
        if fails(seed, without | {number}):
            without |= {number}
    return without


def play(seeds: range) -> Tally:
    tally = Tally()
    for seed in seeds:
        world = World(seed)
        try:
            world.run()
        except Exception as error:
            without = shrunk(seed, world.disturbances.number)
            left_out = f" --without {','.join(map(str, sorted(without)))}" if without else ""
            raise AssertionError(
                f"history {seed} fails at {world.timeline.now:.3f} s: {type(error).__name__}: {error}\n"
                f"the end of the shortest history found that fails:\n{fails(seed, without)}\n"
                f"all of it: python tests/simulation/test_joint.py --seed {seed}{left_out}"
            ) from error
        tally += world.tally
        tally["histories"] += 1
        tally["events"] += world.events
        tally["deliveries"] += world.network.deliveries
        tally["steps"] += world.steps
        tally["fleet events"] += world.fleet_events
    return tally


@pytest.mark.parametrize("part", range(PARTS))
def test_every_accepted_request_ends_once_with_its_own_tokens_whatever_falls(part: int) -> None:
    firsts = [part * PROCESSES + process for process in range(PROCESSES)]
    commands = [[sys.executable, __file__, "--first", str(first)] for first in firsts]
    players = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for command in commands]
    tally = Tally()
    for player in players:
        told, error = player.communicate()
        assert player.returncode == 0, error.decode()
        tally += Tally(json.loads(told))
    print(f"\n{dict(tally)}")
    assert tally["histories"] == HISTORIES // PARTS
    assert tally["events"] > 1_000_000 // PARTS
    # The histories are worth something only while they reach every kind of ending, often.
    ends = ("result", "abort", "its server died", "engine died", "no rank", "replays", "ranks killed by poison")
    services = ("settled", "failed", "given up", "restarts", "api deaths", "engine deaths", "left for good")
    seldom = [name for name in (*ends, *services) if not tally[name]]
    assert not seldom


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int)
    parser.add_argument("--without", type=lambda text: frozenset(map(int, text.split(","))), default=frozenset())
    parser.add_argument("--first", type=int)
    options = parser.parse_args()
    if options.seed is not None:
        World(options.seed, options.without, lambda at, text: print(f"{at:9.3f}  {text}")).run()
    else:
        print(json.dumps(play(range(options.first, HISTORIES, PARTS * PROCESSES))))


if __name__ == "__main__":
    main()
