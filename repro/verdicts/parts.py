"""How one part of a statement is judged: which interval, when it may decide, and what is said of it.

    part                        repetitions                     interval
    trained runs                looks at 5, 8 and 12 seeds      repeated (repro/results/looks.py), 95 % over all looks
    best_lr                     once, 8 seeds of the grid       the multiplier of that look
    payloads, total_sent        once, at least 3 seeds          Student t
    measured                    blocks of one measurement       Student t (repro/verdicts/measured.py)
    statistic                   looks at 5, 8 and 12 seeds      repeated
    divergence                  once, 8 seeds                   none: exact tests of counts
    law, definition             executed                        none

The decision of a trained part is that of the earliest look at which its rule decides. Whatever an interval says, a part
is open while arms are near chance, contrasts still move, targets are out of reach or what it ``needs`` is not met.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from repro.errors import ReproError
from repro.registry.labels import label, number
from repro.registry.published import GRADIENT_NORMS, OF_CLIENTS, SENT_TOTAL, runs_of
from repro.results import looks, traffic
from repro.results.metrics import CONDITIONS, best_rate, end_top1, tidy, top1_before_the_end
from repro.results.records import Record
from repro.results.statistics import STATISTICS
from repro.verdicts import rules
from repro.verdicts.contrasts import (
    AS_LOGARITHM,
    FROM_PAYLOADS,
    OF_DIVERGED,
    Table,
    arm_texts,
    arms_of,
    hidden_by_a_bound,
    in_units,
    in_words,
    is_level,
    measure,
    missed,
    open_ends,
    reads_trained,
    runs_read,
    sample,
    sizes_of,
)
from repro.verdicts.evidence import (
    BYTES,
    DIVERGENCE_SEEDS,
    GRIDS,
    MINIMUM_SEEDS,
    TRAINED,
    Evidence,
    Repetitions,
    Undecided,
)
from repro.verdicts.rules import DECIDED, DEPENDS_ON, FAILS, HOLDS, NO_DIFFERENCE, NOT_COMPARABLE, OPEN, Interval

SEEDS = "seeds"
_NEEDS_TRAINED_ARM = ("order", "ratio", "trend", "equivalence")
_WITHOUT_FLOOR = (*FROM_PAYLOADS, *OF_CLIENTS, *GRADIENT_NORMS, SENT_TOTAL)
_SHOWN_READINGS = 6
_AT_FULL_SCALE = "the value was published at full scale"


def six_digits(value: float) -> float:
    """As numbers are stored."""
    return float(f"{value:.6g}")


def _shown(value: float | None) -> float | None:
    return None if value is None else tidy(six_digits(value))


def named(repetitions: str) -> dict[str, str]:
    """What ``n`` counts, where it is not seeds."""
    return {} if repetitions == SEEDS else {"repetitions": repetitions}


class Look(NamedTuple):
    """Estimate and interval after ``n`` seeds, in readers' units; None where nothing could be compared."""

    n: int
    estimate: float | None
    interval: tuple[float | None, float | None] | None

    def as_json(self) -> dict[str, Any]:
        """Plain mapping with numbers of six significant digits."""
        ends = None if self.interval is None else [_shown(end) for end in self.interval]
        return {"n": self.n, "estimate": _shown(self.estimate), "interval": ends}


