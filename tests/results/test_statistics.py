"""Statistics of looked-at gradients: planted powers and slopes come out of records again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import synthetic_lb

from repro.errors import ReproError
from repro.results import statistics
from repro.running.gradients import describe

RUN = "lb-gradients-vgg11"


@pytest.mark.parametrize("exponent", [-1.0, -0.5, 0.0])
def test_the_exponent_of_the_noise_is_the_planted_one(exponent: float) -> None:
    record = synthetic_lb.gradients(RUN, 1, noise_exponent=exponent)
    assert statistics.noise_exponent(record) == pytest.approx(exponent, abs=0.02)


def test_growth_is_per_doubling_and_the_mean_over_steps() -> None:
    record = synthetic_lb.gradients(RUN, 1)
    assert statistics.largest_share_growth(record) == pytest.approx(0.01, abs=1e-3)
    assert statistics.agreement_growth(record) == pytest.approx(0.08, abs=1e-3)
    steps = [step for step in sorted({row["step"] for row in record.rows})]
    flat = [row | ({"top_share": 0.2} if row["step"] == steps[0] else {}) for row in record.rows]
    assert statistics.largest_share_growth(replace(record, rows=flat)) == pytest.approx(0.01 * 2 / 3, abs=1e-3)


def test_gaussian_gradients_give_minus_one() -> None:
    """End to end with what a run writes: vectors of mean m and variance 1 / b."""
    import torch

    random, rows = torch.Generator().manual_seed(3), []
    for batch in (32, 64, 128, 256):
        mean = torch.linspace(-1, 1, 4000, dtype=torch.float64)
        noise = torch.randn(40, 4000, generator=random, dtype=torch.float64) / batch**0.5
        rows.append({"step": 1, "batch": batch, "repetitions": 40, **describe(list(mean + noise))})
    record = replace(synthetic_lb.gradients(RUN, 1), rows=rows)
    assert statistics.noise_exponent(record) == pytest.approx(-1, abs=0.01)
    assert statistics.agreement_growth(record) > 0
    assert np.all(np.diff([row["cosine"] for row in rows]) > 0)


def test_a_record_of_another_kind_is_refused() -> None:
    with pytest.raises(ReproError, match="kind measure has no gradients"):
        statistics.noise_exponent(synthetic_lb.record())
