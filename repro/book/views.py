"""From inputs to pages: what each template is filled with."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from repro.book import forest, markdown, notebook
from repro.book.inputs import Inputs
from repro.book.theme import PILOT, SIGNS, SOURCES, THEMES, colour, verdict_class
from repro.experiments import numerics
from repro.registry import labels
from repro.registry.published import rule_hash
from repro.registry.specs import GROUPS
from repro.report import ARTEFACTS, outputs
from repro.results import looks
from repro.results.records import Record, path_of, provenance_path
from repro.verdicts import arithmetic, rules
from repro.verdicts.judge import Choice, expected_wrong, headline

HERE = Path(__file__).parent
NOT_RUN = "not run"

#: What the kinds of statement mean, for readers.
KINDS = {
    "value": "a number",
    "order": "one arm is said to beat another",
    "equivalence": "two arms are said not to differ beyond a margin",
    "ratio": "one arm is said to need or send so many times more",
    "trend": "a quantity is said to rise or fall with a setting",
    "bound": "a loss is said to stay below a limit",
    "law": "follows from the method; executed as a test",
    "definition": "a setting of the method; executed as a test",
}

_STEPS = (10, 30, 60, 120, 300, 600, 1200, 1800, 2700, 3600, 7200, 10800, 18000, 28800, 43200, 86400)


def about(seconds: float) -> str:
    """A duration as a rounded upper bound, which stays the same when a machine is a little slower.

    >>> about(4), about(95), about(4000), about(400_000)
    ('under 10 seconds', 'under 2 minutes', 'under 2 hours', 'about 5 days')
    """
    limit = next((step for step in _STEPS if seconds <= step), None)
    if limit is None:
        return f"about {round(seconds / 86400)} days"
    if limit < 60:
        return f"under {limit} seconds"
    if limit == 60:
        return "under a minute"
    if limit < 3600:
        return f"under {limit // 60} minutes"
    return "under an hour" if limit == 3600 else f"under {limit // 3600} hours"


def plural(count: int, noun: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def text_of(value: Any) -> str:
    """A published value for readers: null, text, number, list or mapping."""
    if value is None:
        return "no value published"
    if isinstance(value, Mapping):
        return "; ".join(f"{str(key).replace('_', ' ')}: {text_of(item)}" for key, item in value.items())
    if isinstance(value, list):
        if any(isinstance(item, list) for item in value):
            return "; ".join(
                " ".join(map(text_of, item)) if isinstance(item, list) else text_of(item) for item in value
            )
        return ", ".join(text_of(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class Stored:
    """A record as pages show it: ``seconds`` is None where no provenance exists; ``result`` is in words.

    ``rules`` are the hashes of the rules that stood when it was made, by statement.
    """

    run: str
    seed: int
    href: str
    provenance: str | None
    fingerprint: str
    seconds: float | None
    result: str
    rules: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """All records of one run."""

    run: str
    source: str
    group: str
    kind: str
    what: str
    settings: list[tuple[str, str]]
    stored: list[Stored]
    device: str

    @property
    def href(self) -> str:
        """Its place on the page of runs."""
        return f"runs-{self.source}.html#{self.run}"

    @property
    def quickest(self) -> Stored:
        """The record that is checked soonest."""
        return min(self.stored, key=lambda one: (one.seconds is None, one.seconds, one.seed))

    @property
    def seconds(self) -> float:
        """Of all its records together, where known."""
        return sum(one.seconds or 0.0 for one in self.stored)


@dataclass(frozen=True)
class Row:
    """A statement with its verdict. ``css`` is the class of its badge, ``word`` the key of ``SIGNS`` it belongs to."""

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


@dataclass
class Site:
    """The content of the site, before it is HTML or Markdown."""

    inputs: Inputs
    runs: dict[str, Run] = field(init=False)
    rows: list[Row] = field(init=False)
    built: list[str] = field(init=False)
    sections: dict[str, tuple[str, str]] = field(init=False)  # id -> (notebook, anchor)

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
        self.runs = self._runs()
        self.rows = self._rows()

    @property
    def profile(self) -> str:
        """Whose results are shown."""
        return self.inputs.profile

    def notebooks_of(self, source: str) -> dict[str, str]:
        """The notebooks of a source: name -> title."""
        return {
            name: notebook.title(body) or name
            for name, body in self.inputs.notebooks.items()
            if name == source or name.startswith(f"{source}-")
        }

    def notebook_of(self, item: str) -> str:
        """Name of the notebook that deals with a figure, table or statement; its source where no section does."""
        return self.sections.get(item, (item.partition(".")[0], ""))[0]

    def section(self, item: str) -> str:
        """The section that deals with a figure, table or statement, as a link."""
        anchor = self.sections.get(item, ("", ""))[1]
        return f"notebook-{self.notebook_of(item)}.html" + (f"#{quote(anchor)}" if anchor else "")

    def _runs(self) -> dict[str, Run]:
        by_run: dict[str, list[Record]] = {}
        order = {group: i for i, group in enumerate(GROUPS)}
        chosen = [r for r in self.inputs.records if r.profile == self.profile]
        for record in sorted(chosen, key=lambda r: (r.source, order.get(r.group, 9), r.run, r.seed)):
            by_run.setdefault(record.run, []).append(record)
        return {run: self._run(run, group) for run, group in by_run.items()}

    def _run(self, run: str, group: Sequence[Record]) -> Run:
        first, stored, devices = group[0], [], set()
        for record in group:
            path = path_of(record).as_posix()
            known = self.inputs.provenance.get(path)
            if known:
                devices.add(str(known.get("machine", {}).get("device", "")))
            where = provenance_path(path_of(record)).as_posix() if known else None
            stored.append(
                Stored(
                    run, record.seed, f"../{path}", f"../{where}" if where else None, record.fingerprint,
                    float(known["seconds"]) if known else None, _result(record), record.rules or {},
                )
            )  # fmt: skip
        settings = [
            (name.replace("_", " "), text_of(value))
            for name, value in first.spec.items()
            if value is not None and name not in ("run", "source", "group", "kind", "profile")
        ]
        devices.discard("")
        return Run(
            run,
            first.source,
            first.group,
            first.kind,
            labels.label(run, first.spec),
            settings,
            stored,
            ", ".join(sorted(devices)),
        )

    def _rows(self) -> list[Row]:
        judged = {str(v["id"]): v for v in self.inputs.verdicts}
        others = {name: {v["id"]: v for v in made} for name, made in self.inputs.others.items()}
        rows = []
        for item in self.inputs.published.statements:
            verdict = judged.get(item.id, {})
            if item.source not in self.built:
                verdict = {}
            word = str(verdict.get("verdict", NOT_RUN))
            reason = verdict.get("reason", "") if verdict else "no run of this source exists yet"
            beside = [
                (name, str(found["verdict"]), int(found["n"] or 0))
                for name, made in others.items()
                if (found := made.get(item.id)) and item.source in self.built
            ]
            rows.append(
                Row(
                    item.id, item.source, item.kind, item.says.strip(), item.place, text_of(item.published),
                    markdown.ours(verdict), int(verdict.get("n") or 0), word, verdict_class(word), reason,
                    verdict.get("why") or "", list(verdict.get("parts", [])), beside, item.shown_by,
                    [str(run) for run in verdict.get("runs", [])], self.profile,
                    str(verdict.get("repetitions", "seeds")), bool(verdict.get("pilot")),
                )
            )  # fmt: skip
        return rows

    def counts(self) -> list[tuple[str, str, dict[str, int]]]:
        """(source, name, verdict word -> number of its results); those that show the pilot are counted apart.

        Laws and definitions are no results; ``apart`` counts them.
        """
        return [
            (source, SOURCES[source], headline(_counted(row) for row in self.rows if row.source == source)["results"])
            for source in SOURCES
            if any(row.source == source for row in self.rows)
        ]

    def apart(self) -> list[tuple[str, str, dict[str, int]]]:
        """(kind, name, verdict word -> number) of laws and of definitions, of all sources."""
        found = headline(map(_counted, self.rows))
        return [(kind, name, found[name]) for kind, name in (("law", "laws"), ("definition", "definitions"))]

    def certainty(self) -> dict[str, Any]:
        """How many parts count and are decided, and how many of the decisions may be wrong; the pilot is left out."""
        own = [verdict for verdict in self.inputs.verdicts if not verdict.get("pilot")]
        parts = [part for verdict in own for part in verdict["parts"] if not part.get("beside")]
        wrong, tested = expected_wrong(own)
        decided = sum(part["outcome"] in rules.DECIDED for part in parts)
        return {"parts": len(parts), "decided": decided, "tested": tested, "wrong": wrong}

    def judge_of(self, row: Row) -> Sequence[Mapping[str, Any]]:
        """The parts of the rule of a statement, where they are those that were judged."""
        statement = next(item for item in self.inputs.published.statements if item.id == row.id)
        found = (statement.judge or {}).get("parts", [])
        return found if not row.pilot and len(found) == len(row.parts) else []

    def parts(self, row: Row) -> list[dict[str, Any]]:
        """A line of the table of parts for each part of a verdict."""
        asked = self.judge_of(row)
        return [_part(part, i, len(row.parts), asked[i] if asked else {}) for i, part in enumerate(row.parts)]

    def forest(self, row: Row) -> Markup | None:
        """Estimates and intervals of a statement as a picture; None where it has none."""
        return forest.picture(row.parts, self.judge_of(row))

    def committed(self, row: Row) -> tuple[int, int, int]:
        """Records behind a statement: made under today's rule, under another one, and in all."""
        statement = next(item for item in self.inputs.published.statements if item.id == row.id)
        held = [one.rules.get(row.id) for run in self._runs_of(row.runs) for one in run.stored]
        same = held.count(rule_hash(statement))
        return same, sum(each is not None for each in held) - same, len(held)

    @property
    def multipliers(self) -> list[tuple[int, float]]:
        """Half-width of the interval at each look, in standard errors."""
        return [(n, looks.multiplier(n)) for n in looks.LOOKS]

    def headline(self) -> dict[str, dict[str, int]]:
        """As ``claims.headline``, over the sources that are built; what shows the pilot is left out."""
        counted = (row for row in self.rows if row.source in self.built and not row.pilot)
        return headline({"kind": row.kind, "verdict": row.verdict} for row in counted)

    @property
    def columns(self) -> list[str]:
        """How verdicts are counted: by their words, and those of the pilot apart where there are any."""
        return [*SIGNS, *([PILOT] if any(row.pilot for row in self.rows) else [])]

    def progress(self) -> str:
        """How far the study is, where the pilot still stands in; else empty."""
        old = sum(row.pilot for row in self.rows)
        if not old or self.inputs.pilot is None:
            return ""
        unrun = sum(row.word == NOT_RUN for row in self.rows)
        return (
            f"{len(self.rows) - old - unrun} of {len(self.rows)} statements have study evidence so far; {old} show the "
            f"pilot ({self.inputs.pilot.seeds} seeds, short trainings, never counted)"
            + (f", and {unrun} {'was' if unrun == 1 else 'were'} not run." if unrun else ".")
        )

    def artefacts(self) -> list[dict[str, Any]]:
        """Every figure and table: those that the sources have and those of ours, in the sources' order."""
        published = {item.id: item for item in self.inputs.published.artefacts}
        own = [name for name in ARTEFACTS if name not in published]
        order = list(SOURCES)
        names = sorted([*published, *own], key=lambda name: (order.index(name.partition(".")[0]), name in own))
        return [self._artefact(name, published.get(name)) for name in names]

    def _artefact(self, name: str, item: Any) -> dict[str, Any]:
        made = ARTEFACTS.get(name)
        source = name.partition(".")[0]
        old = name in self.inputs.of_pilot
        runs = self._runs_of(made.runs) if made and not old else []
        seconds = sum(run.seconds for run in runs)
        known = item.published if item and isinstance(item.published, Mapping) and "rows" in item.published else {}
        return {
            "id": name,
            "source": source,
            "says": (item.says if item else made.title if made else "").strip().rstrip("."),
            "title": made.title if made else "",
            "ours": item is None,
            "place": item.place if item else "",
            "published": text_of(item.published) if item else "",
            "columns": known.get("columns", []),
            "cells": known.get("rows", []),
            "unit": known.get("unit", ""),
            "kind": made.kind if made else item.kind,
            "group": made.group if made else "artefact",
            "drawn": name in self.inputs.present,
            "pilot": old,
            "files": [(file.rpartition(".")[2], self.file(file)) for file in outputs(name)] if made else [],
            "picture": self.file(f"{name}.png") if made and made.kind == "figure" else "",
            "table": self.inputs.tables.get(name),
            "rows": [row for row in self.rows if name in row.shown_by],
            "runs": runs,
            "records": sum(len(run.stored) for run in runs),
            "seconds": seconds,
            "quickest": min((run.quickest for run in runs), key=_wait, default=None),
            "devices": sorted({run.device for run in runs if run.device}),
        }

    def _runs_of(self, patterns: Iterable[str]) -> list[Run]:
        from fnmatch import fnmatchcase

        found = [run for pattern in patterns for run in self.runs.values() if fnmatchcase(run.run, pattern)]
        return list({run.run: run for run in found}.values())

    def file(self, name: str) -> str:
        """A figure or table file of this profile, from a page."""
        return f"../figures/{self.profile}/{name}"

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
        lines = []
        for source in self.built:
            for group in GROUPS:
                runs = [run for run in self.runs.values() if (run.source, run.group) == (source, group)]
                if runs:
                    stored = [one for run in runs for one in run.stored]
                    lines.append(
                        {
                            "source": source,
                            "group": group,
                            "runs": len(runs),
                            "records": len(stored),
                            "hours": sum(one.seconds or 0 for one in stored) / 3600,
                            "untimed": sum(one.seconds is None for one in stored),
                            "devices": ", ".join(sorted({run.device for run in runs if run.device})),
                        }
                    )
        return lines

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


