"""What a service manager is told, and when it is not told that all is well."""

import asyncio
import contextlib
import os
import socket
from pathlib import Path

import pytest
from support.service import DEADLINE

from phalanx import running_time
from phalanx.protocol import ChildId, Incarnation, Place, RankId, Role, StartupStage
from phalanx.supervisor import events
from phalanx.supervisor.fleet import Fleet
from phalanx.supervisor.fleet_limits import FleetLimits
from phalanx.supervisor.service_manager import LATE, Manager, Notifications, Notifier, in_a_line, overdue, patience_of

PLACES = [Place(Role.API, 0), Place(Role.ENGINE, 0), Place(Role.ENGINE, 1, 0), Place(Role.ENGINE, 1, 1)]


def id_of(place: Place) -> ChildId:
    return ChildId(place, Incarnation(0))


def a_fleet(at: float = 0.0) -> Fleet:
    fleet = Fleet.of(PLACES, FleetLimits(startup=10.0, shutdown=2.0, drain=5.0, max_restarts=1))
    fleet.step(events.Begin(at))
    return fleet


def serve(fleet: Fleet, place: Place, at: float = 1.0) -> None:
    fleet.step(events.Launched(at, id_of(place), 7))
    fleet.step(events.Greeted(at, id_of(place)))
    fleet.step(events.Progressed(at, id_of(place), StartupStage.WEIGHTS, 0.5, ""))
    fleet.step(events.BecameReady(at, id_of(place), "", drains=True))


def test_a_line_says_how_things_are() -> None:
    fleet = a_fleet()
    assert in_a_line(fleet).startswith("starting: 0 of 2 ranks, 0 of 1 API servers ready; api 0 waits for its launch")
    for place in PLACES[:3]:
        serve(fleet, place)
    fleet.step(events.Launched(1.0, id_of(PLACES[3]), 8))
    assert in_a_line(fleet) == ("starting: 1 of 2 ranks, 1 of 1 API servers ready; engine 1 tp 1 is in stage started")
    fleet.step(events.Greeted(1.0, id_of(PLACES[3])))
    fleet.step(events.BecameReady(2.0, id_of(PLACES[3]), ""))
    assert in_a_line(fleet) == "serves: 2 of 2 ranks, 1 of 1 API servers"
    fleet.step(events.Exited(3.0, id_of(PLACES[1]), 1))
    assert in_a_line(fleet).startswith("degraded: 1 of 2 ranks, 1 of 1 API servers serve; engine 0 is ended")
    fleet.step(events.StopRequested(4.0, "SIGTERM", drain=True))
    assert in_a_line(fleet) == "draining: running requests finish; 1 of 2 ranks, 1 of 1 API servers serve"
    fleet.step(events.StopRequested(4.0, "SIGTERM", drain=True))
    assert in_a_line(fleet) == "stopping: 4 processes to end"


def test_a_rank_that_an_operator_sent_away_is_not_missed() -> None:
    fleet = a_fleet()
    for place in PLACES:
        serve(fleet, place)
    fleet.step(events.Leave(2.0, (RankId(0),), events.AfterLeaving.GONE, 0.0))
    fleet.step(events.Exited(3.0, id_of(PLACES[1]), 0))
    assert in_a_line(fleet) == "serves: 1 of 1 ranks, 1 of 1 API servers"


def test_a_failure_is_told_in_its_own_words() -> None:
    fleet = a_fleet()
    fleet.step(events.LaunchFailed(1.0, id_of(PLACES[1]), "there is no such program"))
    assert in_a_line(fleet) == "engine 0 could not be started: there is no such program"


def test_patience_is_asked_for_until_the_service_would_have_given_up_itself() -> None:
    fleet = a_fleet(at=100.0)
    longest_end = 60.0
    first = patience_of(fleet, 100.0)
    assert first is not None
    assert 10.0 + 2.0 < first < 10.0 + longest_end
    assert patience_of(fleet, 104.0) == pytest.approx(first - 4.0)
    for place in PLACES:
        serve(fleet, place, at=101.0)
    assert patience_of(fleet, 102.0) is None, "a service that serves needs none"


