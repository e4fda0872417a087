"""Laws: statements that are executed rather than measured over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repro.codecs import Dense
from repro.data.batches import Batches, Images
from repro.errors import ReproError
from repro.models import build as build_model
from repro.randomness import derive, generator
from repro.registry.specs import Spec
from repro.results.records import Record
from repro.running import failure_laws, traffic_laws
from repro.running.job import Job
from repro.training import plain
from repro.training.exchange import Exchange
from repro.training.steps import Optimisation

TOLERANCE = 1e-12  # float64 round-off of a step on a toy network, with room
NORMS = ("batch", "group", "layer", "instance")
SETTLING_BATCHES = 50  # the running statistics are then 99.5 % those of the images seen: 1 - 0.9^50


def _weights(model: nn.Module) -> list[Tensor]:
    return [p.detach() for p in model.parameters()]


def _largest(a: list[Tensor], b: list[Tensor]) -> list[float]:
    """The largest absolute difference of each tensor."""
    return [float((x - y).abs().max()) for x, y in zip(a, b, strict=True)]


def _after_a_round(model: nn.Module, batches: Batches, lr: float) -> list[Tensor]:
    """All weights after a round of large batch with really separate workers."""
    optimiser = torch.optim.SGD(model.parameters(), lr=lr)
    list(plain.large_batch(model, optimiser, batches, Exchange(Dense()), Optimisation(lambda _: lr), range(1)))
    return _weights(model)


def union_batch(*, workers: int, local_batch: int, image_size: int, width: int, lr: float, seed: int) -> dict[str, Any]:
    """Post 1: averaging the workers' gradients equals one step on the union of their batches, unless BatchNorm is used.

    Takes one large-batch round with really separate workers, and one centralised step on the same images, in float64
    on random images, and compares the weights after the step. GroupNorm's scales all start at one, so that every
    weight takes part. At 16 px the last stage still has 2 x 2 pixels, and with ``width`` 4 a group one channel.

    Returns:
        For each norm (``groupnorm``, ``batchnorm``): ``_max_abs_difference``, the largest difference between the two
        over all weights; ``_update_max_abs``, the largest change that the step itself made; and
        ``_least_update_max_abs``, the same of the tensor that changed least, which shows that all of them took part.
        ``groupnorm_logit_spread``, the standard deviation of the logits over images, shows that the network sees its
        input. Also the sizes used, and the tolerance for "equal".
    """
    classes, n = 10, workers * local_batch
    random = generator(seed, "law", "images")
    pixels = random.integers(0, 256, size=(n, image_size, image_size, 3), dtype=np.uint8)
    labels = random.integers(0, classes, size=n)
    images = Images(pixels, labels, (0.5,) * 3, (0.25,) * 3, dtype=torch.float64)

    def start(norm: str) -> nn.Module:
        return build_model(
            "resnet18",
            classes=classes,
            width=width,
            norm=norm,
            last_scale_zero=False,
            seed=derive(seed, "law"),
            dtype=torch.float64,
        )

    def step(norm: str, separate: bool) -> list[Tensor]:
        """All weights after the step."""
        if separate:
            shards = np.array_split(np.arange(n), workers)
            return _after_a_round(start(norm), Batches(images, shards, local_batch, seed, False), lr)
        model, whole = start(norm), Batches(images, [np.arange(n)], n, seed, False)
        optimiser = torch.optim.SGD(model.parameters(), lr=lr)
        list(plain.centralised(model, optimiser, whole, Optimisation(lambda _: lr), range(1)))
        return _weights(model)

    found: dict[str, Any] = {}
    for norm in ("group", "batch"):
        union = step(norm, separate=False)
        updates = _largest(union, _weights(start(norm)))
        found |= {
            f"{norm}norm_max_abs_difference": max(_largest(step(norm, separate=True), union)),
            f"{norm}norm_update_max_abs": max(updates),
            f"{norm}norm_least_update_max_abs": min(updates),
        }
    logits = start("group")(images.centre(0, n)[0]).detach()
    return found | {
        "groupnorm_logit_spread": float(logits.std(dim=0).mean()),
        "workers": workers,
        "local_batch": local_batch,
        "image_size": image_size,
        "width": width,
        "tolerance": TOLERANCE,
        "dtype": "float64",
    }


def label_split(*, workers: int, local_batch: int, lr: float, seed: int) -> dict[str, Any]:
    """Paper lb: BSP without BatchNorm does not depend on how the labels of the same images are spread over workers.

    Takes one round of BSP on the same random images twice, in float64, with really separate workers: dealt by label,
    so that each worker has one label, and dealt in turn, so that each has all. VGG11 has no normalisation (here no
    dropout either), ResNet50 has BatchNorm.

    Returns:
        For each network (``vgg11``, ``resnet50``): ``_max_abs_difference``, the largest difference between the weights
        after the two rounds, and ``_update_max_abs``, the largest change that a round made. Also the sizes used, and
        the tolerance for "equal".
    """
    n, image_size = workers * local_batch, 32
    pixels = generator(seed, "law", "label split").integers(0, 256, size=(n, image_size, image_size, 3), dtype=np.uint8)
    labels = np.repeat(np.arange(workers), local_batch)
    images = Images(pixels, labels, (0.5,) * 3, (0.25,) * 3, dtype=torch.float64)
    by_label = np.arange(n).reshape(workers, local_batch)
    in_turn = by_label.reshape(local_batch, workers).T

    def start(network: str) -> nn.Module:
        options: dict[str, Any] = {"norm": "none", "dropout": 0.0} if network == "vgg11" else {"norm": "batch"}
        return build_model(
            network,
            classes=workers,
            width=4,
            image_size=image_size,
            seed=derive(seed, "law"),
            dtype=torch.float64,
            **options,
        )

    def after(network: str, shards: np.ndarray) -> list[Tensor]:
        return _after_a_round(start(network), Batches(images, list(shards), local_batch, seed, False), lr)

    found: dict[str, Any] = {}
    for network in ("vgg11", "resnet50"):
        apart = after(network, by_label)
        found |= {
            f"{network}_max_abs_difference": max(_largest(apart, after(network, in_turn))),
            f"{network}_update_max_abs": max(_largest(apart, _weights(start(network)))),
        }
    return found | {
        "workers": workers,
        "local_batch": local_batch,
        "image_size": image_size,
        "width": 4,
        "tolerance": TOLERANCE,
        "dtype": "float64",
    }


@torch.no_grad()
def normalisation(
    *, images: int, image_size: int, width: int, seed: int, norms: Sequence[str] = NORMS
) -> dict[str, Any]:
    """Post 3: what an image's neighbours in the batch, and the mode, change; with BatchNorm both do, else neither.

    Runs an untrained ResNet18 with each norm in float64 on random images. All scales start at one, so that every norm
    layer takes part. BatchNorm's running statistics are those of other images of the same kind.

    Returns:
        For each norm, the largest absolute difference between logits: ``_mode_difference``, in training against
        evaluation mode on the same batch; ``_batch_difference``, in training mode, of each image alone against the
        same image among the others. ``_logit_spread``, the standard deviation of the logits over images, shows that
        the network sees its input. Also the sizes used, and the tolerance for "equal".
    """
    pixels = generator(seed, "law", "normalisation").standard_normal((2 * images, 3, image_size, image_size))
    x, others = torch.from_numpy(pixels).split(images)
    found: dict[str, Any] = {}
    for norm in norms:
        model = build_model(
            "resnet18", classes=10, width=width, norm=norm, seed=derive(seed, "law"), dtype=torch.float64
        )
        for name, parameter in model.named_parameters():
            if name.endswith("weight") and parameter.dim() == 1:
                nn.init.ones_(parameter)
        model.train()
        training, alone = model(x), torch.cat([model(image[None]) for image in x])
        for _ in range(SETTLING_BATCHES):
            model(others)
        evaluation = model.eval()(x)
        found |= {
            f"{norm}_mode_difference": float((training - evaluation).abs().max()),
            f"{norm}_batch_difference": float((training - alone).abs().max()),
            f"{norm}_logit_spread": float(training.std(dim=0).mean()),
        }
    return found | {
        "images": images,
        "image_size": image_size,
        "width": width,
        "tolerance": TOLERANCE,
        "dtype": "float64",
    }


def _width(spec: Spec) -> int:
    if spec.width is None:
        raise ReproError(f"{spec.run}: model {spec.model} in a law; a network of this package was expected")
    return spec.width


LAWS: dict[str, Callable[[Spec, int], dict[str, Any]]] = {
    "epoch_traffic": lambda spec, seed: traffic_laws.epoch_traffic(
        images=spec.train_images,
        local_batch=spec.local_batch,
        image_size=spec.image_size,
        width=_width(spec),
        seed=seed,
    ),
    "label_split": lambda spec, seed: label_split(
        workers=spec.workers, local_batch=spec.local_batch, lr=spec.schedule["lr"], seed=seed
    ),
    "lost_worker": failure_laws.lost_worker,
    "normalisation": lambda spec, seed: normalisation(
        images=spec.local_batch, image_size=spec.image_size, width=_width(spec), seed=seed
    ),
    "slowest_device": lambda spec, seed: traffic_laws.slowest_device(
        workers=spec.workers, width=_width(spec), seed=seed
    ),
    "star_and_ring": lambda spec, seed: traffic_laws.star_and_ring(workers=spec.workers, width=_width(spec), seed=seed),
    "union_batch": lambda spec, seed: union_batch(
        workers=spec.workers,
        local_batch=spec.local_batch,
        image_size=spec.image_size,
        width=_width(spec),
        lr=spec.schedule["lr"],
        seed=seed,
    ),
}
"""Law by its name in a spec."""


def run(job: Job) -> Record:
    """Execute the law that the spec names."""
    data = {"name": None, "sha256": None, "reduced": None, "classes": 10}
    return job.record(data=data, law=LAWS[job.spec.law](job.spec, job.seed))
