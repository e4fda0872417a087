"""From the settings in the files of a source to one run with every setting resolved, at the sizes of a profile."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from repro.data.sets import Declaration
from repro.errors import ReproError, did_you_mean
from repro.experiments.checks import check
from repro.experiments.sizes import local_steps
from repro.experiments.spec import TORCHVISION, Spec
from repro.files import read_json, read_text
from repro.registry.source_files import SIZES, Source
from repro.validation import Model, Number, Positive, Text, fitting, optional

OF_OURS = ("width", "norm")
"""Settings of networks of this package alone; those of torchvision have their own."""
LONGEST_WARM_UP = 0.6
"""Share of the training that a warm-up may take at most."""


class NotChosen(ReproError):
    """A grid has still to choose this learning rate."""


class ChosenRate(Model):
    """What ``repro tune`` stores of an arm of a grid: rate, hash of the grid, and mean accuracy by rate."""

    lr: Positive
    at_edge: bool = optional()
    grid: Text = optional()
    mean_top1: dict[Text, Number | None] = optional()
    seeds: list[int] = optional()


def learning_rates_path(profile: str, root: Path = Path()) -> Path:
    """Where ``repro tune`` writes the learning rates that the grids chose."""
    return root / "data/learning_rates" / f"{profile}.json"


def remedy(profile: str) -> str:
    """The command that runs a profile's grids and controls.

    >>> remedy("study"), remedy("smoke")
    ('make study', 'make controls PROFILE=smoke')
    """
    return "make study" if profile == "study" else f"make controls PROFILE={profile}"


def chosen_rate(profile: str, source: str, grid: str, root: Path) -> float:
    """The learning rate that a grid chose at a profile.

    Raises:
        NotChosen: the grid has not run yet.
        ReproError: the file of chosen rates is malformed.
    """
    path = learning_rates_path(profile, root)
    if not path.exists():
        raise NotChosen(f"{path}: no learning rates chosen for profile {profile}; run `{remedy(profile)}` once")
    again = f"no learning rate for grid {grid} of {source}; run `{remedy(profile)}` again"
    try:
        chosen = _rates(read_text(path), path).get(source, {})
    except ReproError as error:
        raise ReproError(f"{error}; {again}") from error
    if grid not in chosen:
        raise NotChosen(f"{path}: {again}")
    return float(chosen[grid].lr)


@lru_cache(maxsize=8)
def _rates(text: str, path: Path) -> dict[str, dict[str, ChosenRate]]:
    """The chosen rates by source and grid; validated once for each content ``text`` of the file."""
    made: dict[str, dict[str, ChosenRate]] = fitting(dict[str, dict[str, ChosenRate]], read_json(path), path)
    return made


def scaled_workers(workers: int, images: int, published_images: int) -> int:
    """Workers of a profile: in proportion to the training images, at least two.

    >>> scaled_workers(96, 50_000, 50_000), scaled_workers(96, 4_000, 50_000), scaled_workers(96, 10, 50_000)
    (96, 8, 2)
    """
    return max(2, round(workers * images / published_images))


def published_settings(files: Source, run: str) -> dict[str, Any]:
    """The settings of a run at the published scale: the defaults of its source and its own."""
    return files.defaults | files.runs[run]


def sizes_of_run(files: Source, kind: str, model: str, run: str | None = None) -> dict[str, Any]:
    """The profile's sizes of a run: those of the source, of the network on top, of a measurement, and its very own."""
    params, own = files.params, SIZES.get(kind, ())
    made = {name: value for name, value in params.sizes.given().items() if name in own}
    if kind in ("train", "gradients", "teacher"):
        networks: Any = params.trained if "trained" in params.model_fields_set else params.models
        of_network = networks[model].given() if model in networks else {}
        made |= {name: value for name, value in of_network.items() if name in own}
    if kind == "measure":
        made |= params.models[model].given() if model in params.models else {}
        made |= params.measure.given() if params.measure is not None else {}
    if run in params.runs:
        allowed = (*own, "workers") if kind == "train" else own
        made |= {name: value for name, value in params.runs[run].given().items() if name in allowed}
    return made


