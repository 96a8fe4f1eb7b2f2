"""How orders for drills are read."""

import pytest

from phalanx.engine.drills import Drill, Drills, parse
from phalanx.protocol import StartupStage


@pytest.mark.parametrize(
    ("setting", "drill"),
    [
        ("WEIGHTS=2.5", Drill(None, StartupStage.WEIGHTS, "wait", 2.5)),
        ("weights=hang", Drill(None, StartupStage.WEIGHTS, "hang", 0)),
        ("3:warm-up=exit", Drill(3, StartupStage.WARM_UP, "exit", 0)),
        ("0:WARM_UP=raise", Drill(0, StartupStage.WARM_UP, "raise", 0)),
        ("12:ready=abort", Drill(12, StartupStage.READY, "abort", 0)),
        ("imported=0", Drill(None, StartupStage.IMPORTED, "wait", 0)),
        ("3.2:cache=raise", Drill(3, StartupStage.CACHE, "raise", 0, worker=2)),
        ("3.0:cache=raise", Drill(3, StartupStage.CACHE, "raise", 0, worker=0)),
    ],
)
def test_an_order_names_a_stage_what_to_do_and_perhaps_a_rank(setting: str, drill: Drill) -> None:
    assert parse(setting) == drill


@pytest.mark.parametrize(
    "setting",
    [
        *("", "weights", "=hang", "lunch=hang", "x:weights=hang", "-1:weights=hang", "1:2:weights=hang"),
        *("1.:weights=hang", ".1:weights=hang", "1.x:weights=hang", "1.2.3:weights=hang"),
    ],
)
def test_an_order_for_no_known_stage_or_rank_is_refused_with_those_there_are(setting: str) -> None:
    with pytest.raises(
        ValueError, match=r"STAGE is one of started, imported, weights, cache, warm-up, attached, ready"
    ):
        parse(setting)


@pytest.mark.parametrize("action", ["", "explode", "-1", "nan", "inf", "1s"])
def test_an_order_for_no_known_action_is_refused_with_those_there_are(action: str) -> None:
    with pytest.raises(ValueError, match=r"STAGE=hang\|exit\|raise\|abort"):
        parse(f"weights={action}")


def test_an_order_is_carried_out_once() -> None:
    told: list[float | None] = []
    drills = Drills(("weights=0.001", "1:weights=raise", "cache=0.001"), rank=0)
    for _ in range(2):
        drills.enter(StartupStage.WEIGHTS, lambda stage, share, detail: told.append(share))
    assert len(told) == 1
