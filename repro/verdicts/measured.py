"""What measurement records say about the paper's statements on time and memory (lb.c4, c5, c7, c8, c9, c17, c24).

A measurement has no seeds. Its blocks repeat the whole measurement, so that intervals are Student t over blocks; bytes
that are counted need none. Every function takes the part of a rule from ``data/published.yaml`` and the records of its
runs, and returns what is shown and how it comes out. What it decides is said there as ``measures``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from repro.registry.labels import number
from repro.results import fits, looks, measurements
from repro.results.looks import ALPHA
from repro.results.records import Record
from repro.verdicts import rules
from repro.verdicts.rules import FAILS, HOLDS, OPEN, Interval

BLOCKS, COUNTED, ONCE = "blocks", "counted once", "measured once"
STRAIGHT = 0.05
"""Relative difference of slopes below which the two ends of a curve are called alike."""
FLAT = 0.05
"""An epoch that gains less than this share from doubling the batch has stopped falling."""


class Finding(NamedTuple):
    """Outcome, reason and text of one part, the interval that decided it (in ``unit``), and what n counts."""

    outcome: str
    reason: str
    text: str
    arms: dict[str, float]
    interval: tuple[float, float, float] | None
    unit: str | None
    n: int
    repetitions: str


def judge(part: Mapping[str, Any], records: Mapping[str, Record], alpha: float = ALPHA) -> Finding:
    """The finding of a part whose rule is ``measured``; records by run, in the order of the part.

    Intervals have the level 1 - ``alpha``.
    """
    return MEASURES[part["measures"]](part, records, alpha)


def _over_blocks(values: Iterable[float], alpha: float) -> Interval:
    """Student-t interval of the mean over blocks."""
    values = [float(each) for each in values]
    return rules.paired_interval(values, multiplier=looks.student(len(values), alpha))


def _name(record: Record) -> str:
    return measurements.TITLES.get(record.spec["model"], record.run)


def _local_seconds(record: Record, sizes: Sequence[int]) -> np.ndarray:
    """(blocks, sizes) compute plus data movement."""
    return measurements.block_medians(record, "compute", sizes) + measurements.block_medians(record, "movement", sizes)


def _decide(intervals: Mapping[str, Interval], rule: Callable[[Interval], str], good: str, n: int) -> tuple[str, str]:
    """Outcome over several networks, and the reason that names those that stand in the way."""
    outcomes = {name: rule(interval) for name, interval in intervals.items()}
    outcome = rules.all_of(list(outcomes.values()))
    against = [name for name, each in outcomes.items() if each != HOLDS]
    words = {FAILS: "not so for", OPEN: "undecided for"}
    return outcome, f"{n} blocks: {good}" if not against else f"{n} blocks: {words[outcome]} {', '.join(against)}"


def _shown(interval: Interval, log: bool) -> tuple[float, float, float]:
    ends = (interval.estimate, interval.low, interval.high)
    return tuple(map(math.exp, ends)) if log else ends  # type: ignore[return-value]


def _rises(part: Mapping[str, Any], records: Mapping[str, Record], alpha: float) -> Finding:
    """``quantity`` (``compute`` or ``movement``) grows with the batch: the slope over the sizes is above zero."""
    intervals, grown = {}, {}
    for record in records.values():
        sizes = measurements.batches(record)
        seconds = measurements.block_medians(record, part["quantity"], sizes)
        slopes = [rules.slope(sizes, 1000 * block) for block in seconds]
        intervals[_name(record)] = _over_blocks(slopes, alpha)
        grown[_name(record)] = float(np.median(seconds[:, -1]) / np.median(seconds[:, 0]))
    n = min(each.n for each in intervals.values())
    outcome, reason = _decide(intervals, lambda each: rules.trend(each, "rising"), "every slope lies above 0", n)
    text = ", ".join(
        f"{name} {each.estimate:.2g} ms an image (× {number(grown[name])} over all sizes)"
        for name, each in intervals.items()
    )
    least = min(intervals.values(), key=lambda each: each.low)
    return Finding(outcome, reason, text, grown, _shown(least, False), "ms an image (least of all)", n, BLOCKS)


def _sharper(part: Mapping[str, Any], records: Mapping[str, Record], alpha: float) -> Finding:
    """The time of the sharp ones grows by a larger factor over the batch sizes than that of the others."""
    growth = {}
    for run, record in records.items():
        sizes = measurements.batches(record, measurements.LEAST_FITTED)
        seconds = _local_seconds(record, [sizes[0], sizes[-1]])
        growth[run] = np.log(seconds[:, 1] / seconds[:, 0])
    sharp = np.min([growth[run] for run in part["sharp"]], axis=0)
    gradual = np.max([growth[run] for run in part["runs"] if run not in part["sharp"]], axis=0)
    interval = _over_blocks(sharp - gradual, alpha)
    outcome = rules.order(interval)
    factors = {_name(records[run]): float(np.exp(np.mean(each))) for run, each in growth.items()}
    text = f"growth from batch {sizes[0]} to {sizes[-1]}: " + ", ".join(
        f"{name} × {number(each, 1)}" for name, each in factors.items()
    )
    side = {HOLDS: "above 1 in favour of what is stated", FAILS: "below 1: the other way round"}.get(
        outcome, "at both sides of 1"
    )
    reason = f"{interval.n} blocks: the least growth of the sharp over the largest of the gradual ones lies {side}"
    return Finding(outcome, reason, text, factors, _shown(interval, True), "times", interval.n, BLOCKS)


def _falls_then_stops(part: Mapping[str, Any], records: Mapping[str, Record], alpha: float) -> Finding:
    """An epoch takes less time at the best batch than at 1, and the last doubling gains less than ``FLAT``."""
    falls, stops, words = {}, {}, []
    for record in records.values():
        sizes = measurements.batches(record)
        per_image = measurements.block_medians(record, "step", sizes) / np.asarray(sizes)
        best = int(np.median(per_image, axis=0).argmin())
        falls[_name(record)] = _over_blocks(np.log(per_image[:, 0] / per_image[:, best]), alpha)
        gain = np.log(per_image[:, -2] / per_image[:, -1])
        stops[_name(record)] = _over_blocks(gain, alpha)
        change = 100 * math.expm1(-stops[_name(record)].estimate)
        at_last = f"{number(change, 1, sign=True)} % from {sizes[-2]} to {sizes[-1]}"
        words.append(f"{_name(record)} shortest at {sizes[best]}, {at_last}")
    n = min(each.n for each in falls.values())
    outcome, reason = _decide(falls, rules.order, "epochs shorten at first", n)
    second, why = _decide(
        stops, lambda each: rules.bound(each, -math.log(1 - FLAT)),
        f"the last doubling gains less than {100 * FLAT:g} %", n,
    )  # fmt: skip
    most = max(stops.values(), key=lambda each: each.high)
    arms = {name: math.exp(each.estimate) for name, each in falls.items()}
    both = rules.all_of([outcome, second])
    return Finding(
        both, f"{reason}; {why}", "; ".join(words), arms, _shown(most, True), "times (last doubling, most)", n, BLOCKS
    )


def _linear(part: Mapping[str, Any], records: Mapping[str, Record], alpha: float) -> Finding:
    """Counted activations lie on the line through the smallest and the largest batch."""
    off = {_name(record): measurements.off_line(record, "activations") for record in records.values()}
    text = ", ".join(f"{name} within {100 * each:.2g} % of a line" for name, each in off.items())
    return _counted(part, off, f"{text} through the extremes", "distance from the line through the extremes")


def _proportional(part: Mapping[str, Any], records: Mapping[str, Record], alpha: float) -> Finding:
    """The constant part of that line is a small share of the activations of the smallest batch that is fitted."""
    constant = {}
    for record in records.values():
        line = fits.extremes(*measurements.bytes_of(record, "activations"))
        constant[_name(record)] = abs(line.intercept) / line(measurements.LEAST_FITTED)
    text = ", ".join(f"{name} {100 * each:.2g} %" for name, each in constant.items())
    text = f"constant part of the activations at batch {measurements.LEAST_FITTED}: {text}"
    return _counted(part, constant, text, "constant part")


def _largest_batch(part: Mapping[str, Any], records: Mapping[str, Record], alpha: float) -> Finding:
    """The batch that Eq. 3 predicts for the memory that a training of b images took, beside b."""
    errors, words = {}, []
    for record in records.values():
        for batch, held in measurements.grown(record).items():
            predicted = measurements.batch_by_terms(record, held)
            errors[f"{_name(record)}, {batch}"] = abs(predicted / batch - 1)
            words.append(f"{_name(record)} {number(predicted)} where {batch} is true")
    text = f"predicted largest batch: {', '.join(words)}"
    return _counted(part, errors, text, "error of the predicted batch", ONCE)


def _counted(
    part: Mapping[str, Any], shares: Mapping[str, float], text: str, what: str, repetitions: str = COUNTED
) -> Finding:
    """The finding on bytes that are counted, or measured, once: every share must be at most ``at_most``."""
    if not shares:
        return Finding(
            rules.NOT_COMPARABLE, "this system does not tell a process's peak", "", {}, None, None, 0, repetitions
        )
    outcome = HOLDS if max(shares.values()) <= part["at_most"] else FAILS
    limit = f"{'at most' if outcome == HOLDS else 'not within'} {100 * part['at_most']:g} %"
    arms = {name: 100 * each for name, each in shares.items()}
    return Finding(outcome, f"{repetitions}, {what}: {limit}", text, arms, None, "%", 1, repetitions)


def _line_error(part: Mapping[str, Any], records: Mapping[str, Record], alpha: float) -> Finding:
    """The paper's line errs by no more than the largest error that the paper reports, over blocks.

    The line of compute time is fitted to all sizes and judged at them; that of the loader's memory goes through the
    extremes and is judged between them. A batch of 1 is in neither and stands beside (``data/ledger.yaml``).
    """
    (record,) = records.values()
    timed = part["quantity"] == "compute"
    where, every, known = _readings_of(part, record)
    if not every:
        return _not_told(where)
    sizes = [size for size in every if size >= measurements.LEAST_FITTED]
    blocks, n = known[:, len(every) - len(sizes) :], len(known)
    if not (blocks > 0).all():
        reason = f"{where}: a reading of {blocks.min():g}; readings above 0 are needed for an error in percent"
        return Finding(OPEN, reason, "", {}, None, None, n, BLOCKS)
    fit, judged = (fits.least_squares, slice(None)) if timed else (fits.extremes, slice(1, -1))
    cost = np.median(blocks, axis=0)
    line = fit(sizes, cost)
    signed = np.array([line(size) for size in sizes]) / cost - 1
    judged_sizes, judged_errors = sizes[judged], signed[judged]
    worst = int(np.abs(judged_errors).argmax())
    each_block = [float(fits.errors(fit(sizes, block), sizes, block)[judged].max()) for block in blocks]
    interval = _over_blocks(each_block, alpha)
    limit = part["largest"]
    outcome = rules.bound(interval, limit)
    shown = (100 * interval.estimate, 100 * interval.low, 100 * interval.high)
    ends = ", ".join(number(end, 1) for end in shown[1:])
    said = [
        f"{number(shown[0], 1)} % [{ends}], mean of {n} blocks",
        f"of their median {_percent(100 * judged_errors[worst])} at batch {judged_sizes[worst]}",
    ]
    if timed:
        unseen = fits.held_out(fit, sizes, cost)
        at = int(unseen.argmax())
        said.append(f"where it was held out up to {_percent(100 * unseen[at], False)}, at batch {sizes[at]}")
    if sizes != every:
        (alone,) = np.median(known[:, :1], axis=0)
        off = f"{_percent(100 * (line(every[0]) / alone - 1))}" if alone > 0 else "no reading above 0"
        said.append(f"beside it, batch {every[0]}: {off}")
    text = f"{where}: largest error {'; '.join(said)}. {_bend(sizes, cost)}"
    side = {HOLDS: "at most", FAILS: "above", OPEN: "at both sides of"}[outcome]
    reason = f"{n} blocks: largest error {side} the published {100 * limit:g} %, which was found on another machine"
    arms = {where: 100 * float(np.abs(judged_errors).max())}
    return Finding(outcome, reason, text, arms, shown, "%", n, BLOCKS)


def _readings_of(part: Mapping[str, Any], record: Record) -> tuple[str, list[int], np.ndarray]:
    """Name of a network or data set, the sizes that were read, and (blocks, sizes) what was read of ``quantity``."""
    if part["quantity"] == "compute":
        every = measurements.batches(record)
        return _name(record), every, measurements.block_medians(record, "compute", every)
    every = measurements.bytes_of(record, "loader")[0]
    known = measurements.loader_blocks(record, every) if every else np.empty((0, 0))
    return measurements.DATASETS[record.spec["dataset"]], every, known


def _not_told(where: str) -> Finding:
    reason = f"{where}: this system does not tell how much memory the loader takes"
    return Finding(rules.NOT_COMPARABLE, reason, "", {}, None, None, 0, BLOCKS)


def _positive_predictions(part: Mapping[str, Any], records: Mapping[str, Record], alpha: float) -> Finding:
    """The paper's line, fitted in each block, predicts positive times or bytes at every size that was measured.

    What is judged is the smallest prediction as a share of the median reading at its size, so that its sign counts and
    its unit does not. Lines are fitted as for ``line_error``; a batch of 1 is in none and is predicted by each.
    """
    (record,) = records.values()
    where, every, known = _readings_of(part, record)
    if not every:
        return _not_told(where)
    cost = np.median(known, axis=0)
    if not (cost > 0).all():
        reason = f"{where}: a median reading of {cost.min():g}; readings above 0 are needed to compare with"
        return Finding(OPEN, reason, "", {}, None, None, len(known), BLOCKS)
    fit = fits.least_squares if part["quantity"] == "compute" else fits.extremes
    sizes = [size for size in every if size >= measurements.LEAST_FITTED]
    lines = [fit(sizes, block[len(every) - len(sizes) :]) for block in known]
    shares = np.array([[line(size) for size in every] for line in lines]) / cost
    least = shares.min(axis=1)
    at = every[int(np.median(shares, axis=0).argmin())]
    interval = _over_blocks(least, alpha)
    outcome = rules.order(interval)
    side = {HOLDS: "above 0", FAILS: "below 0"}.get(outcome, "at both sides of 0")
    text = f"{where}: smallest prediction, at batch {at}, {_percent(100 * interval.estimate)} of what was measured"
    reason = f"{interval.n} blocks: the smallest prediction lies {side}"
    shown = (100 * interval.estimate, 100 * interval.low, 100 * interval.high)
    return Finding(outcome, reason, text, {where: 100 * interval.estimate}, shown, "%", interval.n, BLOCKS)


def _movement_share(part: Mapping[str, Any], records: Mapping[str, Record], alpha: float) -> Finding:
    """Moving data costs more than computing at the small batch, and less at the large one.

    Judged by log(movement / compute) of each block, above zero at the one and below zero at the other; both must be so.
    """
    small, large = int(part["at_small"]), int(part["at_large"])
    outcomes, words, arms, shown, n = [], [], {}, [], 0
    for record in records.values():
        logs = np.log(
            measurements.block_medians(record, "movement", [small, large])
            / measurements.block_medians(record, "compute", [small, large])
        )
        at_small, at_large = _over_blocks(logs[:, 0], alpha), _over_blocks(logs[:, 1], alpha)
        outcomes += [rules.order(at_small), rules.order(-at_large)]
        times = [math.exp(each.estimate) for each in (at_small, at_large)]
        words.append(f"{_name(record)} × {times[0]:.2g} at batch {small}, × {times[1]:.2g} at {large}")
        arms[_name(record)] = times[0]
        shown.append(at_small)
        n = at_small.n
    outcome = rules.all_of(outcomes)
    said = {HOLDS: "above 1 at the small batch and below 1 at the large one", FAILS: "not so at one of the two batches"}
    reason = (
        f"{n} blocks: data movement over compute is {said.get(outcome, 'at both sides of 1 at one of the batches')}"
    )
    text = "data movement over compute: " + ", ".join(words)
    return Finding(outcome, reason, text, arms, _shown(shown[0], True), f"times at batch {small}", n, BLOCKS)


def _percent(value: float, sign: bool = True) -> str:
    return f"{number(value, 1, sign=sign)} %"


def _bend(sizes: Sequence[int], cost: Sequence[float]) -> str:
    """One sentence on where a line errs: what one image more costs, between the two smallest and the two largest."""
    first = (cost[1] - cost[0]) / (sizes[1] - sizes[0])
    last = (cost[-1] - cost[-2]) / (sizes[-1] - sizes[-2])
    if first <= 0:
        return f"From {sizes[0]} to {sizes[1]} nothing is added: small batches lie on a floor"
    change = last / first
    if abs(change - 1) < STRAIGHT:
        return f"One image more costs the same at both ends (× {number(change, 2)}): neither end bends the line"
    return (
        f"One image more costs × {number(change, 2)} from {sizes[-2]} to {sizes[-1]} of what it costs from {sizes[0]} "
        f"to {sizes[1]}"
    )


def _shorter_round(part: Mapping[str, Any], records: Mapping[str, Record], alpha: float) -> Finding:
    """Shares in proportion to speed shorten the round of ten unequal devices, simulated with measured times."""
    intervals, gains = {}, {}
    for record in records.values():
        logs = measurements.log_gains(record, "proportional")
        intervals[_name(record)] = _over_blocks(logs, alpha)
        gains[_name(record)] = math.exp(float(np.mean(logs)))
    n = min(each.n for each in intervals.values())
    outcome, reason = _decide(intervals, rules.ratio, "proportional shares shorten every round", n)
    text = ", ".join(f"{name} × {number(each, 2)} shorter" for name, each in gains.items())
    least = min(intervals.values(), key=lambda each: each.low)
    return Finding(outcome, reason, text, gains, _shown(least, True), "times (least of all)", n, BLOCKS)


MEASURES: dict[str, Callable[[Mapping[str, Any], Mapping[str, Record], float], Finding]] = {
    "rises": _rises,
    "sharper": _sharper,
    "falls_then_stops": _falls_then_stops,
    "linear": _linear,
    "proportional": _proportional,
    "largest_batch": _largest_batch,
    "line_error": _line_error,
    "positive_predictions": _positive_predictions,
    "movement_share": _movement_share,
    "shorter_round": _shorter_round,
}
"""What a part of the rule ``measured`` can ask for, by the name in ``data/published.yaml``."""
