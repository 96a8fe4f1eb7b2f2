"""The seed alone decides which requests are made and which faults happen when, to whom and for how long."""

import itertools
from collections import Counter

import pytest

from phalanx.chaos.request_set import request_set
from phalanx.chaos.schedule import LONG, Fault, Kind, schedule


def faults(seed: int, count: int, *kinds: Kind, every: float = 5.0) -> list[Fault]:
    return list(itertools.islice(schedule(seed, kinds or list(Kind), every, 4.0), count))


def test_the_same_seed_gives_the_same_faults_and_requests_and_another_seed_others() -> None:
    assert faults(1, 100) == faults(1, 100)
    assert faults(1, 100) != faults(2, 100)
    assert request_set(1, 64) == request_set(1, 64)
    assert request_set(1, 64) != request_set(2, 64)


def test_the_order_in_which_kinds_are_named_does_not_matter() -> None:
    assert faults(1, 20, Kind.FLOOD, Kind.CUT_LINK) == faults(1, 20, Kind.CUT_LINK, Kind.FLOOD, Kind.CUT_LINK)


def test_every_kind_comes_once_a_round() -> None:
    kinds = len(Kind)
    for start in range(0, 10 * kinds, kinds):
        assert Counter(fault.kind for fault in faults(3, 10 * kinds)[start : start + kinds]) == Counter(Kind)
    assert {fault.kind for fault in faults(3, 40, Kind.FLOOD, Kind.CUT_LINK)} == {Kind.FLOOD, Kind.CUT_LINK}


def test_faults_are_as_far_apart_as_asked_for() -> None:
    found = faults(4, 2000, every=3.0)
    assert found[-1].at / len(found) == pytest.approx(3.0, rel=0.05)
    assert all(0 < later.at - earlier.at <= 4.5 for earlier, later in itertools.pairwise(found))


def test_a_process_is_stopped_for_less_or_for_more_than_the_step_timeout() -> None:
    lengths = [fault.seconds for fault in faults(5, 200, Kind.STOP_RANK, Kind.STOP_API_SERVER)]
    assert min(lengths) < 4.0 * 0.5
    assert max(lengths) > 4.0 * LONG[0]
    assert not [length for length in lengths if 4.0 * 0.5 < length < 4.0 * LONG[0]]


def test_targets_are_spread_over_all_there_are() -> None:
    assert {fault.pick(3) for fault in faults(6, 100)} == {0, 1, 2}


def test_requests_are_of_every_mix() -> None:
    requests = request_set(7, 64)
    assert len({str(request) for request in requests}) == 64
    mixes = {(request.path, request.streamed, bool(request.body["temperature"])) for request in requests}
    assert len(mixes) == 8
    for field in ("stop", "logprobs", "n", "ignore_eos"):
        assert 0 < sum(field in request.body for request in requests) < 64
    assert 0 < sum(request.long for request in requests) < 64
    # What is not given a seed draws one, and is another text each time.
    assert all("seed" in request.body for request in requests)
