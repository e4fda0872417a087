"""Published statements as data, and the rule that turns records into a verdict on each of them.

A trained statement is judged on a *contrast*: one number per seed, computed from runs that share that seed
(they are paired). The contrast gets a Student-t 95 % interval over seeds; the rule asks where all of it lies:

    order, ratio, trend     above zero holds, below zero fails
    equivalence             within the margin holds, entirely outside fails
    value, bound            within the tolerance (below the limit) holds, entirely outside fails

Everything else is inconclusive. Fewer than three seeds, arms near chance, targets that no arm reached, learning
rates at the edge of their grid and "equal in the end" of a run that is still rising are inconclusive whatever the
interval says. Laws are executed, not sampled. Margins live in ``data/published.yaml`` and were committed before the
first run of what they judge; rules that changed later are disclosed in ``data/ledger.yaml``.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from scipy.special import stdtrit

from repro.errors import ReproError
from repro.partition import local_steps
from repro.records import Record
from repro.words import label, number

LEVEL = 0.95
MINIMUM_SEEDS = 3
TARGET_AT_FULL_SCALE = 0.80
"""Target accuracy of post e1, table 2."""
CENTRAL_AT_FULL_SCALE = 0.9302
"""What ResNet18 reaches centrally on CIFAR-10: README of github.com/kuangliu/pytorch-cifar."""
TARGET_RUN = "e1-central"

HOLDS, FAILS, INCONCLUSIVE = "holds", "fails", "inconclusive"
NOT_COMPARABLE, NOT_RUN = "not comparable", "not run"
MISSING, STALE = "missing", "stale"

_TO_TARGET = ("epochs_to_target", "rounds_to_target")
_ACCURACIES = ("final_top1", "mean_top1")
_GRID_RUN = re.compile(r"^(?P<arm>.+)-lr(?P<rate>[0-9_]+)$")
_SCALES: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "log2_global_batch": lambda spec: math.log2(spec["workers"] * spec["local_batch"]),
    "log2_local_epochs": lambda spec: math.log2(spec["local_epochs"]),
}


# ------------------------------------------------------------------------------------------------------------
# Published data


@dataclass(frozen=True)
class Artefact:
    """A table, figure, equation or method that the package regenerates; ``published`` None: it is lost."""

    id: str
    source: str
    kind: str
    place: str
    says: str
    published: Any


@dataclass(frozen=True)
class Statement:
    """A checkable statement of a source.

    Attributes:
        place: section, paragraph, table or figure of the source.
        says: the statement in our words.
        published: the relation in words, or the published numbers as data.
        artefact: id of the artefact, or of our companion figure (``e1.extra-...``), that shows it, or None.
        judge: ``{"why": text, "parts": [...]}`` as :func:`load_published` validated it; None: not judged yet.
    """

    id: str
    source: str
    kind: str
    place: str
    says: str
    published: Any
    artefact: str | None
    judge: dict[str, Any] | None = None


@dataclass(frozen=True)
class Choice:
    """A place where a source is unclear: what we chose, why, and what the other choice gives."""

    id: str
    source: str
    unclear: str
    chosen: str
    why: str
    other_choice: str


class Published(NamedTuple):
    """Contents of ``data/published.yaml``."""

    artefacts: list[Artefact]
    statements: list[Statement]


class _Field(NamedTuple):
    expected: str
    accepts: Callable[[Any], bool]


def _one_of(*words: str) -> _Field:
    return _Field("one of " + ", ".join(words), lambda v: isinstance(v, str) and v in words)


def _is_number(v: Any) -> bool:
    return isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)


def _is_contrast(v: Any) -> bool:
    return isinstance(v, dict) and bool(v) and all(isinstance(k, str) and _is_number(w) for k, w in v.items())


_TEXT = _Field("a non-empty text", lambda v: isinstance(v, str) and bool(v.strip()))
_TEXT_OR_NULL = _Field("a text or null", lambda v: v is None or (isinstance(v, str) and bool(v.strip())))
_DATA = _Field(
    "a text, a number, a mapping, a list or null",
    lambda v: v is None or isinstance(v, str | dict | list) or _is_number(v),
)
_NUMBER = _Field("a number", _is_number)
_POSITIVE = _Field("a positive number", lambda v: _is_number(v) and v > 0)
_ITEMS = _Field(
    "a non-empty list of mappings",
    lambda v: isinstance(v, list) and bool(v) and all(isinstance(i, dict) for i in v),
)
_CONTRAST = _Field("a mapping from run ids to weights", _is_contrast)
_PAIR = _Field(
    "a mapping with one run of weight 1 and one of weight -1",
    lambda v: _is_contrast(v) and sorted(v.values()) == [-1, 1],
)
_RUNS = _Field(
    "a list of at least two run ids",
    lambda v: isinstance(v, list) and len(v) > 1 and all(isinstance(i, str) for i in v),
)
_JUDGE_OR_NONE = _Field("a mapping with why and parts", lambda v: isinstance(v, dict))
_SOURCE = _one_of("e1", "e2", "e3", "lb")

_ARTEFACT = {
    "id": _TEXT,
    "source": _SOURCE,
    "kind": _one_of("table", "figure", "equation", "method"),
    "place": _TEXT,
    "says": _TEXT,
    "published": _DATA,
}
_STATEMENT = _ARTEFACT | {
    "kind": _one_of("value", "order", "equivalence", "ratio", "trend", "bound", "law", "definition"),
    "artefact": _TEXT_OR_NULL,
}
_CHOICE = {
    "id": _TEXT,
    "source": _SOURCE,
    "unclear": _TEXT,
    "chosen": _TEXT,
    "why": _TEXT,
    "other_choice": _TEXT,
}
_JUDGE = {"why": _TEXT, "parts": _ITEMS}
_ACCURACY = {"metric": _one_of(*_ACCURACIES), "contrast": _CONTRAST}
_PARTS = {
    "order": {"metric": _one_of(*_ACCURACIES, "best_lr"), "contrast": _CONTRAST},
    "ratio": {"metric": _one_of(*_TO_TARGET), "contrast": _PAIR},
    "equivalence": _ACCURACY | {"margin": _POSITIVE},
    "value": _ACCURACY | {"published": _NUMBER, "tolerance": _POSITIVE},
    "bound": _ACCURACY | {"at_most": _NUMBER},
    "trend": {
        "metric": _one_of(*_ACCURACIES),
        "runs": _RUNS,
        "against": _one_of(*_SCALES),
        "direction": _one_of("rising", "falling"),
    },
    "law": {"run": _TEXT, "checks": _ITEMS},
}
#: Arms that must end above the accuracy floor, each of them, for a part to be decided.
_OPTIONAL = {"order": {"above_floor": _RUNS}}
_CHECK = {"number": _TEXT, "called": _TEXT, "is": _one_of("at most", "above"), "limit": _TEXT, "times": _POSITIVE}
_NONE: dict[str, _Field] = {}


def _check(
    where: str, item: Mapping[str, Any], fields: Mapping[str, _Field], optional: Mapping[str, _Field] = _NONE
) -> None:
    for key in fields:
        if key not in item:
            raise ReproError(f"{where}: key '{key}' is missing; {fields[key].expected} was expected; add it")
    for key, wanted in {**fields, **optional}.items():
        if key in item and not wanted.accepts(item[key]):
            raise ReproError(f"{where}: key '{key}' is {item[key]!r}; {wanted.expected} was expected; correct it")
    for key in item:
        if key not in fields and key not in optional:
            known = ", ".join([*fields, *optional])
            raise ReproError(f"{where}: key '{key}' is not known; one of {known} was expected; correct or remove it")


def _sections(path: Path, *names: str) -> list[list[dict[str, Any]]]:
    """The named top-level lists of a YAML file; the ``id`` of their items is unique in the file."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ReproError(
            f"{path}: no such file; it is part of the repository; restore it with `git checkout -- {path}`"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" near line {mark.line + 1}" if mark else ""
        raise ReproError(f"{path}: not readable as YAML{line}; a mapping was expected; correct the file") from error
    if not isinstance(content, dict):
        raise ReproError(
            f"{path}: holds {type(content).__name__}; a mapping with {', '.join(names)} was expected; mend it"
        )
    _check(str(path), content, {name: _ITEMS for name in names})
    ids = Counter(str(item.get("id")) for name in names for item in content[name])
    if twice := [key for key, count in ids.items() if count > 1]:
        raise ReproError(f"{path}: key 'id' is {twice[0]!r} more than once; unique ids were expected; rename one")
    return [content[name] for name in names]


