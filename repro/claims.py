"""The rule that turns records into a verdict on each published statement.

A trained statement is judged on a *contrast*: one number per seed, computed from runs that share that seed
(they are paired). The contrast gets a Student-t 95 % interval over seeds, and a rule of ``repro/rules.py`` asks where
all of it lies. The rule ``measured`` reads records of kind ``measure``, over blocks (``repro/performance/judge.py``).

Fewer than three seeds, arms near chance, targets that no arm reached, learning rates at the edge of their grid and
"equal in the end" of a run that is still rising are inconclusive whatever the interval says. Laws and definitions are
executed, not sampled; that runs diverge is counted, seed by seed. Margins live in ``data/published.yaml`` and were
committed before the first run of what they judge; rules that changed later are disclosed in ``data/ledger.yaml``.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from repro import rules, traffic
from repro.errors import ReproError
from repro.metrics import (
    CONDITIONS,
    SCALES,
    TARGETS,
    Measured,
    common_epochs,
    early_iterations,
    final_top1,
    final_top5,
    last_quarter_gain,
    mean_gradient_norm,
    mean_top1,
    other_classes_top1,
    own_classes_top1,
    planned_rounds,
    regularisation_gap,
    step_up_share,
    target_accuracy,
    tidy,
    to_first_cut,
    to_target,
    top1_at,
    top_eigenvalue,
)
from repro.published import (
    ACCURACIES,
    OF_CLIENTS,
    OF_PAYLOADS,
    OTHER_ACCURACIES,
    TO_TARGET,
    Artefact,
    Choice,
    Published,
    Statement,
    load_ledger,
    load_published,
    runs_named,
    runs_of,
)
from repro.records import Record
from repro.rules import FAILS, HOLDS, INCONCLUSIVE, NOT_COMPARABLE, NOT_RUN, Interval
from repro.words import label, number

__all__ = [
    "NOT_RUN",
    "Artefact",
    "Choice",
    "Published",
    "Statement",
    "headline",
    "judge_all",
    "load_ledger",
    "load_published",
    "runs_named",
]

SEEDS = "seeds"
MINIMUM_SEEDS = 3
MISSING, STALE = "missing", "stale"

_GRID_RUN = re.compile(r"^(?P<arm>.+)-lr(?P<rate>[0-9_]+)$")
_PAYLOADS_RUN = re.compile(r"^e2-payloads-resnet(?P<layers>\d+)-(?P<classes>\d+) (?P<codec>[^ ]+)(?: (?P<what>.+))?$")
_CONTENTS = {None: "", traffic.GRADIENT: "", traffic.CHANGE: "changes, ", traffic.WEIGHTS: "weights, "}


# ------------------------------------------------------------------------------------------------------------
# From records to verdicts

_RULES: dict[str, Callable[[Interval, Mapping[str, Any]], str]] = {
    "order": lambda interval, part: rules.order(interval, part.get("by_more_than", 0.0)),
    "ratio": lambda interval, part: rules.ratio(interval, part.get("at_least", 1.0)),
    "trend": lambda interval, part: rules.trend(interval, part["direction"]),
    "equivalence": lambda interval, part: rules.equivalence(interval, part["margin"]),
    "value": lambda interval, part: rules.value(interval, part["published"], part["tolerance"]),
    "factor": lambda interval, part: rules.factor(interval, part["published"], part["tolerance"]),
    "bound": lambda interval, part: rules.bound(interval, part["at_most"]),
}
_NEEDS_TRAINED_ARM = ("order", "ratio", "trend", "equivalence")
_AT_THE_END: dict[str, tuple[Callable[[Record], float], str]] = {  # metric of one record, and how an arm's is said
    "final_top1": (final_top1, "{arm} {value} %"),
    "final_top5": (final_top5, "{arm} {value} % top-5"),
    "regularisation_gap": (regularisation_gap, "gap of {arm} {value} points"),
    "own_classes_top1": (own_classes_top1, "{arm} {value} % on a device's own classes"),
    "other_classes_top1": (other_classes_top1, "{arm} {value} % on the others"),
}
_FROM_PAYLOADS = (*OF_PAYLOADS, "total_sent")
_IN_PERCENT = {name: said for name, (_, said) in _AT_THE_END.items()} | {
    "mean_top1": "{arm} {value} %",
    "top1_at_equal_iterations": "{arm} {value} % at equal iterations",
    "step_up_share": "{arm} {value} % of iterations stepped up",
}
"""How an arm's metric is said, where it is a fraction."""
_OF_DIVERGED = (
    dict.fromkeys((*ACCURACIES, *OTHER_ACCURACIES, *OF_CLIENTS), "counted at chance")
    | {
        "mean_top1": "counted at chance from there on",
        "regularisation_gap": "counted as no gap",
        "step_up_share": "counted until then",
    }
    | dict.fromkeys(TO_TARGET, "counted as never there")
)
"""As what a run that diverged enters each metric; of the others it leaves the part open, which its reason says."""
_AS_LOGARITHM = ("best_lr", "early_gradient_norm")
"""Metrics whose value is a log2, so that differences and slopes are factors."""
_METHODS = {"large_batch": "large batch", "federated": "federated averaging"}
_GIGABYTE = 1e9

