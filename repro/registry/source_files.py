"""The two files that define the runs of a source, as models: ``pipelines/<source>.yaml`` and a profile's sizes.

What a setting may hold stands once, in the types of ``repro.experiments.spec.Spec``; the models here say which settings
stand where. A run names only the settings in which it differs from the defaults of its source, a profile only sizes.
"""

from __future__ import annotations

import dataclasses
import typing
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, create_model, model_validator

from repro.data import sets
from repro.data.sets import Declaration
from repro.errors import ReproError
from repro.experiments.settings import AnySchedule, WrittenNetwork, WrittenStepUp
from repro.experiments.spec import (
    PROFILES,
    SOURCES,
    Blocks,
    Count,
    Counts,
    Depth,
    FromZero,
    Norm,
    Pixels,
    Precision,
    Spec,
    Width,
)  # fmt: skip
from repro.files import parsed_yaml, read_text
from repro.results.links import Links
from repro.validation import Model, Positive, Text, expecting, fitting, flaw, misfit, optional, where

EVALUATIONS = ("evaluate_every", "final_test_images", "final_evaluations")
_LOOKED_AT = ("train_images", "image_size", "width", "precision", "measured_steps", "repetitions")
SIZES = {
    "train": ("train_images", "test_images", "image_size", "width", "epochs", "precision", *EVALUATIONS),
    "payloads": ("measured_steps", "local_steps", "memory_steps"),
    "measure": ("image_size", "width"),
    "gradients": _LOOKED_AT,
    "teacher": _LOOKED_AT,
}
"""What a profile may set, by kind of run; messages are those of the full-size networks at every profile."""

Seeds = Annotated[
    list[Annotated[int, Field(ge=0)]],
    where(lambda seeds: len(seeds) == len(set(seeds)) > 0),
    expecting("one or more different seeds from 0 up, as a list of whole numbers,"),
]
Rates = Annotated[
    list[Positive],
    where(lambda rates: len(rates) == len({f"{lr:g}" for lr in rates}) > 0),
    expecting("one or more different learning rates, as a list of numbers above 0,"),
]

_HINTS: dict[str, Any] = {
    name: (hint, optional())
    for name, hint in typing.get_type_hints(Spec, include_extras=True).items()
    if name not in ("run", "source", "profile", "model", "width", "norm", "schedule", "step_up")
}
_OF_SPEC: Any = create_model("_OfSpec", __base__=Model, **_HINTS)


class Settings(_OF_SPEC):
    """Settings of a run, or those that the runs of a source share: of a ``Spec``, at the published scale.

    Attributes:
        evaluate_as_batch: evaluate also after the rounds after which a run with this local batch is evaluated.
    """

    model: WrittenNetwork = optional()
    width: Width = optional()
    norm: Norm = optional()
    schedule: AnySchedule = optional()
    step_up: WrittenStepUp | None = optional()
    evaluate_as_batch: Count = optional()


class Grid(Model):
    """Learning-rate grids: rates of all arms, and of single ones; arm -> the run that it is a grid of."""

    lrs: Rates
    rates: dict[Text, Rates] = Field(default={})
    arms: dict[Text, Text]

    @model_validator(mode="after")
    def _rates_of_arms(self) -> Grid:
        if strange := sorted(set(self.rates) - set(self.arms)):
            raise flaw(f"rates: unknown key {strange[0]!r}; one of {', '.join(self.arms)} was expected; correct it")
        return self


class SourceFile(Model):
    """``pipelines/<source>.yaml``: the runs of a source at the published scale.

    Attributes:
        fixed_workers: the number of workers is part of the scenario, so that no profile shrinks it with the images.
        links: link classes, of post 2.
    """

    source: Literal["e1", "e2", "e3", "lb"]
    defaults: Settings
    runs: dict[Text, Settings]
    controls: dict[Text, Settings]
    grid: Grid = optional()
    links: Links = optional()
    fixed_workers: bool = False

    @model_validator(mode="after")
    def _arms_of_runs(self) -> SourceFile:
        for arm, run in (self.grid.arms if self.grid else {}).items():
            if run not in self.runs and run not in self.controls:
                known = ", ".join([*self.runs, *self.controls])
                raise flaw(f"grid.arms.{arm}: unknown run {run!r}; one of {known} was expected; correct it")
        return self


