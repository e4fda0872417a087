"""Does every published id have what it needs? The test suite fails if one goes missing."""

from __future__ import annotations

import json
from pathlib import Path

from repro import claims, report, specs
from repro.claims import Published


def check(profile: str, root: Path = Path()) -> tuple[list[str], list[str]]:
    """Compare ``data/published.yaml`` with what exists.

    For a source that has runs, an artefact needs its files under ``figures/<profile>`` and a place in the source's
    notebook; a statement needs a rule, a verdict and a place in the notebook.

    Returns:
        (problems, waiting): one line for everything that is missing, and one for everything that no run exists for yet.

    Raises:
        ReproError: a file of the package is malformed.
    """
    published = claims.load_published(root)
    problems, waiting = [], []
    verdict_file = root / "figures" / profile / "verdicts.json"
    verdicts = {v["id"]: v for v in json.loads(verdict_file.read_text())} if verdict_file.exists() else {}
    for source in _sources(published):
        if source not in specs.SOURCES:
            waiting += [f"{item.id}: no run or computation yet" for item in _items(published, source)]
            continue
        text = (root / "notebooks" / f"{source}.ipynb").read_text() if _notebook(root, source).exists() else ""
        for item in _items(published, source):
            if item.id not in text:
                problems.append(f"{item.id}: not in notebooks/{source}.ipynb; a section that names it was expected")
        for artefact in (a for a in published.artefacts if a.source == source):
            if artefact.id not in report.ARTEFACTS:
                problems.append(f"{artefact.id}: nothing draws it; add it to repro.report.ARTEFACTS")
                continue
            missing = [n for n in report.outputs(artefact.id) if not (root / "figures" / profile / n).exists()]
            problems += [f"figures/{profile}/{name}: missing; run `dvc repro`" for name in missing]
        for statement in (s for s in published.statements if s.source == source):
            verdict = verdicts.get(statement.id, {}).get("verdict")
            if verdict is None:
                problems.append(f"{statement.id}: no verdict in {verdict_file.relative_to(root)}; run `dvc repro`")
            elif verdict == claims.NOT_RUN:
                waiting.append(f"{statement.id}: not run ({verdicts[statement.id]['reason']})")
    return problems, waiting


def _notebook(root: Path, source: str) -> Path:
    return root / "notebooks" / f"{source}.ipynb"


def _sources(published: Published) -> list[str]:
    return sorted({artefact.source for artefact in published.artefacts})


def _items(published: Published, source: str) -> list[claims.Artefact | claims.Statement]:
    items: list[claims.Artefact | claims.Statement] = [*published.artefacts, *published.statements]
    return [item for item in items if item.source == source]
