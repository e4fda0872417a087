"""What to run: frozen, validated descriptions of runs, read from ``pipelines/``.

``pipelines/<source>.yaml`` says what the runs of a source are, at the published scale. The profile's
``pipelines/<profile>/params.yaml`` shrinks sizes and nothing else. The two rules that tie them together:

* workers shrink with the training images, ``round(workers x images / published images)``, at least two, so that
  rounds per epoch and local steps per round stay near the published ones (50 000 / (96 x 32) = 16.3 for post 1),
  unless the file says ``fixed_workers: true``, because there the number of devices is the scenario (post 3);
* the method, the local batch and the number of local epochs per round never change; nor do the batch sizes that a
  measurement goes through, which are its axis. Of a profile's sizes a measurement takes pixels and width, and under
  ``measure`` the number of images, blocks and repetitions.

``models`` holds sizes of single networks where they are measured, ``trained`` where they are trained, if those of the
source do not suit them. There, ``local_steps_share`` is the share of the published local steps between two
synchronisations that is left, because shards are smaller. ``runs`` holds sizes of single runs, their workers too where
the file fixes those.

A warm-up takes the published share of the epochs, or, where a source says ``warmup: steps``, as many optimiser steps as
published; a run whose schedule says ``warmup: share`` keeps the share even then. Patience shrinks with the epochs, not
below the source's ``least_patience``. ``grid`` gives every arm the same epochs, rates and seeds, and under ``arms``
some of them their own.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from repro.errors import ReproError, did_you_mean
from repro.experiments import numerics, schedules
from repro.experiments.sizes import apportion, local_steps, shards_of_batches
from repro.experiments.stepup import StepUp
from repro.files import kind_of, read_yaml

SOURCES = ("e1", "e2", "e3", "lb")
PROFILES = ("smoke", "study", "paper")
Profile = Literal["smoke", "study", "paper"]


@dataclass(frozen=True)
class Spec:
    """One run with every setting resolved. Sizes are counts of images, workers or epochs; ``image_size`` is in pixels.

    Attributes:
        run, source, group, kind, profile: identity; ``group`` is ``artefact`` or ``control``.
        method: ``central`` (one client, every step counts as a round), ``large_batch`` (BSP: gradients are averaged
            every step) or ``federated`` (FedAvg: model deltas are averaged every ``local_epochs``).
        evaluate_on: ``test``, or ``held_out``: 5 000 training images that no grid run trains on.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        norm: ``batch``, ``group``, ``layer`` or ``instance`` normalisation, ``none``, or ``fixup``: no normalisation,
            but the initialisation and the scalar biases and multipliers of Fixup.
        partition, labels_per_client, dirichlet_alpha: how images are spread over workers.
        buffers: what happens to BatchNorm's running statistics: ``average`` sends and averages them every round;
            ``local`` leaves them on each worker, and the shared model is evaluated with each worker's in turn (mean);
            ``drop`` keeps none, and an evaluation batch is normalised by its own statistics.
        schedule: learning-rate schedule in the terms of ``repro.experiments.schedules.build``, its ``lr`` included.
        lr_grid: the grid that chose the learning rate, or None where the spec gives it.
        precision: ``fp64``, ``fp32`` or ``bf16`` (float32 weights, bfloat16 convolutions).
        codec: what workers send is compressed by this codec (``repro.codecs``), to which ``+zip`` may be added. In
            large-batch training ``dgc`` takes ``momentum`` and ``weight_decay`` from the server: workers add the decay
            to their gradient, and then correct the momentum.
        expects_divergence: a non-finite loss is a possible result here and does not fail a sweep.
        quantised_weights: the shared model itself is kept in int8 during training.
        sparsity_warmup: share of the epochs in which DGC's sparsity rises (post 2: 4 of 100 epochs).
        classes: outputs of the classifier, or None for as many as the data set has.
        measured_steps: steps of training at which a run of kind ``payloads`` encodes what would be sent.
        memory_steps: steps before each of these that codecs with a memory see; None: all.
        patch, depth: of a vision transformer, pixels of a patch and number of blocks; its own when None.
        batch_sizes: batch sizes that a run of kind ``measure`` goes through, ascending.
        peak_sizes: those of them whose peak memory is watched in a child process.
        blocks, repetitions: how often a measurement goes through all sizes, and how many steps it times each time;
            0 repetitions: memory only.
        once: executed with the profile's first seed only.
        law: which law a run of kind ``law`` executes.
        local_steps: local steps in a round of federated averaging (H), instead of ``local_epochs``. Training ends with
            the last whole round that fits its epochs; if none does, all of it is one round; in a run of kind
            ``payloads``, steps over which a change of the weights is measured.
        last_scale_zero: group, layer and instance normalisation start with the last scale of each block at zero.
        diverges_above: a training loss above this counts as divergence, besides one that is not finite.
        track: what a run records besides losses and accuracies: ``gradient_norm`` (L2 norm of the averaged gradient,
            every round), ``per_class`` (accuracy of each class at every evaluation; in federated averaging also that
            of each client's model before the last aggregation), ``batch_statistics`` (how far the statistics of each
            worker's batch lie from those of all workers, at the end), ``training_images`` (accuracy of the last shared
            model on its training images, evaluated as test images are), ``training_sample`` (accuracy and mean loss on
            the first 2 000 training images, likewise, at every evaluation), ``sharpness`` (largest eigenvalue of the
            Hessian of the training loss, at the end).
        drop_uncovered: with ``labels``, leave out the images of labels that no worker has.
        clients_wait: in large-batch training a worker that has finished its epoch waits for the others. Where shards
            differ in size, false lets it go on with its next one, so that all take part in every step; an epoch, and
            the length of rounds of ``local_steps``, is then counted by the mean shard.
        batch_shares: relative speeds, one for each worker of large-batch training; None: equal local batches. The union
            of ``workers`` x ``local_batch`` images is shared in proportion to them (``local_batches``), and so are all
            images, so that workers end an epoch together. Gradients are weighted by images, as always.
        evaluate_at: rounds after which the model is evaluated besides; those after the last do not take place.
        step_up: paper lb's step-up method, in the terms of ``repro.experiments.stepup.StepUp``; None: gradients stay as
            they are. ``share_of`` instead of ``share`` names another run: on average as often as that one did with the
            same seed.
        codec_options: options of the codec by name (the arguments of its class), for example ``clip`` of ``dgc``, the
            threshold for the norm of the global gradient, or ``threshold`` of ``threshold``; None: its defaults.
        local_momentum: in federated averaging, momentum of local SGD when a round begins: ``restart``: zero; ``keep``:
            what the client had at the end of its last one; ``average``: the average of what all had then, which they
            send uncompressed with their change and receive with the shared model.
        weights: in federated averaging, clients count by the ``images`` of their shard, or ``equal``.
        final_test_images: images that the evaluations of the last tenth of training look at, of which the first are the
            ``test_images`` of the earlier ones; None: all look at those.
        final_evaluations: how many evaluations the last tenth of training has at least, the end included; where
            ``evaluate_every`` gives fewer, others are added, in even steps, which no schedule observes. None: none.
    """

    run: str
    source: str
    group: Literal["artefact", "control"]
    kind: Literal["train", "law", "payloads", "measure"]
    profile: Profile
    method: Literal["central", "large_batch", "federated"]
    dataset: str
    train_images: int
    test_images: int
    image_size: int
    evaluate_on: Literal["test", "held_out"]
    evaluate_every: int
    model: Literal["resnet18", "resnet50", "vgg11", "alexnet", "vit", "cnn"]
    width: int
    norm: Literal["batch", "group", "layer", "instance", "none", "fixup"]
    workers: int
    partition: Literal["iid", "labels", "dirichlet"]
    labels_per_client: int | None
    dirichlet_alpha: float | None
    local_batch: int
    local_epochs: int
    epochs: int
    schedule: dict[str, Any]
    lr_grid: str | None
    momentum: float
    weight_decay: float
    augment: bool
    precision: Literal["fp64", "fp32", "bf16"]
    buffers: Literal["average", "local", "drop"]
    codec: str
    expects_divergence: bool
    quantised_weights: bool = False
    sparsity_warmup: float = 0.0
    classes: int | None = None
    measured_steps: list[int] | None = None
    once: bool = False
    law: Literal[
        "union_batch", "normalisation", "label_split", "star_and_ring", "epoch_traffic", "slowest_device"
    ] = "union_batch"  # fmt: skip
    local_steps: int | None = None
    last_scale_zero: bool = True
    diverges_above: float | None = None
    track: list[str] | None = None
    memory_steps: int | None = None
    patch: int | None = None
    depth: int | None = None
    batch_sizes: list[int] | None = None
    peak_sizes: list[int] | None = None
    blocks: int = 0
    repetitions: int = 0
    drop_uncovered: bool = False
    clients_wait: bool = True
    batch_shares: list[float] | None = None
    evaluate_at: list[int] | None = None
    step_up: dict[str, Any] | None = None
    codec_options: dict[str, Any] | None = None
    local_momentum: Literal["restart", "keep", "average"] = "restart"
    weights: Literal["images", "equal"] = "images"
    final_test_images: int | None = None
    final_evaluations: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """The spec as a plain mapping, as it stands in a record; ``lr`` is repeated at the top for readers.

        A field added later gets a default that keeps today's meaning. It is left out here while it has that default,
        so that the fingerprints of older records stay valid.
        """
        neutral = {field.name: field.default for field in dataclasses.fields(self)}
        plain = {name: value for name, value in dataclasses.asdict(self).items() if value != neutral[name]}
        return plain | {"lr": self.schedule["lr"]}

    @property
    def local_batches(self) -> list[int] | None:
        """Images in the local batch of each worker, where these differ; their sum is that of equal ones."""
        return apportion(self.workers * self.local_batch, self.batch_shares) if self.batch_shares else None


HELD_OUT_IMAGES = 5000
"""At most a fifth of the images of a data set."""
TRACKED = ("gradient_norm", "per_class", "batch_statistics", "training_images", "training_sample", "sharpness")
_EVALUATIONS = ("evaluate_every", "final_test_images", "final_evaluations")
_SIZES = {
    "train": ("train_images", "test_images", "image_size", "width", "epochs", "precision", *_EVALUATIONS),
    "payloads": ("measured_steps", "local_steps", "memory_steps"),
    "measure": ("image_size", "width"),
}
"""What a profile may set, by kind of run; messages are those of the full-size networks at every profile."""
_SECTIONS = ("seeds", "sizes", "grid", "models", "trained", "runs", "measure", "warmup", "least_patience")
"""What a profile says of a source."""
_SIZES_OF = {
    "models": ("image_size", "width", "patch", "depth"),
    "trained": ("train_images", "test_images", "image_size", "width", "epochs", *_EVALUATIONS),
    "measure": ("train_images", "test_images", "blocks", "repetitions"),
}
"""What it may set for a single network, measured or trained, and for a measurement."""
LONGEST_WARM_UP = 0.6
"""Share of the training that a warm-up may take at most."""

# A field's value must lie in this closed range; None is left to the partition's own check.
_RANGES: dict[str, tuple[float, float]] = {
    "train_images": (1, math.inf),
    "test_images": (1, math.inf),
    "image_size": (4, math.inf),
    "evaluate_every": (1, math.inf),
    "width": (1, math.inf),
    "workers": (1, math.inf),
    "labels_per_client": (1, math.inf),
    "dirichlet_alpha": (1e-6, math.inf),
    "local_batch": (1, math.inf),
    "local_epochs": (1, math.inf),
    "local_steps": (1, math.inf),
    "diverges_above": (0, math.inf),
    "memory_steps": (0, math.inf),
    "epochs": (1, math.inf),
    "momentum": (0, 0.9999),
    "weight_decay": (0, math.inf),
    "sparsity_warmup": (0, 1),
    "classes": (2, math.inf),
    "patch": (1, math.inf),
    "depth": (1, math.inf),
    "blocks": (3, math.inf),
    "repetitions": (0, math.inf),
    "final_test_images": (1, math.inf),
    "final_evaluations": (1, math.inf),
}


def _expect(value: Any, annotation: Any, where: str) -> Any:
    """``value`` if it has the type ``annotation``; otherwise a ReproError that names file and key."""
    if typing.get_origin(annotation) is Literal:
        options = typing.get_args(annotation)
        if value not in options:
            raise ReproError(f"{where}: {kind_of(value)}; one of {', '.join(map(str, options))} was expected")
        return value
    if isinstance(annotation, types.UnionType):
        if value is None:
            return None
        return _expect(value, typing.get_args(annotation)[0], where)
    plain = typing.get_origin(annotation) or annotation
    names = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        dict: "a mapping",
        list: "a list",
    }
    if plain is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        raise ReproError(f"{where}: {kind_of(value)}; {names[plain]} was expected")
    return value


def _expect_keys(mapping: Mapping[Any, Any], known: Collection[str], where: str) -> None:
    for key in mapping:
        if key not in known:
            raise ReproError(f"{where}: unknown key {key!r}; one of {', '.join(known)} was expected")


@cache
def _hints(spec: type[Spec]) -> dict[str, Any]:
    return typing.get_type_hints(spec)


def _setting(name: str, value: Any, where: str) -> Any:
    """``value`` if the field ``name`` of a spec may have it; otherwise a ReproError that names file and key."""
    checked = _expect(value, _hints(Spec)[name], where)
    low, high = _RANGES.get(name, (-math.inf, math.inf))
    if isinstance(checked, int | float) and not low <= checked <= high:
        raise ReproError(f"{where}: {checked}; a value from {low:g} to {high:g} was expected")
    return checked


def _make(values: dict[str, Any], where: str) -> Spec:
    hints = _hints(Spec)
    _expect_keys(values, hints, where)
    optional = {f.name for f in dataclasses.fields(Spec) if f.default is not dataclasses.MISSING}
    missing = [name for name in hints if name not in values and name not in optional]
    if missing:
        raise ReproError(f"{where}: key {missing[0]!r} is missing; a value was expected in `defaults` or in the run")
    spec = Spec(**{name: _setting(name, values[name], f"{where}, key {name}") for name in hints if name in values})
    try:
        schedules.build(spec.schedule)
    except ReproError as error:
        raise ReproError(f"{where}, key schedule: {error}") from error
    if spec.epochs % spec.local_epochs:
        raise ReproError(
            f"{where}: {spec.epochs} epochs at profile {spec.profile} cannot be divided into rounds of "
            f"{spec.local_epochs} local epochs; make epochs a multiple"
        )
    _check_codec(spec, where)
    if spec.step_up is not None:
        try:
            StepUp.of(described(spec.step_up, share=0.5))
        except ReproError as error:
            raise ReproError(f"{where}, key {error}") from error
    if spec.batch_shares is not None:
        _check_batch_shares(spec, f"{where}, key batch_shares")
    unknown = sorted(set(spec.track or []) - set(TRACKED))
    if unknown:
        raise ReproError(f"{where}, key track: {unknown[0]!r}; some of {', '.join(TRACKED)} were expected")
    if spec.kind != "train" and (spec.final_test_images, spec.final_evaluations) != (None, None):
        raise ReproError(f"{where}: final_test_images or final_evaluations with kind {spec.kind}; train was expected")
    if spec.final_test_images is not None and spec.final_test_images < spec.test_images:
        raise ReproError(
            f"{where}: {spec.final_test_images} final_test_images at profile {spec.profile}, of which the test_images "
            f"are the first; {spec.test_images} or more were expected"
        )
    if spec.kind == "payloads":
        if not spec.measured_steps or min(spec.measured_steps) < 1:
            raise ReproError(f"{where}, key measured_steps: {spec.measured_steps}; steps from 1 up were expected")
    elif spec.local_steps is not None and (spec.method != "federated" or spec.local_epochs != 1):
        raise ReproError(
            f"{where}: local_steps with method {spec.method} and {spec.local_epochs} local epochs; only federated "
            "averaging has local steps, and they replace local_epochs, which stays at 1"
        )
    if spec.kind == "measure":
        _check_measurement(spec, where)
    if spec.workers > spec.train_images:
        raise ReproError(
            f"{where}: {spec.workers} workers for {spec.train_images} images at profile {spec.profile}; "
            "at most one worker an image was expected"
        )
    return spec


def _check_codec(spec: Spec, where: str) -> None:
    """A codec that exists, and settings of the exchange that the method has."""
    name, plus, zipped = spec.codec.partition("+")
    if name not in numerics.CODECS or plus + zipped not in ("", "+zip"):
        raise ReproError(
            f"{where}, key codec: {spec.codec!r}; one of {', '.join(numerics.CODECS)}, alone or with +zip, was expected"
            f"{did_you_mean(name, numerics.CODECS)}"
        )
    for key, value in (spec.codec_options or {}).items():
        numbers = value if isinstance(value, list) else [value]
        if not isinstance(key, str) or not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
            raise ReproError(f"{where}, key codec_options: {key!r}: {value!r}; name: number was expected")
    if spec.codec_options is not None and spec.method == "central":
        raise ReproError(f"{where}: codec_options with method central, which sends nothing; leave them out")
    for field, neutral in (("local_momentum", "restart"), ("weights", "images")):
        if getattr(spec, field) != neutral and spec.method != "federated":
            raise ReproError(f"{where}, key {field}: method {spec.method}; federated was expected; leave it out")
    if spec.local_momentum != "restart" and not spec.momentum:
        raise ReproError(f"{where}, key local_momentum: {spec.local_momentum} without momentum; set momentum above 0")


def _check_batch_shares(spec: Spec, where: str) -> None:
    """Shares of large-batch training on IID data, one for each worker, and at least one image of every step in each."""
    if (spec.kind, spec.method, spec.partition) != ("train", "large_batch", "iid") or not spec.clients_wait:
        raise ReproError(
            f"{where}: kind {spec.kind}, method {spec.method}, partition {spec.partition}, clients_wait "
            f"{str(spec.clients_wait).lower()}; train, large_batch, iid and true were expected; leave the shares out"
        )
    shares = [_expect(share, float, where) for share in spec.batch_shares or []]
    if len(shares) != spec.workers or not all(0 < share < math.inf for share in shares):
        raise ReproError(f"{where}: {shares}; a number above 0 for each of {spec.workers} workers was expected")
    union = spec.workers * spec.local_batch
    least = union * min(shares) / sum(shares)
    if least < 1:
        raise ReproError(
            f"{where}: {shares}; the smallest share of a union batch of {union} is {least:.2g} of an image, at least "
            "one was expected; take less unequal shares or a larger local_batch"
        )
    try:
        shards_of_batches(spec.train_images, apportion(union, shares))
    except ReproError as error:
        raise ReproError(f"{where}: {error} in the last step of an epoch; take more images") from error


def _check_measurement(spec: Spec, where: str) -> None:
    """A measurement needs batch sizes that fit its images, and enough blocks for an interval."""
    sizes = [_expect(size, int, f"{where}, key batch_sizes") for size in spec.batch_sizes or []]
    if sizes != sorted(set(sizes)) or len(sizes) < 3 or not 1 <= sizes[0] <= sizes[-1] <= spec.train_images:
        raise ReproError(
            f"{where}, key batch_sizes: {spec.batch_sizes}; at least three ascending sizes from 1 to the "
            f"{spec.train_images} images were expected"
        )
    if apart := sorted(set(spec.peak_sizes or []) - set(sizes)):
        raise ReproError(f"{where}, key peak_sizes: {apart[0]}; some of the batch sizes were expected")
    if spec.repetitions and spec.blocks < 3:
        raise ReproError(f"{where}, key blocks: {spec.blocks}; at least 3 were expected for an interval of times")


def described(step_up: Mapping[str, Any], share: float) -> dict[str, Any]:
    """``step_up`` of a spec as arguments of ``StepUp``: ``share`` stands in place of the run that it is taken from.

    >>> described({"factor": 4, "when": "random", "share_of": "lb-step-vgg11-t05-x4"}, share=0.25)
    {'factor': 4, 'when': 'random', 'share': 0.25}
    """
    rest = {name: value for name, value in step_up.items() if name != "share_of"}
    return rest | {"share": share} if "share_of" in step_up else rest


def scaled_workers(workers: int, images: int, published_images: int) -> int:
    """Workers of a profile: in proportion to the training images, at least two.

    >>> scaled_workers(96, 50_000, 50_000), scaled_workers(96, 4_000, 50_000), scaled_workers(96, 10, 50_000)
    (96, 8, 2)
    """
    return max(2, round(workers * images / published_images))


def params_path(profile: str, root: Path = Path()) -> Path:
    """The sizes of a profile.

    Raises:
        ReproError: the profile does not exist.
    """
    if profile not in PROFILES:
        raise ReproError(f"unknown profile {profile!r}; one of {', '.join(PROFILES)} was expected")
    return root / "pipelines" / profile / "params.yaml"


def learning_rates_path(profile: str, root: Path = Path()) -> Path:
    """Where ``repro tune`` writes the learning rates that the grids chose."""
    return root / "data/learning_rates" / f"{profile}.json"


def remedy(profile: str) -> str:
    """The command that runs a profile's grids and controls.

    >>> remedy("study"), remedy("smoke")
    ('make study', 'make controls PROFILE=smoke')
    """
    return "make study" if profile == "study" else f"make controls PROFILE={profile}"


class _NotChosen(ReproError):
    """A grid has still to choose this learning rate."""


def _chosen(profile: str, source: str, grid: str, root: Path) -> float:
    path = learning_rates_path(profile, root)
    try:
        return float(json.loads(path.read_text())[source][grid]["lr"])
    except FileNotFoundError as error:
        raise _NotChosen(
            f"{path}: no learning rates chosen for profile {profile}; run `{remedy(profile)}` once"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        kind = _NotChosen if isinstance(error, KeyError) else ReproError
        raise kind(f"{path}: no learning rate for grid {grid} of {source}; run `{remedy(profile)}` again") from error


@dataclass(frozen=True)
class _Files:
    """The two files that define a source at a profile, read once, with their paths for error messages."""

    source: str
    profile: str
    root: Path
    spec_file: Path
    content: dict[str, Any]
    params_file: Path
    params: dict[str, Any]


def _read(source: str, profile: str, root: Path) -> _Files:
    if source not in SOURCES:
        raise ReproError(f"unknown source {source!r}; one of {', '.join(SOURCES)} was expected")
    params_file, spec_file = params_path(profile, root), root / "pipelines" / f"{source}.yaml"
    params = _expect(read_yaml(params_file).get(source), dict, f"{params_file}, key {source}")
    _expect_keys(params, _SECTIONS, f"{params_file}, key {source}")
    content = read_yaml(spec_file)
    _expect_keys(content, ("source", "defaults", "runs", "controls", "grid", "links", "fixed_workers"), str(spec_file))
    _expect(content.get("fixed_workers", False), bool, f"{spec_file}, key fixed_workers")
    for section in ("runs", "controls"):
        _expect(content.get(section), dict, f"{spec_file}, key {section}")
    return _Files(source, profile, root, spec_file, content, params_file, params)


def _resolve(files: _Files, name: str, base: str, lr: float | None = None, **extra: Any) -> Spec:
    """Run ``name`` with the settings of run ``base`` of the spec file, the profile's sizes and ``extra`` on top."""
    spec_file, source = files.spec_file, files.source
    where = f"{spec_file}, run {name}"
    values = dict(_expect(files.content.get("defaults"), dict, f"{spec_file}, key defaults"))
    section = "runs" if base in files.content["runs"] else "controls"
    values |= _expect(files.content[section][base], dict, f"{spec_file}, key {section}.{base}")
    published_images = _expect(values.get("train_images"), int, f"{where}, key train_images")
    published_workers = _expect(values.get("workers"), int, f"{where}, key workers")
    published, own_epochs = dict(values), _setting("epochs", values.get("epochs"), f"{where}, key epochs")
    sizes = _sizes(files, str(values.get("kind")), str(values.get("model")), base)
    if values.get("repetitions") == 0:  # memory only, at every profile
        sizes.pop("repetitions", None)
    values |= sizes
    if values.get("kind") == "train":
        shrink, usual_epochs = files.params["sizes"], files.content["defaults"].get("epochs")
        of_network = _networks(files, "trained").get(str(values.get("model")), {})
        own_size = "epochs" in of_network or "epochs" in files.params.get("runs", {}).get(base, {})
        if "epochs" in shrink and own_epochs != usual_epochs and not own_size:  # a longer run stays longer
            values["epochs"] = round(shrink["epochs"] * own_epochs / usual_epochs)
        if values.get("method") != "central" and not files.content.get("fixed_workers", False):
            values["workers"] = scaled_workers(published_workers, values["train_images"], published_images)
        if files.params.get("trained") and values.get("local_steps") is not None:
            share = _local_steps_share(files, str(values["model"]))
            values["local_steps"] = max(
                1, round(_expect(values["local_steps"], int, f"{where}, key local_steps") * share)
            )
    values |= extra
    if "evaluate_as_batch" in values:
        values["evaluate_at"] = _rounds_of_batch(values, where)
    if isinstance(values.get("step_up"), dict) and "share_of" in values["step_up"]:
        _check_share_of(values["step_up"]["share_of"], files, f"{where}, key step_up.share_of")
    grid = values.get("lr_grid")
    schedule = dict(_expect(values.get("schedule"), dict, f"{where}, key schedule"))
    epochs = _setting("epochs", values.get("epochs"), f"{where}, key epochs")
    if schedule.get("kind") == "cosine":
        schedule.setdefault("epochs", epochs)
    # Written for the run's published length: a shorter run waits, and warms up, in proportion.
    if "patience" in schedule:
        patience = _expect(schedule["patience"], int, f"{where}, key schedule.patience")
        schedule["patience"] = max(_least_patience(files), round(patience * epochs / own_epochs))
    by = _expect(schedule.pop("warmup"), _WarmUp, f"{where}, key schedule.warmup") if "warmup" in schedule else None
    if by is not None and "warmup_epochs" not in schedule:
        raise ReproError(f"{where}, key schedule.warmup: {by} without warmup_epochs; leave it out, or add a warm-up")
    if "warmup_epochs" in schedule:
        schedule["warmup_epochs"] = _warm_up(files, schedule["warmup_epochs"], by, published, values, where)
    if values.get("sparsity_warmup"):
        share = _setting("sparsity_warmup", values["sparsity_warmup"], f"{where}, key sparsity_warmup")
        values["sparsity_warmup"] = _warm_up(files, share * own_epochs, None, published, values, where) / epochs
    if lr is not None:
        schedule["lr"] = lr
    elif grid is not None:
        schedule["lr"] = _chosen(files.profile, source, grid, files.root)
    _expect(schedule.get("lr"), float, f"{where}, key schedule.lr")
    values |= {"run": name, "source": source, "profile": files.profile, "schedule": schedule}
    return _make(values, where)


