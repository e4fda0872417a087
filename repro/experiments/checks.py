"""What the settings of a run say together: each alone may be right, and still the run cannot mean them."""

from __future__ import annotations

import dataclasses
from typing import Any

from repro.errors import ReproError, did_you_mean
from repro.experiments import numerics, schedules
from repro.experiments.settings import WrittenStepUp
from repro.experiments.sizes import SMALL_BATCHES, apportion, shards_of_batches
from repro.experiments.spec import Spec
from repro.validation import fitting

_SENDING = ("large_batch", "federated")
_NORMS = ("group", "layer", "instance")
_NEUTRAL: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Spec)} | {
    "codec": "dense", "local_epochs": 1, "buffers": "average", "labels_per_client": None, "dirichlet_alpha": None,
    "partition": "iid",
}  # fmt: skip
_ONLY_WITH: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    *((name, "method", _SENDING) for name in ("codec", "codec_options", "quantised_weights", "sparsity_warmup")),
    *((name, "method", _SENDING) for name in ("partition", "buffers", "clients_wait")),
    *((name, "method", ("federated",)) for name in ("local_epochs", "local_momentum", "weights", "stacked")),
    ("step_up", "method", ("central",)),
    ("remedy", "method", ("central",)),
    ("evaluate_at", "method", ("central", "large_batch")),
    ("labels_per_client", "partition", ("labels",)),
    ("drop_uncovered", "partition", ("labels",)),
    ("dirichlet_alpha", "partition", ("dirichlet",)),
    ("last_scale_zero", "norm", _NORMS),
    ("patch", "model", ("vit",)),
    ("depth", "model", ("vit",)),
)
"""A training ignores the setting unless another one has one of these values; so it may not be set then."""
_ONLY_IN: dict[str, tuple[str, ...]] = {
    "law": ("law",), "measured_steps": ("payloads", "gradients", "teacher"), "memory_steps": ("payloads",),
    "batch_sizes": ("measure", "gradients", "teacher"), "peak_sizes": ("measure",), "blocks": ("measure",),
    "repetitions": ("measure", "gradients", "teacher"), "final_test_images": ("train",),
    "final_evaluations": ("train",), "evaluate_at": ("train",), "batch_shares": ("train",), "step_up": ("train",),
    "remedy": ("train",), "remedy_options": ("train",), "track": ("train",),
}  # fmt: skip
"""Kinds of runs that read a setting."""


def check(spec: Spec, where: str) -> None:
    """Raise a ReproError, which begins with ``where``, for settings that do not fit together or would be ignored."""
    _check_codec(spec, where)
    _check_remedy(spec, where)
    _check_read(spec, where)
    try:
        schedules.build(spec.schedule)
    except ReproError as error:
        problem = f"key schedule: {error}".replace("key schedule: schedule, key ", "key schedule.")
        raise ReproError(f"{where}, {problem}") from error
    if spec.step_up is not None:
        fitting(WrittenStepUp, spec.step_up, where, "step_up")
    if spec.epochs % spec.local_epochs:
        raise ReproError(
            f"{where}: {spec.epochs} epochs at profile {spec.profile} cannot be divided into rounds of "
            f"{spec.local_epochs} local epochs; make epochs a multiple"
        )
    if spec.workers > spec.train_images:
        raise ReproError(
            f"{where}: {spec.workers} workers for {spec.train_images} images at profile {spec.profile}; "
            "at most one worker an image was expected"
        )
    if spec.final_test_images is not None and spec.final_test_images < spec.test_images:
        raise ReproError(
            f"{where}: {spec.final_test_images} final_test_images at profile {spec.profile}, of which the test_images "
            f"are the first; {spec.test_images} or more were expected"
        )
    if (
        spec.kind != "payloads"
        and spec.local_steps is not None
        and (spec.method, spec.local_epochs) != ("federated", 1)
    ):
        raise ReproError(
            f"{where}: local_steps with method {spec.method} and {spec.local_epochs} local epochs; only federated "
            "averaging has local steps, and they replace local_epochs, which stays at 1"
        )
    if spec.batch_shares is not None:
        _check_batch_shares(spec, f"{where}, key batch_shares")
    if spec.kind == "payloads" and spec.measured_steps is None:
        raise ReproError(f"{where}, key measured_steps: empty; steps from 1 up were expected; add them")
    if spec.kind == "measure":
        _check_measurement(spec, where)
    if spec.kind in ("gradients", "teacher"):
        _check_gradients(spec, where)
    if spec.kind == "teacher":
        _check_teacher(spec, where)