def test_a_fleet_whose_tick_is_not_taken_is_overdue() -> None:
    fleet = a_fleet(at=100.0)
    deadline = fleet.next_deadline()
    assert deadline == 110.0
    assert not overdue(fleet, 109.0)
    assert not overdue(fleet, deadline + LATE / 2)
    assert overdue(fleet, deadline + LATE * 2)
    fleet.step(events.Tick(deadline + LATE * 2))
    assert not overdue(fleet, deadline + LATE * 2)


def test_the_variables_leave_the_environment_and_a_watchdog_may_be_meant_for_another() -> None:
    pid = str(os.getpid())
    environment = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "2500000", "WATCHDOG_PID": pid, "HOME": "/"}
    assert Manager.of(environment) == Manager("@x", 2.5)
    assert environment == {"HOME": "/"}
    assert Manager.of({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "1"}) == Manager("/x")
    assert Manager.of({"WATCHDOG_USEC": "2500000"}) is None
    for variables, words in (({"NOTIFY_SOCKET": "x"}, "neither"), ({"WATCHDOG_USEC": "0"}, "above 0")):
        with pytest.raises(ValueError, match=words):
            Manager.of({"NOTIFY_SOCKET": "@x", **variables})


def test_a_manager_that_does_not_listen_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier(str(tmp_path / "nobody"))
    notifier.tell(READY="1")
    notifier.tell(STATUS="serves")
    notifier.close()
    assert [record.message for record in caplog.records] == [
        f"the service manager at {tmp_path / 'nobody'} does not listen: No such file or directory"
    ]


class Told:
    """A service manager that reads when it is asked to."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.setblocking(False)

    def now(self) -> dict[str, str]:
        """All that has been said since the last call; of each name the last."""
        told: dict[str, str] = {}
        with contextlib.suppress(BlockingIOError):
            while True:
                told |= dict(line.split("=", 1) for line in self._socket.recv(65536).decode().split("\n"))
        return told

    async def until(self, name: str) -> dict[str, str]:
        told = self.now()
        async with asyncio.timeout(DEADLINE):
            while name not in told:
                await asyncio.sleep(0.005)
                told |= self.now()
        return told

    def close(self) -> None:
        self._socket.close()


def test_nothing_is_lost_on_a_manager_that_reads_slowly(tmp_path: Path) -> None:
    async def overflow() -> dict[str, str]:
        with contextlib.closing(Told(tmp_path)) as manager, contextlib.closing(Notifier(manager.address)) as notifier:
            for number in range(2000):
                notifier.tell(STATUS=f"line {number}\nof it")
            notifier.tell(READY="1")
            return await manager.until("READY")

    assert asyncio.run(overflow()) == {"STATUS": "line 1999 of it", "READY": "1"}


class Picture:
    def changed(self, fleet: Fleet) -> None: ...
    def printed(self, place: Place, line: str) -> None: ...
    def ready(self, fleet: Fleet, urls: list[str]) -> None: ...


def test_the_watchdog_is_fed_only_while_ticks_are_taken(tmp_path: Path) -> None:
    async def live() -> tuple[dict[str, str], dict[str, str]]:
        with contextlib.closing(Told(tmp_path)) as manager:
            notifications = Notifications(Manager(manager.address, 0.2), Picture())
            with contextlib.closing(notifications):
                fleet = a_fleet(at=running_time.now() - 100.0)
                notifications.changed(fleet)
                at_first = manager.now()
                fleet.step(events.Tick(running_time.now()))
                return at_first, await manager.until("WATCHDOG")

    at_first, later = asyncio.run(live())
    assert "STATUS" in at_first
    assert "WATCHDOG" not in at_first
    assert later["WATCHDOG"] == "1"
