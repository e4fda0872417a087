"""Repeated intervals: the stored multipliers, their joint error, and p values."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest

from repro.errors import ReproError
from repro.results import looks

PATHS = 1_000_000


def test_a_second_simulation_gives_the_stored_multipliers():
    levels = [0.5, 0.05, 0.01]
    again = looks.simulate(levels, PATHS, seed=3)
    stored = json.loads(looks.TABLE.read_text())
    for alpha, row in zip(levels, again, strict=True):
        assert row == pytest.approx(stored["multipliers"][stored["alphas"].index(alpha)], rel=0.01)


def test_the_table_has_every_level_that_holm_asks_for_and_falls_with_it():
    stored = json.loads(looks.TABLE.read_text())
    assert stored["alphas"] == looks.alphas()
    assert {float(f"{0.05 / k:.6g}") for k in range(1, 13)} <= set(stored["alphas"])
    assert (min(stored["alphas"]), max(stored["alphas"])) == (looks.LEAST_ALPHA, 0.5)
    rows = np.array(stored["multipliers"])
    assert (np.diff(rows, axis=0) > 0).all(), "a smaller level needs a wider interval"
    assert (np.diff(rows, axis=1) < 0).all(), "more seeds need a smaller multiplier"


def test_the_first_look_is_students_t_at_the_level_spent_there():
    for alpha in (0.5, 0.05, 0.0001):
        assert looks.multiplier(5, alpha) == pytest.approx(looks.student(5, looks.spent(alpha, 5)), abs=1e-3)
    assert looks.spent(0.05, 12) == pytest.approx(0.05), "all of it is spent at the last look"


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 7, 0.3])
def test_stopping_at_the_first_rejection_errs_as_often_as_it_says(alpha):
    found = looks.statistics(PATHS, seed=5)
    rejected = np.any([row > looks.multiplier(n, alpha) for row, n in zip(found, looks.LOOKS, strict=True)], axis=0)
    error = math.sqrt(alpha * (1 - alpha) / PATHS)
    assert rejected.mean() == pytest.approx(alpha, abs=5 * error + 0.003 * alpha)


def test_looking_three_times_with_ordinary_intervals_errs_twice_as_often():
    found = looks.statistics(200_000, seed=5)
    rejected = np.any([row > looks.student(n) for row, n in zip(found, looks.LOOKS, strict=True)], axis=0)
    assert 0.10 < rejected.mean() < 0.14


def test_levels_between_those_of_the_table_are_interpolated():
    between = [looks.multiplier(8, alpha) for alpha in np.geomspace(0.05, 0.0001, 200)]
    assert all(a <= b for a, b in pairwise(between))


@pytest.mark.parametrize(("n", "alpha"), [(6, 0.05), (12, 0.9), (12, 1e-6)])
def test_what_the_table_does_not_hold_is_an_error(n, alpha):
    with pytest.raises(ReproError, match=r"expected|outside the table"):
        looks.multiplier(n, alpha)


def test_too_few_paths_are_an_error():
    with pytest.raises(ReproError, match="too few for a level"):
        looks.simulate([0.0001], 1000)


def test_the_looks_reached():
    assert [looks.reached(n) for n in (4, 5, 11, 12, 30)] == [[], [5], [5, 8], [5, 8, 12], [5, 8, 12]]


@pytest.mark.parametrize("level", [0.04, 0.003, 0.0002])
def test_the_smallest_level_is_that_at_which_the_decision_turns(level):
    assert looks.smallest_alpha(lambda alpha: alpha >= level) == pytest.approx(level, rel=1e-4)


def test_a_decision_below_the_table_gets_its_end():
    assert looks.smallest_alpha(lambda alpha: True) == looks.LEAST_ALPHA
