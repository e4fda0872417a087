"""What the sources publish (``data/published.yaml``) and leave open (``data/ledger.yaml``), read and validated."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from repro import files, validation
from repro.registry import entry_models
from repro.registry.rule_models import (
    ACCURACIES,
    GAPS,
    GRADIENT_NORMS,
    OF_CLIENTS,
    OF_PAYLOADS,
    OTHER_ACCURACIES,
    SENT_TOTAL,
    TO_TARGET,
)  # fmt: skip

__all__ = [
    "ACCURACIES", "GAPS", "GRADIENT_NORMS", "JUDGING", "OF_CLIENTS", "OF_PAYLOADS", "OTHER_ACCURACIES", "SENT_TOTAL",
    "TO_TARGET", "Artefact", "Choice", "Published", "Statement", "is_number", "judging_code_hash", "load_ledger",
    "load_published", "rule_hash", "rules_of", "runs_named", "runs_of",
]  # fmt: skip

JUDGING = (
    "verdicts/rules.py", "results/looks.py", "results/metrics.py", "verdicts/evidence.py", "verdicts/contrasts.py",
    "verdicts/parts.py", "verdicts/compound.py", "verdicts/judge.py", "verdicts/measured.py", "results/traffic.py",
    "experiments/post2.py", "results/statistics.py", "results/teachers.py",
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


def is_number(v: Any) -> bool:
    """Whether ``v`` is a finite number; true and false are none."""
    return isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)


def load_published(root: Path = Path()) -> Published:
    """Read and validate ``data/published.yaml``; shared by all who read it, so not to be changed.

    Raises:
        ReproError: the file is missing or malformed; the line names file, entry, key and what was expected.
    """
    path = root / "data/published.yaml"
    artefacts, statements = _published(files.read_text(path), path)
    return Published([*artefacts], [*statements])


@lru_cache(maxsize=8)
def _published(text: str, path: Path) -> Published:
    content = files.parsed_yaml(text, path)
    validation.fitting(entry_models.PublishedFile, content, path)
    return Published(
        [Artefact(**item) for item in content["artefacts"]], [Statement(**item) for item in content["statements"]]
    )


def load_ledger(root: Path = Path()) -> list[Choice]:
    """Read and validate ``data/ledger.yaml``: what the sources leave open, and what was chosen.

    Raises:
        ReproError: the file is missing or malformed; the line names file, entry, key and what was expected.
    """
    ledger = validation.load(entry_models.LedgerFile, root / "data/ledger.yaml")
    return [Choice(**entry.given()) for entry in ledger.choices]


def runs_named(statement: Statement) -> list[str]:
    """Ids of the runs, and of the arms of a learning-rate grid, that the rule of ``statement`` names."""
    return [run for part in (statement.judge or {}).get("parts", []) for run in runs_of(part)]


def rule_hash(statement: Statement) -> str:
    """Hex SHA-256 of the rule by which ``statement`` is judged: of the canonical JSON of its ``judge`` block."""
    return files.sha256(statement.judge)


def _content(name: str) -> bytes | None:
    path = Path(__file__).parents[1] / name
    return path.read_bytes() if path.exists() else None


def judging_code_hash(names: Iterable[str] = JUDGING, read: Callable[[str], bytes | None] = _content) -> str:
    """Hex SHA-256 of the code that judges: of the files ``names`` of the package, as far as these exist.

    ``read`` gives the content of such a file, or None where there is none; the default reads today's package.
    """
    digest = hashlib.sha256()
    for name in names:
        if (content := read(name)) is not None:
            digest.update(name.encode() + b"\0" + content + b"\0")
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