class Sizes(Model):
    """Sizes that a profile sets."""

    hint = "a profile may set only sizes; anything else belongs into pipelines/<source>.yaml"


class EvaluationSizes(Sizes):
    """How often a training is evaluated, and on how many images."""

    test_images: Count = optional()
    evaluate_every: Count = optional()
    final_test_images: Count | None = optional()
    final_evaluations: Count | None = optional()


class TrainedSizes(EvaluationSizes):
    """Sizes of a network where it is trained."""

    train_images: Count = optional()
    image_size: Pixels = optional()
    width: Width = optional()
    epochs: Count = optional()
    local_steps_share: Annotated[
        float, where(lambda share: 0 < share <= 1), expecting("a share above 0 and up to 1")
    ] = optional()


class SourceSizes(EvaluationSizes):
    """Sizes of all runs of a source."""

    train_images: Count = optional()
    image_size: Pixels = optional()
    width: Width = optional()
    epochs: Count = optional()
    precision: Precision = optional()
    measured_steps: Counts = optional()
    local_steps: Count = optional()
    memory_steps: FromZero = optional()


class RunSizes(SourceSizes):
    """Sizes of a single run, and its seeds; its workers where the spec file fixes those of its source."""

    workers: Count = optional()
    repetitions: FromZero = optional()
    seeds: Seeds = optional()


class NetworkSizes(Sizes):
    """Sizes of a network where it is measured."""

    image_size: Pixels = optional()
    width: Width = optional()
    patch: Count = optional()
    depth: Depth = optional()


class MeasureSizes(Sizes):
    """Sizes of measurements."""

    train_images: Count = optional()
    test_images: Count = optional()
    blocks: Blocks = optional()
    repetitions: FromZero = optional()


class ArmSizes(Sizes):
    """Sizes of one arm's grid."""

    epochs: Count = optional()
    train_images: Count = optional()
    held_out_images: Count = optional()
    final_evaluations: Count = optional()
    lrs: Rates = optional()
    seeds: Seeds = optional()


class GridSizes(Sizes):
    """Sizes of all grids of a source; under ``arms`` those of single ones."""

    epochs: Count = optional()
    train_images: Count = optional()
    held_out_images: Count = optional()
    final_evaluations: Count = optional()
    seeds: Seeds = optional()
    arms: dict[Text, ArmSizes] = Field(default={})


_OF_NETWORKS: Any = {"propertyNames": TypeAdapter(WrittenNetwork).json_schema()}
"""Which keys there are, for editors."""


class Params(Sizes):
    """What a profile says of a source.

    Attributes:
        models, trained: sizes of single networks, measured and trained.
        warmup: what a warm-up keeps: its share of the training, or its steps.
        least_patience: epochs below which no plateau's patience shrinks.
    """

    seeds: Seeds
    sizes: SourceSizes
    grid: GridSizes = optional()
    models: dict[WrittenNetwork, NetworkSizes] = Field(default={}, json_schema_extra=_OF_NETWORKS)
    trained: dict[WrittenNetwork, TrainedSizes] = Field(default={}, json_schema_extra=_OF_NETWORKS)
    runs: dict[Text, RunSizes] = Field(default={})
    measure: MeasureSizes = optional()
    warmup: Literal["share", "steps"] = "share"
    least_patience: Count = 1


class ParamsFile(Model):
    """``pipelines/<profile>/params.yaml``: sizes by source, and which runs a stage of the pipeline computes."""

    profile: Literal["smoke", "study", "paper"]
    runs: Literal["all", "recorded"]
    e1: Params = optional()
    e2: Params = optional()
    e3: Params = optional()
    lb: Params = optional()


class DefaultFile(Model):
    """``params.yaml``: the profile that ``dvc repro`` at the root regenerates."""

    profile: Literal["smoke", "study", "paper"]