_Table = dict[str, dict[int, Measured]]


def _six_digits(value: float) -> float:
    return float(f"{value:.6g}")


def _shown(value: float | None) -> float | None:
    return None if value is None else tidy(_six_digits(value))


class _Undecided(Exception):
    """A part that no interval can decide: something is missing, or the records leave the question open."""

    def __init__(self, outcome: str, reason: str):
        super().__init__(reason)
        self.outcome = outcome


def _named(repetitions: str) -> dict[str, str]:
    """What ``n`` counts, where it is not seeds."""
    return {} if repetitions == SEEDS else {"repetitions": repetitions}


@dataclass(frozen=True)
class PartVerdict:
    """Outcome of one part of a statement, its numbers in the units that readers see.

    An end of ``interval`` is None where an arm never reached its target, so that nothing bounds the ratio there.
    Two kinds of part are shown without deciding: another reading (``beside``), and a published value that this profile
    does not compare (``counted`` is False). ``repetitions`` says what ``n`` counts: seeds, blocks of a measurement, or
    that bytes are counted once.
    """

    rule: str
    outcome: str
    reason: str
    text: str = ""
    arms: Mapping[str, float] = field(default_factory=dict)
    estimate: float | None = None
    interval: tuple[float | None, float | None] | None = None
    unit: str | None = None
    n: int = 0
    runs: tuple[str, ...] = ()
    counted: bool = True
    beside: bool = False
    repetitions: str = SEEDS

    def as_json(self) -> dict[str, Any]:
        """Plain mapping with numbers of six significant digits."""
        return (
            {
                "rule": self.rule,
                "outcome": self.outcome,
                "reason": self.reason,
                "ours": self.text or None,
                "arms": {arm: _six_digits(mean) for arm, mean in self.arms.items()},
                "estimate": _shown(self.estimate),
                "interval": None if self.interval is None else [_shown(end) for end in self.interval],
                "unit": self.unit,
                "n": self.n,
            }
            | ({"beside": True} if self.beside else {})
            | _named(self.repetitions)
        )


@dataclass(frozen=True)
class Verdict:
    """What the records of one profile say about one statement; ``as_json`` is what is stored and shown."""

    statement: Statement
    profile: str
    parts: tuple[PartVerdict, ...] = ()

    @property
    def outcome(self) -> str:
        """Holds, fails, inconclusive, not comparable or not run; a statement without a judge was not run."""
        return rules.compound([part.outcome for part in self.judged]) if self.parts else NOT_RUN

    @property
    def judged(self) -> list[PartVerdict]:
        """The parts that decide."""
        return [part for part in self.parts if part.counted and not part.beside]

    @property
    def word(self) -> str:
        """The verdict as readers see it: a result below full scale always carries the name of its scale."""
        if self.outcome not in (HOLDS, FAILS):
            return self.outcome
        if self.profile == "paper":
            return "reproduced" if self.outcome == HOLDS else "not reproduced"
        return f"{self.outcome} at {self.profile} scale"

    def as_json(self) -> dict[str, Any]:
        """Plain mapping; ``interval`` and ``unit`` are those of the first part that decides."""
        statement, parts = self.statement, self.parts
        deciding = [part for part in self.judged if part.outcome == self.outcome]
        shown = deciding[0].as_json() if deciding else {"interval": None, "unit": None}
        reasons = dict.fromkeys(part.reason for part in deciding)
        least = min(self.judged, key=lambda part: part.n, default=None)
        return {
            "id": statement.id,
            "source": statement.source,
            "kind": statement.kind,
            "says": statement.says,
            "place": statement.place,
            "published": statement.published,
            "ours": "; ".join("beside it: " * part.beside + part.text for part in parts if part.text) or None,
            "interval": shown["interval"],
            "unit": shown["unit"],
            "n": least.n if least else 0,
            "verdict": self.word,
            "reason": "; ".join(reasons) or "this package has no run for this statement",
            "runs": sorted({run for part in parts for run in part.runs}),
            "artefact": statement.artefact,
            "profile": self.profile,
            "why": statement.judge["why"] if statement.judge else None,
            "parts": [part.as_json() for part in parts],
        } | _named(least.repetitions if least else SEEDS)