def resolve(files: Source, name: str, base: str, lr: float | None = None, **extra: Any) -> Spec:
    """Run ``name`` with the settings of run ``base`` of the spec file, the profile's sizes and ``extra`` on top.

    Args:
        files: of the source.
        name, base: run ids.
        lr: learning rate, where neither the file nor a grid says it.
        extra: settings that win over all others.

    Raises:
        NotChosen: a grid has still to choose the learning rate.
        ReproError: settings that do not fit together.
    """
    where = f"{files.spec_file}, run {name}"
    published = published_settings(files, base)
    for key in _NEEDED:
        if key not in published:
            raise ReproError(f"{where}: key {key!r} is missing; a value was expected in `defaults` or in the run")
    settings = _at_profile(files, base, published) | extra
    if settings["model"].startswith(TORCHVISION):
        settings |= _fixed(files, base, settings["model"], where)
    if "evaluate_as_batch" in settings:
        settings["evaluate_at"] = _rounds_of_batch(settings)
    if "share_of" in (settings.get("step_up") or {}):
        _check_share_of(settings["step_up"]["share_of"], files, f"{where}, key step_up.share_of")
    schedule = settings["schedule"] = _schedule(files, settings, published, where)
    if settings.get("sparsity_warmup"):
        written = settings["sparsity_warmup"] * published["epochs"]
        settings["sparsity_warmup"] = _warm_up(files, written, None, published, settings, where) / settings["epochs"]
    if lr is not None:
        schedule["lr"] = lr
    elif settings["lr_grid"] is not None:
        schedule["lr"] = chosen_rate(files.profile, files.name, settings["lr_grid"], files.root)
    spec = Spec(**settings | {"run": name, "source": files.name, "profile": files.profile})
    check(spec, where)
    _check_data(spec, files.datasets, where)
    return spec


_NEEDED = [
    field.name
    for field in dataclasses.fields(Spec)
    if field.default is dataclasses.MISSING and field.name not in ("run", "source", "profile", "group")
]


