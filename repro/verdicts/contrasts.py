"""What a trained part compares: its metric of every arm and seed, and the one number per seed whose mean is judged."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from repro.errors import ReproError
from repro.registry.labels import label, number
from repro.registry.published import (
    ACCURACIES,
    GRADIENT_NORMS,
    OF_CLIENTS,
    OF_PAYLOADS,
    OTHER_ACCURACIES,
    SENT_TOTAL,
    TO_TARGET,
    runs_of,
)
from repro.results import traffic
from repro.results.metrics import (
    SCALES,
    TARGETS,
    Measured,
    best_rate,
    common_epochs,
    early_iterations,
    end_top1,
    end_top5,
    first_gradient_norm,
    gap_at_loss,
    largest_early_gradient_norm,
    matched_loss,
    mean_gradient_norm,
    mean_top1,
    other_classes_top1,
    own_classes_top1,
    planned_rounds,
    regularisation_gap,
    sent_total,
    step_up_share,
    target_accuracy,
    tidy,
    to_first_cut,
    to_target,
    top1_at,
    top_eigenvalue,
)
from repro.results.records import Record
from repro.verdicts import rules
from repro.verdicts.evidence import Evidence, Undecided
from repro.verdicts.rules import FAILS, HOLDS, OPEN, Interval

_PAYLOADS_RUN = re.compile(r"^e2-payloads-resnet(?P<layers>\d+)-(?P<classes>\d+) (?P<codec>[^ ]+)(?: (?P<what>.+))?$")
_CONTENTS = {None: "", traffic.GRADIENT: "", traffic.CHANGE: "changes, ", traffic.WEIGHTS: "weights, "}
_AT_THE_END: dict[str, tuple[Callable[[Record], float], str]] = {  # metric of one record, and how an arm's is said
    "end_top1": (end_top1, "{arm} {value} %"),
    "end_top5": (end_top5, "{arm} {value} % top-5"),
    "regularisation_gap": (regularisation_gap, "gap of {arm} {value} points"),
    "own_classes_top1": (own_classes_top1, "{arm} {value} % on a device's own classes"),
    "other_classes_top1": (other_classes_top1, "{arm} {value} % on the others"),
}
FROM_PAYLOADS = (*OF_PAYLOADS, "total_sent")
_IN_PERCENT = {name: said for name, (_, said) in _AT_THE_END.items()} | {
    "mean_top1": "{arm} {value} %",
    "top1_at_equal_iterations": "{arm} {value} % at equal iterations",
    "step_up_share": "{arm} {value} % of iterations stepped up",
    "gap_at_matched_loss": "gap of {arm} {value} points at equal training loss",
}
"""How an arm's metric is said, where it is a fraction."""
OF_DIVERGED = (
    dict.fromkeys((*ACCURACIES, *OTHER_ACCURACIES, *OF_CLIENTS), "counted at chance")
    | {
        "mean_top1": "counted at chance from there on",
        "regularisation_gap": "counted as no gap",
        "step_up_share": "counted until then",
        "largest_early_gradient_norm": "counted until then",
    }
    | dict.fromkeys(TO_TARGET, "counted as never there")
)
"""As what a run that diverged enters each metric; of the others it leaves the part open, which its reason says."""
AS_LOGARITHM = ("best_lr", "early_gradient_norm", *GRADIENT_NORMS, SENT_TOTAL)
"""Metrics whose value is a log2 in orders and trends, so that differences and slopes are factors."""
AS_RATIO = (*GRADIENT_NORMS, SENT_TOTAL)
"""Those of them that enter a ratio as they are."""
_METHODS = {"large_batch": "large batch", "federated": "federated averaging"}
_GIGABYTE = 1e9

Table = dict[str, dict[int, Measured]]


class Sample(NamedTuple):
    """One value per seed, and the least half-width of an interval of their mean."""

    values: list[float]
    resolution: float = 0.0

    def interval(self, multiplier: float) -> Interval:
        """The interval of the mean, ``multiplier`` standard errors to each side."""
        return rules.paired_interval(self.values, self.resolution, multiplier)


