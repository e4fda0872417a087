"""Statements with their verdicts, as the matrix and their pages show them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repro.book import parts as of_parts
from repro.book import reasons, wording
from repro.book.inputs import Inputs
from repro.book.theme import DECIDED, PILOT, colour, entered, said, verdict_class
from repro.verdicts.judge import Statement

NOT_RUN = "not run"
_LONGEST = 150
"""Letters of what stands in a list."""


@dataclass(frozen=True)
class Row:
    """A statement with its verdict. ``css`` is the class of its badge, ``word`` the key of ``SIGNS`` it belongs to.

    ``asked`` are the parts of its rule, where they are those that were judged; else none.
    """

    id: str
    source: str
    kind: str
    says: str
    place: str
    published: str
    ours: list[str]
    n: int
    verdict: str
    word: str
    reason: str
    why: str
    parts: list[Mapping[str, Any]]
    asked: Sequence[Mapping[str, Any]]
    others: list[tuple[str, str, int]]
    shown_by: list[str]
    runs: list[str]
    profile: str = ""
    repetitions: str = "seeds"
    pilot: bool = False

    @property
    def css(self) -> str:
        """Colour class of its badge."""
        return colour(self.verdict)

    @property
    def group(self) -> str:
        """Among what it is counted: results, laws or definitions."""
        return {"law": "laws", "definition": "definitions"}.get(self.kind, "results")

    @property
    def counted_as(self) -> str:
        """The column of the table of verdicts in which it is counted."""
        return PILOT if self.pilot else self.word

    @property
    def why_open(self) -> str:
        """Why nothing is decided; empty where something is."""
        return "" if self.word in DECIDED else reasons.kind_of(self.word, self.parts)

    def rule_of(self, index: int) -> Mapping[str, Any]:
        """The rule of a part; empty where it is not known."""
        return self.asked[index] if self.asked else {}

    @property
    def short(self) -> str:
        """The number that its verdict rests on, with its interval."""
        found = of_parts.decisive(self.parts, self.word)
        if found is None or self.word == NOT_RUN:
            return "–"
        if self.kind in ("law", "definition") and found[1].get("estimate") is None:
            return str(found[1]["reason"])
        return of_parts.short(found[1])

    @property
    def told(self) -> str:
        """The same with the arms that it compares, where these fit a line or two."""
        found = of_parts.decisive(self.parts, self.word)
        if found is None or found[1].get("estimate") is None:
            return self.short
        told = str(found[1].get("ours") or "")
        return told if 0 < len(told) <= _LONGEST else self.short

    @property
    def share(self) -> str:
        """Of several parts that count, how many have which outcome; else empty."""
        counted = [entered(part) for part in self.parts if not part.get("beside")]
        if len(counted) < 2 or self.word == NOT_RUN:
            return ""
        found = said(Counter(map(verdict_class, counted)))
        same = len(set(counted)) == 1
        return (
            f"all {len(counted)} parts{found[len(str(len(counted))) :]}"
            if same
            else f"of {len(counted)} parts, {found}"
        )

    @property
    def difference(self) -> str:
        """How far a part that counts lies from its published value; a dash where nothing is to be compared."""
        for index, part in enumerate(self.parts):
            if not part.get("beside") and part["outcome"] != "not comparable":
                found = of_parts.difference(part, self.rule_of(index))
                if found != "–":
                    return found
        return "–"

    @property
    def standing(self) -> of_parts.Standing | None:
        """Where its decisive part stands."""
        found = of_parts.decisive(self.parts, self.word)
        return of_parts.standing(found[1], self.rule_of(found[0])) if found else None

    def lines(self) -> list[dict[str, Any]]:
        """A line of the table of parts for each part of its verdict."""
        return [of_parts.line(part, i, len(self.parts), self.rule_of(i)) for i, part in enumerate(self.parts)]

    def projected(self) -> list[tuple[str, str]]:
        """(part, half the width of its interval at the last look) of the open parts that may still be looked at."""
        found = [(line["name"], of_parts.projected(part)) for line, part in zip(self.lines(), self.parts, strict=True)]
        return [(name, width) for name, width in found if width]


def of(inputs: Inputs, built: Iterable[str]) -> list[Row]:
    """A row for every statement; of sources that are not built none was run."""
    judged, sources = {str(v["id"]): v for v in inputs.verdicts}, set(built)
    others = {name: {v["id"]: v for v in made} for name, made in inputs.others.items()}
    made = []
    for item in inputs.published.statements:
        here = item.source in sources
        beside = [
            (name, str(found["verdict"]), int(found["n"] or 0))
            for name, verdicts in others.items()
            if here and (found := verdicts.get(item.id))
        ]
        made.append(_row(item, judged.get(item.id, {}) if here else {}, beside, inputs.profile))
    return made


def _row(item: Statement, verdict: Mapping[str, Any], beside: list[tuple[str, str, int]], profile: str) -> Row:
    word, pilot = str(verdict.get("verdict", NOT_RUN)), bool(verdict.get("pilot"))
    made = list(verdict.get("parts", []))
    asked = (item.judge or {}).get("parts", [])
    return Row(
        id=item.id,
        source=item.source,
        kind=item.kind,
        says=item.says.strip(),
        place=item.place,
        published=wording.published(item.published),
        ours=of_parts.ours(verdict),
        n=int(verdict.get("n") or 0),
        verdict=word,
        word=verdict_class(word),
        reason=verdict.get("reason", "") if verdict else "no run of this source exists yet",
        why=verdict.get("why") or "",
        parts=made,
        asked=asked if not pilot and len(asked) == len(made) else (),
        others=beside,
        shown_by=item.shown_by,
        runs=[str(run) for run in verdict.get("runs", [])],
        profile=profile,
        repetitions=str(verdict.get("repetitions", "seeds")),
        pilot=pilot,
    )
