"""Student-t intervals over seeds or blocks, and the rules that ask where all of an interval lies.

    order, ratio, trend     above zero (or a least difference) holds, below it fails
    equivalence             within the margin holds, entirely outside fails
    value, factor, bound    within the tolerance (below the limit) holds, entirely outside fails

Everything else is inconclusive. What is compared, and when a rule may not decide, is in ``repro/claims.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from repro.errors import ReproError
from repro.published import is_number

LEVEL = 0.95

HOLDS, FAILS, INCONCLUSIVE = "holds", "fails", "inconclusive"
NOT_COMPARABLE, NOT_RUN = "not comparable", "not run"


class Interval(NamedTuple):
    """Mean of ``n`` paired values with its 95 % interval; unbounded for one value."""

    estimate: float
    low: float
    high: float
    n: int

    def __neg__(self) -> Interval:
        return Interval(-self.estimate, -self.high, -self.low, self.n)


def paired_interval(values: Sequence[float], resolution: float = 0.0) -> Interval:
    """Student-t 95 % interval of the mean of ``values``, one per seed.

    ``resolution`` is the least half-width: values read off a grid can agree exactly without being exact.

    Raises:
        ReproError: no value was given.
    """
    n = len(values)
    if n == 0:
        raise ReproError("an interval of no values was asked for; at least one seed was expected; run the sweep")
    mean = float(np.mean(values))
    half = math.inf
    if n > 1:
        quantile = float(stdtrit(n - 1, (1 + LEVEL) / 2))
        half = max(quantile * float(np.std(values, ddof=1)) / math.sqrt(n), resolution)
    return Interval(mean, mean - half, mean + half, n)


def order(interval: Interval, by_more_than: float = 0.0) -> str:
    """A beats B: the interval of the paired difference A - B lies above ``by_more_than``; below it fails."""
    if interval.low > by_more_than:
        return HOLDS
    return FAILS if interval.high < by_more_than else INCONCLUSIVE


def ratio(interval: Interval, at_least: float = 1.0) -> str:
    """A is larger than B by some factor: the interval of the paired log ratio log(A / B) lies above it."""
    return order(interval, math.log(at_least))


def trend(interval: Interval, direction: str) -> str:
    """The quantity is ``rising`` or ``falling``: the interval of its slope lies on that side of zero."""
    return order(interval if direction == "rising" else -interval)


def equivalence(interval: Interval, margin: float) -> str:
    """No difference beyond ``margin``: the interval of the paired difference lies within +- ``margin``."""
    return _inside(interval, -margin, margin)


def value(interval: Interval, published: float, tolerance: float) -> str:
    """The published number is met: the whole interval lies within ``published`` +- ``tolerance``."""
    return _inside(interval, published - tolerance, published + tolerance)


def factor(interval: Interval, published: float, tolerance: float) -> str:
    """The published ratio is met: the interval of the log ratio lies within ``published`` x (1 +- ``tolerance``)."""
    return _inside(interval, math.log(published * (1 - tolerance)), math.log(published * (1 + tolerance)))


def bound(interval: Interval, at_most: float) -> str:
    """No more than ``at_most``: the whole interval lies at or below it."""
    return _inside(interval, -math.inf, at_most)


def _inside(interval: Interval, low: float, high: float) -> str:
    if low <= interval.low and interval.high <= high:
        return HOLDS
    return FAILS if interval.low > high or interval.high < low else INCONCLUSIVE


def unmet_checks(numbers: Mapping[str, Any], checks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Checks of an executed law that its numbers miss: ``number`` is at most (above) ``limit`` x ``times``.

    Raises:
        ReproError: a number that a check names was not recorded.
    """
    for name in (check[key] for check in checks for key in ("number", "limit")):
        if not is_number(numbers.get(name)):
            raise ReproError(f"law record: '{name}' is {numbers.get(name)!r}; a number was expected; run the law again")
    unmet = []
    for check in checks:
        found, limit = numbers[check["number"]], numbers[check["limit"]] * check["times"]
        if not (found <= limit if check["is"] == "at most" else found > limit):
            unmet.append(f"{check['called']} {found:.2g} is not {check['is']} {limit:.2g}")
    return unmet


def law(numbers: Mapping[str, Any], checks: Sequence[Mapping[str, Any]]) -> str:
    """An executed law holds when all its checks are met; it is exempt from the number of seeds."""
    return FAILS if unmet_checks(numbers, checks) else HOLDS


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least-squares slope of ``y`` over ``x``.

    Raises:
        ReproError: all ``x`` are equal.
    """
    away = np.asarray(x, float) - np.mean(x)
    if not away.any():
        raise ReproError(
            f"a trend over the equal sizes {list(x)} was asked for; two sizes were expected; check the specs"
        )
    return float(away @ np.asarray(y, float) / (away @ away))


def accuracy_floor(chance: float) -> float:
    """Accuracy from which a comparison counts: 10 points above chance; 3 x chance for 100 classes or more."""
    return 3 * chance if chance <= 0.01 else chance + 0.10


def compound(outcomes: Sequence[str]) -> str:
    """Outcome of a statement with several parts: all must hold; nothing is said before every part was run."""
    for word in (NOT_RUN, FAILS, NOT_COMPARABLE):
        if word in outcomes:
            return word
    return HOLDS if set(outcomes) == {HOLDS} else INCONCLUSIVE
