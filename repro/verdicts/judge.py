"""The rules that turn records into a verdict on each published statement.

A trained statement is judged on *contrasts*: one number per seed, computed from runs that share that seed (they are
paired). A contrast gets a repeated interval over seeds, and a rule of ``repro/verdicts/rules.py`` asks where all of it
lies. How one part is judged is in ``repro/verdicts/parts.py``, how parts make a statement in
``repro/verdicts/compound.py``.

Margins live in ``data/published.yaml`` and were committed before the first run of what they judge; rules that changed
later are disclosed in ``data/ledger.yaml``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from repro.registry.published import Artefact, Choice, Published, Statement, load_ledger, load_published, runs_named
from repro.results.records import Record
from repro.verdicts import compound, rules
from repro.verdicts.compound import Compound
from repro.verdicts.evidence import MISSING, STALE, Evidence
from repro.verdicts.parts import SEEDS, PartVerdict, judge_part, named
from repro.verdicts.rules import FAILS, HOLDS, HOLDS_IN_PART, NO_DIFFERENCE, NOT_RUN, OPEN

__all__ = [
    "NOT_RUN",
    "Artefact",
    "Choice",
    "Published",
    "Statement",
    "expected_wrong",
    "headline",
    "judge_all",
    "load_ledger",
    "load_published",
    "runs_named",
]

_WITH_SCALE = (HOLDS, FAILS, HOLDS_IN_PART, NO_DIFFERENCE)
_AT_FULL_SCALE = {HOLDS: "reproduced", FAILS: "not reproduced", HOLDS_IN_PART: "reproduced in part"}


@dataclass(frozen=True)
class Verdict:
    """What the records of one profile say about one statement; ``as_json`` is what is stored and shown."""

    statement: Statement
    profile: str
    parts: tuple[PartVerdict, ...] = ()

    @cached_property
    def compound(self) -> Compound:
        """Outcome and reason from the parts that decide; a statement without a judge was not run."""
        return compound.of_parts(self.judged)

    @property
    def outcome(self) -> str:
        """Holds, fails, holds in part, no difference, depends on, open, not comparable or not run."""
        return self.compound.outcome

    @property
    def judged(self) -> list[PartVerdict]:
        """The parts that decide."""
        return [part for part in self.parts if part.decides]

    def _entered(self, part: PartVerdict) -> dict[str, str]:
        """``in_statement``, where a part enters the statement with another outcome than it has alone."""
        for each, entered in zip(self.judged, self.compound.entered, strict=True):
            if each is part and entered != part.outcome:
                return {"in_statement": entered}
        return {}

    @property
    def word(self) -> str:
        """The verdict as readers see it: a result below full scale always carries the name of its scale."""
        if self.outcome not in _WITH_SCALE:
            return self.outcome
        if self.profile == "paper":
            return _AT_FULL_SCALE.get(self.outcome, self.outcome)
        return f"{self.outcome} at {self.profile} scale"

    def as_json(self) -> dict[str, Any]:
        """Plain mapping; ``interval`` and ``unit`` are those of the first part that decides."""
        statement, parts = self.statement, self.parts
        deciding = [part for part in self.judged if part.outcome == self.compound.deciding]
        shown = deciding[0].as_json() if deciding else {"interval": None, "unit": None}
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
            "reason": self.compound.reason,
            "runs": sorted({run for part in parts for run in part.runs}),
            "artefact": statement.artefact,
            "profile": self.profile,
            "why": statement.judge["why"] if statement.judge else None,
            "parts": [part.as_json() | self._entered(part) for part in parts],
        } | named(least.repetitions if least else SEEDS)


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
        source: Evidence(source, profile, (record for record in here if record.source == source), absent)
        for source in {statement.source for statement in statements}
    }
    verdicts = [
        Verdict(
            statement, profile,
            tuple(
                judge_part(part, evidence[statement.source], statement.published)
                for part in (statement.judge or {}).get("parts", [])
            ),
        )
        for statement in statements
    ]  # fmt: skip
    return [verdict.as_json() for verdict in _with_q(verdicts)]


def _with_q(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """The false discovery rate of every decided part that counts, over all that were tried (open ones included)."""
    verdicts = list(verdicts)
    tried = [
        part for verdict in verdicts for part in verdict.judged
        if part.p is not None or (part.outcome == OPEN and part.looks)
    ]  # fmt: skip
    decided = [part for part in tried if part.p is not None]
    q = rules.q_values([part.p for part in decided if part.p is not None], len(tried))
    found = {id(part): each for part, each in zip(decided, q, strict=True)}
    return [
        replace(verdict, parts=tuple(replace(part, q=found.get(id(part))) for part in verdict.parts))
        for verdict in verdicts
    ]


def expected_wrong(verdicts: Iterable[Mapping[str, Any]]) -> tuple[float, int]:
    """Upper estimate of how many decided parts are wrong, and how many were decided by an interval or a test.

    The largest q of them times their number; ``verdicts`` are items of :func:`judge_all`.
    """
    q = [part["q"] for verdict in verdicts for part in verdict["parts"] if part["q"] is not None]
    return rules.expected_wrong(q), len(q)


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