def load_published(root: Path = Path()) -> Published:
    """Read and validate ``data/published.yaml``.

    Raises:
        ReproError: the file is missing or malformed; the line names file, entry, key and what was expected.
    """
    path = root / "data/published.yaml"
    artefacts, statements = _sections(path, "artefacts", "statements")
    for item in artefacts:
        _check(f"{path}: {item.get('id')}", item, _ARTEFACT)
    known = _Field(
        "the id of an artefact, a companion of ours (<source>.extra-...) or null",
        lambda v: v is None or any(v == a["id"] for a in artefacts) or (isinstance(v, str) and ".extra-" in v),
    )
    for item in statements:
        where = f"{path}: {item.get('id')}"
        _check(where, item, _STATEMENT | {"artefact": known}, {"judge": _JUDGE_OR_NONE})
        if "judge" in item:
            _check_judge(where, item["judge"])
    for item in [*artefacts, *statements]:
        if not item["id"].startswith(item["source"] + "."):
            raise ReproError(
                f"{path}: {item['id']}: key 'source' is {item['source']!r}; what the id starts "
                "with was expected; correct one of them"
            )
    return Published([Artefact(**item) for item in artefacts], [Statement(**item) for item in statements])


def _check_judge(where: str, judge: Mapping[str, Any]) -> None:
    _check(f"{where}: judge", judge, _JUDGE)
    for i, part in enumerate(judge["parts"], start=1):
        here = f"{where}: judge part {i}"
        rule = str(part.get("rule"))
        _check(here, part, {"rule": _one_of(*_PARTS)} | _PARTS.get(rule, {}), _OPTIONAL.get(rule, {}))
        for check in part.get("checks", []):
            _check(f"{here}: check", check, _CHECK)


