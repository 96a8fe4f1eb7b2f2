"""How ranks divide the machines that they are on. Pure."""

from collections import defaultdict
from collections.abc import Mapping

from phalanx.protocol import Place, Pools, Share


def shares(ranks: Mapping[Place, Pools | None]) -> dict[Place, Share]:
    """What each rank, or each of its tensor-parallel workers, may take of its machine.

    Args:
        ranks: all there are, and what each takes from; None: not known, so that it counts as alone there.
    """
    memory: dict[str, int] = defaultdict(int)
    cpus: dict[str, list[Place]] = defaultdict(list)
    for place in sorted(ranks, key=lambda place: (place.index, place.worker)):
        if (pools := ranks[place]) is not None:
            memory[pools.memory] += 1
            cpus[pools.cpus].append(place)
    return {
        place: Share()
        if pools is None
        else Share(memory[pools.memory], len(cpus[pools.cpus]), cpus[pools.cpus].index(place))
        for place, pools in ranks.items()
    }
