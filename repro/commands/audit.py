"""``repro audit``: rerun some records drawn at random, of all profiles, and compare."""

from __future__ import annotations

import secrets
from argparse import Namespace
from pathlib import Path

from repro.commands import console
from repro.commands.rerun import compare
from repro.running import rerun


def run(options: Namespace, root: Path) -> int:
    """Say the seed of the draw, compare, and return 1 if a run differs."""
    draw = secrets.randbelow(10**6) if options.draw is None else options.draw
    drawn = rerun.sample(options.n, draw, root)
    console.note(f"audit: draw {draw}")
    return compare(drawn, root, as_json=options.json, go_on=True)
