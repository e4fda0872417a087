"""The planned runs of a source: which specs there are at a profile, and with which seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from repro.errors import ReproError, did_you_mean
from repro.experiments.spec import SOURCES, TORCHVISION, Spec
from repro.registry.resolve import (
    OF_OURS,
    NotChosen,
    chosen_rate,
    published_settings,
    resolve,
    sizes_of_run,
    steps_per_epoch,
)
from repro.registry.source_files import Source, read_source
from repro.validation import misfit


def runs(source: str, profile: str, group: str = "artefact", root: Path = Path()) -> list[tuple[Spec, int]]:
    """Every (spec, seed) of one group of a source; a law and a measurement are executed once.

    Args:
        source: id of the post or paper.
        profile: ``smoke``, ``study`` or ``paper``.
        group: ``artefact``: what the source's own tables, figures and statements rest on. ``grid``: the learning-rate
            grids, with seeds of their own. ``control``: further runs that a reader asks for, with the artefacts' seeds.
        root: root of the repository.

    Raises:
        ReproError: unknown source or profile, malformed YAML or a bad value (file, key, expected type), or a
            learning rate that a grid has still to choose.
    """
    return _tasks(read_source(source, profile, root), group)


def runs_and_waiting(
    source: str, profile: str, group: str, root: Path = Path()
) -> tuple[list[tuple[Spec, int]], list[tuple[str, int]]]:
    """As ``runs``, with (run, seed) of those that wait for the learning rate that a grid has still to choose beside."""
    files, waiting = read_source(source, profile, root), list[str]()
    tasks, seeds = _tasks(files, group, waiting), _planned_seeds(files)
    return tasks, [(run, seed) for run in waiting for seed in seeds(run)]


def unchosen(run: str, source: str, profile: str, root: Path = Path()) -> Spec:
    """The spec of a run that waits for its learning rate, at rate 1: for what does not depend on the rate, as costs.

    Raises:
        ReproError: the source has no such run, or its files are malformed.
    """
    files = read_source(source, profile, root)
    if run not in files.runs:
        raise ReproError(f"{run!r} is no run of {source}; {did_you_mean(run, files.spec.runs)}")
    return _written(files, run, lr=1.0)


def first_seeds(source: str, profile: str, root: Path = Path()) -> list[int]:
    """Seeds that the profile's sizes give every run of a source, grids apart."""
    return list(read_source(source, profile, root).params.seeds)


def rates_chosen(source: str, profile: str, root: Path = Path()) -> bool:
    """Whether the learning rate of every grid of a source is stored."""
    try:
        return all(chosen_rate(profile, source, grid, root) for grid in grids(source, profile, root))
    except NotChosen:
        return False


def grids(source: str, profile: str, root: Path = Path()) -> dict[str, list[Spec]]:
    """Learning-rate grids of a source: arm -> its specs in order of the learning rate."""
    return _grids(read_source(source, profile, root))


def find(run: str, profile: str, root: Path = Path()) -> Spec:
    """The spec of one run by its id.

    Raises:
        ReproError: no source has such a run; the message names the nearest ids.
    """
    known: list[str] = []
    for source in SOURCES:
        files = read_source(source, profile, root)
        if run in files.runs:  # only this one: others may still wait for their learning rates
            return _written(files, run)
        of_grids = {spec.run: spec for made in _grids(files).values() for spec in made}
        if run in of_grids:
            return of_grids[run]
        known += [*files.runs, *of_grids]
    raise ReproError(f"unknown run {run!r}; {did_you_mean(run, known)}`python -m repro list` shows all run ids")


def sibling(run: str, spec: Spec, root: Path = Path()) -> Spec:
    """The spec of another run of the same source, profile and root as ``spec``, from its artefacts."""
    return resolve(read_source(spec.source, spec.profile, root), run, run, group="artefact")


def sizes_of(source: str, profile: str, model: str, root: Path = Path()) -> dict[str, Any]:
    """The settings of a network and of its training that a measurement of ``model`` has at a profile.

    They are ``image_size``, ``width``, ``norm``, ``patch``, ``depth``, ``augment`` and ``momentum``.

    A network that no run of the source measures has the source's usual ones. Raises as ``runs``.
    """
    files = read_source(source, profile, root)
    own: dict[str, Any] = next((s for run in files.spec.runs if (s := files.runs[run]).get("model") == model), {})
    settings = files.defaults | own | sizes_of_run(files, "measure", model)
    if model.startswith(TORCHVISION):
        settings |= dict.fromkeys(OF_OURS)
    names = ("image_size", "width", "norm", "patch", "depth", "augment", "momentum")
    return {name: settings.get(name) for name in names}