def load_ledger(root: Path = Path()) -> list[Choice]:
    """Read and validate ``data/ledger.yaml``: what the sources leave open, and what was chosen.

    Raises:
        ReproError: the file is missing or malformed; the line names file, entry, key and what was expected.
    """
    path = root / "data/ledger.yaml"
    (choices,) = _sections(path, "choices")
    for item in choices:
        _check(f"{path}: {item.get('id')}", item, _CHOICE)
    return [Choice(**item) for item in choices]


# ------------------------------------------------------------------------------------------------------------
# Metrics of one run


def _rows(record: Record) -> list[dict[str, Any]]:
    if not record.rows and record.status == "completed":
        raise ReproError(
            f"record {record.run}.s{record.seed}: completed without an evaluation; at least one row was "
            f"expected; run `python -m repro rerun {record.run}`"
        )
    return record.rows


def final_top1(record: Record) -> float:
    """Top-1 accuracy at the last (not the best) evaluation, a fraction; a diverged run counts as chance.

    Raises:
        ReproError: a completed record holds no evaluation.
    """
    rows = _rows(record)
    return record.chance if record.status == "diverged" else float(rows[-1]["test_top1"])


def last_quarter_gain(record: Record) -> float:
    """Top-1 gained (a fraction) since the last evaluation in the first three quarters of training, chance if none.

    0 for a diverged run: it is not on its way anywhere.

    Raises:
        ReproError: a completed record holds no evaluation.
    """
    if record.status == "diverged":
        return 0.0
    rows = _rows(record)
    early = [float(row["test_top1"]) for row in rows if row["epoch"] <= 0.75 * rows[-1]["epoch"]]
    return _tidy(final_top1(record) - (early[-1] if early else record.chance))


def common_epochs(records: Iterable[Record]) -> list[float]:
    """Epochs at which every completed run was evaluated, ascending; empty if there is none."""
    grids = [{_epoch(row) for row in record.rows} for record in records if record.status == "completed"]
    return sorted(set.intersection(*grids)) if grids else []


def mean_top1(record: Record, epochs: Sequence[float]) -> float:
    """Mean of the top-1 accuracy over ``epochs`` (trapezoid rule), a fraction: high if a run converges early.

    Evaluations that a diverged run did not reach count as chance.
    """
    curve = {_epoch(row): float(row["test_top1"]) for row in _rows(record)}
    if record.status == "diverged":
        curve = dict.fromkeys(epochs, record.chance) | curve
    heights = [curve[epoch] for epoch in epochs]
    if len(epochs) == 1:
        return heights[0]
    return float(np.trapezoid(heights, epochs) / (epochs[-1] - epochs[0]))