_WarmUp = Literal["share", "steps"]


def _least_patience(files: _Files) -> int:
    place = f"{files.params_file}, key {files.source}.least_patience"
    least = _expect(files.params.get("least_patience", 1), int, place)
    if least < 1:
        raise ReproError(f"{place}: {least}; epochs from 1 up were expected")
    return int(least)


def _warm_up(
    files: _Files, epochs: Any, by: str | None, published: Mapping[str, Any], values: Mapping[str, Any], where: str
) -> float:
    """Epochs of a warm-up that takes ``epochs`` at the published size: as large a share of the training, or its steps.

    What only a training uses is a share in all other kinds of runs.

    Args:
        files: of the source, which say how warm-ups shrink where the run does not.
        epochs: as the spec file has them.
        by: what the run's schedule says.
        published, values: settings at the published size and at the profile's.
        where: file and run, for messages.

    Raises:
        ReproError: the warm-up would take more than ``LONGEST_WARM_UP`` of the training, or a setting is malformed.
    """
    place = f"{files.params_file}, key {files.source}.warmup"
    by, trained = by or _expect(files.params.get("warmup", "share"), _WarmUp, place), values.get("kind") == "train"
    written = _expect(epochs, float, f"{where}, key schedule.warmup_epochs")
    if by == "steps" and trained:
        made = written * _steps_per_epoch(published, where) / _steps_per_epoch(values, where)
    else:
        made = written * values["epochs"] / published["epochs"]
    if trained and made > LONGEST_WARM_UP * values["epochs"]:
        raise ReproError(
            f"{where}: a warm-up of {made:.3g} of {values['epochs']} epochs at profile {files.profile}; at most "
            f"{100 * LONGEST_WARM_UP:g} % of the training was expected; train longer, or on more images, or write "
            "`warmup: share` into the schedule"
        )
    return float(made)


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
    files, run, share = _read(spec["source"], spec["profile"], root), spec["run"], float(spec["sparsity_warmup"])
    if files.params.get("warmup", "share") == "share":
        return share
    written = (files.content["runs"] | files.content["controls"]).get(run)
    if written is None:
        raise ReproError(
            f"{files.spec_file}: no run {run}, and without its published size no share of the published training that "
            "its warm-up takes; a run of this file was expected; name one"
        )
    published, where = files.content["defaults"] | written, f"{files.spec_file}, run {run}"
    steps = share * spec["epochs"] * _steps_per_epoch(spec, where)
    return float(steps / (published["epochs"] * _steps_per_epoch(published, where)))


