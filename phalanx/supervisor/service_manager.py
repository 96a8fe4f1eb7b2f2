"""What a service manager hears of the service: sd_notify(3), and the watchdog that it may ask for.

It stands between the supervisor and its picture, since both are shown the same.
"""

import asyncio
import logging
import os
import socket
from collections.abc import MutableMapping
from typing import NamedTuple

from phalanx import running_time
from phalanx.protocol import Place, RankId, Role
from phalanx.supervisor import report
from phalanx.supervisor.child_states import Child, ChildState, all_ready
from phalanx.supervisor.fleet import Fleet
from phalanx.supervisor.state import FleetPhase
from phalanx.supervisor.supervisor import Watcher

log = logging.getLogger(__name__)

RETRY = 0.1
"""Seconds until what a full socket did not take is offered again."""

LATE = 1.0
"""Seconds that a tick of the fleet may be overdue; one that is later was not taken."""

STEP = 1.0
"""Seconds by which a promise must grow to be told."""


class Manager(NamedTuple):
    """What the environment says of a service manager."""

    address: str
    """Where it listens: a socket file, or @NAME in the abstract namespace."""
    watchdog: float | None = None
    """Seconds of silence after which it kills the service; None: it does not."""

    @staticmethod
    def of(environment: MutableMapping[str, str]) -> "Manager | None":
        """Who started this process; None: nobody who listens. The variables leave `environment`: children have none.

        Raises:
            ValueError: a variable holds what it cannot.
        """
        names = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
        address, interval, pid = (environment.pop(name, "") for name in names)
        if not address:
            return None
        if address[0] not in "/@":
            raise ValueError(f"NOTIFY_SOCKET={address} is neither the path of a socket nor @NAME")
        if not interval or pid not in ("", str(os.getpid())):
            return Manager(address)
        if not interval.isdecimal() or int(interval) == 0:
            raise ValueError(f"WATCHDOG_USEC={interval} is not a number of microseconds above 0")
        return Manager(address, int(interval) / 1e6)


class Notifier:
    """Tells the manager; never waits for it."""

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._shown = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._unsent: dict[str, str] = {}
        self._deaf = False

    def tell(self, **state: str) -> None:
        """Send `NAME=value` lines, in one message."""
        waits = bool(self._unsent)
        self._unsent |= {name: " ".join(value.split()) for name, value in state.items()}
        if not waits:
            self._send()

    def close(self) -> None:
        self._socket.close()

    def _send(self) -> None:
        message = "\n".join(f"{name}={value}" for name, value in self._unsent.items())
        try:
            self._socket.sendto(message.encode(), socket.MSG_DONTWAIT, self._address)
        except BlockingIOError:
            asyncio.get_running_loop().call_later(RETRY, self._send)
            return
        except OSError as error:
            if not self._deaf:
                log.warning("the service manager at %s does not listen: %s", self._shown, error.strerror)
            self._deaf = True
        self._unsent.clear()