@dataclass(frozen=True)
class PartVerdict:
    """Outcome of one part of a statement, its numbers in the units that readers see.

    An end of ``interval`` is None where an arm never reached its target, so that nothing bounds the ratio there.
    Two kinds of part are shown without deciding: another reading (``beside``), and a published value that this profile
    does not compare (``counted`` is False). ``repetitions`` says what ``n`` counts: seeds, blocks of a measurement, or
    that bytes are counted once. ``looks`` are the looks that were reached; the other numbers are those of the one that
    decided. ``p`` is the smallest level at which the part would be decided as it is, two-sided; None where nothing is
    decided, or without a test (laws, definitions, counted bytes). ``q`` is its false discovery rate over the profile.
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
    name: str | None = None
    under: Mapping[str, str] | None = None
    looks: tuple[Look, ...] = ()
    p: float | None = None
    q: float | None = None
    post_hoc: bool = False

    @property
    def decides(self) -> bool:
        """Whether it is part of the verdict on its statement."""
        return self.counted and not self.beside

    def as_json(self) -> dict[str, Any]:
        """Plain mapping with numbers of six significant digits."""
        return (
            {
                "name": self.name,
                "under": None if self.under is None else dict(self.under),
                "rule": self.rule,
                "outcome": self.outcome,
                "reason": self.reason,
                "ours": self.text or None,
                "arms": {arm: six_digits(mean) for arm, mean in self.arms.items()},
                "estimate": _shown(self.estimate),
                "interval": None if self.interval is None else [_shown(end) for end in self.interval],
                "unit": self.unit,
                "n": self.n,
                "looks": [look.as_json() for look in self.looks],
                "p": _shown(self.p),
                "q": _shown(self.q),
            }
            | ({"beside": True} if self.beside else {})
            | ({"post_hoc": True} if self.post_hoc else {})
            | named(self.repetitions)
        )


def judge_part(part: Mapping[str, Any], evidence: Evidence, published: Any) -> PartVerdict:
    """The verdict on one part of a statement whose published value is ``published``.

    Raises:
        ReproError: a record contradicts its kind.
    """
    judges: dict[str, Callable[..., PartVerdict]] = {
        "law": _judge_law, "measured": _judge_measured, "divergence": _judge_divergence, "readings": _judge_readings,
        "statistic": _judge_statistic,
    }  # fmt: skip
    try:
        if part["rule"] == "definition":
            found = _judge_definition(part, evidence, published)
        else:
            found = judges.get(part["rule"], _judge_trained)(part, evidence)
    except Undecided as undecided:
        found = PartVerdict(part["rule"], undecided.outcome, str(undecided), runs=tuple(runs_read(part, evidence)))
    return replace(
        found, beside="beside" in part, name=part.get("name"), under=part.get("under"), post_hoc="post_hoc" in part
    )


# Trained runs, grids and messages ----------------------------------------------------------------------------


def repetitions_of(part: Mapping[str, Any]) -> Repetitions:
    """When a part that compares runs is judged; the table is at the top of this file."""
    if part["metric"] in FROM_PAYLOADS:
        return BYTES
    return GRIDS if part["metric"] == "best_lr" else TRAINED


class _At(NamedTuple):
    """One look: its verdict, and the outcome of the same rule on the interval of another level (None: not asked)."""

    verdict: PartVerdict
    outcome_at: Callable[[float], str] | None


def _judge_trained(part: Mapping[str, Any], evidence: Evidence) -> PartVerdict:
    runs, repetitions = runs_read(part, evidence), repetitions_of(part)
    at = [_judge_at(part, evidence, runs, seeds) for seeds in evidence.at_looks(runs, repetitions)]
    return _at_first_decision(at, repetitions.least)


def _at_first_decision(at: Sequence[_At], least: int) -> PartVerdict:
    """The verdict of the earliest look that decides, with all looks and the smallest level at which it stands."""
    deciding = next((each for each in at if each.verdict.outcome in DECIDED), at[-1]).verdict
    reached = [each.verdict for each in at if each.verdict.n >= least]
    same = [each for each in at if deciding.outcome in DECIDED and each.verdict.outcome == deciding.outcome]
    p_values = [_p_value(each.outcome_at, deciding.outcome) for each in same if each.outcome_at]
    return replace(
        deciding,
        looks=tuple(Look(each.n, each.estimate, each.interval) for each in reached),
        p=min(p_values, default=None),
    )


def _p_value(outcome_at: Callable[[float], str], outcome: str) -> float:
    """The smallest level at which the outcome stands."""
    return looks.smallest_alpha(lambda alpha: outcome_at(alpha) == outcome)


def _judge_at(part: Mapping[str, Any], evidence: Evidence, runs: Sequence[str], seeds: Sequence[int]) -> _At:
    """The verdict from the first ``seeds`` of the plan."""
    repetitions = repetitions_of(part)
    seen = PartVerdict(part["rule"], OPEN, "", n=len(seeds), runs=tuple(runs))
    try:
        table = measure(part, evidence, seeds)
        numbers, texts = arm_texts(part["rule"], part["metric"], table)
        arms, lost = ", ".join(texts), _diverged(part, table, evidence)
        seen = replace(seen, text=arms + lost, arms=numbers)
        found = sample(part, table, evidence, seeds)
        interval = found.interval(repetitions.multiplier(len(seeds)))
        if why := hidden_by_a_bound(part, table, interval):
            raise Undecided(OPEN, why)
    except Undecided as undecided:
        return _At(replace(seen, outcome=undecided.outcome, reason=str(undecided)), None)
    seen = _with_numbers(part, evidence, seeds, seen, interval, table, (arms, lost))
    if part["rule"] in ("value", "factor"):
        used = [evidence.current[run][seed] for run in runs for seed in seeds]
        if obstacle := _not_comparable(part, evidence, used):
            counted = not part.get("full_scale_only", False)
            return _At(replace(seen, outcome=NOT_COMPARABLE, reason=obstacle, counted=counted), None)
    lost_arms = _untrained(part, evidence, seeds, looks.ALPHA)
    if reservation := _reservation(part, table, evidence, runs, seeds, lost_arms):
        return _At(replace(seen, reason=reservation), None)
    two = len(part.get("contrast", ())) == 2  # in a difference of losses a dead arm's counts as it is
    if worse := [arm for arm in lost_arms if two and part["contrast"][arm] > 0]:
        reason = f"does not train: {_does_not_train(part, worse, evidence, seeds)}"
        return _At(
            replace(seen, outcome=FAILS, reason=reason),
            lambda alpha: FAILS if set(worse) & set(_untrained(part, evidence, seeds, alpha)) else OPEN,
        )
    small = 0.0 if any(open_ends(part, table)) else small_of(part, evidence, seeds[0])
    outcome = _outcome(part, interval, small)
    reason = _reason(part, outcome, any(open_ends(part, table)))
    if outcome in (HOLDS, FAILS) and part["rule"] in ("order", "ratio", "trend") and rules.is_small(interval, small):
        reason += f"; all of it is smaller than {_small_in_words(part)}"
    if lost_arms:
        reason += f"; does not train: {_does_not_train(part, lost_arms, evidence, seeds)}"
    return _At(
        replace(seen, outcome=outcome, reason=reason),
        lambda alpha: _outcome(part, found.interval(repetitions.multiplier(len(seeds), alpha)), small),
    )


def _with_numbers(
    part: Mapping[str, Any], evidence: Evidence, seeds: Sequence[int], seen: PartVerdict, interval: Interval,
    table: Table, said: tuple[str, str],
) -> PartVerdict:  # fmt: skip
    """``seen`` with the estimate and its interval, in numbers and in words."""
    (estimate, low, high), unit = in_units(part, interval)
    ends, (arms, lost) = open_ends(part, table), said
    over = "mean over epochs: " if (part["rule"], part["metric"]) == ("equivalence", "mean_top1") else ""
    aside = ""
    if "unzipped" in part:
        aside = " (without zip)"
    elif part["metric"] == "total_sent":
        aside = _of_all_readings(part, evidence, seeds)
    if reads_trained(part, evidence):
        aside = " (bytes of trained runs without running statistics, zip computed)" + aside
    return replace(
        seen,
        text=f"{over}{arms}: {in_words(estimate, low, high, unit, ends, interval.n)}{aside}{lost}",
        estimate=estimate,
        interval=(None if ends[0] else low, None if ends[1] else high) if interval.n > 1 else None,
        unit=unit,
    )


def small_of(part: Mapping[str, Any], evidence: Evidence, seed: int) -> float:
    """Half-width of "no difference" on the scale of the part's interval; 0 where there is no such outcome."""
    if part["rule"] == "ratio":
        return math.log(rules.SMALL_RATIO)
    small = math.log2(rules.SMALL_RATIO) if part["metric"] in AS_LOGARITHM else rules.SMALL_POINTS
    if part["rule"] == "trend":
        sizes = sizes_of(part, evidence, seed)
        return small / (max(sizes) - min(sizes))
    return 0.0 if part["rule"] != "order" or is_level(part) else small


