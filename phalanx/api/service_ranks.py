"""Which ranks the service has, and which of them are leaving, as the supervisor tells it in `Ranks`.

An API server answers with `RanksVacated`: the leaving ranks in which none of its requests runs any more.
"""

import asyncio
from collections.abc import Callable

from phalanx.api.engine_client import EngineClient
from phalanx.protocol import RankId, Ranks, RanksVacated, ToSupervisor

LOOK = 0.05
"""Seconds between two looks at whether the requests in a leaving rank have finished."""


class ServiceRanks:
    """The ranks of the whole service, attached to this API server or not. It lives in the event loop."""

    def __init__(self, engine: EngineClient, send: Callable[[ToSupervisor], None], ranks: int) -> None:
        """`send` hands a message to the supervisor; so many `ranks` are assumed until it has said which there are."""
        self._engine = engine
        self._send = send
        self._latest = Ranks(0, tuple(RankId(rank) for rank in range(ranks)))
        self._told: frozenset[RankId] = frozenset()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def expected(self) -> tuple[RankId, ...]:
        """The ranks that are to serve, attached or not."""
        return self._latest.ranks

    def update(self, ranks: Ranks) -> None:
        """Take what the supervisor says now, which replaces all that it said before."""
        self._latest = ranks
        self._told = frozenset()
        self._engine.leave(frozenset(ranks.leaving), frozenset(ranks.moving))
        if self._timer is not None:
            self._timer.cancel()
        self._tell_vacated()

    def _tell_vacated(self) -> None:
        """Tell the supervisor which leaving ranks are empty, now and again until all of them are."""
        self._timer = None
        empty = frozenset(rank for rank in self._latest.leaving if not self._engine.running_on(rank))
        if empty != self._told:
            self._told = empty
            self._send(RanksVacated(self._latest.number, tuple(sorted(empty))))
        if len(empty) < len(self._latest.leaving):
            self._timer = asyncio.get_running_loop().call_later(LOOK, self._tell_vacated)
