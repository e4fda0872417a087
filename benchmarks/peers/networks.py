"""The benchmarks' networks in plain PyTorch: what the plain loop and the peers train.

Parameters have the names of ``repro.models``, so that weights can be copied. Nothing here needs this package.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PlainBlock(nn.Module):
    """Basic block of ResNet18."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        h = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(h)) + self.shortcut(x), inplace=True)


class PlainResNet18(nn.Module):
    """ResNet18 for small images."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        blocks, inputs = [], width
        for stage in range(4):
            outputs = width * 2**stage
            blocks += [PlainBlock(inputs, outputs, 1 if stage == 0 else 2), PlainBlock(outputs, outputs, 1)]
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images x (B, 3, H, W) -> logits (B, classes)."""
        h = F.relu(self.norm(self.stem(x)), inplace=True)
        return self.classifier(self.blocks(h).mean(dim=(2, 3)))


class PlainCNN(nn.Module):
    """Two convolutions, a pooling, a fully connected layer; for images of 32 px."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, width, 3), nn.Conv2d(width, 2 * width, 3)
        self.hidden, self.classifier = nn.Linear(2 * width * 14**2, 4 * width), nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images x (B, 3, 32, 32) -> logits (B, classes)."""
        h = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.classifier(F.relu(self.hidden(F.max_pool2d(h, 2).flatten(1))))


NETWORKS = {"resnet18": PlainResNet18, "cnn": PlainCNN}


def build(model: str, classes: int, width: int) -> nn.Module:
    """A network by the name that it has in ``repro.models``."""
    return NETWORKS[model](classes, width)