class _Evidence:
    """What is known of one source at one profile: its valid records by run and seed, and planned runs that lack one."""

    def __init__(self, source: str, profile: str, records: Iterable[Record], absent: Mapping[tuple[str, int], str]):
        self.source, self.profile = source, profile
        self.current: dict[str, dict[int, Record]] = {}
        for record in records:
            self.current.setdefault(record.run, {})[record.seed] = record
        self.absent: dict[str, dict[int, str]] = {}
        for (run, seed), why in absent.items():
            self.absent.setdefault(run, {})[seed] = why

    def seeds(self, runs: Sequence[str]) -> list[int]:
        """Seeds of ``runs``, all of which need a valid record of every seed that is planned for or known of any.

        A seed is never dropped because one arm, or every arm, lacks it: a deleted record could then change a verdict.
        """
        seeds = sorted({seed for run in runs for known in (self.current, self.absent) for seed in known.get(run, {})})
        gone = []
        for run in runs:
            why = self.absent.get(run, {})
            lost = [seed for seed in seeds if seed not in self.current.get(run, {})]
            words = {seed: f" ({why[seed]})" if why.get(seed, MISSING) != MISSING else "" for seed in lost}
            if run not in self.current and len(set(words.values())) < 2:
                gone.append(run + next(iter(words.values()), ""))
            else:
                gone += [f"{run}.s{seed}{words[seed]}" for seed in lost]
        if gone:
            raise _Undecided(NOT_RUN, "missing: " + ", ".join(gone))
        return seeds

    def grid(self, arm: str) -> dict[float, str]:
        """Learning rate -> run of ``arm``, ascending; every rate that is planned or known for any arm of the source."""
        known = [run for run in (*self.current, *self.absent) if run.startswith(f"{self.source}-grid-")]
        rates = {found["rate"] for run in known if (found := _GRID_RUN.match(run))}
        return dict(sorted((float(rate.replace("_", ".")), f"{arm}-lr{rate}") for rate in rates))

    def scores(self, arm: str, seed: int) -> dict[float, float]:
        """Learning rate -> held-out top-1 at the last epoch, for one arm and seed.

        Raises:
            ReproError: a run of the grid was evaluated on the test set.
        """
        scores = {}
        for rate, run in self.grid(arm).items():
            record = self.current[run][seed]
            if record.spec["evaluate_on"] != "held_out":
                raise ReproError(
                    f"record {run}.s{seed}: evaluated on {record.spec['evaluate_on']}; held_out was "
                    "expected, test accuracy never chooses a learning rate; correct the run's definition"
                )
            scores[rate] = final_top1(record)
        return scores


def _runs(part: Mapping[str, Any], evidence: _Evidence) -> list[str]:
    """Every run that a part reads, the one that sets the target included."""
    arms = runs_of(part)
    metric = part.get("metric")
    if metric == "total_sent" and not _reads_trained(part, evidence):
        return [part["payloads"]]
    if metric == "best_lr":
        return [run for arm in arms for run in evidence.grid(arm).values() or [f"{arm}-lr*"]]
    if metric in TO_TARGET and evidence.source in TARGETS:
        run, at_full_scale = TARGETS[evidence.source]
        if run not in arms and (evidence.profile != "paper" or at_full_scale is None):
            return [*arms, run]
    return arms


def _reads_trained(part: Mapping[str, Any], evidence: _Evidence) -> bool:
    """Whether totals are those of trained runs: where these are planned at the post's scale."""
    return "trained" in part and evidence.profile == "paper"


def _measure(part: Mapping[str, Any], evidence: _Evidence, seeds: Sequence[int]) -> _Table:
    """The part's metric for each of its arms and seeds."""
    metric = part["metric"]
    if metric == "best_lr":
        return {arm: {seed: _best_rate(evidence.scores(arm, seed)) for seed in seeds} for arm in runs_of(part)}
    if metric in _FROM_PAYLOADS:
        return {arm: {seed: _of_payloads(part, arm, evidence, seed) for seed in seeds} for arm in part["contrast"]}
    arms = part.get("contrast", part.get("runs", []))
    used = {arm: {seed: evidence.current[arm][seed] for seed in seeds} for arm in arms}
    every = [record for by_seed in used.values() for record in by_seed.values()]
    epochs: list[float] = []
    target, at = 0.0, 0
    if metric == "mean_top1":
        epochs = common_epochs(every)
        if not epochs:
            raise _Undecided(INCONCLUSIVE, "there is no epoch at which all runs were evaluated")
    elif metric == "epochs_to_first_cut":
        if lost := [f"{label(record.run)} (seed {record.seed})" for record in every if record.status == "diverged"]:
            raise _Undecided(INCONCLUSIVE, f"{', '.join(lost)} diverged, so when its rate would be cut is unknown")
    elif metric == "top1_at_equal_iterations":
        at = min(planned_rounds(record) for record in every)
        if lost := [f"{label(record.run)} (seed {record.seed})" for record in every if top1_at(record, at) is None]:
            raise _Undecided(INCONCLUSIVE, f"not evaluated at iteration {at}, the last common one: {', '.join(lost)}")
    elif metric == "early_gradient_norm":
        at = early_iterations(every)
    elif metric in TO_TARGET:
        known = [record for by_seed in evidence.current.values() for record in by_seed.values()]
        try:
            target = target_accuracy(known, evidence.profile, evidence.source)
        except ReproError as error:
            raise _Undecided(INCONCLUSIVE, str(error)) from error

    def read(record: Record) -> Measured:
        if metric in _AT_THE_END:
            return Measured(_AT_THE_END[metric][0](record))
        if metric == "mean_top1":
            return Measured(mean_top1(record, epochs))
        if metric == "top1_at_equal_iterations":
            return Measured(_known(record, top1_at(record, at), "its accuracy"))
        if metric == "early_gradient_norm":
            return Measured(math.log2(_positive(record, mean_gradient_norm(record, at), "the norm of its gradient")))
        if metric == "step_up_share":
            return Measured(_known(record, step_up_share(record), "its share of steps"))
        if metric == "top_eigenvalue":
            return Measured(_positive(record, top_eigenvalue(record), "the top eigenvalue of its Hessian"))
        if metric == "epochs_to_first_cut":
            return to_first_cut(record)
        return to_target(record, target, "epoch" if metric == "epochs_to_target" else "round")

    return {arm: {seed: read(record) for seed, record in by_seed.items()} for arm, by_seed in used.items()}


