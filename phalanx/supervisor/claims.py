"""Which node may bring which ranks. Pure: the reasons why one is turned away."""

from collections.abc import Collection, Mapping

from phalanx.protocol import NodeHello, Place


def objection(
    hello: NodeHello,
    version: str,
    expected: Collection[Place],
    local: Collection[Place],
    held: Mapping[Place, str],
    open_for_more: bool,
) -> str:
    """Why this node cannot join; empty: it can.

    Args:
        version: ours.
        expected: the places whose ranks come from other machines.
        local: the ranks that run on the supervisor's machine.
        held: the places that a node has brought already, and that node's name.
        open_for_more: the service is still starting.
    """
    if hello.version != version:
        return f"it runs phalanx {hello.version}, this service phalanx {version}: install the same release on both"
    if not hello.places and not hello.serves:
        return "it brings nothing: neither ranks nor a place for API servers"
    told = _spell(hello.places)
    if doubled := sorted({place for place in hello.places if hello.places.count(place) > 1}, key=_order):
        return f"it names {_spell(doubled)} twice"
    if taken := [place for place in hello.places if place in held]:
        whose = held[taken[0]]
        return f"{_spell(taken)} joined already, from {whose}"
    if ours := [place for place in hello.places if place in local]:
        return f"{_spell(ours)} run on the service's own machine; others may bring {_spell(expected) or 'none'}"
    if unknown := [place for place in hello.places if place not in expected]:
        return f"this service has no {_spell(unknown)}; others may bring {_spell(expected) or 'none'}"
    if not open_for_more:
        return f"{told or 'it'} comes too late: the service has started or is ending"
    return ""


def _order(place: Place) -> tuple[int, int]:
    return place.index, place.worker


def _spell(places: Collection[Place]) -> str:
    """`rank 3`, `ranks 8 to 11 and 14`, `rank 3 tp 1`."""
    workers = [f"rank {place.index} tp {place.worker}" for place in sorted(places, key=_order) if place.worker]
    ranks = sorted({place.index for place in places if not place.worker})
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    spelt = [f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    named = [f"rank{'s' if len(ranks) > 1 else ''} {_listed(spelt)}"] if spelt else []
    return _listed(named + workers)


def _listed(parts: list[str]) -> str:
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)