def _check_read(spec: Spec, where: str) -> None:
    """No setting that the run would ignore."""

    def refuse(name: str, other: str, expected: tuple[str, ...]) -> None:
        value = getattr(spec, name)
        if value != _NEUTRAL[name] and getattr(spec, other) not in expected:
            raise ReproError(
                f"{where}, key {name}: {value!r} with {other} {getattr(spec, other)}, which ignores it; {other} "
                f"{' or '.join(expected)} was expected; leave {name} out"
            )

    for name, kinds in _ONLY_IN.items():
        refuse(name, "kind", kinds)
    if spec.kind == "train":
        for name, other, expected in _ONLY_WITH:
            refuse(name, other, expected)
        if spec.method == "central" and spec.workers != 1:
            raise ReproError(f"{where}, key workers: {spec.workers} with method central; 1 was expected; correct it")
        if spec.sparsity_warmup and not spec.codec.startswith("dgc"):
            raise ReproError(f"{where}, key sparsity_warmup: codec {spec.codec}; dgc was expected; leave it out")
        if spec.local_momentum != "restart" and not spec.momentum:
            raise ReproError(
                f"{where}, key local_momentum: {spec.local_momentum} without momentum; set momentum above 0"
            )


def _check_codec(spec: Spec, where: str) -> None:
    name, plus, zipped = spec.codec.partition("+")
    if name not in numerics.CODECS or plus + zipped not in ("", "+zip"):
        raise ReproError(
            f"{where}, key codec: {spec.codec!r}; one of {', '.join(numerics.CODECS)}, alone or with +zip, was expected"
            f"{did_you_mean(name, numerics.CODECS)}"
        )


def _check_remedy(spec: Spec, where: str) -> None:
    """A remedy that exists, whose options go with it, and which is the only thing that changes steps."""
    if spec.remedy is None:
        if spec.remedy_options is not None:
            raise ReproError(f"{where}, key remedy_options: no remedy that has them; name one, or leave them out")
        return
    if spec.remedy not in numerics.REMEDIES:
        raise ReproError(
            f"{where}, key remedy: {spec.remedy!r}; one of {', '.join(numerics.REMEDIES)} was expected"
            f"{did_you_mean(spec.remedy, numerics.REMEDIES)}"
        )
    if spec.step_up is not None or "gradient_norm" in (spec.track or []):
        raise ReproError(
            f"{where}, key remedy: {spec.remedy} with step_up or track gradient_norm, which need plain "
            "steps; leave one out"
        )


def _check_batch_shares(spec: Spec, where: str) -> None:
    """Shares of large-batch training on IID data, one for each worker, and at least one image of every step in each."""
    if (spec.method, spec.partition, spec.clients_wait) != ("large_batch", "iid", True):
        raise ReproError(
            f"{where}: method {spec.method}, partition {spec.partition}, clients_wait "
            f"{str(spec.clients_wait).lower()}; large_batch, iid and true were expected; leave the shares out"
        )
    shares = spec.batch_shares or []
    if len(shares) != spec.workers or not all(share > 0 for share in shares):
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
    sizes = spec.batch_sizes or []
    if sizes != sorted(set(sizes)) or len(sizes) < 3 or sizes[-1] > spec.train_images:
        raise ReproError(
            f"{where}, key batch_sizes: {spec.batch_sizes}; at least three ascending sizes from 1 to the "
            f"{spec.train_images} images were expected"
        )
    if apart := sorted(set(spec.peak_sizes or []) - set(sizes)):
        raise ReproError(f"{where}, key peak_sizes: {apart[0]}; some of the batch sizes were expected")
    if spec.repetitions and spec.blocks < 3:
        raise ReproError(f"{where}, key blocks: {spec.blocks}; at least 3 were expected for an interval of times")


def _check_gradients(spec: Spec, where: str) -> None:
    """Batches of several sizes, of each at least two, and steps before which they are drawn."""
    if spec.measured_steps is None:
        raise ReproError(f"{where}, key measured_steps: empty; steps from 0 up were expected; add them")
    sizes = spec.batch_sizes or []
    if sizes != sorted(set(sizes)) or len(sizes) < 2:
        raise ReproError(
            f"{where}, key batch_sizes: {spec.batch_sizes}; at least two ascending sizes were expected; correct them"
        )
    if spec.repetitions < 2:
        raise ReproError(f"{where}, key repetitions: {spec.repetitions}; at least 2 were expected for a covariance")


def _check_teacher(spec: Spec, where: str) -> None:
    """Steps to train and to test on, and images for a small batch beside the largest one."""
    steps, sizes = spec.measured_steps or [], spec.batch_sizes or [0]
    if steps != sorted(set(steps)) or len(steps) < 2:
        raise ReproError(
            f"{where}, key measured_steps: {steps}; at least two ascending steps were expected; correct them"
        )
    least = SMALL_BATCHES * sizes[0] + sizes[-1]
    if least > spec.train_images:
        raise ReproError(
            f"{where}, key batch_sizes: {sizes}; a batch of {sizes[-1]} images and {SMALL_BATCHES} of {sizes[0]} share "
            f"none, so that {least} training images or more were expected; {spec.train_images} exist"
        )
