"""The rule ``statistic``: a number of one run, at looks of 5, 8 and 12 seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import synthetic_lb

from repro.errors import ReproError
from repro.registry import published
from repro.registry.rule_models import OfStatistic
from repro.validation import fitting
from repro.verdicts import judge, rules

ROOT = Path(__file__).parents[2]
RUNS = ("lb-gradients-resnet50", "lb-gradients-vgg11")
SEEDS = (11, 12, 13, 14, 15)


def judged(statement: str, records: list[Any]) -> dict[str, Any]:
    (entry,) = (each for each in published.load_published(ROOT).statements if each.id == statement)
    return judge.judge_all([entry], records, profile="study")[0]


def world(seeds: tuple[int, ...] = SEEDS, **planted: float) -> list[Any]:
    return [synthetic_lb.gradients(run, seed, **planted) for run in RUNS for seed in seeds]


def test_planted_noise_of_one_over_b_holds_and_another_power_fails() -> None:
    assert judged("lb.c25", world())["verdict"] == "holds at study scale"
    fails = judged("lb.c25", world(noise_exponent=-0.6))
    assert fails["verdict"] == "fails at study scale"
    part = fails["parts"][0]
    assert part["outcome"] == rules.FAILS
    assert part["estimate"] == pytest.approx(-0.6, abs=0.02)
    assert part["reason"] == "the 95 % interval lies entirely outside -1 ± 0.1 as exponent"
    assert part["p"] < 0.05


def test_a_growing_share_holds_with_its_looks() -> None:
    verdict = judged("lb.c26", world((*SEEDS, 16, 17, 18)))
    assert verdict["verdict"] == "holds at study scale"
    assert [look["n"] for look in verdict["parts"][0]["looks"]] == [5, 8]
    assert verdict["parts"][0]["n"] == 5, "the earliest look that decides"


def test_fewer_seeds_than_the_first_look_decide_nothing() -> None:
    verdict = judged("lb.c25", world(SEEDS[:3]))
    assert verdict["verdict"] == rules.OPEN
    assert verdict["parts"][0]["reason"] == "3 of at least 5 seeds"


@pytest.mark.parametrize(
    "given",
    [{}, {"above": 0, "equals": 1, "tolerance": 0.1}, {"equals": 1}, {"tolerance": 0.1}, {"above": 0, "tolerance": 1}],
)
def test_a_part_asks_one_thing(given: dict[str, float]) -> None:
    part = {"rule": "statistic", "run": RUNS[0], "statistic": "noise_exponent", **given}
    with pytest.raises(ReproError, match="either above, or equals with a tolerance, was expected"):
        fitting(OfStatistic, part, "a rule")