def published_warm_up(spec: Mapping[str, Any], root: Path = Path()) -> float:
    """Share of the published training that DGC's warm-up takes there, from that of a run at its profile's size.

    The inverse of what the profile does to it. Where the profile keeps the share, it is that of any run, planned or
    not. Where it keeps the steps, they are counted in those of the run's published size, which only a planned run has.

    Args:
        spec: of a run, as its record holds it.
        root: root of the repository.

    Raises:
        ReproError: the profile keeps the steps, and the source has no such run.
    """
    files, run = read_source(spec["source"], spec["profile"], root), spec["run"]
    share = float(spec["sparsity_warmup"])
    if files.params.warmup == "share":
        return share
    if run not in files.runs:
        raise ReproError(
            f"{files.spec_file}: no run {run}, and without its published size no share of the published training that "
            "its warm-up takes; a run of this file was expected; name one"
        )
    published = published_settings(files, run)
    steps = share * spec["epochs"] * steps_per_epoch(spec)
    return float(steps / (published["epochs"] * steps_per_epoch(published)))


def grid_run(source: str, arm: str, lr: float) -> str:
    """Run id of one point of a learning-rate grid.

    >>> grid_run("e1", "central", 0.05)
    'e1-grid-central-lr0_05'
    """
    return f"{source}-grid-{arm}-lr{lr:g}".replace(".", "_")


# Plans of a source --------------------------------------------------------------------------------------------


def _written(files: Source, run: str, lr: float | None = None) -> Spec:
    """The spec of a run that the spec file writes down."""
    return resolve(files, run, run, lr=lr, group="artefact" if run in files.spec.runs else "control")


def _tasks(files: Source, group: str, waiting: list[str] | None = None) -> list[tuple[Spec, int]]:
    """(spec, seed) of a group. A run without a chosen rate is an error, or left out and added to ``waiting``."""
    if group == "grid":
        seeds = _grid_seeds(files)
        return [(spec, seed) for arm, specs in _grids(files).items() for spec in specs for seed in seeds[arm]]
    tasks, planned_seeds = [], _planned_seeds(files)
    for run in files.spec.runs if group == "artefact" else files.spec.controls:
        try:
            spec = _written(files, run)
        except NotChosen:
            if waiting is None:
                raise
            waiting.append(run)
            continue
        once = spec.once or spec.kind in ("law", "measure")
        tasks += [(spec, seed) for seed in (files.params.seeds[:1] if once else planned_seeds(run))]
    return tasks


def _planned_seeds(files: Source) -> Callable[[str], list[int]]:
    """Run -> the profile's seeds; at the profile ``study`` also those of the later looks of statements that read it.

    A run to which the profile gives seeds of its own has those.
    """
    from repro.registry import study  # which needs what no other profile does

    first = files.params.seeds
    looks = study.looks_of_runs(files.name, files.root) if files.profile == study.PROFILE else {}

    def seeds(run: str) -> list[int]:
        own = files.params.runs[run].seeds if run in files.params.runs else None
        return list(own) if own is not None else study.at_look(first, max(len(first), looks.get(run, 0)))

    return seeds


def _grids(files: Source) -> dict[str, list[Spec]]:
    grid, sizes = files.spec.grid, files.params.grid
    if grid is None and sizes is None:
        return {}
    if grid is None or sizes is None:
        raise ReproError(
            f"{files.spec_file if grid is None else files.place}: no grid; one in both files, or in none, was expected"
        )
    arms = sizes.arms or {}
    if strange := sorted(set(arms) - set(grid.arms)):
        raise ReproError(
            f"{files.place}.grid.arms: unknown key {strange[0]!r}; one of {', '.join(grid.arms)} was expected"
        )
    made = {}
    for arm, base in grid.arms.items():
        own = arms[arm].given() if arm in arms else {}
        extra = _grid_sizes(files, sizes.given() | own)
        rates = own.get("lrs") or grid.rates.get(arm, grid.lrs)
        made[arm] = [resolve(files, grid_run(files.name, arm, lr), base, lr=float(lr), **extra) for lr in rates]
    return made


def _grid_sizes(files: Source, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """What a grid changes in the runs of an arm."""
    for name in ("epochs", "held_out_images"):
        if name not in sizes:
            raise misfit(f"{files.params_file}", f"{files.name}.grid.{name}", None, "a whole number", "add it")
    extra = {
        "group": "control",
        "evaluate_on": "held_out",
        "epochs": sizes["epochs"],
        "evaluate_every": sizes["epochs"],
        "test_images": sizes["held_out_images"],
        "final_test_images": None,
        "final_evaluations": sizes.get("final_evaluations"),
        "expects_divergence": True,
    }
    if "train_images" in sizes:  # where runs train on images that a grid must hold out
        extra["train_images"] = sizes["train_images"]
    return extra


def _grid_seeds(files: Source) -> dict[str, list[int]]:
    """Seeds of each arm of the source's grids, which no other run has."""
    if files.spec.grid is None or files.params.grid is None:
        return {}
    common, arms, made = files.params.grid.seeds, files.params.grid.arms or {}, {}
    for arm in files.spec.grid.arms:
        own = arms[arm].seeds if arm in arms else None
        place = f"{files.name}.grid.arms.{arm}.seeds" if own else f"{files.name}.grid.seeds"
        seeds = own or common
        if seeds is None:
            raise misfit(files.params_file, place, None, "a list of seeds", "add it")
        if set(files.params.seeds) & set(seeds):
            raise ReproError(
                f"{files.params_file}, key {place}: {seeds} shares a seed with {files.params.seeds}; a grid needs "
                "seeds of its own"
            )
        made[arm] = list(seeds)
    return made
