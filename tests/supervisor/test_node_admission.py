"""Which node may bring which ranks, and what the others are told."""

import pytest

from phalanx.protocol import NodeHello, Place, Role
from phalanx.supervisor.node_admission import objection

VERSION = "1.2"
LOCAL = [Place(Role.ENGINE, rank) for rank in range(4)]
EXPECTED = [Place(Role.ENGINE, rank) for rank in range(4, 12)]
HELD = dict.fromkeys(EXPECTED[:4], "blue (10.0.0.2)")


def says(
    *ranks: int, version: str = VERSION, serves: bool = False, open_for_more: bool = True, worker: int = 0
) -> str | None:
    places = tuple(Place(Role.ENGINE, rank, worker) for rank in ranks)
    hello = NodeHello("red", 7, version, places, serves)
    return objection(hello, VERSION, EXPECTED, LOCAL, HELD, open_for_more)


def test_a_node_that_brings_what_is_missing_is_welcome() -> None:
    assert says(8, 9, 10, 11) is None
    assert says(serves=True) is None


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (says(8, version="1.3"), "it runs phalanx 1.3, this service phalanx 1.2: install the same release on both"),
        (says(), "it brings nothing"),
        (says(8, 9, 8), "it names rank 8 twice"),
        (says(4, 5, 8), "ranks 4 and 5 joined already, from blue (10.0.0.2)"),
        (says(3), "the service's own machine runs rank 3; others may bring ranks 4 to 11"),
        (says(10, 11, 12), "this service has no rank 12; others may bring ranks 4 to 11"),
        (says(8, worker=1), "this service has no rank 8 tp 1"),
        (says(8, 9, 11, open_for_more=False), "it comes too late: the service is ending"),
    ],
)
def test_a_node_is_turned_away_with_its_reason(refusal: str, words: str) -> None:
    assert words in refusal