def _known(record: Record, found: float | None, what: str) -> float:
    """``found``, or the end of the question where the run diverged before it could be read."""
    if found is None:
        raise _Undecided(INCONCLUSIVE, f"{label(record.run)} (seed {record.seed}) diverged, so {what} is unknown")
    return found


def _positive(record: Record, found: float | None, what: str) -> float:
    """The same for what is compared as a ratio."""
    if (known := _known(record, found, what)) <= 0:
        raise _Undecided(
            INCONCLUSIVE, f"{label(record.run)} (seed {record.seed}): {what} is {known:.2g}, and has no logarithm"
        )
    return known


def _of_payloads(part: Mapping[str, Any], arm: str, evidence: _Evidence, seed: int) -> Measured:
    """A metric of ``arm`` (``run codec``, or a method for ``total_sent``) from the payloads of one seed."""
    if part["metric"] == "total_sent":
        payloads = evidence.current[part["payloads"]][seed]
        if _reads_trained(part, evidence):
            run = evidence.current[part["trained"][arm]][seed]
            if run.status == "diverged":
                raise _Undecided(INCONCLUSIVE, f"{label(run.run)} (seed {seed}) diverged, so what it sends is unknown")
            return Measured(traffic.sent_by_run(run, payloads, arm))
        return Measured(traffic.total_sent(payloads, arm, traffic.UNZIPPED if "unzipped" in part else traffic.DEFAULT))
    name, codec, *what = arm.split()
    metric = {"compression_rate": traffic.compression_rate, "saved_by_zip": traffic.saved_by_zip}[part["metric"]]
    return Measured(metric(evidence.current[name][seed], codec, *what))


def _best_rate(scores: Mapping[float, float]) -> Measured:
    """log2 of the best learning rate (mean of the logs where several tie), with the grid's widest step."""
    best = [rate for rate, score in scores.items() if score == max(scores.values())]
    step = max(np.diff(np.log2(sorted(scores))), default=0.0)
    return Measured(float(np.mean(np.log2(best))), step=float(step))


def _interval(part: Mapping[str, Any], table: _Table, evidence: _Evidence, seeds: Sequence[int]) -> Interval:
    """The paired interval that the part's rule looks at."""
    if part["rule"] in ("ratio", "factor"):
        return _log_ratio_interval(part, table, seeds)
    if part["rule"] == "trend":
        x = [SCALES[part["against"]](evidence.current[run][seeds[0]].spec) for run in part["runs"]]
        slopes = [rules.slope(x, [table[run][seed].value for run in part["runs"]]) for seed in seeds]
        return rules.paired_interval([tidy(each) for each in slopes])
    differences = [
        tidy(sum(weight * table[arm][seed].value for arm, weight in part["contrast"].items())) for seed in seeds
    ]
    # Half a step of the learning-rate grid; the step of an accuracy is 0.
    half_step = max(reading.step for by_seed in table.values() for reading in by_seed.values()) / 2
    return rules.paired_interval(differences, half_step)


def _log_ratio_interval(part: Mapping[str, Any], table: _Table, seeds: Sequence[int]) -> Interval:
    """Interval of log(slow / fast); the contrast gives the arm said to be slow (larger) 1 and the fast one -1.

    An arm that never reached the target enters with its lower bound, where that still decides who was first.
    """
    fast, slow = sorted(part["contrast"], key=lambda arm: part["contrast"][arm])
    never, without = _missed(part)
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
        # The later arm may have crossed the target just after its previous evaluation, one step nearer.
        resolutions.append(math.log1p(last.step / first.value))
    if open_seeds:
        stopped = [f"seed {', '.join(those)}: {who} stopped {without}" for who, those in open_seeds.items()]
        raise _Undecided(INCONCLUSIVE, "; ".join(stopped))
    if _stopped(table[slow]) and _stopped(table[fast]):
        raise _Undecided(INCONCLUSIVE, f"{label(slow)} and {label(fast)} each stopped {without} in some seed")
    interval = rules.paired_interval(logs, float(np.mean(resolutions)))
    against = {HOLDS: fast, FAILS: slow}.get(rules.order(interval))
    if against and _stopped(table[against]):
        raise _Undecided(INCONCLUSIVE, f"{label(against)} leads over the seeds but {never} in one of them")
    return interval


def _missed(part: Mapping[str, Any]) -> tuple[str, str]:
    """That a run ended before what the metric waits for, as a verb and as an adverb."""
    if part["metric"] == "epochs_to_first_cut":
        return "never cut its learning rate", "without a cut of its learning rate"
    return "never reached the target", "without reaching the target"


def _stopped(by_seed: Mapping[int, Measured]) -> bool:
    """Whether any seed of an arm ended without reaching the target, so that its number is a lower bound."""
    return not all(reading.reached for reading in by_seed.values())


