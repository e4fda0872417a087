"""AlexNet (Krizhevsky 2014, one column), as torchvision defines it."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import ReproError
from repro.models import draws
from repro.models.base import register
from repro.models.dropout import SeededDropout

POOLED = 6  # height and width of what the classifier reads
SMALLEST = 63  # pixels that the first convolution and three poolings leave one of


@register("alexnet", version=2, options=("dropout",))
class AlexNet(nn.Module):
    """Five convolutions and three fully connected layers of 64 widths, with dropout before the first two.

    Whatever the image, the classifier reads a map of 6 x 6. An image of 64 pixels leaves a map of 1 x 1, of which
    pooling makes 36 equal ones (which dropout then thins one by one, so that there is no shortcut as in ``VGG11``).

    Args:
        classes: outputs.
        width: channels of the first convolution; 64 gives the 61 100 840 parameters of torchvision at 1000 classes.
        image_size: height and width of the images in pixels.
        dropout: share of the features that are dropped before each of the first two fully connected layers.

    Raises:
        ReproError: images of less than 63 pixels.
    """

    def __init__(self, classes: int, width: int = 64, image_size: int = 224, dropout: float = 0.5) -> None:
        super().__init__()
        if image_size < SMALLEST:
            raise ReproError(f"alexnet on images of {image_size} px; at least {SMALLEST} px were expected")
        w = width
        self.features = nn.Sequential(
            nn.Conv2d(3, w, 11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(w, 3 * w, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(3 * w, 6 * w, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(6 * w, 4 * w, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(4 * w, 4 * w, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
        )
        hidden = 64 * w
        self.dropout1, self.dropout2 = SeededDropout(dropout), SeededDropout(dropout)
        self.hidden1 = nn.Linear(4 * w * POOLED**2, hidden)
        self.hidden2 = nn.Linear(hidden, hidden)
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images x (B, 3, H, H) -> logits (B, classes)."""
        h = F.adaptive_avg_pool2d(self.features(x), POOLED).flatten(1)  # (B, 144 widths)
        h = F.relu(self.hidden1(self.dropout1(h)), inplace=True)
        h = F.relu(self.hidden2(self.dropout2(h)), inplace=True)
        return self.classifier(h)

    def initialise(self, random: np.random.Generator) -> None:
        """Uniform weights and biases within 1 / sqrt(inputs of a unit): PyTorch's default, which torchvision keeps."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                draws.default_uniform(module.weight, module.bias, random)