def runs_read(part: Mapping[str, Any], evidence: Evidence) -> list[str]:
    """Every run that a part reads, the one that sets the target included."""
    arms = runs_of(part)
    metric = part.get("metric")
    if metric == "total_sent" and not reads_trained(part, evidence):
        return [part["payloads"]]
    if metric == "best_lr":
        return [run for arm in arms for run in evidence.grid(arm).values() or [f"{arm}-lr*"]]
    if metric in TO_TARGET and evidence.source in TARGETS:
        run, at_full_scale = TARGETS[evidence.source]
        if run not in arms and (evidence.profile != "paper" or at_full_scale is None):
            return [*arms, run]
    return arms


def reads_trained(part: Mapping[str, Any], evidence: Evidence) -> bool:
    """Whether totals are those of trained runs: where these are planned at the post's scale."""
    return "trained" in part and evidence.profile == "paper"


def measure(part: Mapping[str, Any], evidence: Evidence, seeds: Sequence[int]) -> Table:
    """The part's metric for each of its arms and seeds."""
    metric = part["metric"]
    if metric == "best_lr":
        return {
            arm: {seed: Measured(best_rate(evidence.scores(arm, seed)).log2) for seed in seeds} for arm in arms_of(part)
        }
    if metric in FROM_PAYLOADS:
        return {arm: {seed: _of_payloads(part, arm, evidence, seed) for seed in seeds} for arm in part["contrast"]}
    if metric in _AT_THE_END:
        read_one = _AT_THE_END[metric][0]
        return {arm: {seed: Measured(evidence.read(read_one, arm, seed)) for seed in seeds} for arm in arms_of(part)}
    used = {arm: {seed: evidence.current[arm][seed] for seed in seeds} for arm in arms_of(part)}
    if metric == "gap_at_matched_loss":
        return _gaps(used, seeds)
    if metric in TO_TARGET:
        read = _to_target(part, evidence, seeds)
    elif metric in _OF_ONE_RECORD:
        read = _alone(part)
    else:
        read = _together(metric, [record for by_seed in used.values() for record in by_seed.values()])
    return {arm: {seed: read(record) for seed, record in by_seed.items()} for arm, by_seed in used.items()}


def arms_of(part: Mapping[str, Any]) -> list[str]:
    """The arms that a part compares: those of its contrast or, in a trend, its runs."""
    return list(part.get("contrast") or part["runs"])


_OF_ONE_RECORD: dict[str, tuple[Callable[[Record], float | None], str]] = {
    "step_up_share": (step_up_share, "its share of steps"),
    "top_eigenvalue": (top_eigenvalue, "the top eigenvalue of its Hessian"),
    "first_gradient_norm": (first_gradient_norm, "the norm of its gradient"),
    "largest_early_gradient_norm": (largest_early_gradient_norm, "the norm of its gradient"),
    SENT_TOTAL: (sent_total, "what it sends"),
}


def _alone(part: Mapping[str, Any]) -> Callable[[Record], Measured]:
    metric, what = _OF_ONE_RECORD[part["metric"]]

    def read(record: Record) -> Measured:
        if part["metric"] == "step_up_share":
            return Measured(_known(record, metric(record), what))
        found = _positive(record, metric(record), what)
        return Measured(math.log2(found) if part["metric"] in AS_LOGARITHM and part["rule"] != "ratio" else found)

    return read


def _to_target(part: Mapping[str, Any], evidence: Evidence, seeds: Sequence[int]) -> Callable[[Record], Measured]:
    known = [record for by_seed in evidence.current.values() for seed, record in by_seed.items() if seed in seeds]
    try:
        target = target_accuracy(known, evidence.profile, evidence.source)
    except ReproError as error:
        raise Undecided(OPEN, str(error)) from error
    axis = "epoch" if part["metric"] == "epochs_to_target" else "round"
    return lambda record: to_target(record, target, axis)