def _open_ends(part: Mapping[str, Any], table: _Table) -> tuple[bool, bool]:
    """Whether nothing bounds a ratio below (its fast arm was stopped too early) and above (its slow arm was)."""
    if part["rule"] != "ratio":
        return False, False
    fast, slow = sorted(part["contrast"], key=lambda arm: part["contrast"][arm])
    return _stopped(table[fast]), _stopped(table[slow])


def _reservation(
    part: Mapping[str, Any], table: _Table, evidence: _Evidence, runs: Sequence[str], seeds: Sequence[int]
) -> str | None:
    """Why a part stays inconclusive whatever its interval says, or None."""

    def mean_of(metric: Callable[[Record], float], run: str) -> float:
        return float(np.mean([metric(evidence.current[run][seed]) for seed in seeds]))

    if "reserved" in part:
        return str(part["reserved"])
    for name, needed in part.get("needs", {}).items():
        met, otherwise = CONDITIONS[name]
        for run in needed:
            if lost := [str(seed) for seed in seeds if not met(evidence.current[run][seed])]:
                return f"{label(run)} {otherwise} (seed {', '.join(lost)}), so that this cannot be told"
    if part["metric"] == "best_lr":
        for arm in part["contrast"]:
            for seed in seeds:
                scores = evidence.scores(arm, seed)
                for edge in (min(scores), max(scores)):
                    if scores[edge] == max(scores.values()):
                        return f"the best learning rate of {label(arm)} (seed {seed}) is {edge:g}, an edge of the grid"
    needs_trained_arm = part["rule"] in _NEEDS_TRAINED_ARM and part["metric"] not in (*_FROM_PAYLOADS, *OF_CLIENTS)
    needs_trained_arm |= part["metric"] == "step_up_share"
    if needs_trained_arm or "above_floor" in part:
        finals = {run: mean_of(final_top1, run) for run in runs}
        if part["metric"] == "top1_at_equal_iterations":  # what a longer run reaches later does not count
            finals = {run: float(np.mean([reading.value for reading in table[run].values()])) for run in runs}
        floor = rules.accuracy_floor(evidence.current[runs[0]][seeds[0]].chance)
        needed = f"too close to chance ({number(100 * floor, 1)} % needed)"
        best = max(finals, key=lambda run: finals[run])
        if needs_trained_arm and finals[best] < floor:
            which = "" if len(finals) == 1 else ", the best of those compared,"
            return f"{label(best)}{which} ends at {number(100 * finals[best], 1)} %, {needed}"
        if low := [run for run in part.get("above_floor", []) if finals[run] < floor]:
            ends = ", ".join(f"{label(run)} ends at {number(100 * finals[run], 1)} %" for run in low)
            return f"{ends}, {needed}, so what was lost cannot be told"
    at_rest = part.get("settled_within")
    if part["rule"] == "equivalence" and part["metric"] == "final_top1":
        at_rest = part["margin"]
    if at_rest is not None:
        gains = {run: mean_of(last_quarter_gain, run) for run in runs_of(part)}
        if rising := [run for run, gain in gains.items() if gain > at_rest]:
            points = ", ".join(f"{label(run)} {number(100 * gains[run], 1, sign=True)}" for run in rising)
            return f"still rising, points gained in the last quarter of training: {points}"
    if len(seeds) < MINIMUM_SEEDS:
        return f"{len(seeds)} of at least {MINIMUM_SEEDS} seeds"
    return None


def _reason(part: Mapping[str, Any], outcome: str, bounds: bool) -> str:
    """Where the interval lies; ``bounds``: it rests on lower bounds of seeds that never got there."""
    rule = part["rule"]
    if rule in ("order", "ratio", "trend"):
        equal = "1 (no difference)" if rule == "ratio" or part["metric"] in _AS_LOGARITHM else "0"
        if "by_more_than" in part:
            equal = f"{100 * part['by_more_than']:g} {'%' if _is_level(part) else 'points'}"
        if "at_least" in part:
            equal = f"{part['at_least']:g} times"
        side = {HOLDS: "excludes {} on the side stated", FAILS: "excludes {} on the other side"}
        counted = f", a seed that {_missed(part)[0]} counted at its next evaluation," if bounds else ""
        return f"the 95 % interval{counted} " + side.get(outcome, "includes {}").format(equal)
    if rule == "equivalence":
        limits = f"±{100 * part['margin']:g} points"
    elif rule == "value" and part["metric"] == "compression_rate":
        limits = f"{part['published']:g} ± {part['tolerance']:g} times"
    elif rule == "value":
        unit = "%" if _is_level(part) else "points"
        limits = f"{100 * part['published']:g} ± {100 * part['tolerance']:g} {unit}"
    elif rule == "factor":
        limits = f"{part['published']:g} times ± {100 * part['tolerance']:g} %"
    else:
        limits = f"at most {100 * part['at_most']:g} {'%' if _is_level(part) else 'points'}"
    where = {HOLDS: "within", FAILS: "entirely outside", INCONCLUSIVE: "partly outside"}[outcome]
    return f"the 95 % interval lies {where} {limits}"


