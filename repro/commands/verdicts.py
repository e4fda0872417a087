"""``repro verdicts``: every statement: published, ours with interval and n, verdict."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro import files
from repro.commands import console, named
from repro.registry.published import load_published
from repro.report import pilot
from repro.verdicts import evidence, judge


def stored_at(profile: str, root: Path) -> Path:
    """Where the verdicts of a profile are stored."""
    return root / "figures" / profile / "verdicts.json"


def run(options: Namespace, root: Path) -> int:
    """Judge all statements, store all of them if asked, and print those that are wanted."""
    statements = load_published(root).statements
    named.check_ids(options.ids, [statement.id for statement in statements])
    found = pilot.judge_all(statements, options.profile, root)
    if options.write:
        files.write_atomic(stored_at(options.profile, root), files.canonical_json(found))
    found = [v for v in found if options.source in (None, v["source"]) and (not options.ids or v["id"] in options.ids)]
    if options.json:
        console.as_json(found)
        return 0
    for v in found:
        n = "-" if v["n"] is None else v["n"]
        stale = _is_stale(v)
        told = v["reason"] if stale else v["ours"] or v["reason"]
        print(f"{v['id']:8} {'stale' if stale else v['verdict']:24} n={n}  {told}")
    return 0


def _is_stale(verdict: Mapping[str, Any]) -> bool:
    """Whether nothing is judged though there are records: they are of other code or settings than today's."""
    return verdict["verdict"] == judge.NOT_RUN and f"({evidence.STALE})" in verdict["reason"]
