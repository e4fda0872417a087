"""VGG11 without normalisation (Simonyan & Zisserman 2015, configuration A), as torchvision defines it."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import ReproError
from repro.models import draws
from repro.models.base import register
from repro.models.dropout import SeededDropout

STAGES = (
    (1,),
    (2,),
    (4, 4),
    (8, 8),
    (8, 8),
)  # channels of the 3x3 convolutions, in widths; each stage halves the image
POOLED = 7  # height and width of what the classifier reads


@register("vgg11", version=2, part="vgg", options=("dropout", "plain"))
class VGG11(nn.Module):
    """Eight 3x3 convolutions and three fully connected layers of 64 widths, with dropout between them.

    Whatever the image, the classifier reads a map of 7 x 7, as in torchvision, so that the parameters are those of the
    published network. An image of 32 pixels leaves a map of 1 x 1, of which pooling makes 49 equal ones: the first
    fully connected layer is then a layer on the channels alone whose weights are sums of 49. That sum is what training
    computes, with the same results in half the time; ``plain`` networks compute the layer itself, as ``reference``.

    Args:
        classes: outputs.
        width: channels of the first convolution; 64 gives the 132 863 336 parameters of torchvision at 1000 classes.
        image_size: height and width of the images in pixels.
        dropout: share of the features that are dropped after each of the first two fully connected layers.
        plain: without the shortcut for maps of 1 x 1: for measuring what the network costs.

    Raises:
        ReproError: images of less than 32 pixels, of which five halvings leave nothing.
    """

    def __init__(
        self, classes: int, width: int = 64, image_size: int = 224, dropout: float = 0.5, plain: bool = False
    ) -> None:
        super().__init__()
        if image_size < 32:
            raise ReproError(f"vgg11 on images of {image_size} px; at least 32 px were expected")
        layers: list[nn.Module] = []
        inputs = 3
        for stage in STAGES:
            for factor in stage:
                layers += [nn.Conv2d(inputs, factor * width, 3, padding=1), nn.ReLU(inplace=True)]
                inputs = factor * width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        hidden = 64 * width
        self.hidden1 = nn.Linear(inputs * POOLED**2, hidden)
        self.hidden2 = nn.Linear(hidden, hidden)
        self.classifier = nn.Linear(hidden, classes)
        self.dropout1, self.dropout2 = SeededDropout(dropout), SeededDropout(dropout)
        self.width, self.plain = width, plain

    def forward(self, x: Tensor) -> Tensor:
        """Images x (B, 3, H, H) -> logits (B, classes)."""
        h = self.features(x)
        if h.shape[2:] == (1, 1) and not self.plain:
            weight = self.hidden1.weight.unflatten(1, (-1, POOLED**2)).sum(2)  # (64 widths, 8 widths)
            return self._classified(F.linear(h.flatten(1), weight, self.hidden1.bias))
        return self._classified(self._first(h))

    def reference(self, x: Tensor) -> Tensor:
        """``forward`` without the shortcut for maps of 1 x 1."""
        return self._classified(self._first(self.features(x)))

    def _first(self, h: Tensor) -> Tensor:
        return self.hidden1(F.adaptive_avg_pool2d(h, POOLED).flatten(1))

    def _classified(self, h: Tensor) -> Tensor:
        h = self.dropout1(F.relu(h, inplace=True))
        h = self.dropout2(F.relu(self.hidden2(h), inplace=True))
        return self.classifier(h)

    @torch.no_grad()
    def initialise(self, random: np.random.Generator) -> None:
        """He-normal convolutions (fan out), normal fully connected layers, zero biases, as in torchvision.

        The deviation of the fully connected layers is torchvision's 0.01 at width 64 and grows as the width falls, so
        that a narrow network passes its signal on as the published one does.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                draws.he_normal(module.weight, random)
            elif isinstance(module, nn.Linear):
                draws.normal(module.weight, 0.01 * math.sqrt(64 / self.width), random)
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
