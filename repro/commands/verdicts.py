"""``repro verdicts``: every statement: published, ours with interval and n, verdict."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from repro import files
from repro.commands import console, named
from repro.registry.published import load_published
from repro.report import pilot


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
        print(f"{v['id']:8} {v['verdict']:24} n={n}  {v['ours'] or v['reason']}")
    return 0
