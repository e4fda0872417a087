"""The small network of benchmarks of federated learning (LEAF; pfl's CIFAR-10 benchmarks): two convolutions."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import ReproError
from repro.models import draws
from repro.models.base import register

SMALLEST = 6  # pixels of which two 3 x 3 convolutions without a border and a pooling leave one


@register("cnn", version=1)
class SmallCNN(nn.Module):
    """3 x 3 convolutions of ``width`` and 2 ``width`` channels, a pooling of 2 x 2, a fully connected layer of 4.

    Convolutions have no border, so that an image of 32 px leaves a map of 14 x 14; there is neither normalisation nor
    dropout. Benchmarks train it; no run of the study does.

    Args:
        classes: outputs.
        width: channels of the first convolution; 32 gives the 1 626 442 parameters of the benchmarks at 10 classes and
            32 px: 32 and 64 channels, then 128 features.
        image_size: height and width of the images in pixels.

    Raises:
        ReproError: images of less than 6 pixels.
    """

    def __init__(self, classes: int, width: int = 32, image_size: int = 32) -> None:
        super().__init__()
        if image_size < SMALLEST:
            raise ReproError(f"cnn on images of {image_size} px; at least {SMALLEST} px were expected")
        side = (image_size - 4) // 2
        self.conv1, self.conv2 = nn.Conv2d(3, width, 3), nn.Conv2d(width, 2 * width, 3)
        self.hidden = nn.Linear(2 * width * side**2, 4 * width)
        self.classifier = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images x (B, 3, H, H) -> logits (B, classes)."""
        h = self.conv2(F.relu(self.conv1(x), inplace=True))
        h = F.relu(F.max_pool2d(h, 2), inplace=True).flatten(1)  # in this order a quarter of the work, the same result
        return self.classifier(F.relu(self.hidden(h), inplace=True))

    def initialise(self, random: np.random.Generator) -> None:
        """Uniform weights and biases within 1 / sqrt(inputs of a unit): PyTorch's default."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                draws.default_uniform(module.weight, module.bias, random)