def _steps_per_epoch(values: Mapping[str, Any], where: str) -> int:
    """Optimiser steps of a worker in an epoch; of the one with the most images, where shards differ by one."""
    images, workers, batch = (
        _setting(name, values.get(name), f"{where}, key {name}") for name in ("train_images", "workers", "local_batch")
    )
    return local_steps(-(-images // workers) if values.get("method") != "central" else images, batch)


def _local_steps_share(files: _Files, model: str) -> float:
    """Share of the published local steps between two synchronisations that a profile leaves to ``model``; 1 usually."""
    place = f"{files.params_file}, key {files.source}.trained.{model}.local_steps_share"
    share = _expect(_networks(files, "trained").get(model, {}).get("local_steps_share", 1.0), float, place)
    if not 0 < share <= 1:
        raise ReproError(f"{place}: {share}; a share above 0 and up to 1 was expected")
    return float(share)


def _rounds_of_batch(values: dict[str, Any], where: str) -> list[int]:
    """Rounds after which a run with a local batch of ``evaluate_as_batch`` is evaluated, all else equal.

    Runs of different batch sizes can so be compared at equal iterations.
    """
    batch = _setting("local_batch", values.pop("evaluate_as_batch"), f"{where}, key evaluate_as_batch")
    sizes = (_setting(name, values.get(name), f"{where}, key {name}") for name in ("train_images", "epochs"))
    images, epochs = sizes
    between = local_steps(images, batch) * _setting("evaluate_every", values.get("evaluate_every"), where)
    return list(range(between, local_steps(images, batch) * epochs + 1, between))


def _check_share_of(other: Any, files: _Files, where: str) -> None:
    """A run can step up as often as another one of the source's artefacts that is gated by the gradient's change."""
    gated = {
        name: run.get("step_up", {}).get("when") in ("above", "below")
        for name, run in files.content["runs"].items()
        if run.get("step_up")
    }
    if not gated.get(_expect(other, str, where)):
        raise ReproError(f"{where}: {other!r}; one of {', '.join(gated)} was expected")


def _networks(files: _Files, section: str) -> dict[str, Any]:
    """The profile's sizes by network: section ``models`` (measured) or ``trained``."""
    place = f"{files.params_file}, key {files.source}.{section}"
    found: dict[str, Any] = _expect(files.params.get(section, {}), dict, place)
    _expect_keys(found, typing.get_args(_hints(Spec)["model"]), place)
    return {model: _expect(sizes, dict, f"{place}.{model}") for model, sizes in found.items()}


def _sizes(files: _Files, kind: str, model: str, run: str | None = None) -> dict[str, Any]:
    """The profile's sizes of a run: those of the source, of the network on top, of a measurement, and its very own."""
    place = f"{files.params_file}, key {files.source}"
    every = [key for keys in _SIZES.values() for key in keys]
    sections: list[tuple[str, Any, Sequence[str], Sequence[str]]] = [
        (f"{place}.sizes", files.params.get("sizes"), every, _SIZES.get(kind, ()))
    ]
    of_networks = {"train": "trained" if "trained" in files.params else "models", "measure": "models"}.get(kind)
    if of_networks is not None:
        network = dict(_networks(files, of_networks).get(model, {}))
        if of_networks == "trained":
            network.pop("local_steps_share", None)
        allowed = _SIZES_OF[of_networks]
        sections.append((f"{place}.{of_networks}.{model}", network, allowed, allowed))
    if kind == "measure":
        allowed = _SIZES_OF["measure"]
        sections.append((f"{place}.measure", files.params.get("measure"), allowed, allowed))
    own_sizes = _expect(files.params.get("runs", {}), dict, f"{place}.runs")
    _expect_keys(own_sizes, (*files.content["runs"], *files.content["controls"]), f"{place}.runs")
    if run in own_sizes:
        fixed = ("workers",) if files.content.get("fixed_workers", False) else ()
        of_kind = (*_SIZES.get(kind, ()), *(fixed if kind == "train" else ()))
        sections.append((f"{place}.runs.{run}", own_sizes[run], [*every, *fixed, "seeds"], of_kind))
    made: dict[str, Any] = {}
    for where, given, permitted, own in sections:
        sizes = _expect(given, dict, where)
        if unknown := sorted(set(sizes) - set(permitted)):
            raise ReproError(
                f"{where}.{unknown[0]}: a profile may set only {', '.join(sorted(set(permitted)))}; anything else "
                f"belongs into {files.spec_file}"
            )
        made |= {key: _setting(key, sizes[key], f"{where}.{key}") for key in own if key in sizes}
    return made


def sizes_of(source: str, profile: str, model: str, root: Path = Path()) -> dict[str, Any]:
    """The settings of a network and of its training that a measurement of ``model`` has at a profile.

    They are ``image_size``, ``width``, ``norm``, ``patch``, ``depth``, ``augment`` and ``momentum``.

    A network that no run of the source measures has the source's usual ones. Raises as ``runs``.
    """
    files = _read(source, profile, root)
    defaults = _expect(files.content.get("defaults"), dict, f"{files.spec_file}, key defaults")
    own: dict[str, Any] = next((run for run in files.content["runs"].values() if run.get("model") == model), {})
    values = defaults | own | _sizes(files, "measure", model)
    return {name: values.get(name) for name in ("image_size", "width", "norm", "patch", "depth", "augment", "momentum")}


def _written(files: _Files, section: str, waiting: list[str] | None = None) -> list[Spec]:
    """The specs of the section ``runs`` or ``controls`` of the spec file.

    A run whose learning rate a grid has still to choose is an error, or, with ``waiting``, added to it and left out.
    """
    made: list[Spec] = []
    for name in files.content[section]:
        try:
            made.append(_resolve(files, name, name, group=_GROUP[section]))
        except _NotChosen:
            if waiting is None:
                raise
            waiting.append(name)
    return made


def _has_grid(files: _Files) -> bool:
    """Whether grids choose the source's learning rates; else every rate is its own."""
    return "grid" in files.content or "grid" in files.params


def _grids(files: _Files) -> dict[str, list[Spec]]:
    if not _has_grid(files):
        return {}
    place = f"{files.params_file}, key {files.source}.grid"
    sizes = _expect(files.params.get("grid"), dict, place)
    _expect_keys(sizes, ("seeds", "arms", *_GRID_SIZES), place)
    grid = _expect(files.content.get("grid"), dict, f"{files.spec_file}, key grid")
    _expect_keys(grid, ("lrs", "rates", "arms"), f"{files.spec_file}, key grid")
    arms = _expect(grid.get("arms"), dict, f"{files.spec_file}, key grid.arms")
    _expect_keys(
        _of_arms(grid.get("rates"), f"{files.spec_file}, key grid.rates"), arms, f"{files.spec_file}, key grid.rates"
    )
    _expect_keys(_of_arms(sizes.get("arms"), f"{place}.arms"), arms, f"{place}.arms")
    known_runs = [*files.content["runs"], *files.content["controls"]]
    made = {}
    for arm, base in arms.items():
        if _expect(base, str, f"{files.spec_file}, key grid.arms.{arm}") not in known_runs:
            known = ", ".join(known_runs)
            raise ReproError(
                f"{files.spec_file}, key grid.arms.{arm}: unknown run {base!r}; one of {known} was expected"
            )
        extra = _grid_sizes(sizes, arm, place)
        rates = _grid_rates(files, sizes, grid, arm)
        made[arm] = [_resolve(files, grid_run(files.source, arm, lr), base, lr=lr, **extra) for lr in rates]
    return made


_GRID_SIZES = ("epochs", "train_images", "held_out_images", "final_evaluations")


def _of_arms(given: Any, where: str) -> dict[str, Any]:
    return {} if given is None else dict(_expect(given, dict, where))


def _grid_sizes(sizes: Mapping[str, Any], arm: str, place: str) -> dict[str, Any]:
    """What a grid changes in the runs of an arm, whose own sizes win over the common ones."""
    own = _of_arms(_of_arms(sizes.get("arms"), f"{place}.arms").get(arm), f"{place}.arms.{arm}")
    _expect_keys(own, ("lrs", "seeds", *_GRID_SIZES), f"{place}.arms.{arm}")

    def size(name: str, field: str) -> Any:
        where = f"{place}.arms.{arm}.{name}" if name in own else f"{place}.{name}"
        return _setting(field, own.get(name, sizes.get(name)), where)

    epochs = size("epochs", "epochs")
    extra = {
        "group": "control",
        "evaluate_on": "held_out",
        "epochs": epochs,
        "evaluate_every": epochs,
        "test_images": size("held_out_images", "test_images"),
        "final_test_images": None,
        "final_evaluations": size("final_evaluations", "final_evaluations"),
        "expects_divergence": True,
    }
    if "train_images" in own or "train_images" in sizes:  # where runs train on images that a grid must hold out
        extra["train_images"] = size("train_images", "train_images")
    return extra


def _grid_rates(files: _Files, sizes: Mapping[str, Any], grid: Mapping[str, Any], arm: str) -> list[float]:
    """The learning rates of an arm: the profile's for it, else the spec file's for it, else those of all arms."""
    of_profile = _of_arms(
        (sizes.get("arms") or {}).get(arm), f"{files.params_file}, key {files.source}.grid.arms.{arm}"
    )
    of_arms = grid.get("rates") or {}
    if "lrs" in of_profile:
        where, given = f"{files.params_file}, key {files.source}.grid.arms.{arm}.lrs", of_profile["lrs"]
    elif arm in of_arms:
        where, given = f"{files.spec_file}, key grid.rates.{arm}", of_arms[arm]
    else:
        where, given = f"{files.spec_file}, key grid.lrs", grid.get("lrs")
    rates = [float(_expect(lr, float, where)) for lr in _expect(given, list, where)]
    if not rates or len({f"{lr:g}" for lr in rates}) < len(rates):
        raise ReproError(f"{where}: {rates}; one or more different learning rates were expected")
    return rates


def _seeds(files: _Files) -> list[int]:
    """Seeds of the artefacts and of the controls."""
    return _listed(files.params, f"{files.params_file}, key {files.source}.seeds")


def _grid_seeds(files: _Files) -> dict[str, list[int]]:
    """Seeds of each arm of the source's grids."""
    if not _has_grid(files):
        return {}
    place, seeds = f"{files.params_file}, key {files.source}.grid", _seeds(files)
    sizes = _expect(files.params.get("grid"), dict, place)
    arms = _expect(
        _expect(files.content.get("grid"), dict, f"{files.spec_file}, key grid").get("arms"), dict,
        f"{files.spec_file}, key grid.arms",
    )  # fmt: skip
    made, of_arms = {}, _of_arms(sizes.get("arms"), f"{place}.arms")
    for arm in arms:
        own = _of_arms(of_arms.get(arm), f"{place}.arms.{arm}")
        where = f"{place}.arms.{arm}.seeds" if "seeds" in own else f"{place}.seeds"
        made[arm] = _listed(own if "seeds" in own else sizes, where)
        if set(seeds) & set(made[arm]):
            raise ReproError(f"{where}: {made[arm]} shares a seed with {seeds}; a grid needs seeds of its own")
    return made


def _listed(mapping: Mapping[str, Any], where: str) -> list[int]:
    seeds = [_expect(seed, int, where) for seed in _expect(mapping.get("seeds"), list, where)]
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ReproError(f"{where}: {seeds}; one or more different seeds from 0 up were expected")
    return seeds


def grid_run(source: str, arm: str, lr: float) -> str:
    """Run id of one point of a learning-rate grid.

    >>> grid_run("e1", "central", 0.05)
    'e1-grid-central-lr0_05'
    """
    return f"{source}-grid-{arm}-lr{lr:g}".replace(".", "_")


GROUPS = ("artefact", "grid", "control")
_GROUP = {"runs": "artefact", "controls": "control"}
"""Group of the runs in a section of a spec file."""


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
    return _tasks(_read(source, profile, root), group)


def runs_and_waiting(
    source: str, profile: str, group: str, root: Path = Path()
) -> tuple[list[tuple[Spec, int]], list[tuple[str, int]]]:
    """As ``runs``, with (run, seed) of those that wait for the learning rate that a grid has still to choose beside."""
    files, waiting = _read(source, profile, root), list[str]()
    tasks, seeds = _tasks(files, group, waiting), _seeds(files)
    return tasks, [(run, seed) for run in waiting for seed in _planned_seeds(files, run, seeds)]


def unchosen(run: str, source: str, profile: str, root: Path = Path()) -> Spec:
    """The spec of a run that waits for its learning rate, at rate 1: for what does not depend on the rate, as costs.

    Raises:
        ReproError: the source has no such run, or its files are malformed.
    """
    files = _read(source, profile, root)
    for section, group in _GROUP.items():
        if run in files.content[section]:
            return _resolve(files, run, run, lr=1.0, group=group)
    raise ReproError(f"{run!r} is no run of {source}; {did_you_mean(run, [*files.content['runs']])}")


def _tasks(files: _Files, group: str, waiting: list[str] | None = None) -> list[tuple[Spec, int]]:
    seeds, own = _seeds(files), _grid_seeds(files)
    if group == "grid":
        return [(spec, seed) for arm, specs in _grids(files).items() for spec in specs for seed in own[arm]]
    return [
        (spec, seed)
        for spec in _written(files, "runs" if group == "artefact" else "controls", waiting)
        for seed in (
            seeds[:1] if spec.once or spec.kind in ("law", "measure") else _planned_seeds(files, spec.run, seeds)
        )
    ]


def _planned_seeds(files: _Files, run: str, seeds: list[int]) -> list[int]:
    """The profile's seeds; at the profile ``study`` also those of the later looks of statements that read the run.

    A run to which the profile gives seeds of its own has those.
    """
    from repro.registry import study  # which reads with this module

    own = files.params.get("runs", {}).get(run) or {}
    if "seeds" in own:
        return _listed(own, f"{files.params_file}, key {files.source}.runs.{run}.seeds")
    return study.seeds_of(run, files.source, seeds, files.root) if files.profile == study.PROFILE else seeds


def first_seeds(source: str, profile: str, root: Path = Path()) -> list[int]:
    """Seeds that the profile's sizes give every run of a source, grids apart."""
    return _seeds(_read(source, profile, root))


def rates_chosen(source: str, profile: str, root: Path = Path()) -> bool:
    """Whether the learning rate of every grid of a source is stored."""
    files = _read(source, profile, root)
    try:
        return all(_chosen(profile, source, grid, root) for grid in _grids(files))
    except _NotChosen:
        return False


def grids(source: str, profile: str, root: Path = Path()) -> dict[str, list[Spec]]:
    """Learning-rate grids of a source: arm -> its specs in order of the learning rate."""
    return _grids(_read(source, profile, root))


def find(run: str, profile: str, root: Path = Path()) -> Spec:
    """The spec of one run by its id.

    Raises:
        ReproError: no source has such a run; the message names the nearest ids.
    """
    known: list[str] = []
    for source in SOURCES:
        files = _read(source, profile, root)
        for section in ("runs", "controls"):
            if run in files.content[section]:  # only this one: others may still wait for their learning rates
                return _resolve(files, run, run, group=_GROUP[section])
            known += map(str, files.content[section])
        grid = {spec.run: spec for made in _grids(files).values() for spec in made}
        if run in grid:
            return grid[run]
        known += grid
    raise ReproError(f"unknown run {run!r}; {did_you_mean(run, known)}`python -m repro list` shows all run ids")


def sibling(run: str, spec: Spec, root: Path = Path()) -> Spec:
    """The spec of another run of the same source, profile and root as ``spec``, from its artefacts."""
    files = _read(spec.source, spec.profile, root)
    return _resolve(files, run, run, group="artefact")


def default_profile(root: Path = Path()) -> str:
    """The profile that the root ``params.yaml`` names."""
    path = root / "params.yaml"
    return str(_expect(read_yaml(path).get("profile"), Profile, f"{path}, key profile"))
