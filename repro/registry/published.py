"""What the sources publish (``data/published.yaml``) and leave open (``data/ledger.yaml``), read and validated."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from repro import files
from repro.errors import ReproError
from repro.experiments.post2 import CODECS
from repro.results.metrics import CONDITIONS, SCALES
from repro.results.traffic import CHANGE, GRADIENT, WEIGHTS

TO_TARGET = ("epochs_to_target", "rounds_to_target")
ACCURACIES = ("end_top1", "mean_top1")
OTHER_ACCURACIES = ("end_top5", "top1_at_equal_iterations")
"""Accuracies that an order, a value or a bound can look at, besides ``ACCURACIES``.

At equal iterations means at the evaluation after as many iterations as the shortest of the compared runs has.
"""
GAPS = ("regularisation_gap", "gap_at_matched_loss")
"""Training accuracy minus test accuracy: at the end, and where all arms of a seed have the same training loss."""
GRADIENT_NORMS = ("first_gradient_norm", "largest_early_gradient_norm")
"""L2 norms of the gradient: in the first iteration, and the largest of the first 100. Compared as ratios."""
SENT_TOTAL = "sent_total"
"""All bytes that a trained run sent to the server. Compared as a ratio."""
OF_CLIENTS = ("own_classes_top1", "other_classes_top1")
"""Metrics of the clients' own models before the last aggregation."""
OF_PAYLOADS = ("compression_rate", "saved_by_zip")
"""Metrics of one codec in a run of payloads; their arms are ``run codec``, as in ``e2-payloads-resnet18-10 int8``.

They read messages of gradients; a third word, ``change`` or ``weights``, names other ones.
"""


