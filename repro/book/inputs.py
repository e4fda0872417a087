"""What the pages show, read from disk once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from repro import report
from repro.errors import ReproError
from repro.files import read_json, read_text
from repro.registry import specs, store, study
from repro.registry.notebook_files import of_none, of_source
from repro.report import Table, pilot
from repro.report.tables import from_markdown
from repro.results.records import Record, path_of, provenance_path
from repro.running import bill
from repro.verdicts import arithmetic, judge, power
from repro.verdicts.judge import Choice, Published

Verdicts = Sequence[Mapping[str, Any]]
_TEST = "smoke"
"""The profile whose numbers mean nothing: never shown beside another one."""


@dataclass(frozen=True)
class Inputs:
    """Everything that the pages are made from.

    Attributes:
        profile: whose figures and records the pages show.
        published, ledger: what the sources state, and what they leave open.
        verdicts: those of ``profile`` in their stored form; statements without one are "not run".
        others: profile -> its verdicts, shown beside; those of profile ``smoke`` mean nothing and are left out.
        records: valid records of ``profile``, grids and controls included.
        provenance: path of a record -> content of its provenance file.
        tables: artefact id -> table.
        present: ids of figures and tables whose files exist; the others are "not run".
        notebooks: name -> executed notebook as HTML without a frame; those of a source lie together.
        waiting: name -> text of the notebooks that are not executed, for lack of runs that they read.
        manifests: data set -> its manifest, with ``citation`` and ``licence`` as ``data/sources.yaml`` gives them.
        arithmetic: computations on the sources' own numbers.
        citation: content of ``CITATION.cff``.
        pilot: what the pilot was, where it stands in for runs of ``profile``; its verdicts are marked themselves.
        made_by_pilot: figure or table -> what the pilot's JSON beside it says of its runs.
        of_pilot: ids of figures and tables, and names of notebooks, that are the pilot's.
        rules_commit: the commit whose rules the runs of the study were made under; None before its first run.
        later_rules: statement id -> the commit of its rule, of those that got one after ``rules_commit``.
        changed_rules: statement id -> the ledger's entry that says what changed in its rule after its runs.
        bill: what the study costs, by group; empty at other profiles.
        power: content of ``data/power.json``.
    """

    profile: str
    published: Published
    verdicts: Verdicts
    ledger: Sequence[Choice]
    others: Mapping[str, Verdicts] = field(default_factory=dict)
    records: Sequence[Record] = ()
    provenance: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    present: frozenset[str] = frozenset()
    notebooks: Mapping[str, str] = field(default_factory=dict)
    waiting: Mapping[str, str] = field(default_factory=dict)
    manifests: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    arithmetic: Sequence[arithmetic.Line] = ()
    citation: Mapping[str, Any] = field(default_factory=dict)
    pilot: study.Pilot | None = None
    made_by_pilot: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    of_pilot: frozenset[str] = frozenset()
    rules_commit: str | None = None
    later_rules: Mapping[str, str] = field(default_factory=dict)
    changed_rules: Mapping[str, str] = field(default_factory=dict)
    bill: Sequence[bill.Line] = ()
    power: Mapping[str, Any] = field(default_factory=dict)


def load(profile: str, root: Path = Path()) -> Inputs:
    """Read what the pages of ``profile`` show.

    Raises:
        ReproError: a record, verdict, notebook or file of the package is missing or damaged.
    """
    from repro.book.notebook import body

    found = {source: store.current(source, profile, root).records for source in specs.SOURCES}
    records = [record for made in found.values() for record in made]
    provenance = {}
    for record in records:
        path = path_of(record)
        if (root / provenance_path(path)).exists():
            provenance[path.as_posix()] = read_json(root / provenance_path(path))
    folder = root / f"figures/{profile}/notebooks"
    executed = [*(path for s in specs.SOURCES for path in of_source(folder, s)), *of_none(folder)]
    present = report.present(profile, root)
    copied, books = pilot.shown(profile, root)
    plan = study.load(root) if profile == study.PROFILE else None
    pictures = {name: root / f"figures/{profile}/{name}.png" for name in sorted(present)}
    return Inputs(
        profile=profile,
        published=judge.load_published(root),
        verdicts=_verdicts(profile, root),
        ledger=judge.load_ledger(root),
        others={p: made for p in specs.PROFILES if p not in (profile, _TEST) and (made := _verdicts(p, root))},
        records=records,
        provenance=provenance,
        tables={
            i: _old_table(root / f"figures/{profile}/{i}.md") if i in copied else report.table(i, found[a.source])
            for i, a in report.ARTEFACTS.items()
            if a.kind == "table" and (profile != study.PROFILE or i in present)
        },
        present=frozenset(present),
        notebooks={path.stem: body(path, pictures, f"../figures/{profile}") for path in executed},
        made_by_pilot=pilot.made(root) if profile == study.PROFILE else {},
        waiting={
            path.stem: read_text(path)
            for path in sorted((root / "notebooks").glob("*.ipynb"))
            if not (folder / path.name).exists()
        },
        manifests=_manifests(root),
        arithmetic=arithmetic.lines(root),
        citation=_yaml(root / "CITATION.cff"),
        pilot=plan.pilot if plan else None,
        of_pilot=copied | books,
        rules_commit=plan.rules_commit if plan else None,
        later_rules=plan.added if plan else {},
        changed_rules=plan.changed if plan else {},
        bill=bill.lines({(record.run, record.seed) for record in records}, root) if profile == study.PROFILE else (),
        power=power.load(root),
    )


def _old_table(path: Path) -> Table:
    return from_markdown(path.read_text(encoding="utf-8"))


def _verdicts(profile: str, root: Path) -> list[dict[str, Any]]:
    path = root / "figures" / profile / "verdicts.json"
    return list(read_json(path)) if path.exists() else []


def _manifests(root: Path) -> dict[str, dict[str, Any]]:
    declared = _yaml(root / "data/sources.yaml")
    return {
        path.stem: read_json(path) | {key: declared.get(path.stem, {}).get(key) for key in ("citation", "licence")}
        for path in sorted((root / "data/manifests").glob("*.json"))
    }


def _yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ReproError(
            f"{path}: missing or not valid YAML; it is part of the repository; restore it with `git checkout -- {path}`"
        ) from error
    if not isinstance(content, dict):
        raise ReproError(f"{path}: a mapping was expected; restore it with `git checkout -- {path}`")
    return content