def _arm_texts(metric: str, table: _Table) -> tuple[dict[str, float], list[str]]:
    """Mean of each arm over seeds, as a number and as text: "> N" where a seed never got there."""
    numbers, texts = {}, []
    for arm, by_seed in table.items():
        if metric in _IN_PERCENT:
            numbers[arm] = float(np.mean([100 * reading.value for reading in by_seed.values()]))  # as in figures
            texts.append(_IN_PERCENT[metric].format(arm=label(arm), value=number(numbers[arm], 1)))
            continue
        mean = float(np.mean([reading.value for reading in by_seed.values()]))
        if metric in _AS_LOGARITHM:
            numbers[arm] = 2**mean
            texts.append(f"{label(arm)} {2**mean:.3g}")
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
            more = "> " if _stopped(by_seed) else ""
            texts.append(f"{label(arm)} {more}{number(mean, 1)} {metric.split('_')[0]}")
    return numbers, texts


def _arm_label(arm: str) -> str:
    """``e2-payloads-resnet18-10 int8`` in words."""
    found = _PAYLOADS_RUN.match(arm)
    if not found:
        return arm
    head = ", of which ten occur" if found["classes"] != "10" else ""
    return f"{found['codec']} ({_CONTENTS[found['what']]}ResNet{found['layers']}, {found['classes']} classes{head})"


def _in_units(part: Mapping[str, Any], interval: Interval) -> tuple[list[float], str]:
    """Estimate, low and high in readers' units, and the unit."""
    ends = [interval.estimate, interval.low, interval.high]
    if part["rule"] in ("ratio", "factor"):
        return [math.exp(end) for end in ends], "times"
    per_doubling = " per doubling" if part["rule"] == "trend" else ""
    if part["metric"] in _AS_LOGARITHM:
        return [2.0**end for end in ends], "times" + per_doubling
    if part["metric"] == "compression_rate":
        return ends, "times"
    percent = [100 * end for end in ends]
    return percent, "%" if _is_level(part) else "points" + per_doubling


def _is_level(part: Mapping[str, Any]) -> bool:
    """Whether a contrast is an accuracy, or a share, rather than a difference of them."""
    return part["rule"] in ("order", "bound", "value") and bool(tidy(sum(part["contrast"].values())))


def _in_words(estimate: float, low: float, high: float, unit: str, open_ends: tuple[bool, bool], n: int) -> str:
    """``+2.1 points [+1.2, +3.0]``; a ratio of which only a bound is known is said as one."""

    def say(value: float) -> str:
        return number(value, 2 if unit.startswith("times") else 1, sign=unit.startswith("points"))

    bound = {(False, True): "> ", (True, False): "< "}.get(open_ends, "")
    ends = [say(low) if not open_ends[0] else "no lower end", say(high) if not open_ends[1] else "no upper end"]
    return f"{bound}{say(estimate)} {unit} [{', '.join(ends) if n > 1 else 'no interval from one seed'}]"


def _judge_law(part: Mapping[str, Any], evidence: _Evidence) -> PartVerdict:
    run = part["run"]
    records = [evidence.current[run][seed] for seed in evidence.seeds([run])]
    unmet = [text for record in records for text in rules.unmet_checks(record.law or {}, part["checks"])]
    numbers = {check["number"]: float((records[0].law or {})[check["number"]]) for check in part["checks"]}
    return PartVerdict(
        rule="law",
        outcome=FAILS if unmet else HOLDS,
        reason="; ".join(unmet) or "every check of the law is met",
        text="; ".join(f"{check['called']} {numbers[check['number']]:.2g}" for check in part["checks"]),
        arms=numbers,
        n=len(records),
        runs=(run,),
    )


def _judge_divergence(part: Mapping[str, Any], evidence: _Evidence) -> PartVerdict:
    """Every seed of ``runs`` diverges and none of ``unlike``; a run that never does so speaks against it."""
    named = runs_of(part)
    seeds = evidence.seeds(named)
    lost = {run: sum(evidence.current[run][seed].status == "diverged" for seed in seeds) for run in named}
    stable = [label(run) for run in part["runs"] if not lost[run]]
    partly = [label(run) for run in part["runs"] if 0 < lost[run] < len(seeds)]
    also = [label(run) for run in part["unlike"] if lost[run]]
    if stable:
        outcome, reason = FAILS, f"no seed diverged: {', '.join(stable)}"
    elif partly or also:
        outcome = INCONCLUSIVE
        reason = "; ".join(
            [f"some seeds diverged: {', '.join(partly)}"] * bool(partly)
            + [f"diverged although it is not said to: {', '.join(also)}"] * bool(also)
        )
    else:
        outcome, reason = HOLDS, "every seed diverged of the runs that are said to, and none of the others"
    if "reserved" in part:
        outcome, reason = INCONCLUSIVE, str(part["reserved"])
    elif len(seeds) < MINIMUM_SEEDS:
        outcome, reason = INCONCLUSIVE, f"{len(seeds)} of at least {MINIMUM_SEEDS} seeds"
    return PartVerdict(
        rule="divergence",
        outcome=outcome,
        reason=reason,
        text=", ".join(f"{label(run)} diverged in {count} of {len(seeds)} seeds" for run, count in lost.items()),
        arms={run: count / len(seeds) for run, count in lost.items()},
        n=len(seeds),
        runs=tuple(named),
    )


