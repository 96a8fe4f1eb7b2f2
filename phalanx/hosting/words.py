"""Places and ends of children in words, the same wherever a person reads them."""

import signal
from collections.abc import Collection

from phalanx.protocol import Place


def spell(places: Collection[Place]) -> str:
    """Ranks and their workers: `rank 3`, `ranks 4 and 5`, `ranks 8 to 11 and 14`, `rank 3 tp 1`; empty: none."""
    workers = sorted((place.index, place.worker) for place in places if place.worker)
    ranks = sorted({place.index for place in places if not place.worker})
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    spelt = [part for run in runs for part in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run))]
    named = [f"rank{'s' if len(ranks) > 1 else ''} {_listed(spelt)}"] if spelt else []
    return _listed(named + [f"rank {rank} tp {worker}" for rank, worker in workers])


def ending(status: int) -> str:
    """`exit status 3`, `killed by SIGSEGV`."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def _listed(parts: list[str]) -> str:
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)