def _small_in_words(part: Mapping[str, Any]) -> str:
    over = " over all sizes" if part["rule"] == "trend" else ""
    if part["rule"] == "ratio" or part["metric"] in AS_LOGARITHM:
        return f"a factor of {rules.SMALL_RATIO:g}{over}"
    return f"{100 * rules.SMALL_POINTS:g} points{over}"


def _outcome(part: Mapping[str, Any], interval: Interval, small: float) -> str:
    rule = part["rule"]
    if rule == "order":
        return rules.order(interval, part.get("by_more_than", 0.0), small)
    if rule == "ratio":
        return rules.ratio(interval, part.get("at_least", 1.0), small)
    if rule == "trend":
        return rules.trend(interval, part["direction"], small)
    if rule == "equivalence":
        return rules.equivalence(interval, part["margin"])
    if rule == "bound":
        return rules.bound(interval, part["at_most"])
    return {"value": rules.value, "factor": rules.factor}[rule](interval, part["published"], part["tolerance"])


def _ends(evidence: Evidence, run: str, seeds: Sequence[int]) -> list[float]:
    return [evidence.read(end_top1, run, seed) for seed in seeds]


def _mean_end(evidence: Evidence, run: str, seeds: Sequence[int]) -> float:
    return math.fsum(_ends(evidence, run, seeds)) / len(seeds)