JUDGING = (
    "verdicts/rules.py", "results/looks.py", "results/metrics.py", "verdicts/evidence.py", "verdicts/contrasts.py",
    "verdicts/parts.py", "verdicts/compound.py", "verdicts/judge.py", "verdicts/measured.py", "results/traffic.py",
    "experiments/post2.py",
)  # fmt: skip
"""The files of this package by which statements are judged."""


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
        judge: ``{"why": text, "parts": [...]}`` as :func:`load_published` validated it; None: this package has no run.
        companions: ids of further figures and tables that hold evidence for it.
    """

    id: str
    source: str
    kind: str
    place: str
    says: str
    published: Any
    artefact: str | None
    judge: dict[str, Any] | None = None
    companions: Sequence[str] = ()

    @property
    def shown_by(self) -> list[str]:
        """Ids of all figures and tables that show it, the one that shows it first, first."""
        return [self.artefact, *self.companions] if self.artefact else []


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


def is_number(v: Any) -> bool:
    """Whether ``v`` is a finite number; true and false are none."""
    return isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)


def _is_contrast(v: Any) -> bool:
    return isinstance(v, dict) and bool(v) and all(isinstance(k, str) and is_number(w) for k, w in v.items())


_TEXT = _Field("a non-empty text", lambda v: isinstance(v, str) and bool(v.strip()))
_TEXT_OR_NULL = _Field("a text or null", lambda v: v is None or (isinstance(v, str) and bool(v.strip())))
_DATA = _Field(
    "a text, a number, a mapping, a list or null",
    lambda v: v is None or isinstance(v, str | dict | list) or is_number(v),
)
_NUMBER = _Field("a number", is_number)
_POSITIVE = _Field("a positive number", lambda v: is_number(v) and v > 0)
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
_MEASURED = _Field(
    "a list of run ids", lambda v: isinstance(v, list) and bool(v) and all(isinstance(i, str) for i in v)
)
_METHODS = _Field(
    f"{' and '.join(CODECS)} with the weights 1 and -1",
    lambda v: _PAIR.accepts(v) and set(v) == set(CODECS),
)
_CONTENTS = [[what] for what in (GRADIENT, CHANGE, WEIGHTS)]
_PAYLOAD_ARMS = _Field(
    "a mapping from a run and a codec, as in 'e2-payloads-resnet18-10 int8', to weights",
    lambda v: _is_contrast(v) and all(len(words := arm.split()) == 2 or words[2:] in _CONTENTS for arm in v),
)
_TRAINED = _Field(
    f"a mapping from {' and '.join(CODECS)} to run ids",
    lambda v: isinstance(v, dict) and set(v) == set(CODECS) and all(isinstance(run, str) for run in v.values()),
)
_TWO_RUNS = _Field(
    "a list of two run ids, that of 1000 classes first",
    lambda v: isinstance(v, list) and len(v) == 2 and all(isinstance(i, str) for i in v),
)
_FACTORS = _Field(
    "a mapping from at_1000 and at_10 to positive numbers",
    lambda v: isinstance(v, dict) and set(v) == {"at_1000", "at_10"} and all(map(_POSITIVE.accepts, v.values())),
)
_UNDER = _Field(
    "a mapping with setting (what the source leaves open) and is (its value), both texts",
    lambda v: isinstance(v, dict) and set(v) == {"setting", "is"} and all(map(_TEXT.accepts, v.values())),
)
_SIBLINGS = _Field(
    "a mapping from run ids to the run ids of their IID siblings",
    lambda v: isinstance(v, dict) and bool(v) and all(isinstance(i, str) for pair in v.items() for i in pair),
)
_NEEDS = _Field(
    f"a mapping from {', '.join(CONDITIONS)} to lists of run ids",
    lambda v: (
        isinstance(v, dict)
        and bool(v)
        and set(v) <= set(CONDITIONS)
        and all(isinstance(runs, list) and runs and all(isinstance(run, str) for run in runs) for runs in v.values())
    ),
)
_TRUE = _Field("true", lambda v: v is True)
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
_ACCURACY = {"metric": _one_of(*ACCURACIES), "contrast": _CONTRAST}
_PARTS = {
    "order": {
        "metric": _one_of(
            *ACCURACIES, *OTHER_ACCURACIES, *OF_CLIENTS, *GAPS, *GRADIENT_NORMS, "step_up_share", "best_lr"
        ),
        "contrast": _CONTRAST,
    },
    "ratio": {
        "metric": _one_of(
            *TO_TARGET, "epochs_to_first_cut", "compression_rate", "top_eigenvalue", *GRADIENT_NORMS, SENT_TOTAL
        ),
        "contrast": _PAIR,
    },
    "equivalence": _ACCURACY | {"margin": _POSITIVE},
    "value": {
        "metric": _one_of(*ACCURACIES, *OTHER_ACCURACIES, *OF_PAYLOADS, *GAPS),
        "contrast": _CONTRAST,
        "published": _NUMBER,
        "tolerance": _POSITIVE,
    },
    "factor": {
        "metric": _one_of("total_sent"),
        "payloads": _TEXT,
        "contrast": _METHODS,
        "published": _POSITIVE,
        "tolerance": _POSITIVE,
    },
    "bound": {
        "metric": _one_of(*ACCURACIES, *OTHER_ACCURACIES, *OF_CLIENTS, *GAPS, "step_up_share"),
        "contrast": _CONTRAST,
        "at_most": _NUMBER,
    },
    "trend": {
        "metric": _one_of(
            *ACCURACIES,
            *OTHER_ACCURACIES,
            *GAPS,
            *GRADIENT_NORMS,
            SENT_TOTAL,
            "early_gradient_norm",
            "step_up_share",
            "best_lr",
        ),
        "runs": _RUNS,
        "against": _one_of(*SCALES),
        "direction": _one_of("rising", "falling"),
    },
    "divergence": {"runs": _MEASURED, "unlike": _RUNS},
    # Which readings of "total data sent" meet both published factors.
    "readings": {"payloads": _TWO_RUNS, "published": _FACTORS, "tolerance": _POSITIVE},
    "law": {"run": _TEXT, "checks": _ITEMS},
    "definition": {"run": _TEXT},
    "measured": {
        "measures": _one_of(
            "rises",
            "sharper",
            "falls_then_stops",
            "linear",
            "proportional",
            "line_error",
            "positive_predictions",
            "movement_share",
            "shorter_round",
        ),
        "runs": _MEASURED,
    },
}
_ANY = {
    "name": _TEXT,  # how the part is called on the page
    "under": _UNDER,  # the reading of a setting that the source leaves open, to which the part belongs
    "post_hoc": _TRUE,  # chosen after numbers had been seen
    "reserved": _TEXT,  # why our runs cannot decide this part yet: it stays open, its numbers shown
    "needs": _NEEDS,  # what must have happened in every seed of these runs for the part to be decided
    "beside": _TRUE,  # another reading of the statement: computed and shown, but not part of the verdict
}
# Arms that must end above the accuracy floor, each of them, for the part to be decided; and the most that the contrast
# may move between 65 to 75 % of training and its end, as an equivalence asks in any case.
_GUARDS = {"above_floor": _MEASURED, "settled_within": _POSITIVE}
_OPTIONAL = {
    # Least difference; and arms that fail to train where their IID siblings do.
    "order": _GUARDS | {"by_more_than": _POSITIVE, "trains_like": _SIBLINGS},
    "ratio": _GUARDS | {"at_least": _POSITIVE},  # least ratio
    # Of "sharper" the runs that are; of "linear" the limit, and of "line_error" the quantity and the largest published
    # error, as a fraction.
    "measured": {
        "sharp": _MEASURED,
        "at_most": _POSITIVE,
        "quantity": _one_of("compute", "movement", "loader"),
        "largest": _POSITIVE,
        "full_scale_only": _TRUE,
        "at_small": _POSITIVE,  # the two batch sizes of "movement_share"
        "at_large": _POSITIVE,
    },
    "equivalence": {"above_floor": _MEASURED},
    "value": {"full_scale_only": _TRUE},  # shown at every profile, counted where published values compare
    "bound": _GUARDS,
    "trend": _GUARDS,
    # Runs whose real bytes count instead of messages x rounds, at full scale; and whether zip is left out.
    "factor": {"trained": _TRAINED, "unzipped": _TRUE},
}
_NEEDED = {"rises": {"quantity"}, "sharper": {"sharp"}, "linear": {"at_most"}, "proportional": {"at_most"}}
_NEEDED |= {"line_error": {"quantity", "largest"}, "positive_predictions": {"quantity"}}
_NEEDED |= {"movement_share": {"at_small", "at_large"}}
"""Keys without which a part of the rule ``measured`` says nothing."""
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
    others = _Field(
        "a list of ids of artefacts or companions of ours",
        lambda v: isinstance(v, list) and bool(v) and None not in v and all(map(known.accepts, v)),
    )
    for item in statements:
        where = f"{path}: {item.get('id')}"
        _check(where, item, _STATEMENT | {"artefact": known}, {"judge": _JUDGE_OR_NONE, "companions": others})
        shown = [item["artefact"], *item.get("companions", [])]
        if len(shown) > 1 and (None in shown or len(set(shown)) < len(shown)):
            raise ReproError(
                f"{where}: key 'companions' is {shown[1:]!r}; ids beside that of 'artefact', each once, were expected; "
                "correct it"
            )
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
        fields = {"rule": _one_of(*_PARTS)} | _PARTS.get(rule, {})
        _check(here, part, fields, _ANY | _OPTIONAL.get(rule, {}))
        if part.get("metric") in OF_PAYLOADS:
            _check(here, part, fields | {"contrast": _PAYLOAD_ARMS}, _ANY | _OPTIONAL.get(rule, {}))
        if rule == "measured" and (absent := sorted(_NEEDED.get(part["measures"], set()) - part.keys())):
            raise ReproError(f"{here}: key '{absent[0]}' is missing; {part['measures']} was expected to say it; add it")
        if strange := sorted(set(part.get("trains_like", {})) - set(part.get("contrast", {}))):
            raise ReproError(
                f"{here}: key 'trains_like' names {strange[0]}; arms of the contrast were expected; mend it"
            )
        for check in part.get("checks", []):
            _check(f"{here}: check", check, _CHECK)
    settings = {part["under"]["setting"] for part in judge["parts"] if "under" in part}
    if len(settings) > 1:
        raise ReproError(
            f"{where}: judge: parts stand under {' and '.join(sorted(settings))}; one setting for a statement was "
            "expected; split the statement"
        )
    if all("beside" in part for part in judge["parts"]):
        raise ReproError(f"{where}: judge: all parts stand beside; one that decides was expected; remove a 'beside'")


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


def runs_named(statement: Statement) -> list[str]:
    """Ids of the runs, and of the arms of a learning-rate grid, that the rule of ``statement`` names."""
    return [run for part in (statement.judge or {}).get("parts", []) for run in runs_of(part)]


def rule_hash(statement: Statement) -> str:
    """Hex SHA-256 of the rule by which ``statement`` is judged: of the canonical JSON of its ``judge`` block."""
    return files.sha256(statement.judge)


def judging_code_hash() -> str:
    """Hex SHA-256 of the code that judges: ``JUDGING``, as far as these files exist."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for name in JUDGING:
        path = package / name
        if path.exists():
            digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def rules_of(run: str, root: Path = Path()) -> dict[str, str]:
    """The rules that judge by ``run``, as they stand: statement -> ``rule_hash``, and ``code`` -> hash of the code.

    A rule that names an arm of a learning-rate grid judges by every run of it.

    Raises:
        ReproError: ``data/published.yaml`` is missing or malformed.
    """
    by_rule = {
        statement.id: rule_hash(statement)
        for statement in load_published(root).statements
        if any(run == named or run.startswith(f"{named}-lr") for named in runs_named(statement))
    }
    return by_rule | {"code": judging_code_hash()}


def runs_of(part: Mapping[str, Any]) -> list[str]:
    """The same for one part of a rule; an arm of payloads names its run."""
    if "run" in part:
        return [part["run"]]
    if part.get("rule") == "readings":
        return list(part["payloads"])
    if "payloads" in part:
        return [part["payloads"], *part.get("trained", {}).values()]
    arms = [arm.split()[0] for arm in part.get("contrast") or [*part.get("runs", []), *part.get("unlike", [])]]
    beside = [run for runs in part.get("needs", {}).values() for run in runs]
    siblings = part.get("trains_like", {}).values()
    return list(dict.fromkeys([*arms, *beside, *siblings, *part.get("above_floor", [])]))
