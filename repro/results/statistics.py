"""Numbers that the record of one run gives besides its accuracy, by name: what rules of the kind ``statistic`` read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from repro.errors import ReproError
from repro.results import teachers
from repro.results.records import Record


def _by_batch(record: Record) -> list[Sequence[Mapping[str, Any]]]:
    """The rows of a look at gradients, one list for each step at which they were looked at."""
    if record.kind != "gradients":
        raise ReproError(
            f"record {record.run}.s{record.seed}: kind {record.kind} has no gradients; a record of kind gradients was "
            "expected; name another run"
        )
    steps = sorted({row["step"] for row in record.rows})
    return [[row for row in record.rows if row["step"] == step] for step in steps]


def _mean_slope(record: Record, value: Callable[[Mapping[str, Any]], float]) -> float:
    """Slope of ``value`` over log2 of the batch by least squares, mean over the steps that were looked at."""
    slopes = [
        np.polyfit(np.log2([row["batch"] for row in rows]), [value(row) for row in rows], 1)[0]
        for rows in _by_batch(record)
    ]
    return float(np.mean(slopes))


def noise_exponent(record: Record) -> float:
    """Exponent p of noise ~ b^p, the noise being the trace of the covariance of gradients of b images (Eq. 4: -1)."""
    return _mean_slope(record, lambda row: float(np.log2(row["noise"])))


def agreement_growth(record: Record) -> float:
    """Growth, with twice the batch, of the cosine between a gradient and the mean of the others of its size.

    The cosine is that of signal to signal with noise: it is 0 where all is noise, and 1 where all is signal.
    """
    return _mean_slope(record, lambda row: row["cosine"])


def largest_share_growth(record: Record) -> float:
    """Growth, with twice the batch, of the share of a gradient's squared norm in its largest 0.1 % (a fraction)."""
    return _mean_slope(record, lambda row: row["top_share"])


class Statistic(NamedTuple):
    """How a number is read from one record, and how it is said.

    Attributes:
        read: the number of one record.
        called: what it is, for readers.
        unit: of the number.
    """

    read: Callable[[Record], float]
    called: str
    unit: str


STATISTICS: dict[str, Statistic] = {
    "noise_exponent": Statistic(noise_exponent, "noise over the batch", "as exponent"),
    "agreement_growth": Statistic(agreement_growth, "cosine between gradients", "per doubling"),
    "largest_share_growth": Statistic(largest_share_growth, "share of the largest 0.1 %", "per doubling"),
    **{name: Statistic(read, "R² beyond the identity's", "points") for name, read in teachers.GAINS.items()},
}