def _moved(evidence: Evidence, run: str, seeds: Sequence[int]) -> float:
    """Accuracy at the end minus that at 65 to 75 % of training, a fraction, mean over seeds."""
    before = math.fsum(evidence.read(top1_before_the_end, run, seed) for seed in seeds) / len(seeds)
    return tidy(_mean_end(evidence, run, seeds) - before)


def _untrained(part: Mapping[str, Any], evidence: Evidence, seeds: Sequence[int], alpha: float) -> list[str]:
    """Arms at chance whose IID sibling is above the accuracy floor and at rest: they do not train."""
    found: list[str] = []
    if "trains_like" not in part:
        return found
    width = repetitions_of(part).multiplier(len(seeds), alpha)
    for arm, sibling in part["trains_like"].items():
        chance = evidence.current[arm][seeds[0]].chance
        floor = rules.accuracy_floor(chance)
        here = rules.paired_interval(_ends(evidence, arm, seeds), multiplier=width)
        there = rules.paired_interval(_ends(evidence, sibling, seeds), multiplier=width)
        at_rest = abs(_moved(evidence, sibling, seeds)) <= rules.SMALL_POINTS
        if here.high < min(chance + rules.AT_CHANCE, floor) and there.low > floor and at_rest:
            found.append(arm)
    return found


def _does_not_train(part: Mapping[str, Any], arms: Sequence[str], evidence: Evidence, seeds: Sequence[int]) -> str:
    def said(run: str) -> str:
        return f"{label(run)} ends at {number(100 * _mean_end(evidence, run, seeds), 1)} %"

    return "; ".join(f"{said(arm)}, its IID sibling {said(part['trains_like'][arm])}" for arm in arms)


def _reservation(
    part: Mapping[str, Any], table: Table, evidence: Evidence, runs: Sequence[str], seeds: Sequence[int],
    lost: Sequence[str] = (),
) -> str | None:  # fmt: skip
    """Why a part stays open whatever its interval says, or None; arms of ``lost``, which do not train, may be low."""
    if "reserved" in part:
        return str(part["reserved"])
    for name, needed in part.get("needs", {}).items():
        met, otherwise = CONDITIONS[name]
        for run in needed:
            if unmet := [str(seed) for seed in seeds if not met(evidence.current[run][seed])]:
                return f"{label(run)} {otherwise} (seed {', '.join(unmet)}), so that this cannot be told"
    if part["metric"] == "best_lr":
        for arm in arms_of(part):
            for seed in seeds:
                scores = evidence.scores(arm, seed)
                if (edge := best_rate(scores).edge) is not None:
                    return f"the best learning rate of {label(arm)} (seed {seed}) is {edge:g}, an edge of the grid"
                if max(scores.values()) < rules.accuracy_floor(evidence.current[runs[0]][seeds[0]].chance):
                    return f"no learning rate of {label(arm)} (seed {seed}) gets away from chance"
    if low := _too_low(part, table, evidence, runs, seeds, lost):
        return low
    if moving := _not_at_rest(part, evidence, seeds):
        return moving
    least = repetitions_of(part).least
    return f"{len(seeds)} of at least {least} seeds" if len(seeds) < least else None