def _epoch(row: Mapping[str, Any]) -> float:
    return round(float(row["epoch"]), 6)


def target_accuracy(records: Iterable[Record], profile: str) -> float:
    """The accuracy of e1.table2 that all arms and seeds of a profile are timed against, as a fraction.

    0.80 at full scale. At smaller scales the same share of what centralised training reaches there:
    0.80 / 0.9302 of the mean last-epoch accuracy of ``e1-central`` over its seeds. Pass current records only.

    Raises:
        ReproError: the profile is not ``paper``, and ``records`` holds none of ``e1-central`` at it or a diverged one.
    """
    if profile == "paper":
        return TARGET_AT_FULL_SCALE
    central = [r for r in records if r.run == TARGET_RUN and r.profile == profile]
    if lost := [str(r.seed) for r in central if r.status == "diverged"]:
        raise ReproError(
            f"the target accuracy is undecided: {TARGET_RUN} diverged (seed {', '.join(lost)}); a completed run of "
            "every seed was expected; choose its learning rate again"
        )
    if not central:
        raise ReproError(
            f"no record of {TARGET_RUN} at profile {profile}; the target is a share of what it reaches; "
            f"run `python -m repro run {TARGET_RUN} --profile {profile}`"
        )
    return TARGET_AT_FULL_SCALE / CENTRAL_AT_FULL_SCALE * float(np.mean([final_top1(r) for r in central]))


def epochs_to_target(record: Record, target: float) -> tuple[float, bool]:
    """Epochs until the first evaluation with top-1 >= ``target`` (a fraction), and whether it was reached.

    Where it was not, the number is the last evaluation, to be read as "> N". A diverged run never reaches it:
    its number is the whole budget of the run.
    """
    reading = _to_target(record, target, "epoch")
    return reading.value, reading.reached


def rounds_to_target(record: Record, target: float) -> tuple[float, bool]:
    """As :func:`epochs_to_target`, in communication rounds."""
    reading = _to_target(record, target, "round")
    return reading.value, reading.reached


class _Reading(NamedTuple):
    """Metric of one run and seed; ``step`` is the distance between neighbouring values that it can take."""

    value: float
    reached: bool = True
    step: float = 0.0

    @property
    def earliest(self) -> float:
        """The value; for a target that was not reached the next evaluation after the last, a lower bound."""
        return self.value if self.reached else self.value + self.step


def _to_target(record: Record, target: float, axis: str) -> _Reading:
    rows = [row for row in _rows(record) if row[axis] > 0]
    places = [round(float(row[axis]), 6) for row in rows]
    step = float(max(np.diff([0.0, *places]), default=0.0))
    if record.status == "diverged":
        # Training is over: the budget is spent and the target not reached, whatever the run showed before.
        return _Reading(_budget(record)[axis], False, step)
    for place, row in zip(places, rows, strict=True):
        if row["test_top1"] >= target:
            return _Reading(place, True, step)
    return _Reading(places[-1], False, step)


def _budget(record: Record) -> dict[str, float]:
    """Epochs and rounds that a run was given, from its spec: a diverged run has too few rows to tell."""
    spec = record.spec
    largest_shard = math.ceil(spec["train_images"] / spec["workers"])
    rounds_per_epoch: float = local_steps(largest_shard, spec["local_batch"])
    if spec["method"] == "federated":
        rounds_per_epoch = 1 / spec["local_epochs"]
    return {"epoch": float(spec["epochs"]), "round": float(round(spec["epochs"] * rounds_per_epoch))}


# ------------------------------------------------------------------------------------------------------------
# Intervals and rules


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


def order(interval: Interval) -> str:
    """A beats B: the interval of the paired difference A - B lies above zero; below zero it fails."""
    if interval.low > 0:
        return HOLDS
    return FAILS if interval.high < 0 else INCONCLUSIVE


def ratio(interval: Interval) -> str:
    """A is larger than B by some factor: the interval of the paired log ratio log(A / B) lies above zero."""
    return order(interval)


def trend(interval: Interval, direction: str) -> str:
    """The quantity is ``rising`` or ``falling``: the interval of its slope lies on that side of zero."""
    return order(interval if direction == "rising" else -interval)


