"""Fits against closed forms: what a model can express it finds exactly, and held-out errors are those of a refit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.errors import ReproError
from repro.results import fits

SIZES = np.array([1, 32, 64, 128, 256, 512, 1024])


@given(st.floats(0.1, 10), st.floats(0.001, 10))
def test_every_fit_finds_a_line_exactly(intercept: float, slope: float) -> None:
    cost = intercept + slope * SIZES
    for name, fit in fits.FITS.items():
        assert np.max(fits.errors(fit(SIZES, cost), SIZES, cost)) < 1e-9, name
        assert np.max(fits.held_out(fit, SIZES, cost)) < 1e-6, name


def test_two_probes_are_enough_for_the_extremes() -> None:
    line = fits.extremes([1, 1024], [3.0, 2049.0])
    assert (line.slope, line.intercept) == (2.0, 1.0)
    bent = np.array([3.0, 1000.0, 2049.0])
    assert fits.extremes([1, 32, 1024], bent) == line


def test_least_squares_is_numpys() -> None:
    cost = SIZES**1.2 + 5
    slope, intercept = np.polyfit(SIZES, cost, 1)
    line = fits.least_squares(SIZES, cost)
    assert np.allclose([line.slope, line.intercept], [slope, intercept])


def test_order_of_the_sizes_does_not_matter() -> None:
    cost, shuffled = SIZES**1.1, np.random.default_rng(0).permutation(len(SIZES))
    for fit in fits.FITS.values():
        assert [fit(SIZES, cost)(x) for x in (1, 100, 2000)] == pytest.approx(
            [fit(SIZES[shuffled], cost[shuffled])(x) for x in (1, 100, 2000)]
        )


def test_a_roofline_finds_its_floor_and_its_line_where_a_line_cannot() -> None:
    cost = np.maximum(100.0, 20 + 1.5 * SIZES)
    model = fits.roofline(SIZES, cost)
    assert (model.floor, model.intercept, model.slope) == pytest.approx((100, 20, 1.5))
    assert np.max(fits.errors(fits.least_squares(SIZES, cost), SIZES, cost)) > 0.2


def test_without_a_floor_a_roofline_is_the_relative_line() -> None:
    cost = 5 + 2.0 * SIZES
    model, line = fits.roofline(SIZES, cost), fits.relative(SIZES, cost)
    assert [model(x) for x in SIZES] == pytest.approx([line(x) for x in SIZES])


def test_held_out_errors_are_those_of_a_fit_that_has_not_seen_the_size() -> None:
    cost = SIZES**1.3
    found = fits.held_out(fits.least_squares, SIZES, cost)
    without = fits.least_squares(SIZES[:-1], cost[:-1])
    assert found[-1] == pytest.approx(abs(without(1024) - cost[-1]) / cost[-1])
    assert found[-1] > fits.errors(fits.least_squares(SIZES, cost), SIZES, cost)[-1]


@pytest.mark.parametrize(("x", "y"), [([1], [1.0]), ([3, 3], [1.0, 2.0]), ([1, 2], [1.0]), ([1, 2], [1.0, np.nan])])
def test_too_few_or_broken_costs_are_one_line(x: list[int], y: list[float]) -> None:
    with pytest.raises(ReproError, match="measure more batch sizes"):
        fits.extremes(x, y)


def test_a_relative_error_of_nothing_is_refused() -> None:
    with pytest.raises(ReproError, match="costs above 0 were expected"):
        fits.relative([1, 2], [0.0, 1.0])