def _too_low(
    part: Mapping[str, Any], table: Table, evidence: Evidence, runs: Sequence[str], seeds: Sequence[int],
    lost: Sequence[str],
) -> str | None:  # fmt: skip
    needs_trained_arm = part["rule"] in _NEEDS_TRAINED_ARM and part["metric"] not in _WITHOUT_FLOOR
    needs_trained_arm |= part["metric"] == "step_up_share"
    if not needs_trained_arm and "above_floor" not in part:
        return None
    if part["metric"] == "top1_at_equal_iterations":  # what a longer run reaches later does not count
        finals = {run: math.fsum(reading.value for reading in found.values()) / len(found)
                  for run, found in table.items()}  # fmt: skip
    else:
        finals = {run: _mean_end(evidence, run, seeds) for run in runs}
    lowest = rules.accuracy_floor(evidence.current[runs[0]][seeds[0]].chance)
    needed = f"too close to chance ({number(100 * lowest, 1)} % needed)"
    arms = set(arms_of(part))  # what a part only needs, or must be above the floor besides, is not compared
    compared = [run for run in finals if run in arms] or list(finals)  # arms of a grid stand for all its runs
    best = max(compared, key=lambda run: finals[run])
    if needs_trained_arm and not lost and finals[best] < lowest:
        which = "" if len(compared) == 1 else ", the best of those compared,"
        return f"{label(best)}{which} ends at {number(100 * finals[best], 1)} %, {needed}"
    if low := [run for run in part.get("above_floor", []) if run not in lost and finals[run] < lowest]:
        ends = ", ".join(f"{label(run)} ends at {number(100 * finals[run], 1)} %" for run in low)
        return f"{ends}, {needed}, so what was lost cannot be told"
    return None


def _not_at_rest(part: Mapping[str, Any], evidence: Evidence, seeds: Sequence[int]) -> str | None:
    """Why what is said of the end is open: the contrast (of a ratio or a trend: a run) still moves."""
    most = part.get("settled_within")
    if part["rule"] == "equivalence" and part["metric"] == "end_top1":
        most = part["margin"]
    if most is None:
        return None
    since = "since 65 to 75 % of training"
    moved = {run: _moved(evidence, run, seeds) for run in arms_of(part)}
    if part["rule"] in ("ratio", "trend"):
        if moving := {run: by for run, by in moved.items() if abs(by) > most}:
            points = ", ".join(f"{label(run)} {number(100 * by, 1, sign=True)}" for run, by in moving.items())
            return f"not at rest, points {since}: {points}"
        return None
    contrast = tidy(sum(weight * moved[run] for run, weight in part["contrast"].items()))
    if abs(contrast) <= most:
        return None
    return f"not at rest: what is compared moved by {number(100 * contrast, 1, sign=True)} points {since}"