def equivalence(interval: Interval, margin: float) -> str:
    """No difference beyond ``margin``: the interval of the paired difference lies within +- ``margin``."""
    return _inside(interval, -margin, margin)


def value(interval: Interval, published: float, tolerance: float) -> str:
    """The published number is met: the whole interval lies within ``published`` +- ``tolerance``."""
    return _inside(interval, published - tolerance, published + tolerance)


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
        if not _is_number(numbers.get(name)):
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


# ------------------------------------------------------------------------------------------------------------
# From records to verdicts

_RULES: dict[str, Callable[[Interval, Mapping[str, Any]], str]] = {
    "order": lambda interval, _: order(interval),
    "ratio": lambda interval, _: ratio(interval),
    "trend": lambda interval, part: trend(interval, part["direction"]),
    "equivalence": lambda interval, part: equivalence(interval, part["margin"]),
    "value": lambda interval, part: value(interval, part["published"], part["tolerance"]),
    "bound": lambda interval, part: bound(interval, part["at_most"]),
}
_NEEDS_TRAINED_ARM = ("order", "ratio", "trend", "equivalence")

_Table = dict[str, dict[int, _Reading]]


def _six_digits(value: float) -> float:
    return float(f"{value:.6g}")


def _shown(value: float | None) -> float | None:
    return None if value is None else _tidy(_six_digits(value))


def _tidy(difference: float) -> float:
    """Without round-off: 0.8 - 0.5 - 0.8 + 0.5 is 0 here, so that equal arms cannot beat each other."""
    return round(difference, 12) + 0.0


class _Undecided(Exception):
    """A part that no interval can decide: something is missing, or the records leave the question open."""

    def __init__(self, outcome: str, reason: str):
        super().__init__(reason)
        self.outcome = outcome


@dataclass(frozen=True)
class PartVerdict:
    """Outcome of one part of a statement, its numbers in the units that readers see.

    An end of ``interval`` is None where an arm never reached its target, so that nothing bounds the ratio there.
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

    def as_json(self) -> dict[str, Any]:
        """Plain mapping with numbers of six significant digits."""
        return {
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


@dataclass(frozen=True)
class Verdict:
    """What the records of one profile say about one statement; ``as_json`` is what is stored and shown."""

    statement: Statement
    profile: str
    parts: tuple[PartVerdict, ...] = ()

    @property
    def outcome(self) -> str:
        """Holds, fails, inconclusive, not comparable or not run; a statement without a judge was not run."""
        return compound([part.outcome for part in self.parts]) if self.parts else NOT_RUN

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
        deciding = [part for part in parts if part.outcome == self.outcome]
        shown = deciding[0].as_json() if deciding else {"interval": None, "unit": None}
        reasons = dict.fromkeys(part.reason for part in deciding)
        return {
            "id": statement.id,
            "source": statement.source,
            "kind": statement.kind,
            "says": statement.says,
            "place": statement.place,
            "published": statement.published,
            "ours": "; ".join(part.text for part in parts if part.text) or None,
            "interval": shown["interval"],
            "unit": shown["unit"],
            "n": min((part.n for part in parts), default=0),
            "verdict": self.word,
            "reason": "; ".join(reasons) or "no run is defined for this statement yet",
            "runs": sorted({run for part in parts for run in part.runs}),
            "artefact": statement.artefact,
            "profile": self.profile,
            "why": statement.judge["why"] if statement.judge else None,
            "parts": [part.as_json() for part in parts],
        }


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


def _arms(part: Mapping[str, Any]) -> list[str]:
    return list(part["contrast"] if "contrast" in part else part["runs"])


def runs_named(statement: Statement) -> list[str]:
    """Ids of the runs, and of the arms of a learning-rate grid, that the rule of ``statement`` names."""
    parts = statement.judge["parts"] if statement.judge else []
    return [run for part in parts for run in ([part["run"]] if part["rule"] == "law" else _arms(part))]


def _runs(part: Mapping[str, Any], evidence: _Evidence) -> list[str]:
    """Every run that a part reads, the one that sets the target included."""
    arms = _arms(part)
    if part["metric"] == "best_lr":
        return [run for arm in arms for run in evidence.grid(arm).values() or [f"{arm}-lr*"]]
    if part["metric"] in _TO_TARGET and evidence.profile != "paper" and TARGET_RUN not in arms:
        return [*arms, TARGET_RUN]
    return arms


def _measure(part: Mapping[str, Any], evidence: _Evidence, seeds: Sequence[int]) -> _Table:
    """The part's metric for each of its arms and seeds."""
    metric = part["metric"]
    if metric == "best_lr":
        return {arm: {seed: _best_rate(evidence.scores(arm, seed)) for seed in seeds} for arm in _arms(part)}
    used = {arm: {seed: evidence.current[arm][seed] for seed in seeds} for arm in _arms(part)}
    epochs: list[float] = []
    target = 0.0
    if metric == "mean_top1":
        epochs = common_epochs(record for by_seed in used.values() for record in by_seed.values())
        if not epochs:
            raise _Undecided(INCONCLUSIVE, "there is no epoch at which all runs were evaluated")
    elif metric in _TO_TARGET:
        try:
            target = target_accuracy(evidence.current.get(TARGET_RUN, {}).values(), evidence.profile)
        except ReproError as error:
            raise _Undecided(INCONCLUSIVE, str(error)) from error

    def read(record: Record) -> _Reading:
        if metric == "final_top1":
            return _Reading(final_top1(record))
        if metric == "mean_top1":
            return _Reading(mean_top1(record, epochs))
        return _to_target(record, target, "epoch" if metric == "epochs_to_target" else "round")

    return {arm: {seed: read(record) for seed, record in by_seed.items()} for arm, by_seed in used.items()}