def _at_profile(files: Source, run: str, published: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run at the profile's sizes."""
    params, model = files.params, published["model"]
    sizes = sizes_of_run(files, published["kind"], model, run)
    if published.get("repetitions") == 0:  # memory only, at every profile
        sizes.pop("repetitions", None)
    settings = {**published, **sizes}
    if published["kind"] != "train":
        return settings
    own, usual = published["epochs"], files.defaults.get("epochs", published["epochs"])
    of_network = params.trained[model].given() if model in params.trained else {}
    own_size = "epochs" in of_network or (run in params.runs and params.runs[run].epochs is not None)
    if params.sizes.epochs is not None and own != usual and not own_size:  # a longer run stays longer
        settings["epochs"] = max(1, round(params.sizes.epochs * own / usual))
    if published["method"] != "central" and not files.spec.fixed_workers:
        settings["workers"] = scaled_workers(
            published["workers"], settings["train_images"], published["train_images"]
        )  # fmt: skip
    if params.trained and published.get("local_steps") is not None:
        share = of_network.get("local_steps_share", 1.0)
        settings["local_steps"] = max(1, round(published["local_steps"] * share))
    return settings


def _fixed(files: Source, run: str, model: str, where: str) -> dict[str, None]:
    """What a network of torchvision does not take from the defaults of its source and profile, as nothing.

    Raises:
        ReproError: it is written for the run or the network itself.
    """
    params = files.params
    sizes = [of[key].given() for of, key in ((params.models, model), (params.trained, model)) if key in of]
    sizes += [params.runs[run].given()] if run in params.runs else []
    for name in OF_OURS:
        if own := [given[name] for given in (files.runs[run], *sizes) if name in given]:
            raise ReproError(f"{where}, key {name}: {own[0]!r} with model {model}, which has its own; leave {name} out")
    return dict.fromkeys(OF_OURS)


def _schedule(files: Source, settings: Mapping[str, Any], published: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The schedule of a run, written for its published length: a shorter run waits, and warms up, in proportion."""
    schedule, epochs = dict(settings["schedule"]), settings["epochs"]
    if schedule["kind"] == "cosine":
        schedule.setdefault("epochs", epochs)
    if "patience" in schedule:
        in_proportion = round(schedule["patience"] * epochs / published["epochs"])
        schedule["patience"] = max(files.params.least_patience, in_proportion)
    by = schedule.pop("warmup", None)
    if "warmup_epochs" in schedule:
        schedule["warmup_epochs"] = _warm_up(files, schedule["warmup_epochs"], by, published, settings, where)
    return schedule


def _warm_up(
    files: Source, epochs: float, by: str | None, published: Mapping[str, Any], settings: Mapping[str, Any], where: str
) -> float:
    """Epochs of a warm-up that takes ``epochs`` at the published size: as large a share of the training, or its steps.

    What only a training uses is a share in all other kinds of runs.

    Args:
        files: of the source, which say how warm-ups shrink where the run does not.
        epochs: as the spec file has them.
        by: what the run's schedule says.
        published, settings: at the published size and at the profile's.
        where: file and run, for messages.

    Raises:
        ReproError: the warm-up would take more than ``LONGEST_WARM_UP`` of the training.
    """
    by, trained = by or files.params.warmup, settings["kind"] == "train"
    if by == "steps" and trained:
        made = epochs * steps_per_epoch(published) / steps_per_epoch(settings)
    else:
        made = epochs * settings["epochs"] / published["epochs"]
    if trained and made > LONGEST_WARM_UP * settings["epochs"]:
        raise ReproError(
            f"{where}: a warm-up of {made:.3g} of {settings['epochs']} epochs at profile {files.profile}; at most "
            f"{100 * LONGEST_WARM_UP:g} % of the training was expected; train longer, or on more images, or write "
            "`warmup: share` into the schedule"
        )
    return float(made)


def steps_per_epoch(settings: Mapping[str, Any]) -> int:
    """Optimiser steps of a worker in an epoch; of the one with the most images, where shards differ by one."""
    images, workers = settings["train_images"], settings["workers"]
    return local_steps(-(-images // workers) if settings["method"] != "central" else images, settings["local_batch"])


def _rounds_of_batch(settings: dict[str, Any]) -> list[int]:
    """Rounds after which a run with a local batch of ``evaluate_as_batch`` is evaluated, all else equal.

    Runs of different batch sizes can so be compared at equal iterations.
    """
    steps = local_steps(settings["train_images"], settings.pop("evaluate_as_batch"))
    between = steps * settings["evaluate_every"]
    return list(range(between, steps * settings["epochs"] + 1, between))


def _check_share_of(other: str, files: Source, where: str) -> None:
    """A run can step up as often as another one of the source's artefacts that is gated by the gradient's change."""
    rules = {run: files.runs[run].get("step_up") or {} for run in files.spec.runs}
    gated = [run for run, rule in rules.items() if rule.get("when") in ("above", "below")]
    if other not in gated:
        raise ReproError(f"{where}: {other!r}; one of {', '.join(gated)} was expected")


def _check_data(spec: Spec, declared: Mapping[str, Declaration], where: str) -> None:
    """A data set that is declared, with no more classes than the network has outputs."""
    if spec.dataset not in declared:
        near = did_you_mean(spec.dataset, declared)
        raise ReproError(f"{where}, key dataset: {spec.dataset!r}; one of {', '.join(declared)} was expected; {near}")
    classes = min(variant.classes for variant in declared[spec.dataset].variants)
    if spec.classes is not None and spec.classes < classes:
        raise ReproError(f"{where}, key classes: {spec.classes}; {classes} or more of {spec.dataset} were expected")


def described(step_up: Mapping[str, Any], share: float) -> dict[str, Any]:
    """``step_up`` of a spec as arguments of ``StepUp``: ``share`` stands in place of the run that it is taken from.

    >>> described({"factor": 4, "when": "random", "share_of": "lb-step-vgg11-t05-x4"}, share=0.25)
    {'factor': 4, 'when': 'random', 'share': 0.25}
    """
    rest = {name: value for name, value in step_up.items() if name != "share_of"}
    return rest | {"share": share} if "share_of" in step_up else rest