def _reason(part: Mapping[str, Any], outcome: str, bounds: bool) -> str:
    """Where the interval lies; ``bounds``: it rests on lower bounds of seeds that never got there."""
    rule = part["rule"]
    if rule in ("order", "ratio", "trend"):
        equal = "1 (no difference)" if rule == "ratio" or part["metric"] in AS_LOGARITHM else "0"
        if "by_more_than" in part:
            equal = f"{100 * part['by_more_than']:g} {'%' if is_level(part) else 'points'}"
        if "at_least" in part:
            equal = f"{part['at_least']:g} times"
        side = {HOLDS: "excludes {} on the side stated", FAILS: "excludes {} on the other side"}
        counted = f", a seed that {missed(part)[0]} counted with a lower bound," if bounds else ""
        if outcome == NO_DIFFERENCE:
            return f"the 95 % interval lies within {_small_in_words(part)} of no difference"
        return f"the 95 % interval{counted} " + side.get(outcome, "includes {}").format(equal)
    if rule == "equivalence":
        limits = f"±{100 * part['margin']:g} points"
    elif rule == "value" and part["metric"] == "compression_rate":
        limits = f"{part['published']:g} ± {part['tolerance']:g} times"
    elif rule == "value":
        unit = "%" if is_level(part) else "points"
        limits = f"{100 * part['published']:g} ± {100 * part['tolerance']:g} {unit}"
    elif rule == "factor":
        limits = f"{part['published']:g} times ± {100 * part['tolerance']:g} %"
    else:
        limits = f"at most {100 * part['at_most']:g} {'%' if is_level(part) else 'points'}"
    where = {HOLDS: "within", FAILS: "entirely outside", OPEN: "partly outside"}[outcome]
    return f"the 95 % interval lies {where} {limits}"


def _diverged(part: Mapping[str, Any], table: Table, evidence: Evidence) -> str:
    """Which arms diverged in which seeds, and as what they count; empty where none did or it is said elsewhere."""
    metric = part["metric"]
    if metric not in OF_DIVERGED:
        return ""
    found = []
    for arm, by_seed in table.items():
        lost = [evidence.current[arm][seed] for seed in by_seed if evidence.current[arm][seed].status == "diverged"]
        if metric == "top1_at_equal_iterations":  # one that diverged later had not diverged yet
            lost = [record for record in lost if by_seed[record.seed].value == record.chance]
        found += [f"{label(arm)}, seed {', '.join(str(record.seed) for record in lost)}"] * bool(lost)
    return f" (diverged, {OF_DIVERGED[metric]}: {'; '.join(found)})" if found else ""


def _of_all_readings(part: Mapping[str, Any], evidence: Evidence, seeds: Sequence[int]) -> str:
    """What the readings of "total data sent" that are not judged would give."""
    more, less = sorted(part["contrast"], key=lambda method: -part["contrast"][method])
    records = [evidence.current[part["payloads"]][seed] for seed in seeds]
    factors = [traffic.times_as_much(records, more, less, reading) for reading in traffic.readings()]
    met = sum(abs(each / part["published"] - 1) <= part["tolerance"] for each in factors)
    span = f"{number(min(factors), 2)} to {number(max(factors), 2)} times"
    return f"; {len(factors)} readings give {span}, {met} of them within the tolerance{_unused_classes(records[0])}"


def _not_comparable(part: Mapping[str, Any], evidence: Evidence, used: Iterable[Record]) -> str | None:
    """Why a published number says nothing about what was run here, or None; payloads have full size at any profile."""
    used = list(used)
    if obstacle := _reduced(used):
        return obstacle
    if part["metric"] in FROM_PAYLOADS:
        if smaller := _smaller(used):
            return smaller
        unused = [record for record in used if (record.spec.get("classes") or 0) > record.data["classes"]]
        zipped = part["metric"] != "compression_rate" or any("+zip" in arm for arm in part["contrast"])
        zipped &= "unzipped" not in part
        if zipped and unused:  # without zip no length depends on what is trained
            heads, labels = unused[0].spec["classes"], unused[0].data["classes"]
            return f"what zip saves depends on the task, and the head of {heads} classes was trained on {labels} labels"
        return None
    return None if evidence.profile == "paper" else _AT_FULL_SCALE


def _reduced(used: Iterable[Record]) -> str | None:
    reduced = sorted({record.data["reduced"] for record in used if record.data["reduced"]})
    return f"reduced data: {', '.join(reduced)}" if reduced else None


def _smaller(used: Iterable[Record]) -> str | None:
    return None if all(map(traffic.is_full_size, used)) else "the payloads are those of a smaller network"


# Measurements, laws and counts -------------------------------------------------------------------------------