def _judge_definition(part: Mapping[str, Any], evidence: _Evidence, published: Any) -> PartVerdict:
    from repro import definitions  # runs the codec, and needs torch for it

    run = part["run"]
    records = [evidence.current[run][seed] for seed in evidence.seeds([run])]
    if not isinstance(published, Mapping):
        raise ReproError(
            f"data/published.yaml: {run} is judged by rule definition, and published is {published!r}; a mapping of "
            "settings was expected; correct it"
        )
    ours = definitions.of_codec(records[0].spec)
    unmet = [f"{name} is {ours.get(name)}, not {said}" for name, said in published.items() if ours.get(name) != said]
    return PartVerdict(
        rule="definition",
        outcome=FAILS if unmet else HOLDS,
        reason="; ".join(unmet) or "the codec, executed, has every setting that the source names",
        text="; ".join(f"{name.replace('_', ' ')}: {setting}" for name, setting in ours.items()),
        n=len(records),
        runs=(run,),
    )


def _judge_trained(part: Mapping[str, Any], evidence: _Evidence) -> PartVerdict:
    runs = _runs(part, evidence)
    seeds = evidence.seeds(runs)
    table = _measure(part, evidence, seeds)
    numbers, texts = _arm_texts(part["metric"], table)
    arms, lost = ", ".join(texts), _diverged(part, table, evidence)
    seen = PartVerdict(part["rule"], INCONCLUSIVE, "", text=arms + lost, arms=numbers, n=len(seeds), runs=tuple(runs))
    try:
        interval = _interval(part, table, evidence, seeds)
    except _Undecided as undecided:
        return replace(seen, outcome=undecided.outcome, reason=str(undecided))
    (estimate, low, high), unit = _in_units(part, interval)
    over = "mean over epochs: " if (part["rule"], part["metric"]) == ("equivalence", "mean_top1") else ""
    open_ends = _open_ends(part, table)
    aside = ""
    if "unzipped" in part:
        aside = " (without zip)"
    elif part["metric"] == "total_sent":
        aside = _of_all_readings(part, evidence, seeds)
    if _reads_trained(part, evidence):
        aside = " (bytes of trained runs without running statistics, zip computed)" + aside
    seen = replace(
        seen,
        text=f"{over}{arms}: {_in_words(estimate, low, high, unit, open_ends, interval.n)}{aside}{lost}",
        estimate=estimate,
        interval=(None if open_ends[0] else low, None if open_ends[1] else high) if interval.n > 1 else None,
        unit=unit,
    )
    if part["rule"] in ("value", "factor"):
        used = [evidence.current[run][seed] for run in runs for seed in seeds]
        if obstacle := _not_comparable(part, evidence, used):
            counted = not part.get("full_scale_only", False)
            return replace(seen, outcome=NOT_COMPARABLE, reason=obstacle, counted=counted)
    if reservation := _reservation(part, table, evidence, runs, seeds):
        return replace(seen, reason=reservation)
    outcome = _RULES[part["rule"]](interval, part)
    return replace(seen, outcome=outcome, reason=_reason(part, outcome, any(open_ends)))


def _diverged(part: Mapping[str, Any], table: _Table, evidence: _Evidence) -> str:
    """Which arms diverged in which seeds, and as what they count; empty where none did or it is said elsewhere."""
    metric = part["metric"]
    if metric not in _OF_DIVERGED:
        return ""
    found = []
    for arm, by_seed in table.items():
        lost = [evidence.current[arm][seed] for seed in by_seed if evidence.current[arm][seed].status == "diverged"]
        if metric == "top1_at_equal_iterations":  # one that diverged later had not diverged yet
            lost = [record for record in lost if by_seed[record.seed].value == record.chance]
        found += [f"{label(arm)}, seed {', '.join(str(record.seed) for record in lost)}"] * bool(lost)
    return f" (diverged, {_OF_DIVERGED[metric]}: {'; '.join(found)})" if found else ""


def _of_all_readings(part: Mapping[str, Any], evidence: _Evidence, seeds: Sequence[int]) -> str:
    """What the readings of "total data sent" that are not judged would give."""
    more, less = sorted(part["contrast"], key=lambda method: -part["contrast"][method])
    records = [evidence.current[part["payloads"]][seed] for seed in seeds]
    factors = [traffic.times_as_much(records, more, less, reading) for reading in traffic.readings()]
    met = sum(abs(each / part["published"] - 1) <= part["tolerance"] for each in factors)
    span = f"{number(min(factors), 2)} to {number(max(factors), 2)} times"
    classes = records[0].spec["classes"]
    head = "" if classes == records[0].data["classes"] else f" (the head of {classes} classes sees ten labels)"
    return f"; {len(factors)} readings give {span}, {met} of them within the tolerance{head}"


