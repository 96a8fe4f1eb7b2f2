"""Threads of a rank: what the option says, or its part of the CPUs, none of which is left idle."""

import pytest

from phalanx.config import EngineOptions
from phalanx.engine import threads
from phalanx.engine.threads import threads_of
from phalanx.protocol import Share


@pytest.mark.parametrize(("cpus", "ranks", "expected"), [(8, 1, [8]), (8, 3, [3, 3, 2]), (2, 3, [1, 1, 1])])
def test_ranks_of_a_machine_divide_all_its_cpus(
    cpus: int, ranks: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "usable_cpus", lambda: cpus)
    assert [threads_of(Share(9, ranks, place), EngineOptions()) for place in range(ranks)] == expected


def test_the_option_decides_whatever_the_share() -> None:
    assert threads_of(Share(4, 4, 0), EngineOptions(cpu_threads=5)) == 5
