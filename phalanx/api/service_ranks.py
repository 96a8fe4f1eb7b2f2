"""Which ranks the service has, and which of them are leaving, as the supervisor tells it in `Roster`.

An API server answers with `Vacated`: the leaving ranks in which none of its requests runs any more.
"""

import asyncio
from collections.abc import Callable

from phalanx.api.engine_client import EngineClient
from phalanx.protocol import RankId, Roster, ToSupervisor, Vacated

LOOK = 0.05
"""Seconds between two looks at whether the requests in a leaving rank have finished."""


class ServiceRanks:
    """The ranks of the whole service, attached to this API server or not. It lives in the event loop."""

    def __init__(self, engine: EngineClient, send: Callable[[ToSupervisor], None], ranks: int) -> None:
        """`send` hands a message to the supervisor; so many `ranks` are assumed until it has said which there are."""
        self._engine = engine
        self._send = send
        self._roster = Roster(0, tuple(RankId(rank) for rank in range(ranks)))
        self._told: frozenset[RankId] = frozenset()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def expected(self) -> tuple[RankId, ...]:
        """The ranks that are to serve, attached or not."""
        return self._roster.ranks

    def update(self, roster: Roster) -> None:
        """Take what the supervisor says now, which replaces all that it said before."""
        self._roster = roster
        self._told = frozenset()
        self._engine.leave(frozenset(roster.leaving), frozenset(roster.moving))
        if self._timer is not None:
            self._timer.cancel()
        self._tell_vacated()

    def _tell_vacated(self) -> None:
        """Tell the supervisor which leaving ranks are empty, now and again until all of them are."""
        self._timer = None
        empty = frozenset(rank for rank in self._roster.leaving if not self._engine.running_on(rank))
        if empty != self._told:
            self._told = empty
            self._send(Vacated(self._roster.number, tuple(sorted(empty))))
        if len(empty) < len(self._roster.leaving):
            self._timer = asyncio.get_running_loop().call_later(LOOK, self._tell_vacated)
