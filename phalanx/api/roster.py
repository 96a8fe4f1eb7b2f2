"""Which ranks the service has, and which of them leave: what the supervisor says of it, and the answer to that."""

import asyncio
from collections.abc import Callable

from phalanx.api.engine_client import EngineClient
from phalanx.protocol import RankId, Roster, ToSupervisor, Vacated

LOOK = 0.05
"""Seconds between two looks at whether what runs in a rank that leaves has finished."""


class Attendance:
    """Lives in the event loop."""

    def __init__(self, engine: EngineClient, send: Callable[[ToSupervisor], None], ranks: int) -> None:
        """`send`: to the supervisor. `ranks`: how many there are as long as it has not said which."""
        self._engine = engine
        self._send = send
        self._roster = Roster(0, tuple(RankId(rank) for rank in range(ranks)))
        self._told: frozenset[RankId] = frozenset()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def expected(self) -> tuple[RankId, ...]:
        """Ranks that shall serve, attached or not."""
        return self._roster.ranks

    def heard(self, roster: Roster) -> None:
        self._roster = roster
        self._told = frozenset()
        self._engine.leave(frozenset(roster.leaving), frozenset(roster.moving))
        if self._timer is not None:
            self._timer.cancel()
        self._look()

    def _look(self) -> None:
        self._timer = None
        empty = frozenset(rank for rank in self._roster.leaving if not self._engine.running_on(rank))
        if empty != self._told:
            self._told = empty
            self._send(Vacated(self._roster.number, tuple(sorted(empty))))
        if len(empty) < len(self._roster.leaving):
            self._timer = asyncio.get_running_loop().call_later(LOOK, self._look)