def _judge_measured(part: Mapping[str, Any], evidence: Evidence) -> PartVerdict:
    from repro.verdicts import measured  # which needs readings that only measurements have

    runs = runs_of(part)
    (seed,) = evidence.seeds(runs)  # a measurement is executed once
    used = {run: evidence.current[run][seed] for run in runs}
    found = measured.judge(part, used)
    p = None
    if found.outcome in DECIDED and found.repetitions == measured.BLOCKS:
        p = looks.smallest_alpha(lambda alpha: measured.judge(part, used, alpha).outcome == found.outcome)
    seen = PartVerdict(
        "measured", found.outcome, found.reason, found.text, found.arms,
        found.interval[0] if found.interval else None, found.interval[1:] if found.interval else None,
        found.unit, found.n, tuple(runs), repetitions=found.repetitions, p=p,
    )  # fmt: skip
    if "full_scale_only" in part:
        obstacle = _reduced(used.values()) or (None if evidence.profile == "paper" else _AT_FULL_SCALE)
        if obstacle and found.outcome != NOT_COMPARABLE:
            return replace(seen, outcome=NOT_COMPARABLE, reason=obstacle, counted=False, p=None)
    if "reserved" in part:
        return replace(seen, outcome=OPEN, reason=str(part["reserved"]), p=None)
    return seen


def _judge_statistic(part: Mapping[str, Any], evidence: Evidence) -> PartVerdict:
    """A number of one run, at the looks of trained runs."""
    return _at_first_decision(
        [_statistic_at(part, evidence, seeds) for seeds in evidence.at_looks([part["run"]], TRAINED)], TRAINED.least
    )


def _statistic_at(part: Mapping[str, Any], evidence: Evidence, seeds: Sequence[int]) -> _At:
    run, statistic, n = part["run"], STATISTICS[part["statistic"]], len(seeds)
    values = [evidence.read(statistic.read, run, seed) for seed in seeds]

    def outcome_at(alpha: float) -> str:
        interval = rules.paired_interval(values, multiplier=TRAINED.multiplier(n, alpha))
        if "equals" in part:
            return rules.value(interval, part["equals"], part["tolerance"])
        return rules.order(interval, part["above"])

    estimate, low, high, _ = rules.paired_interval(values, multiplier=TRAINED.multiplier(n))
    shown = [number(end, 3, sign=True) for end in (estimate, low, high)]
    outcome = outcome_at(looks.ALPHA) if n >= TRAINED.least else OPEN
    limits = f"{part['equals']:g} ± {part['tolerance']:g}" if "equals" in part else f"above {part['above']:g}"
    where = {HOLDS: "within", FAILS: "entirely outside", OPEN: "partly outside"}[outcome]
    verdict = PartVerdict(
        rule="statistic",
        outcome=outcome,
        reason=f"the 95 % interval lies {where} {limits} {statistic.unit}"
        if n >= TRAINED.least
        else f"{n} of at least {TRAINED.least} seeds",
        text=f"{statistic.called} {shown[0]} {statistic.unit}"
        + (f" [{shown[1]}, {shown[2]}]" if n > 1 else " [no interval from one seed]"),
        arms={run: estimate},
        estimate=estimate,
        interval=(low, high) if n > 1 else None,
        unit=statistic.unit,
        n=n,
        runs=(run,),
    )
    return _At(verdict, outcome_at)


def _judge_divergence(part: Mapping[str, Any], evidence: Evidence) -> PartVerdict:
    """Seeds of ``runs`` that diverge against those of ``unlike``, pooled and counted once, at 8 seeds."""
    every = runs_of(part)
    counted = Repetitions(DIVERGENCE_SEEDS, DIVERGENCE_SEEDS[0], looks.student)
    seeds = evidence.at_looks(every, counted)[-1]
    lost = {run: sum(evidence.current[run][seed].status == "diverged" for seed in seeds) for run in every}

    def pooled(runs: Sequence[str]) -> tuple[int, int]:
        return sum(lost[run] for run in runs), len(runs) * len(seeds)

    (some, of), (others, of_others) = pooled(part["runs"]), pooled(part["unlike"])
    outcome, p = rules.tending(some, of, others, of_others)
    said = f"{some} of {of} runs diverged that are said to, and {others} of {of_others} others"
    reason = {
        HOLDS: f"{said}: more than by chance (Fisher's exact test, p = {rules.p_text(p / 2)}, below 0.025 needed)",
        FAILS: f"{said}: fewer than one half tend to, with 97.5 % confidence",
    }.get(outcome, f"{said}: neither more than by chance nor clearly fewer than one half")
    if "reserved" in part:
        outcome, reason = OPEN, str(part["reserved"])
    elif len(seeds) < counted.least:
        outcome, reason = OPEN, f"{len(seeds)} of at least {counted.least} seeds"
    return PartVerdict(
        rule="divergence",
        outcome=outcome,
        reason=reason,
        text=", ".join(f"{label(run)} diverged in {count} of {len(seeds)} seeds" for run, count in lost.items()),
        arms={run: count / len(seeds) for run, count in lost.items()},
        n=len(seeds),
        runs=tuple(every),
        looks=(Look(len(seeds), None, None),) if len(seeds) >= counted.least else (),
        p=p if outcome in DECIDED else None,
    )


