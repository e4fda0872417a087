"""``repro render``: draw figures and tables from records."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from repro import report
from repro.commands import console, named
from repro.errors import ReproError, did_you_mean
from repro.registry import store, study
from repro.registry.published import load_published
from repro.report import pilot
from repro.results.records import Record


def run(options: Namespace, root: Path) -> int:
    """Write the files under ``figures/<profile>`` and print their paths; those of the pilot are said to be."""
    for name in options.ids:
        if name not in report.ARTEFACTS:
            raise ReproError(_not_drawn(name, root))
    wanted = named.sources(options)
    ids = options.ids or [
        name for name, item in report.ARTEFACTS.items() if item.source in wanted and item.group == options.group
    ]
    evidence = pilot.Evidence(root) if options.profile == study.PROFILE else None
    loaded: dict[str, list[Record]] = {}
    for artefact in ids:
        mark = ""
        if evidence is not None and pilot.stands_in_for(artefact, evidence):
            paths = pilot.copy_artefact(artefact, evidence.study.pilot, root)
            mark = " (the pilot's: the study lacks runs that it reads)"
            if not paths:
                console.note(f"{artefact}: not drawn; the study lacks runs, and the pilot had no such artefact")
        else:
            source = report.ARTEFACTS[artefact].source
            if source not in loaded:
                loaded[source] = store.current(source, options.profile, root).records
            folder = root / "figures" / options.profile
            paths = report.render(artefact, loaded[source], folder, profile=options.profile, root=root)
        for path in paths:
            print(f"{path}{mark}")
    return 0


def _not_drawn(name: str, root: Path) -> str:
    """What to say of an id that is no figure or table."""
    published = load_published(root)
    if why := named.without_a_run(name, published):
        return why
    if statement := next((s for s in published.statements if s.id == name), None):
        shown = f"it is shown by {statement.artefact}" if statement.artefact else "nothing draws it"
        return f"{name} is a statement; the id of a figure or table was expected, and {shown}"
    hint = did_you_mean(name, report.ARTEFACTS)
    return f"unknown figure or table {name!r}; {hint}`python -m repro list` shows the ids"