def _counted(row: Row) -> dict[str, str]:
    return {"kind": row.kind, "verdict": row.counted_as}


def _part(part: Mapping[str, Any], index: int, count: int, asked: Mapping[str, Any]) -> dict[str, Any]:
    """A part for readers; ``asked`` is its rule, empty where the pilot's is not known."""
    unit = str(part.get("unit") or "")
    limits, published = forest.limits_of(asked, unit) if asked and unit else ((), None)
    bars = forest.bars_of(part)
    difference = "–"
    if published is not None and part.get("estimate") is not None:
        ratio = unit.startswith("times")
        apart = part["estimate"] / published if ratio else part["estimate"] - published
        difference = f"× {labels.number(apart, 2)}" if ratio else f"{labels.number(apart, 1, sign=True)} points"
    p, q = part.get("p"), part.get("q")
    return {
        "name": forest.name_of(part, index, count),
        "under": "; ".join(f"{key}: {value}" for key, value in (part.get("under") or {}).items()),
        "beside": bool(part.get("beside")),
        "post_hoc": bool(part.get("post_hoc")),
        "asked": _asked(asked, unit, limits, published),
        "ours": part.get("ours") or "–",
        "looks": [f"{bar.said(unit)} {unit}" for bar in bars] if len(bars) > 1 else [],
        "difference": difference,
        "outcome": part["outcome"],
        "n": labels.counted(int(part["n"]), part.get("repetitions")),
        "p": "–" if p is None else rules.p_text(p),
        "q": "–" if q is None else rules.p_text(q),
        "reason": part["reason"],
    }


