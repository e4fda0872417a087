"""What measurement records say about the paper's statements on time and memory (lb.c4, c5, c7, c8, c9, c17).

A measurement has no seeds. Its blocks repeat the whole measurement, so that intervals are Student t over blocks; bytes
that are counted need none. Every function takes the part of a rule from ``data/published.yaml`` and the records of its
runs, and returns what is shown and how it comes out. What it decides is said there as ``measures``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from repro import claims
from repro.claims import FAILS, HOLDS, INCONCLUSIVE, Interval
from repro.performance import fits, readings
from repro.records import Record
from repro.words import number

FLAT = 0.05
"""An epoch that gains less than this share from doubling the batch has stopped falling."""


class Finding(NamedTuple):
    """Outcome, reason and text of one part, with the interval that decided it (in ``unit``) and its repetitions."""

    outcome: str
    reason: str
    text: str
    arms: dict[str, float]
    interval: tuple[float, float, float] | None
    unit: str | None
    n: int


def judge(part: Mapping[str, Any], records: Mapping[str, Record]) -> Finding:
    """The finding of a part whose rule is ``measured``; records by run, in the order of the part."""
    return MEASURES[part["measures"]](part, records)


def _name(record: Record) -> str:
    return readings.TITLES.get(record.spec["model"], record.run)


def _local_seconds(record: Record, sizes: Sequence[int]) -> np.ndarray:
    """(blocks, sizes) compute plus data movement."""
    return readings.block_medians(record, "compute", sizes) + readings.block_medians(record, "movement", sizes)


def _decide(intervals: Mapping[str, Interval], rule: Callable[[Interval], str], good: str, n: int) -> tuple[str, str]:
    """Outcome over several networks, and the reason that names those that stand in the way."""
    outcomes = {name: rule(interval) for name, interval in intervals.items()}
    outcome = claims.compound(list(outcomes.values()))
    against = [name for name, each in outcomes.items() if each != HOLDS]
    words = {FAILS: "not so for", INCONCLUSIVE: "undecided for"}
    return outcome, f"{n} blocks: {good}" if not against else f"{n} blocks: {words[outcome]} {', '.join(against)}"


def _shown(interval: Interval, log: bool) -> tuple[float, float, float]:
    ends = (interval.estimate, interval.low, interval.high)
    return tuple(map(math.exp, ends)) if log else ends  # type: ignore[return-value]


def _rises(part: Mapping[str, Any], records: Mapping[str, Record]) -> Finding:
    """Compute plus data movement grow with the batch: the slope over the batch sizes is above zero."""
    intervals, grown = {}, {}
    for record in records.values():
        sizes = readings.batches(record)
        seconds = _local_seconds(record, sizes)
        slopes = [claims.slope(sizes, 1000 * block) for block in seconds]
        intervals[_name(record)] = claims.paired_interval(slopes)
        grown[_name(record)] = float(np.median(seconds[:, -1]) / np.median(seconds[:, 0]))
    n = min(each.n for each in intervals.values())
    outcome, reason = _decide(intervals, lambda each: claims.trend(each, "rising"), "every slope lies above 0", n)
    text = ", ".join(
        f"{name} {number(each.estimate, 2)} ms an image (× {number(grown[name])} over all sizes)"
        for name, each in intervals.items()
    )
    least = min(intervals.values(), key=lambda each: each.low)
    return Finding(outcome, reason, text, grown, _shown(least, False), "ms an image (least of all)", n)


def _sharper(part: Mapping[str, Any], records: Mapping[str, Record]) -> Finding:
    """The time of the sharp ones grows by a larger factor over the batch sizes than that of the others."""
    growth = {}
    for run, record in records.items():
        sizes = readings.batches(record, readings.LEAST_TIMED)
        seconds = _local_seconds(record, [sizes[0], sizes[-1]])
        growth[run] = np.log(seconds[:, 1] / seconds[:, 0])
    sharp = np.min([growth[run] for run in part["sharp"]], axis=0)
    gradual = np.max([growth[run] for run in part["runs"] if run not in part["sharp"]], axis=0)
    interval = claims.paired_interval([float(each) for each in sharp - gradual])
    outcome = claims.order(interval)
    factors = {_name(records[run]): float(np.exp(np.mean(each))) for run, each in growth.items()}
    text = f"growth from batch {sizes[0]} to {sizes[-1]}: " + ", ".join(
        f"{name} × {number(each, 1)}" for name, each in factors.items()
    )
    side = {HOLDS: "above 1 in favour of what is stated", FAILS: "below 1: the other way round"}.get(
        outcome, "at both sides of 1"
    )
    reason = f"{interval.n} blocks: the least growth of the sharp over the largest of the gradual ones lies {side}"
    return Finding(outcome, reason, text, factors, _shown(interval, True), "times", interval.n)


def _falls_then_stops(part: Mapping[str, Any], records: Mapping[str, Record]) -> Finding:
    """An epoch takes less time at the best batch than at 1, and the last doubling gains less than ``FLAT``."""
    falls, stops, words = {}, {}, []
    for record in records.values():
        sizes = readings.batches(record)
        per_image = _local_seconds(record, sizes) / np.asarray(sizes)
        best = int(np.median(per_image, axis=0).argmin())
        falls[_name(record)] = claims.paired_interval(
            [float(each) for each in np.log(per_image[:, 0] / per_image[:, best])]
        )
        gain = np.log(per_image[:, -2] / per_image[:, -1])
        stops[_name(record)] = claims.paired_interval([float(each) for each in gain])
        change = 100 * math.expm1(-stops[_name(record)].estimate)
        at_last = f"{number(change, 1, sign=True)} % from {sizes[-2]} to {sizes[-1]}"
        words.append(f"{_name(record)} shortest at {sizes[best]}, {at_last}")
    n = min(each.n for each in falls.values())
    outcome, reason = _decide(falls, claims.order, "epochs shorten at first", n)
    second, why = _decide(
        stops, lambda each: claims.bound(each, -math.log(1 - FLAT)),
        f"the last doubling gains less than {100 * FLAT:g} %", n,
    )  # fmt: skip
    most = max(stops.values(), key=lambda each: each.high)
    arms = {name: math.exp(each.estimate) for name, each in falls.items()}
    both = claims.compound([outcome, second])
    return Finding(
        both, f"{reason}; {why}", "; ".join(words), arms, _shown(most, True), "times (last doubling, most)", n
    )


def _linear(part: Mapping[str, Any], records: Mapping[str, Record]) -> Finding:
    """Counted activations lie on the line through the smallest and the largest batch; its constant part is shown."""
    off = {_name(record): readings.off_line(record, "activations") for record in records.values()}
    offset = {}
    for record in records.values():
        line = fits.extremes(*readings.bytes_of(record, "activations"))
        offset[_name(record)] = abs(line.intercept) / line(readings.LEAST_TIMED)
    outcome = HOLDS if max(off.values()) <= part["at_most"] else FAILS
    text = ", ".join(
        f"{name} within {100 * each:.2g} % of a line, constant part {100 * offset[name]:.2g} % at batch 32"
        for name, each in off.items()
    )
    limit = f"{'at most' if outcome == HOLDS else 'not within'} {100 * part['at_most']:g} %"
    reason = f"counted bytes, distance from the line through the extremes: {limit}"
    return Finding(outcome, reason, text, {name: 100 * each for name, each in off.items()}, None, "%", 1)


def _line_error(part: Mapping[str, Any], records: Mapping[str, Record]) -> Finding:
    """The largest error of a line fitted to all sizes is not above the largest that the paper reports."""
    (record,) = records.values()
    where = _name(record) if part["quantity"] == "compute" else readings.DATASETS[record.spec["dataset"]]
    if part["quantity"] == "compute":
        sizes: list[int] = readings.batches(record, readings.LEAST_TIMED)
        cost = readings.medians(record, "compute", sizes)
        blocks = readings.block_medians(record, "compute", sizes)
    else:
        sizes, cost = readings.bytes_of(record, part["quantity"])
        if not sizes:
            reason = f"{where}: this system does not tell how much memory the loader takes"
            return Finding(claims.NOT_COMPARABLE, reason, "", {}, None, None, 0)
        blocks = np.asarray([cost])
    found = readings.line_errors(sizes, cost)
    fitted = found["all sizes"]
    interval = claims.paired_interval(
        [float(readings.line_errors(sizes, block)["all sizes"].max()) for block in blocks]
    )
    limit = part["largest"]
    counted = HOLDS if fitted.max() <= limit else FAILS
    outcome = claims.bound(interval, limit) if len(blocks) > 1 else counted
    below = " (also below its smallest)" if fitted.max() < part["smallest"] else ""
    text = (
        f"{where}: {100 * fitted.min():.2g} to {100 * fitted.max():.3g} %{below}; held out up to "
        f"{100 * found['all sizes, held out'].max():.3g} %, extremes up to {100 * found['extremes'].max():.3g} %"
    )
    side = {HOLDS: "at most", FAILS: "above", INCONCLUSIVE: "at both sides of"}[outcome]
    reason = f"largest error {side} the published {100 * limit:g} %, which was found on another machine"
    shown = (100 * interval.estimate, 100 * interval.low, 100 * interval.high) if len(blocks) > 1 else None
    return Finding(outcome, reason, text, {where: 100 * float(fitted.max())}, shown, "%", len(blocks))


def _shorter_round(part: Mapping[str, Any], records: Mapping[str, Record]) -> Finding:
    """Shares in proportion to speed shorten the round of ten unequal devices, simulated with measured times."""
    intervals, gains = {}, {}
    for record in records.values():
        sizes = readings.batches(record)
        times = [readings.round_times(record, block, sizes) for block in _local_seconds(record, sizes)]
        logs = [math.log(each["uniform"] / each["proportional"]) for each in times]
        intervals[_name(record)] = claims.paired_interval(logs)
        gains[_name(record)] = math.exp(float(np.mean(logs)))
    n = min(each.n for each in intervals.values())
    outcome, reason = _decide(intervals, claims.ratio, "proportional shares shorten every round", n)
    text = ", ".join(f"{name} × {number(each, 2)} shorter" for name, each in gains.items())
    least = min(intervals.values(), key=lambda each: each.low)
    return Finding(outcome, reason, text, gains, _shown(least, True), "times (least of all)", n)


MEASURES: dict[str, Callable[[Mapping[str, Any], Mapping[str, Record]], Finding]] = {
    "rises": _rises,
    "sharper": _sharper,
    "falls_then_stops": _falls_then_stops,
    "linear": _linear,
    "line_error": _line_error,
    "shorter_round": _shorter_round,
}
"""What a part of the rule ``measured`` can ask for, by the name in ``data/published.yaml``."""
