"""Verdicts in worlds whose truth is planted: how often wrong where nothing differs, and right where it does."""

from __future__ import annotations

import math
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from test_claims import judge, statement, train

from repro.results.looks import FIRST_SEED, LOOKS
from repro.results.records import Record
from repro.verdicts import judge as claims
from repro.verdicts.rules import FAILS, HOLDS, NO_DIFFERENCE, OPEN

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import worlds

WORLDS = 400
SPREAD = 0.015
"""Standard deviation over seeds of the accuracy at the end, a fraction: 2.1 points of a paired difference."""
SIZES = {"a": 16, "b": 4, "c": 1}
STATEMENTS = {
    "order": statement("order", metric="end_top1", contrast={"a": 1, "b": -1}),
    "trend": statement("trend", metric="end_top1", runs=list(SIZES), against="log2_workers", direction="rising"),
    "equivalence": statement("equivalence", metric="end_top1", contrast={"a": 1, "b": -1}, margin=0.02),
    "bound": statement("bound", metric="end_top1", contrast={"a": 1, "b": -1}, at_most=0.02),
}


def world(generator: np.random.Generator, seeds: int, ahead: float, spread: float = SPREAD) -> list[Record]:
    """Records of three arms over the first ``seeds`` seeds of the plan; ``a`` ends ``ahead`` of the others."""
    made = []
    for run, workers in SIZES.items():
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            end = 0.5 + ahead * (run == "a") + spread * generator.standard_normal()
            made.append(train(run, seed, [end] * 4, workers=workers))
    return made


@cache
def outcomes(ahead: float, spread: float = SPREAD) -> dict[str, Counter[str]]:
    """How often each statement comes out how; a world stops growing at the look that decides."""
    generator = np.random.default_rng([7, round(1000 * ahead)])
    counts: dict[str, Counter[str]] = {name: Counter() for name in STATEMENTS}
    for _ in range(WORLDS):
        verdicts = judge(STATEMENTS.values(), world(generator, LOOKS[-1], ahead, spread))
        for name, verdict in zip(STATEMENTS, verdicts, strict=True):
            counts[name][verdict["parts"][0]["outcome"]] += 1
    return counts


def at_most(share: float) -> float:
    """``share`` of all worlds and four standard errors."""
    return WORLDS * share + 4 * math.sqrt(WORLDS * share * (1 - share))


@pytest.mark.parametrize("name", STATEMENTS)
def test_equal_arms_are_called_different_in_at_most_five_percent_of_worlds(name):
    found = outcomes(0.0)[name]
    wrong = (HOLDS, FAILS) if name in ("order", "trend") else (FAILS,)
    assert sum(found[outcome] for outcome in wrong) <= at_most(0.05)
    assert sum(found.values()) == WORLDS


def test_arms_at_the_margin_are_called_within_it_in_at_most_five_percent_of_worlds():
    found = outcomes(0.02)
    assert found["equivalence"][HOLDS] + found["equivalence"][FAILS] <= at_most(0.05)
    assert found["bound"][HOLDS] + found["bound"][FAILS] <= at_most(0.05)
    assert found["order"][NO_DIFFERENCE] <= at_most(0.025)


@pytest.mark.parametrize(
    ("name", "right"), [("order", HOLDS), ("trend", HOLDS), ("equivalence", FAILS), ("bound", FAILS)]
)
def test_a_difference_of_twice_the_margin_is_decided_right_in_most_worlds(name, right):
    spread = 0.015 / math.sqrt(2)  # 1.5 points of a paired difference, as the pilots have
    found = outcomes(0.04, spread)[name]
    assert found[right] >= 0.8 * WORLDS
    assert found[right] + found[OPEN] == WORLDS, "none is decided wrongly"


def test_equal_arms_with_little_spread_are_no_difference():
    found = outcomes(0.0, 0.005)
    assert found["order"][NO_DIFFERENCE] >= 0.9 * WORLDS
    assert found["equivalence"][HOLDS] >= 0.9 * WORLDS


@cache
def planted() -> list[tuple[worlds.Judged, str]]:
    """Every statement of the registry under the two planted truths, as the benchmark judges them."""
    chosen = worlds.planned_specs()
    return [(one, truth) for truth in worlds.RIGHT for one in worlds.judged(truth, chosen)[0]]


def test_the_benchmark_plants_what_it_says_by_twice_the_margin():
    checked = 0
    for one, truth in planted():
        for part in one.statement.judge["parts"]:
            if part["rule"] == "trend":  # its weights need the sizes of runs; the words below hold it
                continue
            number = sum(weight * one.planted[run] for run, weight in part["contrast"].items())
            assert any(low - 1e-9 <= number <= high + 1e-9 for low, high in worlds.limits_of(part, truth))
            checked += 1
    assert checked > 200


def test_without_spread_every_planted_truth_gets_its_word():
    chosen = worlds.planned_specs()
    generator = np.random.default_rng(0)
    wrong = []
    for one, truth in planted():
        needed = [spec for spec in chosen if spec.run in claims.runs_named(one.statement)]
        records = worlds.world(needed, one.planted, 1e-6, generator)
        word = claims.judge_all([one.statement], records, profile=worlds.PROFILE)[0]["verdict"]
        wrong += [(one.statement.id, truth, word)] * (not word.startswith(f"{worlds.RIGHT[truth]} at"))
    assert wrong == []
