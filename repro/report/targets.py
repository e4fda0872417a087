"""What it takes to reach a target accuracy: bytes, and the words of a cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from repro.registry.labels import number
from repro.report.intervals import interval
from repro.results.metrics import rounds_to_target
from repro.results.records import Record


def bytes_to_target(record: Record, target: float) -> tuple[tuple[int, int], bool]:
    """Cumulative bytes (up, down) of all workers in the rounds to the target (``rounds_to_target``), interpolated.

    Where the target was not reached: the bytes of the rounds that are a lower bound, and False. A diverged run is
    charged the rounds it no longer made at its own bytes per round (0 if it diverged before the first evaluation).
    """
    rounds, reached = rounds_to_target(record, target)
    if not record.rows:
        return (0, 0), False
    if record.status == "completed":
        places = [0, *(row["round"] for row in record.rows)]
        sent = [[0, *(row[name] for row in record.rows)] for name in ("bytes_up", "bytes_down")]
        up, down = (round(float(np.interp(rounds, places, each))) for each in sent)
        return (up, down), reached
    last = record.rows[-1]
    up, down = (round(last[name] / last["round"] * rounds) for name in ("bytes_up", "bytes_down"))
    return (up, down), False


def summary(values: Sequence[float], reached: Sequence[bool], digits: int) -> str:
    """``mean [low, high]``, or ``> bound (not reached by k of n seeds)`` with those seeds at their end."""
    mean, low, high = interval(values)
    if not all(reached):
        lost = len(values) - sum(reached)
        return f"> {number(mean, digits)} (not reached by {lost} of {len(values)} seeds)"
    if np.isnan(low):
        return f"{number(mean, digits)} (one seed)"
    return f"{number(mean, digits)} [{number(low, digits)}, {number(high, digits)}]"
