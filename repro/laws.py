"""Laws: statements that are executed rather than measured over seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from repro.batches import Batches, Images
from repro.codecs import build as build_codec
from repro.engines import plain
from repro.models import build as build_model
from repro.randomness import derive, generator

TOLERANCE = 1e-12  # float64 round-off of a step on a toy network, with room


def union_batch(*, workers: int, local_batch: int, image_size: int, width: int, lr: float, seed: int) -> dict[str, Any]:
    """Post 1: averaging the workers' gradients equals one step on the union of their batches, unless BatchNorm is used.

    Takes one large-batch round with really separate workers, and one centralised step on the same images, in float64
    on random images, and compares the weights after the step.

    Returns:
        The largest absolute difference between the two over all weights, for GroupNorm and for BatchNorm; the largest
        absolute change that the step itself made; the sizes used; and the tolerance for "equal".
    """
    classes, n = 10, workers * local_batch
    random = generator(seed, "law", "images")
    pixels = random.integers(0, 256, size=(n, image_size, image_size, 3), dtype=np.uint8)
    labels = random.integers(0, classes, size=n)
    images = Images(pixels, labels, (0.5,) * 3, (0.25,) * 3, dtype=torch.float64)
    shards = np.array_split(np.arange(n), workers)

    found: dict[str, Any] = {}
    for norm in ("group", "batch"):
        weights = {}
        for method in ("separate", "union"):
            model = build_model(
                "resnet18",
                classes=classes,
                width=width,
                norm=norm,
                seed=derive(seed, "law"),
                dtype=torch.float64,
            )
            before = [p.detach().clone() for p in model.parameters()]
            optimiser = torch.optim.SGD(model.parameters(), lr=lr)
            if method == "separate":
                batches = Batches(images, shards, local_batch, seed, augment=False)
                rounds = plain.large_batch(model, optimiser, batches, build_codec("dense"), lambda _: lr, range(1))
            else:
                whole = Batches(images, [np.arange(n)], n, seed, augment=False)
                rounds = plain.centralised(model, optimiser, whole, lambda _: lr, range(1))
            list(rounds)
            weights[method] = dict(model.named_parameters())
            change = max(
                float((p.detach() - old).abs().max()) for p, old in zip(model.parameters(), before, strict=True)
            )
        difference = max(
            float((weights["separate"][name] - weights["union"][name]).detach().abs().max())
            for name in weights["union"]
        )
        found[f"{norm}norm_max_abs_difference"] = difference
        found[f"{norm}norm_update_max_abs"] = change
    return found | {
        "workers": workers, "local_batch": local_batch, "image_size": image_size, "width": width,
        "tolerance": TOLERANCE, "dtype": "float64",
    }  # fmt: skip
