"""Learning rates that a source does not give: the best of one grid, by accuracy on held-out training images."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

from repro import records, runner, specs
from repro.errors import ReproError


def choose(source: str, profile: str, root: Path = Path()) -> dict[str, Any]:
    """The best learning rate of every grid of ``source``, and what it was chosen from.

    The best rate has the highest mean top-1 accuracy at the last epoch over the grid's seeds; a diverged seed counts
    as chance, and of equal rates the smaller one wins.

    Returns:
        Grid -> ``lr``, ``mean_top1`` (learning rate -> fraction), ``seeds``, and ``at_edge``: whether the best rate
        is the first or the last of the grid, so that a better one may lie outside.

    Raises:
        ReproError: a run of the grid has no valid record.
    """
    chosen = {}
    seeds = [seed for _, seed in specs.runs(source, profile, "control", root)]
    for grid, made in specs.grids(source, profile, root).items():
        means: dict[float, float] = {}
        for spec in made:
            found = [(seed, runner.stored(spec, seed, root)) for seed in sorted(set(seeds))]
            missing = [seed for seed, record in found if record is None]
            if missing:
                raise ReproError(
                    f"{spec.run} seed {missing[0]} has no valid record; run `make controls PROFILE={profile}` first"
                )
            means[spec.schedule["lr"]] = fmean(
                record.rows[-1]["test_top1"] if record.status == "completed" else record.chance
                for _, record in found
                if record is not None
            )
        best = max(means, key=lambda lr: (means[lr], -lr))
        chosen[grid] = {
            "lr": best,
            "mean_top1": {f"{lr:g}": mean for lr, mean in means.items()},
            "seeds": sorted(set(seeds)),
            "at_edge": best in (min(means), max(means)),
        }
    return chosen


def write(source: str, profile: str, root: Path = Path()) -> Path:
    """Choose and store the learning rates of ``source``; those of other sources in the file stay as they are."""
    path = specs.learning_rates_path(profile, root)
    kept = json.loads(path.read_text()) if path.exists() else {}
    records.write_atomic(path, records.canonical_json(kept | {source: choose(source, profile, root)}))
    return path
