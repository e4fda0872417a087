"""Means with 95 % Student-t intervals over seeds, as numbers and in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from repro.registry.labels import number
from repro.report.selection import ends
from repro.results.records import Record
from repro.verdicts.rules import paired_interval

Interval = Callable[[Sequence[float] | np.ndarray], tuple[float, float, float]]


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Mean and 95 % Student-t bounds; with fewer than two values the bounds are NaN."""
    if len(values) < 2:
        return float(values[0]), float("nan"), float("nan")
    mean, low, high, _ = paired_interval([float(v) for v in values])
    return mean, low, high


def bounded(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """``interval`` of values in percent, cut at 0 and 100, beyond which an interval of few seeds can reach.

    >>> [round(value, 1) for value in bounded([1.0, 9.0])]
    [5.0, 0.0, 55.8]
    """
    mean, low, high = np.clip(interval(values), 0.0, 100.0).tolist()
    return mean, low, high


def intervals(values: np.ndarray, of: Interval = interval) -> np.ndarray:
    """(3, m) mean and bounds of each column of ``values``, (n, m) with a row a seed; ``of``: one column's."""
    return np.array([of(column) for column in values.T]).T


def with_interval(values: Sequence[float], digits: int = 1, of: Interval = bounded) -> str:
    """``mean [low, high]`` of values in percent; ``of``: ``interval`` for what may lie below 0 or above 100."""
    if not len(values):
        return "no number"
    mean, low, high = (number(value, digits) for value in of(values))
    return f"{mean} [{low}, {high}]" if len(values) > 1 else f"{mean} (one seed)"


def points(differences: Sequence[float]) -> str:
    """Mean of paired differences in percentage points, with its interval where there is one."""
    if not differences:
        return "no paired seeds"
    mean, *bounds = (number(value, 1) for value in interval(differences))
    return f"{mean} points" + (f" [{', '.join(bounds)}]" if len(differences) > 1 else "")


def change(before: Sequence[Record], after: Sequence[Record]) -> str:
    """Difference in final accuracy between two runs over the seeds that both have, in percentage points."""
    a, b = ends(before), ends(after)
    return points([b[seed] - a[seed] for seed in a if seed in b])
