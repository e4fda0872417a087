"""Learning rates that a source does not give: the best of one grid, by accuracy on held-out training images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from repro import files
from repro.errors import ReproError
from repro.registry import specs, store
from repro.registry.specs import Spec


def choose(source: str, profile: str, root: Path = Path(), *, finished: bool = False) -> dict[str, Any]:
    """The best learning rate of every grid of ``source``, and what it was chosen from.

    The best rate has the highest mean top-1 accuracy at the last epoch over the grid's seeds; a diverged seed counts
    as chance, and of equal rates the smaller one wins.

    Returns:
        Grid -> ``lr``, ``mean_top1`` (learning rate -> fraction), ``seeds``; ``at_edge``: whether the best rate is the
        first or the last of the grid, so that a better one may lie outside; and ``grid``, a hash of the fingerprints
        of the grid's runs.

    Raises:
        ReproError: a run of the grid has no valid record.
    """
    chosen = {}
    for grid, made in specs.grids(source, profile, root).items():
        if finished and not complete(source, profile, grid, root):
            continue
        seeds = _seeds(source, profile, made, root)
        means: dict[float, float] = {}
        for spec in made:
            found = {seed: store.stored(spec, seed, root) for seed in seeds}
            missing = [seed for seed, record in found.items() if record is None]
            if missing:
                raise ReproError(
                    f"{spec.run} seed {missing[0]} has no valid record; run `{specs.remedy(profile)}` first"
                )
            means[spec.schedule["lr"]] = fmean(
                record.rows[-1]["test_top1"] if record.status == "completed" else record.chance
                for record in found.values()
                if record is not None
            )
        best = max(means, key=lambda lr: (means[lr], -lr))
        chosen[grid] = {
            "lr": best,
            "mean_top1": {f"{lr:g}": mean for lr, mean in means.items()},
            "seeds": seeds,
            "at_edge": best in (min(means), max(means)),
            "grid": _identity(made, seeds, root),
        }
    return chosen


def stale(source: str, profile: str, root: Path = Path()) -> list[str]:
    """Grids whose stored choice was made with other settings, data or numerics than today's; needs no record.

    Raises:
        ReproError: no choice is stored for this profile, or the file is damaged.
    """
    grids, path = specs.grids(source, profile, root), specs.learning_rates_path(profile, root)
    if not grids:
        return []
    try:
        stored = files.read_json(path)[source]
        return [
            grid
            for grid, made in grids.items()
            if stored[grid]["grid"] != _identity(made, _seeds(source, profile, made, root), root)
        ]
    except (ReproError, KeyError, TypeError) as error:
        raise ReproError(
            f"{path}: missing or damaged; the learning rates that the grids of {source} chose were expected; "
            f"run `{specs.remedy(profile)}`"
        ) from error


def complete(source: str, profile: str, grid: str, root: Path = Path()) -> bool:
    """Whether every run of a grid has a valid record."""
    made = specs.grids(source, profile, root)[grid]
    return all(
        store.stored(spec, seed, root) is not None for spec in made for seed in _seeds(source, profile, made, root)
    )


def write(source: str, profile: str, root: Path = Path(), *, finished: bool = False) -> Path:
    """Choose and store the learning rates of ``source``; those of other sources in the file stay as they are.

    With ``finished``, what an unfinished grid chose before stays as it is, too.
    """
    path = specs.learning_rates_path(profile, root)
    kept = files.read_json(path) if path.exists() else {}
    chosen = choose(source, profile, root, finished=finished)
    if finished:
        chosen = kept.get(source, {}) | chosen
        if not chosen and path.exists():
            return path
    files.write_atomic(path, files.canonical_json(kept | {source: chosen}))
    return path


def _seeds(source: str, profile: str, made: Sequence[Spec], root: Path) -> list[int]:
    return [seed for spec, seed in specs.runs(source, profile, "grid", root) if spec.run == made[0].run]


def _identity(made: Sequence[Spec], seeds: Sequence[int], root: Path) -> str:
    return files.sha256([store.fingerprint(spec, seed, root) for spec in made for seed in seeds])