def _together(metric: str, every: Sequence[Record]) -> Callable[[Record], Measured]:
    """Metrics of one record that depend on what all of ``every`` have."""
    if metric == "mean_top1":
        epochs = common_epochs(every)
        if not epochs:
            raise Undecided(OPEN, "there is no epoch at which all runs were evaluated")
        return lambda record: Measured(mean_top1(record, epochs))
    if metric == "epochs_to_first_cut":
        if lost := [_seed_of(record) for record in every if record.status == "diverged"]:
            raise Undecided(OPEN, f"{', '.join(lost)} diverged, so when its rate would be cut is unknown")
        return to_first_cut
    if metric == "early_gradient_norm":
        first = early_iterations(every)
        return lambda record: Measured(
            math.log2(_positive(record, mean_gradient_norm(record, first), "the norm of its gradient"))
        )
    at = min(planned_rounds(record) for record in every)
    if lost := [_seed_of(record) for record in every if top1_at(record, at) is None]:
        raise Undecided(OPEN, f"not evaluated at iteration {at}, the last common one: {', '.join(lost)}")
    return lambda record: Measured(_known(record, top1_at(record, at), "its accuracy"))


def _seed_of(record: Record) -> str:
    return f"{label(record.run)} (seed {record.seed})"


def _gaps(used: Mapping[str, Mapping[int, Record]], seeds: Sequence[int]) -> Table:
    """Gaps at the largest training loss that all arms of a seed come down to."""
    every = [record for by_seed in used.values() for record in by_seed.values()]
    if lost := [_seed_of(record) for record in every if record.status == "diverged"]:
        raise Undecided(OPEN, f"{', '.join(lost)} diverged, so there is no equal training loss")
    losses = {seed: matched_loss([by_seed[seed] for by_seed in used.values()]) for seed in seeds}
    return {
        arm: {seed: Measured(gap_at_loss(record, losses[seed])) for seed, record in by_seed.items()}
        for arm, by_seed in used.items()
    }


def _known(record: Record, found: float | None, what: str) -> float:
    """``found``, or the end of the question where the run diverged before it could be read."""
    if found is None:
        raise Undecided(OPEN, f"{label(record.run)} (seed {record.seed}) diverged, so {what} is unknown")
    return found


def _positive(record: Record, found: float | None, what: str) -> float:
    """The same for what is compared as a ratio."""
    if (known := _known(record, found, what)) <= 0:
        raise Undecided(OPEN, f"{label(record.run)} (seed {record.seed}): {what} is {known:.2g}, and has no logarithm")
    return known


def _of_payloads(part: Mapping[str, Any], arm: str, evidence: Evidence, seed: int) -> Measured:
    """A metric of ``arm`` (``run codec``, or a method for ``total_sent``) from the payloads of one seed."""
    if part["metric"] == "total_sent":
        payloads = evidence.current[part["payloads"]][seed]
        if reads_trained(part, evidence):
            run = evidence.current[part["trained"][arm]][seed]
            if run.status == "diverged":
                raise Undecided(OPEN, f"{label(run.run)} (seed {seed}) diverged, so what it sends is unknown")
            return Measured(traffic.sent_by_run(run, payloads, arm))
        return Measured(traffic.total_sent(payloads, arm, traffic.UNZIPPED if "unzipped" in part else traffic.DEFAULT))
    name, codec, *what = arm.split()
    metric = {"compression_rate": traffic.compression_rate, "saved_by_zip": traffic.saved_by_zip}[part["metric"]]
    return Measured(metric(evidence.current[name][seed], codec, *what))


def sizes_of(part: Mapping[str, Any], evidence: Evidence, seed: int) -> list[float]:
    """What a trend runs over, one number for each of its runs; a grid has the sizes of any of its runs."""
    scale = SCALES[part["against"]]
    grids = part["metric"] == "best_lr"
    runs = [next(iter(evidence.grid(run).values())) if grids else run for run in part["runs"]]
    return [scale(evidence.current[run][seed].spec) for run in runs]


