"""What a training records besides losses and accuracies, where its spec asks for it (``track``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from repro.errors import ReproError
from repro.randomness import derive
from repro.registry.specs import Spec
from repro.running.prepare import Setting, evaluation_parts_of
from repro.training import Round, probe
from repro.training.buffers import Buffers
from repro.training.evaluate import evaluate_shared, expect_finite
from repro.training.sharpness import hessian_top_eigenvalue

SHARPNESS_IMAGES = 500


def expect_meaningful(spec: Spec) -> None:
    """Raise a ReproError for settings that the run's method or network could only ignore."""
    track = spec.track or []
    for given, meant, remedy in (
        (spec.step_up is not None, spec.method == "central", "step_up: central"),
        (spec.evaluate_at is not None, spec.method != "federated", "evaluate_at: central or large_batch"),
        (spec.buffers != "average", spec.method != "central", f"buffers {spec.buffers}: large_batch or federated"),
        ("gradient_norm" in track, spec.method != "federated", "track gradient_norm: central or large_batch"),
        ("batch_statistics" in track, spec.method == "large_batch", "track batch_statistics: large_batch"),
    ):
        if given and not meant:
            raise ReproError(f"{spec.run}: method {spec.method} with {remedy} was expected; correct the spec")
    if "gradient_norm" in track and spec.step_up is not None:
        raise ReproError(f"{spec.run}: track gradient_norm with step_up, which records it anyway; leave it out")
    if "batch_statistics" in track and spec.norm != "batch":
        raise ReproError(f"{spec.run}: norm {spec.norm} with track batch_statistics: batch was expected; correct it")


def at_evaluation(spec: Spec, setting: Setting, buffers: Buffers, found: Mapping[str, Any]) -> dict[str, Any]:
    """What every row holds besides, where it is tracked.

    ``test_top1_by_class``: accuracy of each class, from ``found``, the evaluation. ``train_sample_top1`` and
    ``train_sample_loss``: accuracy and mean loss on a sample of the training images, without augmentation.
    """
    track, more = spec.track or [], dict[str, Any]()
    if "per_class" in track:
        more["test_top1_by_class"] = found["top1_by_class"]
    if "training_sample" in track:
        sample = evaluate_shared(setting.model, setting.training_sample(), spec.precision, buffers)
        expect_finite("training sample", sample["loss"])
        more |= {"train_sample_top1": sample["top1"], "train_sample_loss": sample["loss"]}
    return more


def at_the_end(spec: Spec, seed: int, setting: Setting, done: Round, buffers: Buffers) -> dict[str, Any]:
    """What the last row holds besides, where it is tracked; ``done`` is the last round.

    ``classes_of_clients``: the labels in each client's shard. ``clients_top1_by_class``: for each client the accuracy
    of each class that its own model had before the last aggregation (None: no evaluation image of that class).
    ``batch_statistics``: ``probe.statistics_against_union``. ``train_images_top1``: accuracy on the training images,
    without augmentation and in evaluation mode. ``hessian_top_eigenvalue``: of the mean loss on the first
    ``hessian_images`` training images, likewise, after ``hessian_iterations`` products with the Hessian, enough for it
    to settle where ``hessian_converged``.
    """
    found = dict[str, Any]()
    for name in spec.track or []:
        if name in _AT_THE_END:
            found |= _AT_THE_END[name](spec, seed, setting, done, buffers)
    return found


def _per_class(spec: Spec, seed: int, setting: Setting, done: Round, buffers: Buffers) -> dict[str, Any]:
    found = dict[str, Any]()
    if spec.method != "central":
        found["classes_of_clients"] = [list(classes) for classes in probe.own_classes(setting.batches)]
    if done.clients_top1_by_class is not None:
        found["clients_top1_by_class"] = done.clients_top1_by_class
    return found


def _batch_statistics(spec: Spec, seed: int, setting: Setting, done: Round, buffers: Buffers) -> dict[str, Any]:
    found = probe.statistics_against_union(
        setting.model, setting.batches, done.number, setting.evaluation, buffers, spec.precision
    )
    return {"batch_statistics": found}


def _training_images(spec: Spec, seed: int, setting: Setting, done: Round, buffers: Buffers) -> dict[str, Any]:
    parts = evaluation_parts_of(setting.batches.images)
    return {"train_images_top1": evaluate_shared(setting.model, parts, spec.precision, buffers)["top1"]}


def _sharpness(spec: Spec, seed: int, setting: Setting, done: Round, buffers: Buffers) -> dict[str, Any]:
    x, y = setting.batches.images.centre(0, SHARPNESS_IMAGES)
    top = hessian_top_eigenvalue(setting.model, x, y, derive(seed, "sharpness"))
    return {
        "hessian_top_eigenvalue": top.value,
        "hessian_iterations": top.iterations,
        "hessian_converged": top.converged,
        "hessian_images": len(y),
    }


_AT_THE_END: dict[str, Callable[[Spec, int, Setting, Round, Buffers], dict[str, Any]]] = {
    "batch_statistics": _batch_statistics,
    "per_class": _per_class,
    "sharpness": _sharpness,
    "training_images": _training_images,
}