def _asked(asked: Mapping[str, Any], unit: str, limits: Sequence[float], published: float | None) -> str:
    """What a part of a rule asks for, in a few words."""
    if not asked:
        return "–"
    said, rule = [forest.shown(limit, unit) for limit in limits], asked["rule"]
    if published is not None:
        return f"published {forest.shown(published, unit)} {unit}; {said[0]} to {said[1]} is met"
    if rule == "trend":
        return f"{asked['direction']}".strip()
    if rule == "equivalence" and said:
        return f"within {said[0]} to {said[1]} {unit}"
    if rule == "bound" and said:
        return f"at most {said[0]} {unit}"
    if rule in ("order", "ratio"):
        least = said[0] if said else {"times": "1", "points": "0"}.get(unit.partition(" ")[0], "0")
        return f"above {least} {unit}".strip()
    return {"law": "every check is met", "definition": "every setting as published"}.get(rule, "–")


def _wait(stored: Stored) -> tuple[bool, float]:
    return stored.seconds is None, stored.seconds or 0.0


def _result(record: Record) -> str:
    """What a record ends with, in words."""
    if record.status == "diverged":
        return "diverged"
    if record.kind == "law":
        return "law executed"
    if record.kind == "train" and record.rows:
        last = record.rows[-1]
        top5 = f", top-5 {100 * last['test_top5']:.1f} %" if "test_top5" in last else ""
        return f"top-1 {100 * last['test_top1']:.1f} %{top5}, epoch {last['epoch']:g}"
    return plural(len(record.rows), "row")


