"""The table of power: what is stored is what is simulated, and it has the edges that it must have."""

from __future__ import annotations

import pytest
from scipy.stats import nct

from repro.errors import ReproError
from repro.results import looks
from repro.verdicts import power


def test_the_stored_table_is_simulated_from_todays_multipliers() -> None:
    stored = power.load()
    assert (stored["looks"], stored["effects"]) == (list(looks.LOOKS), list(power.EFFECTS))
    for effect, row in zip(stored["effects"], stored["power"], strict=True):
        assert power.simulate(effect, paths=40_000, seed=7) == pytest.approx(row, abs=0.012)


@pytest.mark.parametrize("effect", power.EFFECTS)
def test_power_at_the_first_look_is_that_of_the_noncentral_t(effect: float) -> None:
    row = power.load()["power"][power.EFFECTS.index(effect)]
    n = looks.LOOKS[0]
    exact = nct.sf(looks.multiplier(n), n - 1, effect * n**0.5)
    assert row[0] == pytest.approx(exact, abs=0.003)
    assert row == sorted(row)


def test_without_an_effect_half_of_the_error_is_on_this_side() -> None:
    assert power.simulate(0.0, paths=400_000)[-1] == pytest.approx(looks.ALPHA / 2, abs=0.002)


def test_a_missing_table_is_one_line(tmp_path) -> None:
    with pytest.raises(ReproError, match=r"power\.json: missing"):
        power.load(tmp_path)