def sample(part: Mapping[str, Any], table: Table, evidence: Evidence, seeds: Sequence[int]) -> Sample:
    """The one number per seed that the part's rule looks at."""
    if part["rule"] in ("ratio", "factor"):
        return _log_ratios(part, table, seeds)
    if part["rule"] == "trend":
        x = sizes_of(part, evidence, seeds[0])
        return Sample([tidy(rules.slope(x, [table[run][seed].value for run in part["runs"]])) for seed in seeds])
    return Sample(
        [tidy(sum(weight * table[arm][seed].value for arm, weight in part["contrast"].items())) for seed in seeds]
    )


def _log_ratios(part: Mapping[str, Any], table: Table, seeds: Sequence[int]) -> Sample:
    """log(slow / fast) of every seed; the contrast gives the arm said to be slow (larger) 1 and the fast one -1.

    An arm that never reached the target enters with its lower bound, where that still decides who was first.
    """
    fast, slow = sorted(part["contrast"], key=lambda arm: part["contrast"][arm])
    without = missed(part)[1]
    logs, resolutions = [], []
    open_seeds: dict[str, list[str]] = {}  # by who stopped too early
    for seed in seeds:
        ahead, behind = sorted((fast, slow), key=lambda arm: table[arm][seed].earliest)
        first, last = table[ahead][seed], table[behind][seed]
        if not first.reached:
            who = f"{label(ahead)}, which would be first," if last.reached else f"both {label(fast)} and {label(slow)}"
            open_seeds.setdefault(who, []).append(str(seed))
            continue
        logs.append(math.log(table[slow][seed].earliest / table[fast][seed].earliest))
        # The later arm may have got there just after its previous evaluation, one step nearer.
        resolutions.append(math.log1p(last.step / first.value))
    if open_seeds:
        stopped = [f"seed {', '.join(those)}: {who} stopped {without}" for who, those in open_seeds.items()]
        raise Undecided(OPEN, "; ".join(stopped))
    if stopped_early(table[slow]) and stopped_early(table[fast]):
        raise Undecided(OPEN, f"{label(slow)} and {label(fast)} each stopped {without} in some seed")
    return Sample(logs, float(np.mean(resolutions)))


def hidden_by_a_bound(part: Mapping[str, Any], table: Table, interval: Interval) -> str | None:
    """Why a ratio is open although its interval decides: the arm that leads never got there in some seed."""
    if part["rule"] != "ratio":
        return None
    fast, slow = sorted(part["contrast"], key=lambda arm: part["contrast"][arm])
    against = {HOLDS: fast, FAILS: slow}.get(rules.order(interval))
    if against and stopped_early(table[against]):
        return f"{label(against)} leads over the seeds but {missed(part)[0]} in one of them"
    return None


def missed(part: Mapping[str, Any]) -> tuple[str, str]:
    """That a run ended before what the metric waits for, as a verb and as an adverb."""
    if part["metric"] == "epochs_to_first_cut":
        return "never cut its learning rate", "without a cut of its learning rate"
    return "never reached the target", "without reaching the target"


def stopped_early(by_seed: Mapping[int, Measured]) -> bool:
    """Whether any seed of an arm ended without reaching the target, so that its number is a lower bound."""
    return not all(reading.reached for reading in by_seed.values())


def open_ends(part: Mapping[str, Any], table: Table) -> tuple[bool, bool]:
    """Whether nothing bounds a ratio below (its fast arm was stopped too early) and above (its slow arm was)."""
    if part["rule"] != "ratio":
        return False, False
    fast, slow = sorted(part["contrast"], key=lambda arm: part["contrast"][arm])
    return stopped_early(table[fast]), stopped_early(table[slow])


