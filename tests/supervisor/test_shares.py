"""How ranks divide machines: by what they really take from, and each machine by itself."""

from phalanx.protocol import Place, Pools, Role, Share
from phalanx.supervisor.child_states import ChildState
from phalanx.supervisor.fleet import Fleet
from phalanx.supervisor.fleet_limits import FleetLimits
from phalanx.supervisor.remote_places import RemotePlaces
from phalanx.supervisor.shares import ToldShares, shares


def rank(index: int, worker: int = 0) -> Place:
    return Place(Role.ENGINE, index, worker)


def test_each_machine_is_divided_by_its_own_ranks() -> None:
    a, b = Pools("a", "a"), Pools("b", "b")
    assert shares({rank(0): a, rank(1): a, rank(2): b}) == {
        rank(0): Share(2, 2, 0),
        rank(1): Share(2, 2, 1),
        rank(2): Share(1, 1, 0),
    }


def test_tensor_parallel_workers_count_each_by_itself_in_the_order_of_ranks() -> None:
    a = Pools("a", "a")
    parts = shares({rank(1, 1): a, rank(1): a, rank(0): a})
    assert parts == {rank(0): Share(3, 3, 0), rank(1): Share(3, 3, 1), rank(1, 1): Share(3, 3, 2)}


def test_ranks_on_cpus_of_their_own_divide_the_memory_alone() -> None:
    parts = shares({rank(0): Pools("a", "first half"), rank(1): Pools("a", "second half")})
    assert parts == {rank(0): Share(2, 1, 0), rank(1): Share(2, 1, 0)}


def test_of_whom_nothing_is_known_counts_as_alone() -> None:
    assert shares({rank(0): None, rank(1): None}) == {rank(0): Share(), rank(1): Share()}


def test_ranks_are_told_again_when_one_is_given_up_and_only_then() -> None:
    fleet = Fleet.of([Place(Role.API, 0), rank(0), rank(1), rank(2)], FleetLimits(startup=10, shutdown=5))
    told = ToldShares(Pools("a", "a"), RemotePlaces([rank(2)], [rank(0), rank(1)], own_api_servers=1, per_node=0))
    ids = {place: child.id for place, child in fleet.children.items()}
    assert told.welcome(fleet, ids[rank(0)]) == Share(2, 2, 0)
    assert told.welcome(fleet, ids[rank(2)]) == Share()
    fleet.children[rank(1)].state = ChildState.RESTING
    assert told.divide_anew(fleet) == []  # It may come back.
    fleet.children[rank(1)].state = ChildState.FALLEN
    assert told.divide_anew(fleet) == [(ids[rank(0)], Share(1, 1, 0))]
    assert told.divide_anew(fleet) == []
    told.forget(ids[rank(0)])
    fleet.children[rank(1)].state = ChildState.LAUNCHING
    assert told.divide_anew(fleet) == []  # Who is not connected is told as it comes.
