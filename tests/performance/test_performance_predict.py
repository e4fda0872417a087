"""What follows from costs: budgets at their edges, Eq. 2, and shares of unequal devices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.errors import ReproError
from repro.results import batch_costs
from repro.results.fits import Line


@given(st.integers(1, 10**6), st.integers(1, 10**4), st.integers(1, 5000))
def test_the_largest_batch_fits_and_one_image_more_does_not(intercept: int, slope: int, batch: int) -> None:
    memory = Line(intercept, slope)
    for budget in (memory(batch), memory(batch + 1) - 1e-6 * slope):
        found = batch_costs.largest_batch(memory, budget)
        assert memory(found) <= budget < memory(found + 1)
        assert found == batch


def test_a_budget_below_one_image_is_one_line() -> None:
    with pytest.raises(ReproError, match="one image already needs"):
        batch_costs.largest_batch(Line(100, 10), 109)
    with pytest.raises(ReproError, match="probe larger batches"):
        batch_costs.largest_batch(Line(100, -1), 10**6)


def test_the_fastest_batch_and_the_smallest_that_noise_cannot_tell_from_it() -> None:
    steps = {1: 1.0, 32: 1.0, 64: 1.02, 128: 2.0, 256: 4.2}  # 64 images a second at best
    assert batch_costs.fastest_batch(steps, noise=0.0)[::2] == (128, 128)
    assert batch_costs.fastest_batch(steps, noise=0.03)[::2] == (128, 64)
    with pytest.raises(ReproError, match="probe first"):
        batch_costs.fastest_batch({}, 0.0)


def test_an_epoch_of_equal_steps_takes_steps_times_as_long() -> None:
    assert batch_costs.epoch_seconds([0.5], 1000, 300).tolist() == [2.0] * 200
    drawn = batch_costs.epoch_seconds([1.0, 3.0], 6400, 64)
    assert np.mean(drawn) == pytest.approx(200, rel=0.02)
    assert np.array_equal(drawn, batch_costs.epoch_seconds([1.0, 3.0], 6400, 64))


def test_blocks_that_differ_make_epochs_that_differ() -> None:
    """A drift between blocks does not average away over the steps of an epoch."""
    drawn = batch_costs.epoch_seconds([[1.0, 1.0], [3.0, 3.0]], 6400, 64)
    assert set(drawn) == {100.0, 300.0}


@given(st.floats(0, 10), st.floats(0, 10), st.floats(0, 100), st.integers(1, 50))
def test_the_mean_of_equation_2_is_that_of_its_steps(c: float, m: float, s: float, every: int) -> None:
    steps = [batch_costs.step_seconds(c, m, s, i, every) for i in range(3 * every)]
    assert np.mean(steps) == pytest.approx(batch_costs.mean_step_seconds(c, m, s, every))
    assert sum(step > c + m for step in steps) == (3 if c + m + s > c + m else 0)


@given(st.lists(st.floats(0.05, 20), min_size=1, max_size=12), st.integers(12, 3000))
def test_shares_are_whole_positive_and_complete(speeds: list[float], batch: int) -> None:
    for shares in (
        batch_costs.proportional_shares(batch, speeds),
        batch_costs.uniform_shares(batch, len(speeds)),
        batch_costs.equalising_shares(batch, speeds, lambda b: 0.1 + 0.01 * b),
    ):
        assert sum(shares) == batch
        assert min(shares) >= 1


def test_proportional_shares_equalise_where_time_is_proportional() -> None:
    speeds, cost = [4.0, 2.0, 2.0], Line(0.0, 0.01)
    shares = batch_costs.proportional_shares(800, speeds)
    assert shares == [400, 200, 200] == batch_costs.equalising_shares(800, speeds, cost)
    assert batch_costs.round_seconds(shares, speeds, cost) == pytest.approx(1.0)
    assert batch_costs.round_seconds(batch_costs.uniform_shares(800, 3), speeds, cost) == pytest.approx(
        267 * 0.01 / 2, rel=0.01
    )


@given(st.lists(st.floats(0.1, 5), min_size=2, max_size=4), st.integers(6, 20), st.floats(0, 1), st.floats(0.001, 1))
def test_no_way_to_share_beats_the_equalising_one(speeds: list[float], batch: int, fixed: float, each: float) -> None:
    cost, devices = Line(fixed, each), len(speeds)

    def ways(left: int, count: int) -> list[list[int]]:
        if count == 1:
            return [[left]]
        return [[k, *rest] for k in range(1, left - count + 2) for rest in ways(left - k, count - 1)]

    best = min(batch_costs.round_seconds(way, speeds, cost) for way in ways(batch, devices))
    found = batch_costs.equalising_shares(batch, speeds, cost)
    assert batch_costs.round_seconds(found, speeds, cost) == pytest.approx(best)


@pytest.mark.parametrize(("speeds", "batch"), [([], 10), ([1.0, 0.0], 10), ([1.0, float("inf")], 10), ([1.0] * 3, 2)])
def test_impossible_devices_are_one_line(speeds: list[float], batch: int) -> None:
    with pytest.raises(ReproError, match="expected"):
        batch_costs.proportional_shares(batch, speeds)