def _not_comparable(part: Mapping[str, Any], evidence: _Evidence, used: Iterable[Record]) -> str | None:
    """Why a published number says nothing about what was run here, or None; payloads have full size at any profile."""
    used = list(used)
    if obstacle := _reduced(used):
        return obstacle
    if part["metric"] in _FROM_PAYLOADS:
        if not all(map(traffic.is_full_size, used)):
            return "the payloads are those of a smaller network"
        unused = [record for record in used if (record.spec.get("classes") or 0) > record.data["classes"]]
        zipped = part["metric"] != "compression_rate" or any("+zip" in arm for arm in part["contrast"])
        zipped &= "unzipped" not in part
        if zipped and unused:  # without zip no length depends on what is trained
            heads, labels = unused[0].spec["classes"], unused[0].data["classes"]
            return f"what zip saves depends on the task, and the head of {heads} classes was trained on {labels} labels"
        return None
    return None if evidence.profile == "paper" else _AT_FULL_SCALE


_AT_FULL_SCALE = "the value was published at full scale"


def _reduced(used: Iterable[Record]) -> str | None:
    reduced = sorted({record.data["reduced"] for record in used if record.data["reduced"]})
    return f"reduced data: {', '.join(reduced)}" if reduced else None


def _judge_measured(part: Mapping[str, Any], evidence: _Evidence) -> PartVerdict:
    from repro.performance import judge  # which in turn reads this module

    runs = runs_of(part)
    (seed,) = evidence.seeds(runs)  # a measurement is executed once
    used = {run: evidence.current[run][seed] for run in runs}
    found = judge.judge(part, used)
    seen = PartVerdict(
        "measured", found.outcome, found.reason, found.text, found.arms,
        found.interval[0] if found.interval else None, found.interval[1:] if found.interval else None,
        found.unit, found.n, tuple(runs), repetitions=found.repetitions,
    )  # fmt: skip
    if part["measures"] == "line_error" or "full_scale_only" in part:
        obstacle = _reduced(used.values()) or (None if evidence.profile == "paper" else _AT_FULL_SCALE)
        if obstacle and found.outcome != NOT_COMPARABLE:
            counted = "full_scale_only" not in part
            return replace(seen, outcome=NOT_COMPARABLE, reason=obstacle, counted=counted)
    if "reserved" in part:
        return replace(seen, outcome=INCONCLUSIVE, reason=str(part["reserved"]))
    return seen


def _judge_part(part: Mapping[str, Any], evidence: _Evidence, published: Any) -> PartVerdict:
    try:
        if part["rule"] == "law":
            return _judge_law(part, evidence)
        if part["rule"] == "measured":
            return _judge_measured(part, evidence)
        if part["rule"] == "divergence":
            return _judge_divergence(part, evidence)
        if part["rule"] == "definition":
            return _judge_definition(part, evidence, published)
        return _judge_trained(part, evidence)
    except _Undecided as undecided:
        return PartVerdict(part["rule"], undecided.outcome, str(undecided), runs=tuple(_runs(part, evidence)))


def judge_all(
    statements: Iterable[Statement],
    records: Iterable[Record],
    *,
    profile: str,
    missing: Iterable[tuple[str, int]] = (),
    stale: Iterable[tuple[str, int]] = (),
) -> list[dict[str, Any]]:
    """The verdict on every statement, in the order given, from the records of one profile.

    Args:
        statements: as :func:`load_published` returns them.
        records: valid records of planned runs, of all groups together (``store.current``). Those of other profiles
            are ignored.
        profile: ``smoke``, ``study`` or ``paper``; decides the words and whether published values compare.
        missing: (run, seed) that are planned and have no record; what needs them is "not run" and names them.
        stale: (run, seed) that are planned and whose record was made by another spec, other data or older numerics.

    Returns:
        One mapping per statement with the keys id, source, kind, says, place, published, ours (text),
        interval (``[low, high]``, an end None where nothing bounds it, or None), unit, n, verdict, reason, runs,
        artefact, profile, why and parts.

    Raises:
        ReproError: a record contradicts its kind (no rows, a law without numbers, a grid run on test data).
    """
    statements, here = list(statements), [record for record in records if record.profile == profile]
    absent = dict.fromkeys(missing, MISSING) | dict.fromkeys(stale, STALE)
    evidence = {
        source: _Evidence(source, profile, (record for record in here if record.source == source), absent)
        for source in {statement.source for statement in statements}
    }
    verdicts = []
    for statement in statements:
        parts = statement.judge["parts"] if statement.judge else []
        judged = tuple(
            replace(_judge_part(part, evidence[statement.source], statement.published), beside="beside" in part)
            for part in parts
        )
        verdicts.append(Verdict(statement, profile, judged).as_json())
    return verdicts


def headline(verdicts: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """How many statements have which verdict; definitions and laws are counted apart from results.

    Returns:
        ``{"results": {verdict: count}, "laws": {...}, "definitions": {...}}``, verdicts alphabetically.
    """
    groups: dict[str, Counter[str]] = {"results": Counter(), "laws": Counter(), "definitions": Counter()}
    for verdict in verdicts:
        group = {"law": "laws", "definition": "definitions"}.get(verdict["kind"], "results")
        groups[group][verdict["verdict"]] += 1
    return {group: dict(sorted(counts.items())) for group, counts in groups.items()}
