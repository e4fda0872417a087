"""What a training needs, made from its spec: images, their spread over the workers, the initial network."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repro import models
from repro.data import labels, partition, sets
from repro.data.batches import Batches, Images, channel_moments, shrink
from repro.errors import ReproError
from repro.machine import device
from repro.randomness import derive, generator
from repro.registry.specs import HELD_OUT_IMAGES, Spec
from repro.training.evaluate import Part
from repro.training.steps import Optimisation

EVALUATION_BATCH = 500


TRAINING_SAMPLE = 2000


_DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.float32}


@dataclass(frozen=True)
class Setting:
    """Everything that a training run needs, made from its spec; ``final``: what its last evaluations look at."""

    model: torch.nn.Module
    batches: Batches
    evaluation: Images
    classes: int
    data: dict[str, Any]
    final: Images | None = None

    def evaluation_parts(self, final: bool = False) -> list[Part]:
        """The batches of an evaluation, or of one of the last ones."""
        return evaluation_parts_of(self.final if final and self.final is not None else self.evaluation)

    def training_sample(self) -> list[Part]:
        """The first 2 000 training images, fewer if there are fewer, in batches of an evaluation."""
        return evaluation_parts_of(self.batches.images, TRAINING_SAMPLE)


def evaluation_parts_of(images: Images, most: int | None = None) -> list[Part]:
    """``images``, or the first ``most``, in batches of an evaluation, whose size is part of its numerics."""
    n = len(images) if most is None else min(most, len(images))
    return [partial(images.centre, at, min(at + EVALUATION_BATCH, n)) for at in range(0, n, EVALUATION_BATCH)]


def prepare(spec: Spec, seed: int, root: Path = Path()) -> Setting:
    """Load and shrink the data, spread it over the workers, and initialise the network.

    The images of a profile are one fixed subset, the same for all seeds. The 5 000 held-out images (a fifth, of a data
    set with fewer than 25 000) are the last of the same fixed order; runs that are evaluated on them never train on
    them. The ``test_images`` are the first of the ``final_test_images``.

    Raises:
        ReproError: missing or damaged data, more images or workers than there are, an impossible partition.
    """
    where, dtype = device(), _DTYPES[spec.precision]
    loaded = sets.load(spec.dataset, root / "data")
    chosen, tested = _subsets(spec, loaded)
    train = shrink(loaded.train_images[chosen], spec.image_size)
    targets = np.asarray(loaded.train_labels[chosen])
    normalised: dict[str, Any] = {"dtype": dtype, "device": str(where)}
    normalised["mean"], normalised["std"] = channel_moments(train)
    images = Images(train, targets, padding=max(1, spec.image_size // 8) if spec.augment else 0, **normalised)
    shards = partition.make(
        spec.partition,
        targets,
        spec.workers if spec.method != "central" else 1,
        generator(seed, "partition"),
        labels_per_client=spec.labels_per_client,
        alpha=spec.dirichlet_alpha,
        drop_uncovered=spec.drop_uncovered,
        batches=spec.local_batches,
    )

    def evaluated(n: int) -> Images:
        pixels, answers = tested
        return Images(shrink(pixels[:n], spec.image_size), answers[:n], **normalised)

    model = models.build(
        spec.model,
        classes=spec.classes or loaded.n_classes,
        width=spec.width,
        image_size=spec.image_size,
        norm=spec.norm,
        last_scale_zero=spec.last_scale_zero,
        seed=derive(seed, "weights"),
        dtype=dtype,
    )
    return Setting(
        model=model.to(where),
        batches=Batches(
            images, shards, spec.local_batch, seed, spec.augment, wait=spec.clients_wait, sizes=spec.local_batches
        ),
        evaluation=evaluated(spec.test_images),
        final=evaluated(spec.final_test_images) if spec.final_test_images is not None else None,
        classes=loaded.n_classes,
        data={
            "name": spec.dataset,
            "sha256": loaded.sha256,
            "reduced": loaded.reduced,
            "classes": loaded.n_classes,
        },
    )


def _subsets(spec: Spec, loaded: sets.Images) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Places of the training images, and the images and labels that are evaluated, as many as any evaluation needs."""
    order = labels.order(spec.dataset, len(loaded.train_labels))
    held_out = min(HELD_OUT_IMAGES, len(order) // 5) if spec.evaluate_on == "held_out" else 0
    available = len(order) - held_out
    if spec.train_images > available:
        kept = f" of which {held_out} are held out" if held_out else ""
        raise ReproError(f"{spec.run}: {spec.train_images} training images; {spec.dataset} has {len(order)}{kept}")
    if spec.evaluate_on == "held_out":
        other, pixels, answers = order[available:], loaded.train_images, loaded.train_labels
    else:
        pixels, answers = loaded.test_images, loaded.test_labels
        other = generator(0, "subset", spec.dataset, "test").permutation(len(answers))
    most = max(spec.test_images, spec.final_test_images or 0)
    for name, wanted in (("test_images", spec.test_images), ("final_test_images", spec.final_test_images or 0)):
        if wanted > len(other):
            raise ReproError(f"{spec.run}: {wanted} evaluation images; {len(other)} exist; lower {name}")
    return order[: spec.train_images], (pixels[other[:most]], answers[other[:most]])


def at_one_rate(spec: Spec) -> Optimisation:
    """The optimiser settings of ``spec``, at the learning rate that its schedule starts with."""
    rate = spec.schedule["lr"]
    return Optimisation(lambda _: rate, spec.momentum, spec.weight_decay, spec.precision)