def _best_rate(scores: Mapping[float, float]) -> _Reading:
    """log2 of the best learning rate (mean of the logs where several tie), with the grid's widest step."""
    best = [rate for rate, score in scores.items() if score == max(scores.values())]
    step = max(np.diff(np.log2(sorted(scores))), default=0.0)
    return _Reading(float(np.mean(np.log2(best))), step=float(step))


def _interval(part: Mapping[str, Any], table: _Table, evidence: _Evidence, seeds: Sequence[int]) -> Interval:
    """The paired interval that the part's rule looks at."""
    if part["rule"] == "ratio":
        return _log_ratio_interval(part["contrast"], table, seeds)
    if part["rule"] == "trend":
        x = [_SCALES[part["against"]](evidence.current[run][seeds[0]].spec) for run in part["runs"]]
        slopes = [slope(x, [table[run][seed].value for run in part["runs"]]) for seed in seeds]
        return paired_interval([_tidy(each) for each in slopes])
    differences = [
        _tidy(sum(weight * table[arm][seed].value for arm, weight in part["contrast"].items())) for seed in seeds
    ]
    # Half a step of the learning-rate grid; the step of an accuracy is 0.
    half_step = max(reading.step for by_seed in table.values() for reading in by_seed.values()) / 2
    return paired_interval(differences, half_step)


def _log_ratio_interval(contrast: Mapping[str, float], table: _Table, seeds: Sequence[int]) -> Interval:
    """Interval of log(slow / fast); ``contrast`` gives the arm said to be slow 1 and the fast one -1.

    An arm that never reached the target enters with its lower bound, where that still decides who was first.
    """
    fast, slow = sorted(contrast, key=lambda arm: contrast[arm])
    logs, resolutions, open_seeds = [], [], []
    for seed in seeds:
        first, last = sorted((table[slow][seed], table[fast][seed]), key=lambda reading: reading.earliest)
        if not first.reached:
            open_seeds.append(str(seed))
            continue
        logs.append(math.log(table[slow][seed].earliest / table[fast][seed].earliest))
        # The later arm may have crossed the target just after its previous evaluation, one step nearer.
        resolutions.append(math.log1p(last.step / first.value))
    if open_seeds:
        raise _Undecided(
            INCONCLUSIVE,
            f"seed {', '.join(open_seeds)}: the arm that would be first stopped without reaching the target",
        )
    if _stopped(table[slow]) and _stopped(table[fast]):
        raise _Undecided(INCONCLUSIVE, "each arm stopped without reaching the target in some seed")
    interval = paired_interval(logs, float(np.mean(resolutions)))
    against = {HOLDS: fast, FAILS: slow}.get(order(interval))
    if against and _stopped(table[against]):
        raise _Undecided(
            INCONCLUSIVE, f"{label(against)} leads over the seeds but never reached the target in one of them"
        )
    return interval


