"""The smallest run on real images: a spec for tests, and where the package's data lie."""

from pathlib import Path

import numpy as np
import torch

from repro.data import partition
from repro.data.batches import Batches, Images
from repro.randomness import generator
from repro.registry.specs import Spec

ROOT = Path(__file__).resolve().parent.parent


def spec(method: str = "large_batch", **changes) -> Spec:
    """96 images at 8 px, three workers, two epochs, float64 unless ``changes`` say otherwise."""
    values = {
        "run": f"toy-{method.replace('_', '-')}", "source": "e1", "group": "artefact", "kind": "train",
        "profile": "smoke",
        "method": method, "dataset": "cifar10", "train_images": 96, "test_images": 32, "image_size": 8,
        "evaluate_on": "test", "evaluate_every": 1, "model": "resnet18", "width": 4, "norm": "batch",
        "workers": 1 if method == "central" else 3, "partition": "iid", "labels_per_client": None,
        "dirichlet_alpha": None, "local_batch": 8, "local_epochs": 1, "epochs": 2,
        "schedule": {"kind": "constant", "lr": 0.05}, "lr_grid": None, "momentum": 0.0, "weight_decay": 0.0,
        "augment": True, "precision": "fp64", "buffers": "average", "codec": "dense", "expects_divergence": False,
    }  # fmt: skip
    return Spec(**(values | changes))


def toy_batches(clients=3, images=59, batch=8, augment=True, seed=5, sizes=None):
    """59 images over 3 clients: shards of 20, 20 and 19, so epochs of 8 + 8 + 4, twice, and 8 + 11.

    Of 48 images, two steps each. ``sizes``: local batches of the clients, where they differ.
    """
    random = generator(seed, "toy")
    pixels = random.integers(0, 256, size=(images, 16, 16, 3), dtype=np.uint8)
    labels = random.integers(0, 4, size=images)
    data = Images(pixels, labels, (0.5,) * 3, (0.25,) * 3, dtype=torch.float64, padding=1)
    shards = partition.iid(labels, clients, generator(seed, "shards"), sizes)
    return Batches(data, shards, batch, seed, augment, sizes=sizes)