def values(given: Any, written: dict[str, Any]) -> dict[str, Any]:
    """Settings of a model as a plain mapping: numbers as the model has them, mappings and lists as they are written."""
    return {name: of if isinstance(of := written[name], dict | list) else getattr(given, name) for name in written}


@dataclasses.dataclass(frozen=True)
class Source:
    """The two files that define a source at a profile, with their paths for messages.

    Attributes:
        spec, params: what the files say, typed.
        defaults, runs: the settings of the spec file as plain mappings, ``runs`` with the controls.
        datasets: the data sets that a run may name.
    """

    name: str
    profile: str
    root: Path
    spec_file: Path
    params_file: Path
    spec: SourceFile
    params: Params
    defaults: dict[str, Any]
    runs: dict[str, dict[str, Any]]
    datasets: dict[str, Declaration]

    @property
    def place(self) -> str:
        """Where the profile says what it says of the source, for messages."""
        return f"{self.params_file}, key {self.name}"


def params_path(profile: str, root: Path = Path()) -> Path:
    """The sizes of a profile.

    Raises:
        ReproError: the profile does not exist.
    """
    if profile not in PROFILES:
        raise ReproError(f"unknown profile {profile!r}; one of {', '.join(PROFILES)} was expected")
    return root / "pipelines" / profile / "params.yaml"


def read_source(source: str, profile: str, root: Path) -> Source:
    """The files of a source at a profile; shared by all who read them, so not to be changed.

    Raises:
        ReproError: unknown source or profile, or a file that is missing or malformed.
    """
    if source not in SOURCES:
        raise ReproError(f"unknown source {source!r}; one of {', '.join(SOURCES)} was expected")
    params_file, spec_file = params_path(profile, root), root / "pipelines" / f"{source}.yaml"
    params, spec, declared = (read_text(path) for path in (params_file, spec_file, root / "data/sources.yaml"))
    return _read(source, profile, root, params_file, params, spec_file, spec, declared)


@lru_cache(maxsize=64)
def _read(
    source: str, profile: str, root: Path, params_file: Path, params: str, spec_file: Path, spec: str, declared: str
) -> Source:  # fmt: skip
    """The source of files with these contents; ``declared`` is that of ``data/sources.yaml``."""
    of_profile = fitting(ParamsFile, parsed_yaml(params, params_file), params_file)
    if of_profile.profile != profile:
        raise misfit(params_file, "profile", of_profile.profile, profile)
    sizes = getattr(of_profile, source)
    if sizes is None:
        raise ReproError(f"{params_file}, key {source}: missing; a value was expected; add it")
    content = parsed_yaml(spec, spec_file)
    typed = fitting(SourceFile, content, spec_file)
    if typed.source != source:
        raise misfit(spec_file, "source", typed.source, source)
    written = {**content["runs"], **content["controls"]}
    both = {**typed.runs, **typed.controls}
    if strange := sorted(set(sizes.runs) - set(written)):
        raise ReproError(
            f"{params_file}, key {source}.runs: unknown key {strange[0]!r}; a run of {spec_file} was expected; "
            "correct or remove it"
        )
    if not typed.fixed_workers and (own := [run for run, given in sizes.runs.items() if given.workers is not None]):
        raise ReproError(
            f"{params_file}, key {source}.runs.{own[0]}.workers: a number; none was expected, because workers shrink "
            f"with the images unless {spec_file} says fixed_workers; remove it"
        )
    return Source(
        source, profile, root, spec_file, params_file, typed, sizes,
        defaults=values(typed.defaults, content["defaults"]),
        runs={run: values(both[run], given) for run, given in written.items()},
        datasets=sets.declarations(root / "data"),
    )  # fmt: skip


def default_profile(root: Path = Path()) -> str:
    """The profile that the root ``params.yaml`` names.

    Raises:
        ReproError: the file is missing or malformed.
    """
    path = root / "params.yaml"
    return fitting(DefaultFile, parsed_yaml(read_text(path), path), path).profile