def _stopped(by_seed: Mapping[int, _Reading]) -> bool:
    """Whether any seed of an arm ended without reaching the target, so that its number is a lower bound."""
    return not all(reading.reached for reading in by_seed.values())


def _open_ends(part: Mapping[str, Any], table: _Table) -> tuple[bool, bool]:
    """Whether nothing bounds a ratio below (its fast arm was stopped too early) and above (its slow arm was)."""
    if part["rule"] != "ratio":
        return False, False
    fast, slow = sorted(part["contrast"], key=lambda arm: part["contrast"][arm])
    return _stopped(table[fast]), _stopped(table[slow])


def _reservation(part: Mapping[str, Any], evidence: _Evidence, runs: Sequence[str], seeds: Sequence[int]) -> str | None:
    """Why a part stays inconclusive whatever its interval says, or None."""

    def mean_of(metric: Callable[[Record], float], run: str) -> float:
        return float(np.mean([metric(evidence.current[run][seed]) for seed in seeds]))

    if part["metric"] == "best_lr":
        for arm in part["contrast"]:
            for seed in seeds:
                scores = evidence.scores(arm, seed)
                for edge in (min(scores), max(scores)):
                    if scores[edge] == max(scores.values()):
                        return f"the best learning rate of {label(arm)} (seed {seed}) is {edge:g}, an edge of the grid"
    if part["rule"] in _NEEDS_TRAINED_ARM:
        finals = {run: mean_of(final_top1, run) for run in runs}
        floor = accuracy_floor(evidence.current[runs[0]][seeds[0]].chance)
        needed = f"too close to chance ({number(100 * floor, 1)} % needed)"
        if max(finals.values()) < floor:
            return f"the best arm ends at {number(100 * max(finals.values()), 1)} %, {needed}"
        if low := [run for run in part.get("above_floor", []) if finals[run] < floor]:
            ends = ", ".join(f"{label(run)} ends at {number(100 * finals[run], 1)} %" for run in low)
            return f"{ends}, {needed}, so what was lost cannot be told"
    if part["rule"] == "equivalence" and part["metric"] == "final_top1":
        gains = {run: mean_of(last_quarter_gain, run) for run in part["contrast"]}
        if rising := [run for run, gain in gains.items() if gain > part["margin"]]:
            points = ", ".join(f"{label(run)} {number(100 * gains[run], 1, sign=True)}" for run in rising)
            return f"still rising, points gained in the last quarter of training: {points}"
    if len(seeds) < MINIMUM_SEEDS:
        return f"{len(seeds)} of at least {MINIMUM_SEEDS} seeds"
    return None


def _reason(part: Mapping[str, Any], outcome: str, bounds: bool) -> str:
    """Where the interval lies; ``bounds``: it rests on lower bounds of seeds that never reached the target."""
    if part["rule"] in ("order", "ratio", "trend"):
        equal = "1 (no difference)" if part["rule"] == "ratio" or part["metric"] == "best_lr" else "0"
        side = {HOLDS: "excludes {} on the side stated", FAILS: "excludes {} on the other side"}
        counted = ", a seed that never reached the target counted at its next evaluation," if bounds else ""
        return f"the 95 % interval{counted} " + side.get(outcome, "includes {}").format(equal)
    if part["rule"] == "equivalence":
        limits = f"±{100 * part['margin']:g} points"
    elif part["rule"] == "value":
        limits = f"{100 * part['published']:g} ± {100 * part['tolerance']:g} %"
    else:
        limits = f"at most {100 * part['at_most']:g} points"
    where = {HOLDS: "within", FAILS: "entirely outside", INCONCLUSIVE: "partly outside"}[outcome]
    return f"the 95 % interval lies {where} {limits}"


def _arm_texts(metric: str, table: _Table) -> tuple[dict[str, float], list[str]]:
    """Mean of each arm over seeds, as a number and as text: "> N" where a seed never reached the target."""
    numbers, texts = {}, []
    for arm, by_seed in table.items():
        if metric in _ACCURACIES:
            numbers[arm] = float(np.mean([100 * reading.value for reading in by_seed.values()]))  # as in figures
            texts.append(f"{label(arm)} {number(numbers[arm], 1)} %")
            continue
        mean = float(np.mean([reading.value for reading in by_seed.values()]))
        if metric == "best_lr":
            numbers[arm] = 2**mean
            texts.append(f"{label(arm)} {2**mean:.3g}")
        else:
            numbers[arm] = mean
            more = "> " if _stopped(by_seed) else ""
            texts.append(f"{label(arm)} {more}{number(mean, 1)} {metric.split('_')[0]}")
    return numbers, texts