class Notifications:
    """A watcher that shows all to another one, and to the manager what it wants to know."""

    def __init__(self, manager: Manager, picture: Watcher) -> None:
        self._picture = picture
        self._notifier = Notifier(manager.address)
        self._watchdog = manager.watchdog
        self._fleet: Fleet | None = None
        self._status = ""
        self._stopping = False
        self._promised = 0.0
        """Until when the manager was asked for patience."""
        self._heartbeat: asyncio.TimerHandle | None = None

    def changed(self, fleet: Fleet) -> None:
        self._picture.changed(fleet)
        now = running_time.now()
        if self._fleet is None:
            self._fleet = fleet
            self._beat()
        news = {}
        if (status := in_a_line(fleet)) != self._status:
            self._status = news["STATUS"] = status
        if fleet.phase in _ENDING and not self._stopping:
            self._stopping = True
            self._promised = 0.0  # That was for the start, which has a clock of its own.
            news["STOPPING"] = "1"
        patience = patience_of(fleet, now)
        if patience is not None and now + patience > self._promised + STEP:
            self._promised = now + patience
            news["EXTEND_TIMEOUT_USEC"] = str(round(patience * 1e6))
        if news:
            self._notifier.tell(**news)

    def printed(self, place: Place, line: str) -> None:
        self._picture.printed(place, line)

    def ready(self, fleet: Fleet, urls: list[str]) -> None:
        self._picture.ready(fleet, urls)
        self._notifier.tell(READY="1")

    def close(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        self._notifier.close()

    def _beat(self) -> None:
        """From the event loop itself, and only while the fleet's ticks are taken: silence is what a stuck one says."""
        if self._watchdog is None:
            return
        assert self._fleet is not None
        alive = not overdue(self._fleet, running_time.now())
        if alive:
            self._notifier.tell(WATCHDOG="1")
        # After a pause of this process its ticks are about to be made up for: look again soon.
        delay = self._watchdog / 2 if alive else self._watchdog / 10
        self._heartbeat = asyncio.get_running_loop().call_later(delay, self._beat)


_ENDING = (FleetPhase.DRAINING, FleetPhase.STOPPING, FleetPhase.FINISHED)


def overdue(fleet: Fleet, now: float) -> bool:
    """Whether the fleet's clock has stopped: a tick that it asked for was not taken."""
    deadline = fleet.next_deadline()
    return deadline is not None and now - deadline > LATE


def patience_of(fleet: Fleet, now: float) -> float | None:
    """Seconds within which a fleet that starts or ends will have got on, or else have ended; None: it serves."""
    if fleet.phase in (FleetPhase.SERVING, FleetPhase.FINISHED):
        return None
    limits = fleet.limits
    end = limits.dump + limits.shutdown + limits.cluster + limits.kill + limits.link + limits.last_words
    return max(0.0, (fleet.next_deadline() or now) - now) + end


def in_a_line(fleet: Fleet) -> str:
    """How things are, for `systemctl status`."""
    if fleet.failure is not None:
        return report.summary(fleet.failure)
    ranks, servers = _staying_ranks(fleet), fleet.units(Role.API)
    counts = f"{_serving(ranks)} of {len(ranks)} ranks, {_serving(servers)} of {len(servers)} API servers"
    match fleet.phase:
        case FleetPhase.STARTING:
            slowest = min(fleet.children.values(), key=_how_far)
            return f"starting: {counts} ready; {slowest.id} {_doing(slowest)}"
        case FleetPhase.SERVING if _serving(ranks) < len(ranks) or _serving(servers) < len(servers):
            missing = [
                f"{child.id} {_doing(child)}"
                for unit in (*ranks.values(), *servers.values())
                for child in unit
                if child.state is not ChildState.READY
            ]
            return f"degraded: {counts} serve; {', '.join(missing)}"
        case FleetPhase.SERVING:
            return f"serves: {counts}"
        case FleetPhase.DRAINING:
            return f"draining: running requests finish; {counts} serve"
        case _:
            left = sum(not child.over for child in fleet.children.values())
            return f"stopping: {left} processes to end" if left else "stopped"


Units = dict[int, list[Child]]


def _staying_ranks(fleet: Fleet) -> Units:
    """The ranks but for those that an operator has sent away."""
    ranks = fleet.units(Role.ENGINE).items()
    return {index: members for index, members in ranks if not fleet.leaves_for_good(RankId(index))}


def _serving(units: Units) -> int:
    """How many of them serve."""
    return sum(all_ready(members) for members in units.values())


def _how_far(child: Child) -> tuple[bool, bool, int]:
    return (child.state is ChildState.READY, child.state is not ChildState.LAUNCHING, child.stage.position)


def _doing(child: Child) -> str:
    match child.state:
        case ChildState.LAUNCHING | ChildState.RESTING:
            return f"waits for {child.wait.name}" if child.wait is not None else "is started"
        case ChildState.STARTING:
            return f"is in stage {child.stage}"
        case state:
            return f"is {state.name.lower()}"
