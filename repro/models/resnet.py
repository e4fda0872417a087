"""ResNet18 for small images (He et al. 2016) with the 3x3 stride-1 stem and no pooling after it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.models.norms import norm_layer


def _conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: (B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(inputs, outputs, 3, stride), norm_layer(norm, outputs)
        self.conv2, self.norm2 = _conv(outputs, outputs, 3, 1), norm_layer(norm, outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(_conv(inputs, outputs, 1, stride), norm_layer(norm, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        h = F.relu(self.norm1(self.conv1(x)), inplace=True)
        h = self.norm2(self.conv2(h))
        return F.relu(h + self.shortcut(x), inplace=True)


class ResNet18(nn.Module):
    """Four stages of two basic blocks with ``width``, 2, 4 and 8 times ``width`` channels.

    Args:
        classes: outputs.
        width: channels of the first stage; 64 gives the 11 173 962 parameters of the CIFAR variant at 10 classes.
        norm: ``batch`` or ``group``.
    """

    def __init__(self, classes: int, width: int = 64, norm: str = "batch") -> None:
        super().__init__()
        self.norm_kind = norm
        self.stem, self.norm = _conv(3, width, 3, 1), norm_layer(norm, width)
        blocks, inputs = [], width
        for stage in range(4):
            outputs = width * 2**stage
            blocks += [
                BasicBlock(inputs, outputs, 1 if stage == 0 else 2, norm),
                BasicBlock(outputs, outputs, 1, norm),
            ]
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images x (B, 3, H, W) -> logits (B, classes)."""
        h = F.relu(self.norm(self.stem(x)), inplace=True)
        return self.classifier(self.blocks(h).mean(dim=(2, 3)))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """He-normal convolutions (fan out), uniform classifier (PyTorch's default range), norms at one and zero.

        With GroupNorm the last scale of each block starts at zero (Wu & He 2018); otherwise training at a learning
        rate of 0.1 stalls.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            elif isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(module.in_features)
                module.weight.uniform_(-bound, bound, generator=generator)
                module.bias.uniform_(-bound, bound, generator=generator)
            elif isinstance(module, BasicBlock) and self.norm_kind == "group":
                nn.init.zeros_(module.norm2.weight)  # type: ignore[arg-type]
