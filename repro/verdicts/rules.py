"""Intervals over seeds or blocks, and the rules that ask where all of an interval lies.

    order, ratio, trend     above zero (or a least difference) holds, below it fails, close around it: no difference
    equivalence             within the margin holds, entirely outside fails
    value, factor, bound    within the tolerance (below the limit) holds, entirely outside fails

Everything else is open. What is compared, and when a rule may not decide, is in ``repro/verdicts/parts.py``; how wide
the interval of a look is, in ``repro/results/looks.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from repro.errors import ReproError
from repro.registry.published import is_number
from repro.results.looks import ALPHA, LEAST_ALPHA, student

LEVEL = 1 - ALPHA

HOLDS, FAILS, OPEN, NO_DIFFERENCE = "holds", "fails", "open", "no difference"
NOT_COMPARABLE, NOT_RUN = "not comparable", "not run"
HOLDS_IN_PART, DEPENDS_ON = "holds in part", "depends on"
"""Outcomes of a statement; "depends on" also of a part that is judged under several readings."""
DECIDED = (HOLDS, FAILS, NO_DIFFERENCE, DEPENDS_ON)

SMALL_POINTS, SMALL_RATIO = 0.02, 1.1
"""What counts as no difference: accuracies within 2 points, ratios within x and / 1.1."""
AT_CHANCE = 0.03
"""An arm does not train if its whole interval lies below chance and these 3 points."""
TENDING = 0.5
"""Runs that are said to tend to diverge do so in at least this share of seeds."""
ONE_SIDED = 0.025


class Interval(NamedTuple):
    """Mean of ``n`` paired values with its 95 % interval; unbounded for one value."""

    estimate: float
    low: float
    high: float
    n: int

    def __neg__(self) -> Interval:
        return Interval(-self.estimate, -self.high, -self.low, self.n)


def paired_interval(values: Sequence[float], resolution: float = 0.0, multiplier: float | None = None) -> Interval:
    """95 % interval of the mean of ``values``, one per seed.

    Args:
        values: paired differences, or what else is averaged.
        resolution: the least half-width: values read off a grid can agree exactly without being exact.
        multiplier: half-width in standard errors; None: Student t, for an interval that is looked at once.

    Raises:
        ReproError: no value was given.
    """
    n = len(values)
    if n == 0:
        raise ReproError("an interval of no values was asked for; at least one seed was expected; run the sweep")
    mean = math.fsum(values) / n
    half = math.inf
    if n > 1:
        deviation = math.sqrt(math.fsum((each - mean) ** 2 for each in values) / (n - 1))
        width = student(n) if multiplier is None else multiplier
        half = max(width * deviation / math.sqrt(n), resolution)
    return Interval(mean, mean - half, mean + half, n)


def order(interval: Interval, by_more_than: float = 0.0, small: float = 0.0) -> str:
    """A beats B: the interval of the paired difference A - B lies above ``by_more_than``; below it fails.

    No difference: the whole interval lies within +- ``small``, and does not decide the direction.
    """
    if interval.low > by_more_than:
        return HOLDS
    if interval.high < by_more_than:
        return FAILS
    return NO_DIFFERENCE if is_small(interval, small) else OPEN


def is_small(interval: Interval, small: float) -> bool:
    """Whether the whole interval lies within +- ``small``; with 0 nothing is."""
    return small > 0 and -small <= interval.low and interval.high <= small


def ratio(interval: Interval, at_least: float = 1.0, small: float = 0.0) -> str:
    """A is larger than B by some factor: the interval of the paired log ratio log(A / B) lies above it."""
    return order(interval, math.log(at_least), small)


def trend(interval: Interval, direction: str, small: float = 0.0) -> str:
    """The quantity is ``rising`` or ``falling``: the interval of its slope lies on that side of zero."""
    return order(interval if direction == "rising" else -interval, small=small)


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
    return FAILS if interval.low > high or interval.high < low else OPEN


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


def all_of(outcomes: Sequence[str]) -> str:
    """Outcome of one part over several networks: all must hold."""
    for word in (NOT_RUN, FAILS, NOT_COMPARABLE):
        if word in outcomes:
            return word
    return HOLDS if set(outcomes) == {HOLDS} else OPEN


# Several decisions at once -----------------------------------------------------------------------------------


def holm(p_values: Sequence[float], tests: int, alpha: float = ALPHA) -> list[bool]:
    """Which of ``p_values``, the others of ``tests`` being 1, are rejected at level ``alpha`` all together (Holm 1979).

    >>> holm([0.03, 0.001], 2), holm([0.03, 0.04], 2)
    ([True, True], [False, False])
    """
    rejected = [False] * len(p_values)
    for done, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[i] > alpha / (tests - done):
            break
        rejected[i] = True
    return rejected


def q_values(p_values: Sequence[float], tests: int | None = None) -> list[float]:
    """False discovery rates (Benjamini and Hochberg 1995): the least at which each would count as a discovery.

    Args:
        p_values: of the decisions.
        tests: how many were tried; those without a p value here count as 1. None: no others.

    >>> [round(q, 3) for q in q_values([0.01, 0.04, 0.02])]
    [0.03, 0.04, 0.03]
    """
    tests = len(p_values) if tests is None else tests
    found, least = [1.0] * len(p_values), 1.0
    ranked = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for rank in range(len(ranked), 0, -1):
        least = min(least, p_values[ranked[rank - 1]] * tests / rank)
        found[ranked[rank - 1]] = least
    return found


def expected_wrong(q: Sequence[float]) -> float:
    """Upper estimate of the number of wrong ones among all these decisions: their largest q times their number."""
    return max(q) * len(q) if q else 0.0


def p_text(p: float) -> str:
    """A p value as it is shown: ``0.012``; below the table of levels only that it is below.

    >>> p_text(0.01234), p_text(0.0001)
    ('0.012', '< 0.0001')
    """
    return f"< {LEAST_ALPHA:.4f}" if p <= LEAST_ALPHA else f"{p:.2g}"


# Counts ------------------------------------------------------------------------------------------------------


def fisher(some: int, of: int, others: int, of_others: int) -> float:
    """One-sided p of Fisher's exact test that the first group has the larger share: as many, or more, by chance."""
    together, total = some + others, of + of_others
    most = min(together, of)
    ways = sum(math.comb(of, k) * math.comb(of_others, together - k) for k in range(some, most + 1))
    return ways / math.comb(total, together)


def at_most(some: int, of: int, share: float = TENDING) -> float:
    """Chance to see ``some`` or fewer of ``of`` where the true share is ``share``.

    Below 0.025 the upper 97.5 % bound of Clopper and Pearson lies below ``share``.
    """
    return sum(math.comb(of, k) * share**k * (1 - share) ** (of - k) for k in range(some + 1))


def tending(some: int, of: int, others: int, of_others: int) -> tuple[str, float]:
    """Outcome and two-sided p of "these tend to, and the others do not"; between the two it is open."""
    holds, fails = fisher(some, of, others, of_others), at_most(some, of)
    if holds < ONE_SIDED:
        return HOLDS, 2 * holds
    return (FAILS if fails < ONE_SIDED else OPEN), min(1.0, 2 * fails)
