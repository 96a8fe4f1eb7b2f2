"""Children that are to be started on a node which is not there, or not ready."""

from collections.abc import Iterable
from typing import Protocol

from phalanx import running_time
from phalanx.protocol import ChildId, Place
from phalanx.supervisor import events


class LaunchAudience(Protocol):
    """Who hears what becomes of launches: the supervisor."""

    def take(self, event: events.FleetEvent) -> None: ...

    def not_launched(self, child: ChildId, reason: str) -> None: ...


class WaitingChildren:
    """At most one a place. The fleet is told what each waits for, and for how long that may take."""

    def __init__(self, audience: LaunchAudience) -> None:
        self._audience = audience
        self._children: dict[Place, ChildId] = {}

    def __contains__(self, place: Place) -> bool:
        return place in self._children

    @property
    def places(self) -> list[Place]:
        return list(self._children)

    def add(self, child: ChildId) -> None:
        self._children[child.place] = child

    def take(self, place: Place) -> ChildId:
        """The child in a place, which waits no longer."""
        return self._children.pop(place)

    def tell(self, place: Place, name: str, limit: float) -> None:
        """The child in a place, if one waits there, waits for `name`, at most `limit` seconds."""
        if place in self._children:
            self._audience.take(events.Waiting(running_time.now(), self._children[place], name, limit))

    def call_off(self, child: ChildId) -> None:
        """Its launch is not wanted any more."""
        if self._children.get(child.place) == child:
            self._audience.not_launched(self.take(child.place), "called off")

    def give_up(self, places: Iterable[Place], reason: str) -> None:
        """What these places wait for will not come."""
        # All of them first: whoever hears of one may at once have the next one wait anew.
        for child in [self.take(place) for place in places if place in self._children]:
            self._audience.not_launched(child, reason)
