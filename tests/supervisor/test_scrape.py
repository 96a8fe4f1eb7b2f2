"""What API servers have counted stays in the service's sums when they are gone."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from phalanx.protocol import (
    ChildId,
    Incarnation,
    MetricsGathered,
    MetricsReport,
    MetricsRequest,
    Place,
    Role,
)
from phalanx.supervisor import events
from phalanx.supervisor.fleet import Fleet
from phalanx.supervisor.fleet_limits import FleetLimits
from phalanx.supervisor.scrape import Scrapes, restarts

FLEET = Fleet.of(
    [Place(Role.API, 0), Place(Role.API, 1), Place(Role.ENGINE, 0)], FleetLimits(startup=9.0, shutdown=9.0)
)
Sent = list[tuple[int, MetricsRequest | MetricsGathered]]


def scraping(act: Callable[[Scrapes, Sent], Coroutine[Any, Any, None]], timeout: float = 60.0) -> MetricsGathered:
    """The answer that API server 0 gets under number 7."""

    async def run() -> MetricsGathered:
        sent: Sent = []
        answered = asyncio.Event()

        def send(index: int, message: MetricsRequest | MetricsGathered) -> None:
            sent.append((index, message))
            if isinstance(message, MetricsGathered):
                answered.set()

        scrapes = Scrapes(send, timeout)
        await act(scrapes, sent)
        await answered.wait()
        ((to, answer),) = [each for each in sent if isinstance(each[1], MetricsGathered)]
        assert isinstance(answer, MetricsGathered)
        assert (to, answer.query) == (0, 7)
        return answer

    return asyncio.run(run())


def request_to(index: int, sent: Sent) -> int:
    (request,) = [message for to, message in sent if to == index and isinstance(message, MetricsRequest)]
    return request.query


def test_a_sibling_that_lives_is_asked_and_what_it_said_before_is_not_told_as_well() -> None:
    async def act(scrapes: Scrapes, sent: Sent) -> None:
        scrapes.report(1, MetricsReport(None, b"before"))
        scrapes.query(0, 7, [1], FLEET)
        scrapes.report(1, MetricsReport(request_to(1, sent), b"now"))
        assert scrapes.counted(1) == b"now"

    answer = scraping(act)
    assert (answer.samples, answer.kept) == ((b"now",), ())


def test_one_that_dies_while_it_is_asked_counts_with_what_it_last_said() -> None:
    async def act(scrapes: Scrapes, sent: Sent) -> None:
        scrapes.report(1, MetricsReport(None, b"before"))
        scrapes.query(0, 7, [1], FLEET)
        scrapes.gone(1)

    answer = scraping(act)
    assert (answer.samples, answer.kept) == ((), (b"before",))


def test_one_that_is_stuck_counts_with_what_it_last_said() -> None:
    async def act(scrapes: Scrapes, sent: Sent) -> None:
        scrapes.report(2, MetricsReport(None, b"stuck"))
        scrapes.query(0, 7, [1, 2], FLEET)
        scrapes.report(1, MetricsReport(request_to(1, sent), b"now"))

    answer = scraping(act, timeout=0.01)
    assert (answer.samples, answer.kept) == ((b"now",), (b"stuck",))


def test_one_that_is_gone_for_good_counts_on_and_the_asker_itself_is_not_told_twice() -> None:
    async def act(scrapes: Scrapes, sent: Sent) -> None:
        scrapes.report(0, MetricsReport(None, b"own"))
        scrapes.report(1, MetricsReport(None, b"gone"))
        scrapes.query(0, 7, [], FLEET)
        assert scrapes.counted(2) == b""

    answer = scraping(act)
    assert (answer.samples, answer.kept) == ((), (b"gone",))
    assert answer.rank_restarts == {0: 0}
    assert answer.api_server_restarts == {0: 0, 1: 0}


def test_restarts_after_falls_are_counted_by_place() -> None:
    places = [Place(Role.API, 0), Place(Role.ENGINE, 0, 0), Place(Role.ENGINE, 0, 1), Place(Role.ENGINE, 1)]
    fleet = Fleet.of(places, FleetLimits(startup=9.0, shutdown=9.0, max_restarts=3))
    fleet.step(events.Begin(0.0))
    for place in places:
        child = ChildId(place, Incarnation(0))
        fleet.step(events.Launched(1.0, child, 7))
        fleet.step(events.Greeted(1.0, child))
        fleet.step(events.BecameReady(1.0, child, ""))
    fallen = ChildId(Place(Role.ENGINE, 1), Incarnation(0))
    for event in (
        events.Exited(2.0, fallen, 1),
        events.ControlEnded(2.0, fallen, "gone"),
        events.OutputEnded(2.0, fallen),
    ):
        fleet.step(event)
    assert restarts(fleet) == ({0: 0, 1: 1}, {0: 0})
