"""One training loop whose batch size is free: what is timed, counted, watched and advised on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repro import models
from repro.data.batches import Batches, Images
from repro.errors import ReproError
from repro.models.dropout import dropout_seeds
from repro.randomness import derive, generator
from repro.training.steps import backward


@dataclass(frozen=True)
class Workload:
    """What is trained, apart from the batch size.

    Attributes:
        model, width, norm, classes, patch, depth: of ``repro.models.build``.
        image_size: pixels.
        images: training images held in memory.
        precision: ``fp32`` or ``bf16``.
        momentum: of SGD; above 0 the optimiser keeps one number for each parameter.
        augment: whether images are shifted and mirrored.
    """

    model: str
    classes: int
    image_size: int
    images: int
    width: int | None = 64
    norm: str | None = "batch"
    patch: int | None = None
    depth: int | None = None
    precision: str = "fp32"
    momentum: float = 0.9
    augment: bool = True

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "bf16"):
            raise ReproError(f"precision {self.precision!r}; fp32 or bf16 was expected")

    @classmethod
    def of(cls, settings: Mapping[str, Any], *, classes: int, images: int) -> Workload:
        """The workload of a run's settings.

        Args:
            settings: ``Spec.as_dict()``, or as many of its fields as are known; others are not looked at.
            classes: of the data set, for settings that name no number of their own.
            images: training images held in memory.
        """
        known = {each.name for each in fields(cls)} - {"classes", "images"}
        chosen = {name: setting for name, setting in settings.items() if name in known}
        return cls(classes=settings.get("classes") or classes, images=images, **chosen)

    def as_dict(self) -> dict[str, object]:
        """Its settings, for messages between processes."""
        return asdict(self)

    def network(self) -> nn.Module:
        """The network with its first weights, in its plain form: costs are those of the network, not of a shortcut.

        Raises:
            ReproError: an unknown network, or one that cannot be built with these settings.
        """
        return models.build(
            self.model,
            classes=self.classes,
            width=self.width,
            norm=self.norm,
            seed=derive(0, "weights"),
            image_size=self.image_size,
            patch=self.patch,
            depth=self.depth,
            plain=True,
        )

    def pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """Random images and labels of the right shapes: costs do not depend on what is on the images."""
        random = generator(0, "workload")
        shape = (self.images, self.image_size, self.image_size, 3)
        return random.integers(0, 256, shape, dtype=np.uint8), random.integers(0, self.classes, self.images)


class Trainer:
    """The network of a workload, which takes training steps on batches of any size.

    Args:
        workload: what is trained.
        pixels, labels: (N, S, S, 3) uint8 and (N,) int64, kept in memory of the host; random ones when None.
        device: where the network is trained; batches are assembled by the host and moved there.
    """

    def __init__(
        self,
        workload: Workload,
        pixels: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.workload, self.device = workload, device or torch.device("cpu")
        if pixels is None or labels is None:
            pixels, labels = workload.pixels()
        padding = max(1, workload.image_size // 8) if workload.augment else 0
        self.images = Images(pixels, labels, (0.5,) * 3, (0.25,) * 3, padding=padding)
        self.model = workload.network().to(self.device).train()
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=1e-4, momentum=workload.momentum, foreach=True)

    def batches(self, size: int) -> Batches:
        """The batches of one client that trains on all images.

        Raises:
            ReproError: a batch larger than there are images.
        """
        if size > len(self.images):
            raise ReproError(
                f"a batch of {size} from {len(self.images)} images; at most all of them were expected; lower it"
            )
        whole = len(self.images) // size * size  # without a rest, so that every batch has this size
        return Batches(self.images, [np.arange(whole)], size, 0, self.workload.augment)

    def move(self, batches: Batches, step: int) -> tuple[Tensor, Tensor]:
        """Data movement of one step: gather, augment and normalise on the host, then copy to the device.

        On a CPU the copy is none.
        """
        x, y = batches.get(0, step)
        return x.to(self.device), y.to(self.device)

    def compute(self, x: Tensor, y: Tensor) -> None:
        """Forward and backward pass: t_c of Eq. 2."""
        with dropout_seeds(self.model, [0]):
            backward(self.model, x, y, self.workload.precision)

    def update(self) -> None:
        """The step of the optimiser, whose time does not depend on the batch."""
        self.optimiser.step()

    def train(self, batches: Batches, step: int) -> None:
        """One whole step: data movement, forward and backward pass, update."""
        self.compute(*self.move(batches, step))
        self.update()

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
