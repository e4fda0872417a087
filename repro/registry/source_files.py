"""The two files that define the runs of a source, as models: ``pipelines/<source>.yaml`` and a profile's sizes.

What a setting may hold stands once, in the types of ``repro.experiments.spec.Spec``; the models here say which settings
stand where. A run names only the settings in which it differs from the defaults of its source, a profile only sizes.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, create_model, model_validator

from repro.errors import ReproError
from repro.experiments.settings import AnySchedule, WrittenStepUp
from repro.experiments.spec import PROFILES, SOURCES, Count, Network, Spec
from repro.files import parsed_yaml, read_text
from repro.results.links import Links
from repro.validation import Model, Positive, Text, expecting, fitting, flaw, misfit, optional, where

EVALUATIONS = ("evaluate_every", "final_test_images", "final_evaluations")
SIZES = {
    "train": ("train_images", "test_images", "image_size", "width", "epochs", "precision", *EVALUATIONS),
    "payloads": ("measured_steps", "local_steps", "memory_steps"),
    "measure": ("image_size", "width"),
}
"""What a profile may set, by kind of run; messages are those of the full-size networks at every profile."""

_HINTS = typing.get_type_hints(Spec, include_extras=True)
_SETTINGS = [name for name in _HINTS if name not in ("run", "source", "profile")]


def _model(name: str, doc: str, settings: Iterable[str], base: type[Model] = Model, **more: Any) -> Any:
    """A model of some settings of a spec, all of which may be left out."""
    fields: dict[str, Any] = {setting: (_HINTS[setting], optional()) for setting in dict.fromkeys(settings)}
    return create_model(name, __base__=base, __doc__=doc, **(fields | more))


class _Sizes(Model):
    hint = "a profile may set only sizes; anything else belongs into pipelines/<source>.yaml"


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
Share = Annotated[float, where(lambda share: 0 < share <= 1), expecting("a share above 0 and up to 1")]

Settings = _model(
    "Settings", "Settings of a run, or those that the runs of a source share, at the published scale.", _SETTINGS,
    schedule=(AnySchedule, optional()),
    step_up=(WrittenStepUp | None, optional()),
    evaluate_as_batch=(Count, optional()),
)  # fmt: skip


class Grid(Model):
    """Learning-rate grids: rates of all arms, and of single ones; arm -> the run that it is a grid of."""

    lrs: Rates
    rates: dict[Text, Rates] = {}
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
    defaults: Settings  # type: ignore[valid-type]
    runs: dict[Text, Settings]  # type: ignore[valid-type]
    controls: dict[Text, Settings]  # type: ignore[valid-type]
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


_EVERY = [name for names in SIZES.values() for name in names]
SourceSizes = _model("SourceSizes", "Sizes of all runs of a source.", _EVERY, _Sizes)
RunSizes = _model(
    "RunSizes", "Sizes of a single run, and its seeds.", [*_EVERY, "workers"], _Sizes, seeds=(Seeds, optional())
)
NetworkSizes = _model(
    "NetworkSizes", "Sizes of a network where it is measured.", ("image_size", "width", "patch", "depth"), _Sizes
)
TrainedSizes = _model(
    "TrainedSizes", "Sizes of a network where it is trained.",
    ("train_images", "test_images", "image_size", "width", "epochs", *EVALUATIONS), _Sizes,
    local_steps_share=(Share, optional()),
)  # fmt: skip
MeasureSizes = _model(
    "MeasureSizes", "Sizes of measurements.", ("train_images", "test_images", "blocks", "repetitions"), _Sizes
)
_GRID_SIZES = ("epochs", "train_images", "final_evaluations")
_held_out = (Count, optional())
ArmSizes = _model(
    "ArmSizes", "Sizes of one arm's grid.", _GRID_SIZES, _Sizes,
    held_out_images=_held_out, lrs=(Rates, optional()), seeds=(Seeds, optional()),
)  # fmt: skip
GridSizes = _model(
    "GridSizes", "Sizes of all grids of a source, and of single arms.", _GRID_SIZES, _Sizes,
    held_out_images=_held_out, seeds=(Seeds, optional()), arms=(dict[Text, ArmSizes], optional()),
)  # fmt: skip


class Params(_Sizes):
    """What a profile says of a source.

    Attributes:
        models, trained: sizes of single networks, measured and trained.
        warmup: what a warm-up keeps: its share of the training, or its steps.
        least_patience: epochs below which no plateau's patience shrinks.
    """

    seeds: Seeds
    sizes: SourceSizes  # type: ignore[valid-type]
    grid: GridSizes = optional()  # type: ignore[valid-type]
    models: dict[Network, NetworkSizes] = {}  # type: ignore[valid-type]
    trained: dict[Network, TrainedSizes] = {}  # type: ignore[valid-type]
    runs: dict[Text, RunSizes] = {}  # type: ignore[valid-type]
    measure: MeasureSizes = optional()  # type: ignore[valid-type]
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
    return _read(source, profile, root, params_file, read_text(params_file), spec_file, read_text(spec_file))


@lru_cache(maxsize=64)
def _read(source: str, profile: str, root: Path, params_file: Path, params: str, spec_file: Path, spec: str) -> Source:
    sizes = getattr(fitting(ParamsFile, parsed_yaml(params, params_file), params_file), source)
    if sizes is None:
        raise ReproError(f"{params_file}, key {source}: missing; a value was expected; add it")
    content = parsed_yaml(spec, spec_file)
    typed = fitting(SourceFile, content, spec_file)
    for name, found, expected in (("source", typed.source, source),):
        if found != expected:
            raise misfit(spec_file, name, found, expected)
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
    )  # fmt: skip


def default_profile(root: Path = Path()) -> str:
    """The profile that the root ``params.yaml`` names.

    Raises:
        ReproError: the file is missing or malformed.
    """
    path = root / "params.yaml"
    return fitting(DefaultFile, parsed_yaml(read_text(path), path), path).profile