def _judge_readings(part: Mapping[str, Any], evidence: Evidence) -> PartVerdict:
    """Which readings of "total data sent" meet both published factors, that with 1000 classes and that with 10."""
    thousand, ten = part["payloads"]
    seeds = evidence.seeds([thousand, ten])
    records = {run: [evidence.current[run][seed] for seed in seeds] for run in (thousand, ten)}
    seen = PartVerdict("readings", OPEN, "", n=len(seeds), runs=(thousand, ten))
    used = [record for found in records.values() for record in found]
    if obstacle := _reduced(used) or _smaller(used):
        return replace(seen, outcome=NOT_COMPARABLE, reason=obstacle)
    every = traffic.readings()
    factors = [
        (
            traffic.times_as_much(records[thousand], "large_batch", "federated", reading),
            traffic.times_as_much(records[ten], "federated", "large_batch", reading),
        )
        for reading in every
    ]
    wanted = part["published"]["at_1000"], part["published"]["at_10"]
    meeting = [
        (reading, found)
        for reading, found in zip(every, factors, strict=True)
        if all(abs(ours / theirs - 1) <= part["tolerance"] for ours, theirs in zip(found, wanted, strict=True))
    ]
    outcome = {0: FAILS, len(every): HOLDS}.get(len(meeting), DEPENDS_ON)
    limits = f"{wanted[0]:g} and {wanted[1]:g} times ± {100 * part['tolerance']:g} %"
    shown = [f"{_reading_in_words(reading)} {number(a, 2)} and {number(b, 2)}" for reading, (a, b) in meeting]
    more = [f"{len(shown) - _SHOWN_READINGS} more"] * (len(shown) > _SHOWN_READINGS)
    listed = "; ".join([*shown[:_SHOWN_READINGS], *more])
    text = f"{len(meeting)} of {len(every)} readings meet both factors" + (f": {listed}" if listed else "")
    if classes := _unused_classes(records[thousand][0]):
        text += classes
    if len(seeds) < MINIMUM_SEEDS:
        return replace(seen, text=text, reason=f"{len(seeds)} of at least {MINIMUM_SEEDS} seeds")
    how = {HOLDS: "every reading meets", FAILS: "no reading meets"}.get(
        outcome, "some readings meet, and others do not,"
    )
    return replace(seen, outcome=outcome, text=text, reason=f"{how} both {limits}")


def _reading_in_words(reading: traffic.Reading) -> str:
    zipped, warm_up, direction, _ = reading.words()
    return f"{reading.local_batch} images a worker, {direction}, warm-up {warm_up}, zipped {zipped}:"


def _unused_classes(record: Record) -> str:
    classes = record.spec["classes"]
    return "" if classes == record.data["classes"] else f" (the head of {classes} classes sees ten labels)"


def _judge_law(part: Mapping[str, Any], evidence: Evidence) -> PartVerdict:
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


def _judge_definition(part: Mapping[str, Any], evidence: Evidence, published: Any) -> PartVerdict:
    run = part["run"]
    records = [evidence.current[run][seed] for seed in evidence.seeds([run])]
    from repro.verdicts import definitions  # runs the codec, and needs torch for it

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
