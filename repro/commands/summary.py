"""``repro summary``: what came out, from the stored verdicts; where the book is; how to check a number."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from repro import files
from repro.book import theme
from repro.commands.verdicts import stored_at
from repro.errors import ReproError


def run(options: Namespace, root: Path) -> int:
    """Count results, laws and definitions apart; verdicts of the pilot are shown and never counted."""
    path = stored_at(options.profile, root)
    if not path.exists():
        raise ReproError(f"{path}: no verdicts yet; run `dvc repro` first")
    groups: dict[str, list[Any]] = {"results": [], "laws": [], "definitions": []}
    for v in files.read_json(path):
        groups[{"law": "laws", "definition": "definitions"}.get(v["kind"], "results")].append(v)
    own, old = theme.split((v["verdict"], bool(v.get("pilot"))) for v in groups["results"])
    print(f"Of {sum(own.values()) + sum(old.values())} results, at profile {options.profile}: {theme.said(own)}.")
    for name in ("laws", "definitions"):
        found, shown = theme.split((v["verdict"], bool(v.get("pilot"))) for v in groups[name])
        said = [theme.said(found)] * bool(found) + [f"{sum(shown.values())} from the pilot"] * bool(shown)
        if said:
            print(f"Of {len(groups[name])} {name}, counted apart: {'; '.join(said)}.")
    if old:
        print(
            f"{sum(old.values())} of the results show the pilot, which is never counted ({theme.said(old)}): "
            "`make study` computes what is left, and `python -m repro plan` says what that costs."
        )
    print("The book: open book/index.html in a browser (on a forge book/index.md).")
    print("Check numbers: `python -m repro audit -n 3` computes three records again, drawn at random, and compares.")
    return 0
