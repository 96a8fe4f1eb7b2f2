"""Whether what fell is started again, and when. Pure."""

from collections import deque
from dataclasses import dataclass, field

from phalanx.supervisor.child_states import Unit
from phalanx.supervisor.fleet_limits import FleetLimits


@dataclass(slots=True)
class _Record:
    falls: deque[float] = field(default_factory=deque)
    """When it fell, as far as that still counts."""
    tries: int = 0
    """Starts in a row that came to nothing."""
    down_since: float | None = None
    restarts: int = 0
    """Since the service began."""


@dataclass(slots=True)
class Restarts:
    """The falls of every unit."""

    limits: FleetLimits
    _records: dict[Unit, _Record] = field(default_factory=dict)

    def fell(self, unit: Unit, at: float) -> None:
        """It has failed, or failed once more on its way back."""
        record = self._records.setdefault(unit, _Record())
        if record.down_since is None:
            record.down_since = at

    def schedule(self, unit: Unit, at: float, served: bool) -> float | None:
        """Plan the next start of what has fallen, and count it.

        Returns seconds until then; None: it has fallen too often, or failed to start too often in a row.

        One that had `served` is started again at once; one that does not get there, ever more slowly.
        """
        record = self._records[unit]
        while record.falls and record.falls[0] <= at - self.limits.window:
            record.falls.popleft()
        record.tries = 0 if served else record.tries + 1
        if len(record.falls) >= self.limits.max_restarts or record.tries >= self.limits.failed_starts:
            return None
        record.falls.append(at)
        record.restarts += 1
        if served:
            return 0.0
        return min(self.limits.backoff * 2.0 ** (record.tries - 1), self.limits.longest_backoff)

    def why(self, unit: Unit) -> str:
        """Why it is not started again."""
        if self._records[unit].tries >= self.limits.failed_starts:
            return f"{self._records[unit].tries} starts in a row that came to nothing"
        return f"{self.limits.max_restarts} restarts within {self.limits.window:g} s"

    def came_back(self, unit: Unit, at: float) -> float | None:
        """It serves again; seconds since it fell, or None where it had not."""
        record = self._records.get(unit)
        if record is None or record.down_since is None:
            return None
        since, record.down_since = record.down_since, None
        return at - since

    def count(self, unit: Unit) -> int:
        """Times it has been started again."""
        return self._records[unit].restarts if unit in self._records else 0

    def forget(self, unit: Unit) -> None:
        """What comes there next starts with a clean record."""
        if (former := self._records.pop(unit, None)) is not None:
            self._records[unit] = _Record(restarts=former.restarts)
