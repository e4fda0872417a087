"""The content of the site before it is HTML or Markdown: what the templates and the Markdown page ask for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from repro.book import forest, notebook, of_pilot, rows, runs, tally, wording
from repro.book.inputs import Inputs
from repro.book.rows import Row
from repro.book.runs import Run, Stored
from repro.book.theme import DECIDED, SOURCES
from repro.registry.published import rule_hash
from repro.registry.specs import GROUPS
from repro.report import ARTEFACTS, outputs
from repro.results import looks
from repro.verdicts import arithmetic
from repro.verdicts.judge import Choice


@dataclass
class Site:
    """The content of the site.

    Attributes:
        inputs: what was read from disk.
        runs: by id.
        rows: every statement with its verdict, in the sources' order.
        built: sources of which this package makes figures or tables.
        sections: id of a figure, table or statement -> (notebook, anchor) of the section that deals with it.
    """

    inputs: Inputs
    runs: dict[str, Run] = field(init=False)
    rows: list[Row] = field(init=False)
    built: list[str] = field(init=False)
    sections: dict[str, tuple[str, str]] = field(init=False)

    def __post_init__(self) -> None:
        ids = [artefact.id for artefact in self.inputs.published.artefacts]
        ids += [statement.id for statement in self.inputs.published.statements]
        self.sections = {
            item: (name, anchor)
            for source in SOURCES
            for name in self.notebooks_of(source)
            for item, anchor in notebook.sections(
                self.inputs.notebooks[name], [i for i in ids if i.startswith(f"{source}.")]
            ).items()
        }
        self.built = list(dict.fromkeys(item.source for item in ARTEFACTS.values()))
        self.runs = runs.of(self.inputs)
        self.rows = rows.of(self.inputs, self.built)

    @property
    def profile(self) -> str:
        """Whose results are shown."""
        return self.inputs.profile

    # Notebooks ------------------------------------------------------------------------------------------------

    def notebooks_of(self, source: str) -> dict[str, str]:
        """The notebooks of a source: name -> title."""
        return {
            name: notebook.title(body) or name
            for name, body in self.inputs.notebooks.items()
            if name == source or name.startswith(f"{source}-")
        }

    def notebooks_of_none(self) -> dict[str, str]:
        """The notebooks that belong to no source: name -> title."""
        owned = {name for source in SOURCES for name in self.notebooks_of(source)}
        return {name: notebook.title(body) or name for name, body in self.inputs.notebooks.items() if name not in owned}

    def section(self, item: str) -> str:
        """The section that deals with a figure, table or statement, as a link; empty where none does."""
        name, anchor = self.sections.get(item, ("", ""))
        return f"notebook-{name}.html#{quote(anchor)}" if name else ""

    def waiting_of(self, item: str) -> list[str]:
        """Notebooks that deal with a figure, table or statement and are not executed yet."""
        return [name for name, text in self.inputs.waiting.items() if notebook.mentions(text, item)]

    def waiting_in(self, source: str) -> list[str]:
        """Notebooks of a source that are not executed yet."""
        return [name for name in self.inputs.waiting if name == source or name.startswith(f"{source}-")]

    # Statements -----------------------------------------------------------------------------------------------

    def tally(self) -> str:
        """How many statements came out in which way, in one sentence."""
        return tally.sentence(self.rows)

    def counts(self) -> list[tuple[str, str, dict[str, int]]]:
        """(source, name, column -> number) of the results of each source."""
        return tally.by_source(self.rows)

    def apart(self) -> list[tuple[str, str, dict[str, int]]]:
        """(kind, name, column -> number) of laws and of definitions."""
        return tally.apart(self.rows)

    @property
    def columns(self) -> list[str]:
        """Columns of the table of verdicts."""
        return tally.columns(row.counted_as for row in self.rows)

    def progress(self) -> str:
        """How far the study is, where the pilot still stands in; else empty."""
        pilot = self.inputs.pilot
        return tally.progress(self.rows, pilot.seeds, self.inputs.bill) if pilot else ""

    def certainty(self) -> str:
        """How much was decided, and how many of the decisions may be wrong."""
        return tally.certainty(self.inputs.verdicts)

    def decided(self) -> list[tuple[str, list[Row]]]:
        """(class of verdict, its statements), of those that say something; those of the pilot come last."""
        found = [(word, [row for row in self.rows if row.word == word]) for word in DECIDED]
        return [(word, sorted(mine, key=lambda row: row.pilot)) for word, mine in found if mine]

    def undecided(self) -> list[tuple[str, list[Row]]]:
        """(why, its statements), of those that are open, not comparable or not run, the most frequent first."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            if row.why_open:
                found.setdefault(row.why_open, []).append(row)
        return sorted(found.items(), key=lambda item: -len(item[1]))

    def behind_pilot(self, runs: Iterable[str]) -> of_pilot.Behind | None:
        """Sizes, devices and records of runs of the pilot; None where nothing is known."""
        old = self.inputs.pilot
        return of_pilot.behind(self.inputs.made_by_pilot, old, frozenset(runs)) if old else None

    def forest(self, row: Row) -> Markup | None:
        """Estimates and intervals of a statement as a picture; None where it has none."""
        return forest.picture(row.parts, row.asked)

    def committed(self, row: Row) -> tuple[int, int, int]:
        """Records behind a statement: made under today's rule, under another one, and in all; of the pilot none."""
        if row.pilot:
            return 0, 0, 0
        statement = next(item for item in self.inputs.published.statements if item.id == row.id)
        held = [one.rules.get(row.id) for run in self.runs_of(row.runs) for one in run.stored]
        same = held.count(rule_hash(statement))
        return same, sum(each is not None for each in held) - same, len(held)

    def rule_of(self, row: Row) -> tuple[str | None, str | None]:
        """The commit of a statement's rule, and the entry of the ledger on what changed in it, where there are any."""
        return self.inputs.later_rules.get(row.id, self.inputs.rules_commit), self.inputs.changed_rules.get(row.id)

    @property
    def multipliers(self) -> list[tuple[int, float]]:
        """Half-width of the interval at each look, in standard errors."""
        return [(n, looks.multiplier(n)) for n in looks.LOOKS]

    # Figures and tables ---------------------------------------------------------------------------------------

    def artefacts(self) -> list[dict[str, Any]]:
        """Every figure and table: those that the sources have and those of ours, in the sources' order."""
        published = {item.id: item for item in self.inputs.published.artefacts}
        own = [name for name in ARTEFACTS if name not in published]
        order = list(SOURCES)
        names = sorted([*published, *own], key=lambda name: (order.index(name.partition(".")[0]), name in own))
        return [self._artefact(name, published.get(name)) for name in names]

    def _artefact(self, name: str, item: Any) -> dict[str, Any]:
        made = ARTEFACTS.get(name)
        old = name in self.inputs.of_pilot
        behind = self.runs_of(made.runs) if made and not old else []
        quickest: Stored | None = min((run.quickest for run in behind), key=Stored.by_wait, default=None)
        return {
            "id": name,
            "source": name.partition(".")[0],
            "title": made.title if made else "",
            "kind": made.kind if made else item.kind,
            "group": made.group if made else "artefact",
            "details": made.details if made else "",
            "drawn": name in self.inputs.present,
            "pilot": old,
            "files": [(file.rpartition(".")[2], self.file(file)) for file in outputs(name)] if made else [],
            "picture": self.file(f"{name}.png") if made and made.kind == "figure" else "",
            "table": self.inputs.tables.get(name),
            "rows": [row for row in self.rows if name in row.shown_by],
            "runs": behind,
            "records": sum(len(run.stored) for run in behind),
            "seconds": sum(run.seconds for run in behind),
            "quickest": quickest,
            "devices": sorted({run.device for run in behind if run.device}),
        } | _published(item, made.title if made else "")

    def runs_of(self, patterns: Iterable[str]) -> list[Run]:
        """The runs whose ids match any of ``patterns``."""
        found = [run for pattern in patterns for run in self.runs.values() if fnmatchcase(run.run, pattern)]
        return list({run.run: run for run in found}.values())

    def file(self, name: str) -> str:
        """A figure or table file of this profile, from a page."""
        return f"../figures/{self.profile}/{name}"

    # Other pages ----------------------------------------------------------------------------------------------

    def choices(self) -> list[tuple[str, list[Choice]]]:
        """The ledger by source."""
        groups = [(source, [c for c in self.inputs.ledger if c.source == source]) for source in SOURCES]
        return [(source, choices) for source, choices in groups if choices]

    def sums(self) -> list[tuple[str, list[arithmetic.Line]]]:
        """The arithmetic by source."""
        groups = [(source, [line for line in self.inputs.arithmetic if line.source == source]) for source in SOURCES]
        return [(source, found) for source, found in groups if found]

    def compute(self) -> list[dict[str, Any]]:
        """Core-hours by source and group."""
        found = [
            (source, group, [run for run in self.runs.values() if (run.source, run.group) == (source, group)])
            for source in self.built
            for group in GROUPS
        ]
        return [_cost(source, group, mine) for source, group, mine in found if mine]

    def environments(self) -> tuple[list[str], list[tuple[dict[str, str], int]]]:
        """Names of what identifies a machine type, and each machine type with the number of records made on it."""
        counted = Counter(
            json.dumps(dict(known.get("machine", {})) | {"precision": known.get("precision")}, sort_keys=True)
            for known in self._provenance()
        )
        found = [(json.loads(machine), count) for machine, count in sorted(counted.items())]
        first = ("device", "instructions", "system", "python", "torch", "numpy")
        names = {name for machine, _ in found for name in machine}
        return sorted(
            names, key=lambda name: (name not in first, first.index(name) if name in first else 0, name)
        ), found

    def commits(self) -> list[tuple[str, str, int]]:
        """(commit, hash of the code, records made by it)."""
        found = Counter((str(k.get("commit", "")), str(k.get("code", ""))) for k in self._provenance())
        return [(commit, code, number) for (commit, code), number in sorted(found.items())]

    def _provenance(self) -> list[Mapping[str, Any]]:
        return [self.inputs.provenance[path] for path in sorted(self.inputs.provenance)]


def _published(item: Any, title: str) -> dict[str, Any]:
    """What a source has of a figure or table; ``item`` is None for one of ours."""
    table = item.published if item and isinstance(item.published, Mapping) and "rows" in item.published else {}
    return {
        "says": (item.says if item else title).strip().rstrip("."),
        "ours": item is None,
        "place": item.place if item else "",
        "published": wording.published(item.published) if item else "",
        "columns": table.get("columns", []),
        "cells": table.get("rows", []),
        "unit": table.get("unit", ""),
    }


def _cost(source: str, group: str, mine: Sequence[Run]) -> dict[str, Any]:
    stored = [one for run in mine for one in run.stored]
    return {
        "source": source,
        "group": group,
        "runs": len(mine),
        "records": len(stored),
        "hours": sum(one.seconds or 0 for one in stored) / 3600,
        "untimed": sum(one.seconds is None for one in stored),
        "devices": ", ".join(sorted({run.device for run in mine if run.device})),
    }
