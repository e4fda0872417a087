"""Repeated confidence intervals: when a contrast is looked at, and how wide its interval is at each look.

A trained part is looked at after 5, 8 and 12 seeds. Three ordinary 95 % intervals would err in 11 to 14 % of the cases
in which nothing differs; the intervals here cover together with 95 %, so that a study may stop at the look that
decides. The error is spent as by Lan and DeMets (1983) after Pocock: alpha(t) = alpha ln(1 + (e - 1) t), t = n / 12.
The multipliers of the standard error follow from it for paired t statistics; they have no closed form and are simulated
(``simulate``; ``python -m repro.results.looks`` writes ``data/looks.json``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from repro.errors import ReproError

LOOKS = (5, 8, 12)
"""Seeds after which a trained part is looked at."""
FIRST_SEED = 11
"""First seed of the study; seeds below it were pilots."""
ALPHA = 0.05
LEAST_ALPHA = 1e-4
"""End of the table: p values below it are reported as smaller."""
TABLE = Path(__file__).parents[2] / "data/looks.json"

_SEED, _PATHS, _CHUNK = 20_250_917, 16_000_000, 500_000


def _quantile(degrees: float, probability: float) -> float:
    """Of Student's t distribution."""
    from scipy.special import stdtrit  # half a second to import, which lists and plans need not pay

    return float(stdtrit(degrees, probability))


def spent(alpha: float, seeds: int) -> float:
    """The part of ``alpha`` that is spent up to the look after ``seeds`` seeds.

    >>> [round(spent(0.05, n), 4) for n in (5, 8, 12)]
    [0.027, 0.0382, 0.05]
    """
    return alpha * math.log(1 + (math.e - 1) * seeds / LOOKS[-1])


def alphas() -> list[float]:
    """The levels of the table, descending: 0.5 to 0.0001, and 0.05 / k for the k parts of a statement."""
    spread = np.geomspace(0.5, LEAST_ALPHA, 25)
    return sorted({float(f"{alpha:.6g}") for alpha in (*spread, *(ALPHA / k for k in range(1, 13)))}, reverse=True)


def statistics(paths: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """(looks, paths) absolute paired t statistics of standard normal differences, shifted by ``shift`` SD."""
    generator = np.random.default_rng(seed)
    found = np.empty((len(LOOKS), paths), np.float32)
    for start in range(0, paths, _CHUNK):
        size = min(_CHUNK, paths - start)
        drawn = generator.standard_normal((LOOKS[-1], size), dtype=np.float32) + np.float32(shift)
        for row, n in enumerate(LOOKS):
            deviation = drawn[:n].std(axis=0, ddof=1) / math.sqrt(n)
            found[row, start : start + size] = np.abs(drawn[:n].mean(axis=0)) / deviation
    return found


def simulate(levels: Sequence[float], paths: int = _PATHS, seed: int = _SEED) -> list[list[float]]:
    """Multipliers of the standard error, one row of three for each of ``levels``.

    The first look has the quantile of Student's t. At each further one the multiplier is that at which the share of
    paths that no earlier look stopped, and this one does, is the part of the level spent since.

    Raises:
        ReproError: so few paths that a look of the smallest level would stop fewer than ten.
    """
    if paths * min(levels) / 5 < 10:
        raise ReproError(f"{paths} paths are too few for a level of {min(levels):g}; simulate {50 / min(levels):.0f}")
    found = statistics(paths, seed)
    table = []
    for alpha in levels:
        multipliers = [_quantile(LOOKS[0] - 1, 1 - spent(alpha, LOOKS[0]) / 2)]
        going = found[0] <= multipliers[0]
        for row in range(1, len(LOOKS)):
            stopping = round((spent(alpha, LOOKS[row]) - spent(alpha, LOOKS[row - 1])) * paths)
            left = found[row][going]
            multipliers.append(float(np.partition(left, len(left) - stopping - 1)[len(left) - stopping - 1]))
            going &= found[row] <= multipliers[row]
        table.append([round(each, 3) for each in multipliers])
    return table


@cache
def _table() -> tuple[np.ndarray, np.ndarray]:
    try:
        stored = json.loads(TABLE.read_text(encoding="utf-8"))
        levels, rows = np.log(stored["alphas"]), np.asarray(stored["multipliers"], float)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReproError(
            f"{TABLE.name}: missing or damaged; the multipliers of repeated intervals were expected; restore it with "
            "`git checkout -- data/looks.json`"
        ) from error
    return levels[::-1], rows[::-1]  # np.interp wants levels ascending


def multiplier(n: int, alpha: float = ALPHA) -> float:
    """Half-width of the repeated interval after ``n`` seeds, in standard errors of the mean.

    Between the levels of the table it is interpolated in log alpha.

    Raises:
        ReproError: ``n`` is no look, or the level is outside the table.

    >>> [round(multiplier(n), 2) for n in LOOKS]
    [3.41, 3.1, 2.75]
    """
    levels, rows = _table()
    if n not in LOOKS:
        raise ReproError(f"{n} seeds are no look; one of {', '.join(map(str, LOOKS))} was expected; judge at a look")
    if not math.exp(levels[0]) * (1 - 1e-9) <= alpha <= math.exp(levels[-1]) * (1 + 1e-9):
        raise ReproError(f"a level of {alpha:g} is outside the table, 0.0001 to 0.5; choose one inside")
    return float(np.interp(math.log(alpha), levels, rows[:, LOOKS.index(n)]))


def student(n: int, alpha: float = ALPHA) -> float:
    """The same for an interval that is looked at once: the two-sided quantile of Student's t.

    >>> round(student(3), 2)
    4.3
    """
    return _quantile(n - 1, 1 - alpha / 2)


def reached(available: int, looks: Sequence[int] = LOOKS) -> list[int]:
    """The looks that ``available`` seeds suffice for.

    >>> reached(9)
    [5, 8]
    """
    return [n for n in looks if n <= available]


def smallest_alpha(decides: Callable[[float], bool]) -> float:
    """The smallest level at which a rule decides as it does at 0.05: the p value of its decision.

    ``decides`` says for a level whether the decision is still the same; wider intervals decide less. A decision that
    stands at the end of the table gets that end, ``LEAST_ALPHA``, which is to be read as "below".
    """
    low, high = math.log(LEAST_ALPHA), math.log(ALPHA)
    if decides(LEAST_ALPHA):
        return LEAST_ALPHA
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if decides(math.exp(middle)) else (middle, high)
    return math.exp(high)


def write(path: Path = TABLE) -> None:
    """Simulate the whole table and store it (about a minute)."""
    from repro.files import canonical_json, write_atomic

    levels = alphas()
    content = {
        "alphas": levels, "looks": list(LOOKS), "multipliers": simulate(levels), "paths": _PATHS, "seed": _SEED,
    }  # fmt: skip
    write_atomic(path, canonical_json(content))


if __name__ == "__main__":
    write()
