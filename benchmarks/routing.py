"""How evenly requests spread, by how many ranks an API server looks at and how old the ranks' reports are.

8 API servers, 64 ranks, 90 % load, simulated (tests/support/simulation/routing_world.py). What it taught: two or three
choices beat a look at all ranks as soon as reports are a few steps old, because servers that see the same best
rank all take it.

    python benchmarks/routing.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from harness import table
from support.simulation.routing_world import World, all_knowing, at_random

LAGS = (1, 5, 20)
POLICIES = [
    ("at random", None, at_random),
    *((f"best of {n}", n, None) for n in (2, 3, 5, 8, 64)),
    ("all-knowing (not to be had)", None, all_knowing),
]


def main() -> None:
    rows = []
    for name, choices, policy in POLICIES:
        outcomes = [World(1, 8, 64, lag, choices).run(500, 0.9, policy) for lag in LAGS]
        rows.append([name, *(f"{o.imbalance:.2f} / {o.herd:.1%}" for o in outcomes)])
    header = ["an API server takes", *(f"reports {lag} steps old" for lag in LAGS)]
    table("Busiest rank over the mean / largest share one rank got within a report's age", header, rows)


if __name__ == "__main__":
    main()