def _in_units(part: Mapping[str, Any], interval: Interval) -> tuple[list[float], str]:
    """Estimate, low and high in readers' units, and the unit."""
    ends = [interval.estimate, interval.low, interval.high]
    if part["rule"] == "ratio":
        return [math.exp(end) for end in ends], "times"
    if part["metric"] == "best_lr":
        return [2.0**end for end in ends], "times"
    percent = [100 * end for end in ends]
    if part["rule"] == "value":
        return percent, "%"
    return percent, "points per doubling" if part["rule"] == "trend" else "points"


def _in_words(estimate: float, low: float, high: float, unit: str, open_ends: tuple[bool, bool], n: int) -> str:
    """``+2.1 points [+1.2, +3.0]``; a ratio of which only a bound is known is said as one."""

    def say(value: float) -> str:
        return number(value, 2 if unit == "times" else 1, sign=unit.startswith("points"))

    bound = {(False, True): "> ", (True, False): "< "}.get(open_ends, "")
    ends = [say(low) if not open_ends[0] else "no lower end", say(high) if not open_ends[1] else "no upper end"]
    return f"{bound}{say(estimate)} {unit} [{', '.join(ends) if n > 1 else 'no interval from one seed'}]"


def _judge_law(part: Mapping[str, Any], evidence: _Evidence) -> PartVerdict:
    run = part["run"]
    records = [evidence.current[run][seed] for seed in evidence.seeds([run])]
    unmet = [text for record in records for text in unmet_checks(record.law or {}, part["checks"])]
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


def _judge_trained(part: Mapping[str, Any], evidence: _Evidence) -> PartVerdict:
    runs = _runs(part, evidence)
    seeds = evidence.seeds(runs)
    table = _measure(part, evidence, seeds)
    numbers, texts = _arm_texts(part["metric"], table)
    seen = PartVerdict(
        part["rule"], INCONCLUSIVE, "", text=", ".join(texts), arms=numbers, n=len(seeds), runs=tuple(runs)
    )
    try:
        interval = _interval(part, table, evidence, seeds)
    except _Undecided as undecided:
        return replace(seen, outcome=undecided.outcome, reason=str(undecided))
    (estimate, low, high), unit = _in_units(part, interval)
    open_ends = _open_ends(part, table)
    seen = replace(
        seen,
        text=f"{seen.text}: {_in_words(estimate, low, high, unit, open_ends, interval.n)}",
        estimate=estimate,
        interval=(None if open_ends[0] else low, None if open_ends[1] else high) if interval.n > 1 else None,
        unit=unit,
    )
    if part["rule"] == "value":
        used = (evidence.current[run][seed] for run in runs for seed in seeds)
        if reduced := sorted({record.data["reduced"] for record in used if record.data["reduced"]}):
            return replace(seen, outcome=NOT_COMPARABLE, reason=f"reduced data: {', '.join(reduced)}")
        if evidence.profile != "paper":
            return replace(seen, outcome=NOT_COMPARABLE, reason="the value was published at full scale")
    if reservation := _reservation(part, evidence, runs, seeds):
        return replace(seen, reason=reservation)
    outcome = _RULES[part["rule"]](interval, part)
    return replace(seen, outcome=outcome, reason=_reason(part, outcome, any(open_ends)))


def _judge_part(part: Mapping[str, Any], evidence: _Evidence) -> PartVerdict:
    try:
        return _judge_law(part, evidence) if part["rule"] == "law" else _judge_trained(part, evidence)
    except _Undecided as undecided:
        runs = (part["run"],) if part["rule"] == "law" else tuple(_runs(part, evidence))
        return PartVerdict(part["rule"], undecided.outcome, str(undecided), runs=runs)


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
        profile: ``smoke``, ``laptop`` or ``paper``; decides the words and whether published values compare.
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
        judged = tuple(_judge_part(part, evidence[statement.source]) for part in parts)
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