def site(inputs: Inputs) -> dict[str, str]:
    """Every page as file name -> text; the same inputs give the same texts."""
    made = Site(inputs)
    environment = _environment(made)

    def page(template: str, **values: Any) -> str:
        return environment.get_template(template).render(**values)

    artefacts = made.artefacts()
    known = {item["id"]: item for item in artefacts}
    pages = {
        "index.html": page("index.html", here="index"),
        "index.md": markdown.render(made, artefacts),
        "figures.html": page("figures.html", here="figures", artefacts=artefacts),
        "runs.html": page("runs.html", here="runs"),
        "notebooks.html": page("notebooks.html", here="notebooks"),
        "ledger.html": page("ledger.html", here="ledger"),
        "arithmetic.html": page("arithmetic.html", here="arithmetic"),
        "provenance.html": page("provenance.html", here="provenance", versions=numerics.VERSIONS),
        "terms.html": page("terms.html", here="terms", kinds=KINDS, power=inputs.power),
        "cite.html": page("cite.html", here="cite"),
        "style.css": _style(),
        "matrix.js": (HERE / "assets/matrix.js").read_text(encoding="utf-8"),
    }
    for item in artefacts:
        pages[f"{item['id']}.html"] = page("artefact.html", here="figures", item=item)
    for row in made.rows:
        pages[f"{row.id}.html"] = page(
            "statement.html", here="index", row=row, kinds=KINDS, shown=[known[i] for i in row.shown_by if i in known],
            runs=made._runs_of(row.runs), missing=[run for run in row.runs if not made._runs_of([run, f"{run}-lr*"])],
        )  # fmt: skip
    for source in made.built:
        mine = [run for run in made.runs.values() if run.source == source]
        pages[f"runs-{source}.html"] = page("runs-source.html", here="runs", source=source, runs=mine)
    for name, body in inputs.notebooks.items():
        pages[f"notebook-{name}.html"] = page("notebook.html", here="notebooks", name=name, body=Markup(body))
    return {name: text.rstrip("\n") + "\n" for name, text in sorted(pages.items())}


