"""How ranks divide the machines that they are on. Pure."""

from collections import defaultdict
from collections.abc import Mapping

from phalanx.protocol import ChildId, Place, Pools, Role, Share
from phalanx.supervisor.child_states import ChildState
from phalanx.supervisor.remote_places import RemotePlaces
from phalanx.supervisor.state import FleetState


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


class ToldShares:
    """What each rank that is connected was told last."""

    def __init__(self, local: Pools, remote: RemotePlaces) -> None:
        """`local`: what ranks of the supervisor's machine take from."""
        self._local = local
        self._remote = remote
        self._told: dict[ChildId, Share] = {}

    def welcome(self, fleet: FleetState, child: ChildId) -> Share:
        """Take note of a rank that has just connected; the part that it is to be told."""
        share = self._told[child] = self._now(fleet)[child.place]
        return share

    def forget(self, child: ChildId) -> None:
        self._told.pop(child, None)

    def divide_anew(self, fleet: FleetState) -> list[tuple[ChildId, Share]]:
        """Take note of what each rank's part is now; who is to be told another than the last, and which."""
        now = self._now(fleet)
        current = [fleet.children[place].id for place in now]
        changed = [child for child in current if self._told.get(child, now[child.place]) != now[child.place]]
        for child in changed:
            self._told[child] = now[child.place]
        return [(child, now[child.place]) for child in changed]

    def _now(self, fleet: FleetState) -> dict[Place, Share]:
        """A rank that falls keeps its part while it may come back."""
        ranks = [
            place
            for place, child in fleet.children.items()
            if place.role is Role.ENGINE and child.state is not ChildState.FALLEN
        ]
        return shares({place: self._remote.pools(place) if place in self._remote else self._local for place in ranks})
