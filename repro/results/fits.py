"""Models of a cost y against the batch size B, and their errors. Plain numpy.

The paper fits a line (sections III-A, figures 4b and 5). Of the batch memory it says "briefly running over extreme
batch-sizes", of the compute time that the line is fitted "over the compute times logged for different batches": two
fits, both of which are given here for both quantities. A processor needs a least time for a step, below which a
smaller batch gains nothing; the roofline has such a floor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repro.errors import ReproError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """y = intercept + slope B.

    >>> Line(1.0, 2.0)(3)
    7.0
    """

    intercept: float
    slope: float

    def __call__(self, batch: float) -> float:
        """The cost of a batch of this size."""
        return self.intercept + self.slope * batch


@dataclass(frozen=True)
class Roofline:
    """y = max(floor, intercept + slope B): below some batch size a step takes the same time.

    >>> model = Roofline(5.0, 1.0, 2.0)
    >>> model(1), model(3)
    (5.0, 7.0)
    """

    floor: float
    intercept: float
    slope: float

    def __call__(self, batch: float) -> float:
        """The cost of a batch of this size."""
        return max(self.floor, self.intercept + self.slope * batch)


@dataclass(frozen=True)
class Between:
    """Straight lines from each measured size to the next; the outer ones go on beyond the ends.

    >>> Between((1.0, 2.0, 4.0), (1.0, 3.0, 3.0))(1.5), Between((1.0, 2.0), (1.0, 3.0))(3)
    (2.0, 5.0)
    """

    batches: tuple[float, ...]
    costs: tuple[float, ...]

    def __call__(self, batch: float) -> float:
        """The cost of a batch of this size."""
        right = int(np.clip(np.searchsorted(self.batches, batch), 1, len(self.batches) - 1))
        x, y = self.batches[right - 1 : right + 1], self.costs[right - 1 : right + 1]
        return float(y[0] + (y[1] - y[0]) * (batch - x[0]) / (x[1] - x[0]))


Model = Line | Roofline | Between


def _points(batches: ArrayLike, costs: ArrayLike, least: int) -> tuple[Array, Array]:
    """Both as arrays in ascending order of the batch size."""
    x, y = np.asarray(batches, float), np.asarray(costs, float)
    if x.shape != y.shape or x.ndim != 1 or len(np.unique(x)) < max(least, 2) or not np.isfinite(y).all():
        raise ReproError(
            f"a fit to {len(np.unique(x))} batch sizes and {y.size} finite costs; at least {max(least, 2)} different "
            "sizes with one cost each were expected; measure more batch sizes"
        )
    order = np.argsort(x)
    return x[order], y[order]


def extremes(batches: ArrayLike, costs: ArrayLike) -> Line:
    """The line through the smallest and the largest batch: two probes are enough.

    Raises:
        ReproError: fewer than two sizes, or a cost that is not finite (also of the functions below).
    """
    x, y = _points(batches, costs, 2)
    slope = (y[-1] - y[0]) / (x[-1] - x[0])
    return Line(float(y[0] - slope * x[0]), float(slope))


def least_squares(batches: ArrayLike, costs: ArrayLike, weights: ArrayLike | None = None) -> Line:
    """The line that minimises the sum of weights (y - line)^2 over all measured sizes; equal weights by default."""
    x, y = _points(batches, costs, 2)
    w = np.ones_like(x) if weights is None else np.asarray(weights, float)[np.argsort(np.asarray(batches, float))]
    mean_x, mean_y = np.average(x, weights=w), np.average(y, weights=w)
    slope = np.average((x - mean_x) * (y - mean_y), weights=w) / np.average((x - mean_x) ** 2, weights=w)
    return Line(float(mean_y - slope * mean_x), float(slope))


def relative(batches: ArrayLike, costs: ArrayLike) -> Line:
    """The line that minimises relative instead of absolute errors, so that the largest batch does not decide alone.

    Raises:
        ReproError: also where a cost is not above zero.
    """
    return least_squares(batches, costs, 1 / _positive(costs) ** 2)


def _positive(costs: ArrayLike) -> Array:
    y = np.asarray(costs, float)
    if not (y > 0).all():
        raise ReproError(f"a relative fit to a cost of {y.min():g}; costs above 0 were expected; measure again")
    return y


def roofline(batches: ArrayLike, costs: ArrayLike) -> Roofline:
    """The floor and line of the smallest relative error: the first k sizes lie on the floor, k = 0, 2, 3, ..., n - 2.

    With k = 0 there is no floor, and the model is the line of ``relative``. One size alone is no floor: it could always
    be met exactly.
    """
    x, y = _points(batches, costs, 2)
    weights = 1 / _positive(y) ** 2
    best, least = None, np.inf
    for k in (0, *range(2, len(x) - 1)):
        line = relative(x[k:], y[k:])
        floor = float(np.average(y[:k], weights=weights[:k])) if k else -np.inf
        model = Roofline(floor, line.intercept, line.slope)
        error = float(np.sum(weights * (y - np.array([model(each) for each in x])) ** 2))
        if error < least - 1e-15:
            best, least = model, error
    assert best is not None
    return best


def between(batches: ArrayLike, costs: ArrayLike) -> Between:
    """Straight lines between neighbouring sizes: exact where it was measured."""
    x, y = _points(batches, costs, 2)
    return Between(tuple(x.tolist()), tuple(y.tolist()))


Fit = Callable[[ArrayLike, ArrayLike], Model]

FITS: dict[str, Fit] = {
    "line, extremes": extremes,
    "line, all sizes": least_squares,
    "line, relative": relative,
    "roofline": roofline,
    "between sizes": between,
}
"""The paper's two ways to fit its line, and three others beside them."""


def errors(model: Model, batches: ArrayLike, costs: ArrayLike) -> Array:
    """|predicted - measured| / measured of each batch size, as fractions."""
    x, y = np.asarray(batches, float), _positive(costs)
    return np.abs(np.array([model(each) for each in x]) - y) / y


def held_out(fit: Fit, batches: Sequence[float], costs: Sequence[float]) -> Array:
    """Error at each batch size of the model that was fitted to all others; an end of the range is extrapolated.

    Raises:
        ReproError: fewer than three sizes.
    """
    x, y = _points(batches, costs, 3)
    kept = [np.arange(len(x)) != i for i in range(len(x))]
    return np.array([errors(fit(x[k], y[k]), x[~k], y[~k])[0] for k in kept])