def _environment(made: Site) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False,
    )  # fmt: skip
    environment.globals |= {
        "site": made,
        "profile": made.profile,
        "SOURCES": SOURCES,
        "SIGNS": SIGNS,
        "PILOT": PILOT,
        "pilot": made.inputs.pilot,
        "notebooks": sorted(made.inputs.notebooks),
        "scale_note": markdown.scale_note(made.profile),
        "certainty": markdown.certainty,
        "plural": plural,
        "about": about,
        "number": labels.number,
    }
    environment.filters |= {"href": lambda path: quote(str(path), safe="/#.:"), "badge": _badge, "text": text_of}
    return environment


def _badge(word: str, count: int | None = None) -> Markup:
    """A verdict with its sign; colour only repeats what sign and words say."""
    said = escape(word if count is None else f"{count} {word}")
    sign = "" if word == PILOT else f'<span aria-hidden="true">{SIGNS[verdict_class(word)]}</span> '
    return Markup(f'<span class="badge {colour(word)}">{sign}{said}</span>')


def _style() -> str:
    from pygments.formatters import HtmlFormatter

    light, dark = (";".join(f"--{key}:{value}" for key, value in THEMES[name].items()) for name in ("light", "dark"))
    code, code_dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("default", "github-dark"))
    own = (HERE / "assets/style.css").read_text(encoding="utf-8")
    return (
        f":root{{{light}}}\n@media(prefers-color-scheme:dark){{:root{{{dark}}}}}\n{code}\n"
        f"@media(prefers-color-scheme:dark){{\n{code_dark}\n}}\n{own}"
    )
