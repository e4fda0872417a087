"""``repro arithmetic``: the sources' own arithmetic, done again."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from repro.commands import console
from repro.verdicts import arithmetic


def run(options: Namespace, root: Path) -> int:
    """Print each computation with what is published."""
    found = arithmetic.lines(root)
    if options.json:
        console.as_json(arithmetic.as_rows(found))
        return 0
    for line in found:
        print(f"{line.id}: {line.question}\n    {line.working} -> {line.computed}")
        print(f"    published: {line.published}; {line.outcome}" + (f". {line.note}" if line.note else ""))
    return 0
