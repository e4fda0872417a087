"""``repro tune``: choose learning rates from the finished grids and store them."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from repro import files
from repro.commands import named
from repro.registry import specs
from repro.running import tuning


def run(options: Namespace, root: Path) -> int:
    """Print the learning rate that each grid chose, and which grids are not finished."""
    for source in named.sources(options):
        grids = specs.grids(source, options.profile, root)
        if not grids:
            print(f"{source}: no learning-rate grid, its rates are given")
            continue
        path = tuning.write(source, options.profile, root, finished=options.only == "recorded")
        chosen = files.read_json(path).get(source, {})
        if waits := [grid for grid in grids if grid not in chosen]:
            print(f"{source}: no learning rate yet for {', '.join(waits)}: runs of these grids are missing")
        for grid, choice in chosen.items():
            edge = "  (at the edge of the grid: a better one may lie outside)" if choice["at_edge"] else ""
            print(f"{source} {grid}: learning rate {choice['lr']:g}{edge}")
    return 0
