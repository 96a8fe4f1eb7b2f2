"""Which node may bring which ranks. Pure: the reasons why one is turned away."""

from collections.abc import Collection, Mapping

from phalanx.hosting.words import spell
from phalanx.protocol import NodeHello, Place


def objection(
    hello: NodeHello,
    version: str,
    expected: Collection[Place],
    local: Collection[Place],
    held: Mapping[Place, str],
    open_for_more: bool,
) -> str | None:
    """Why this node cannot join; None: it can.

    Args:
        version: ours.
        expected: the places whose ranks come from other machines.
        local: the ranks that run on the supervisor's machine.
        held: the places that a node has brought already, and that node's name.
        open_for_more: the service is not ending.
    """
    if hello.version != version:
        return f"it runs phalanx {hello.version}, this service phalanx {version}: install the same release on both"
    if not hello.places and not hello.serves:
        return "it brings nothing: neither ranks nor a place for API servers"
    if doubled := {place for place in hello.places if hello.places.count(place) > 1}:
        return f"it names {spell(doubled)} twice"
    if taken := [place for place in hello.places if place in held]:
        whose = held[taken[0]]
        return f"{spell(taken)} joined already, from {whose}"
    if ours := [place for place in hello.places if place in local]:
        return f"the service's own machine runs {spell(ours)}; others may bring {spell(expected) or 'none'}"
    if unknown := [place for place in hello.places if place not in expected]:
        return f"this service has no {spell(unknown)}; others may bring {spell(expected) or 'none'}"
    if not open_for_more:
        return "it comes too late: the service is ending"
    return None
