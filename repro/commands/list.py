"""``repro list``: artefacts, runs and statements, with their ids and state."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro.commands import console, named
from repro.registry import store
from repro.registry.published import load_published

_SAYS = 70
"""Letters of a caption or statement that a line shows."""


def run(options: Namespace, root: Path) -> int:
    """Print what there is, of all sources or of one; of some ids only where they are given."""
    from repro import report

    published, wanted = load_published(root), named.sources(options)
    runs = _runs(options.profile, root, wanted)
    artefacts = [
        {"id": a.id, "kind": a.kind, "state": "built" if a.id in report.ARTEFACTS else "has no run", "says": a.says}
        for a in published.artefacts
        if a.source in wanted or options.source is None
    ]
    statements = [
        {"id": s.id, "kind": s.kind, "state": "judged" if s.judge else "has no run", "says": s.says}
        for s in published.statements
        if s.source in wanted or options.source is None
    ]
    if options.ids:
        named.check_ids(options.ids, [*(a["id"] for a in artefacts), *runs, *(s["id"] for s in statements)])
        artefacts, statements = ([x for x in listed if x["id"] in options.ids] for listed in (artefacts, statements))
        runs = {run: entry for run, entry in runs.items() if run in options.ids}
    if options.json:
        console.as_json({"artefacts": artefacts, "runs": list(runs.values()), "statements": statements})
        return 0
    found: dict[str, list[tuple[str, ...]]] = {
        "ARTEFACTS": [_row(each) for each in artefacts],
        f"RUNS (profile {options.profile})": [
            (each["run"], each["group"], each["method"] or "", _states(each["seeds"])) for each in runs.values()
        ],
        "STATEMENTS": [_row(each) for each in statements],
    }
    for position, (heading, rows) in enumerate((heading, rows) for heading, rows in found.items() if rows):
        print("\n" * bool(position) + heading)
        console.table(rows)
    return 0


def _row(item: Mapping[str, str]) -> tuple[str, ...]:
    """An artefact or a statement for readers."""
    return item["id"], item["kind"], item["state"], item["says"][:_SAYS]


def _states(seeds: Mapping[int, str]) -> str:
    return " ".join(f"s{seed}:{state}" for seed, state in seeds.items())


def _runs(profile: str, root: Path, sources: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Run id -> its group, its method and the state of each seed."""
    runs: dict[str, dict[str, Any]] = {}
    for (_, group), (tasks, waiting) in named.planned(profile, root, sources).items():
        for spec, seed in tasks:
            listed = runs.setdefault(spec.run, _new(spec.run, spec.group, spec.method))
            listed["seeds"][seed] = _state((spec, seed), root)
        for run, seed in waiting:
            runs.setdefault(run, _new(run, group, None))["seeds"][seed] = "no learning rate yet"
    return runs


def _new(run: str, group: str, method: str | None) -> dict[str, Any]:
    return {"run": run, "group": group, "method": method, "seeds": {}}


def _state(task: named.Task, root: Path) -> str:
    if not store.record_path(*task, root).exists():
        return "not run"
    record = store.stored(*task, root)
    return "stale" if record is None else record.status