def arm_texts(rule: str, metric: str, table: Table) -> tuple[dict[str, float], list[str]]:
    """Mean of each arm over seeds, as a number and as text: "> N" where a seed never got there."""
    numbers, texts = {}, []
    for arm, by_seed in table.items():
        if metric in _IN_PERCENT:
            numbers[arm] = float(np.mean([100 * reading.value for reading in by_seed.values()]))  # as in figures
            texts.append(_IN_PERCENT[metric].format(arm=label(arm), value=number(numbers[arm], 1)))
            continue
        mean = float(np.mean([reading.value for reading in by_seed.values()]))
        if metric in AS_LOGARITHM and (rule != "ratio" or metric not in AS_RATIO):
            numbers[arm] = 2**mean
            texts.append(f"{label(arm)} {2**mean:.3g}")
        elif metric in AS_RATIO:
            numbers[arm] = mean
            what = "sends" if metric == SENT_TOTAL else "norm of the gradient of"
            said = f"{number(mean / _GIGABYTE, 2)} GB" if metric == SENT_TOTAL else f"{mean:.3g}"
            texts.append(f"{label(arm)} {what} {said}" if metric == SENT_TOTAL else f"{what} {label(arm)} {said}")
        elif metric == "top_eigenvalue":  # the geometric mean, as its ratios and the figure have it
            numbers[arm] = math.exp(float(np.mean([math.log(reading.value) for reading in by_seed.values()])))
            texts.append(f"top eigenvalue of {label(arm)} {numbers[arm]:.3g}")
        elif metric == "saved_by_zip":
            numbers[arm] = 100 * mean
            texts.append(f"zip saves {number(100 * mean, 1)} % of {_arm_label(arm)}")
        elif metric == "compression_rate":
            numbers[arm] = mean
            texts.append(f"{_arm_label(arm)} {number(mean, 1)} times smaller")
        elif metric == "total_sent":
            numbers[arm] = mean / _GIGABYTE
            texts.append(f"{_METHODS[arm]} {number(mean / _GIGABYTE, 1)} GB")
        else:
            numbers[arm] = mean
            more = "> " if stopped_early(by_seed) else ""
            texts.append(f"{label(arm)} {more}{number(mean, 1)} {metric.split('_')[0]}")
    return numbers, texts


def _arm_label(arm: str) -> str:
    """``e2-payloads-resnet18-10 int8`` in words."""
    found = _PAYLOADS_RUN.match(arm)
    if not found:
        return arm
    head = ", of which ten occur" if found["classes"] != "10" else ""
    return f"{found['codec']} ({_CONTENTS[found['what']]}ResNet{found['layers']}, {found['classes']} classes{head})"


def in_units(part: Mapping[str, Any], interval: Interval) -> tuple[list[float], str]:
    """Estimate, low and high in readers' units, and the unit."""
    ends = [interval.estimate, interval.low, interval.high]
    if part["rule"] in ("ratio", "factor"):
        return [math.exp(end) for end in ends], "times"
    per_doubling = " per doubling" if part["rule"] == "trend" else ""
    if part["metric"] in AS_LOGARITHM:
        return [2.0**end for end in ends], "times" + per_doubling
    if part["metric"] == "compression_rate":
        return ends, "times"
    percent = [100 * end for end in ends]
    return percent, "%" if is_level(part) else "points" + per_doubling


def is_level(part: Mapping[str, Any]) -> bool:
    """Whether a contrast is an accuracy, or a share, rather than a difference of them."""
    return part["rule"] in ("order", "bound", "value") and bool(tidy(sum(part["contrast"].values())))


def in_words(estimate: float, low: float, high: float, unit: str, open_ends: tuple[bool, bool], n: int) -> str:
    """``+2.1 points [+1.2, +3.0]``; a ratio of which only a bound is known is said as one."""

    def say(value: float) -> str:
        return number(value, 2 if unit.startswith("times") else 1, sign=unit.startswith("points"))

    bound = {(False, True): "> ", (True, False): "< "}.get(open_ends, "")
    ends = [say(low) if not open_ends[0] else "no lower end", say(high) if not open_ends[1] else "no upper end"]
    return f"{bound}{say(estimate)} {unit} [{', '.join(ends) if n > 1 else 'no interval from one seed'}]"
