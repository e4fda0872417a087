"""ResNet18 and ResNet50 (He et al. 2016), with the stem for small images or the original one.

The stem ``cifar`` is a 3x3 convolution of stride 1; ``imagenet`` is a 7x7 convolution of stride 2 with max pooling
after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import ReproError
from repro.models.norms import norm_layer

NormLayer = Callable[[int], nn.Module]  # channels -> layer


def _conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def _shortcut(inputs: int, outputs: int, stride: int, norm: NormLayer) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(_conv(inputs, outputs, 1, stride), norm(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: (B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: NormLayer) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(inputs, outputs, 3, stride), norm(outputs)
        self.conv2, self.norm2 = _conv(outputs, outputs, 3, 1), norm(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride, norm)

    @property
    def last_norm(self) -> nn.Module:
        """The norm layer in front of the sum."""
        return self.norm2

    def forward(self, x: Tensor) -> Tensor:
        """x (B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        h = F.relu(self.norm1(self.conv1(x)), inplace=True)
        h = self.norm2(self.conv2(h))
        return F.relu(h + self.shortcut(x), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut: (B, inputs, H, W) -> (B, outputs, H / stride, W / stride).

    The 3x3 convolution has a quarter of the output channels and takes the stride, as in torchvision.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, norm: NormLayer) -> None:
        super().__init__()
        inner = outputs // 4
        self.conv1, self.norm1 = _conv(inputs, inner, 1, 1), norm(inner)
        self.conv2, self.norm2 = _conv(inner, inner, 3, stride), norm(inner)
        self.conv3, self.norm3 = _conv(inner, outputs, 1, 1), norm(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride, norm)

    @property
    def last_norm(self) -> nn.Module:
        """The norm layer in front of the sum."""
        return self.norm3

    def forward(self, x: Tensor) -> Tensor:
        """x (B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        h = F.relu(self.norm1(self.conv1(x)), inplace=True)
        h = F.relu(self.norm2(self.conv2(h)), inplace=True)
        h = self.norm3(self.conv3(h))
        return F.relu(h + self.shortcut(x), inplace=True)


class ResNet(nn.Module):
    """Four stages of blocks; a stage halves the image, but for the first, and doubles the channels.

    Args:
        block: kind of block.
        stages: blocks in each of the four stages.
        outputs: channels that leave the first stage.
        classes: outputs of the classifier.
        width: channels of the stem.
        norm: ``batch`` or ``group``.
        stem: ``cifar`` or ``imagenet``.

    Raises:
        ReproError: an unknown stem or norm.
    """

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], stages: Sequence[int], outputs: int, classes: int, width: int,
        norm: str, stem: str,
    ) -> None:  # fmt: skip
        super().__init__()
        if stem not in ("cifar", "imagenet"):
            raise ReproError(f"unknown stem {stem!r}; cifar or imagenet was expected")
        self.norm_kind, self.pooled = norm, stem == "imagenet"
        kernel, stride = (7, 2) if stem == "imagenet" else (3, 1)
        layer = partial(norm_layer, norm, groups=max(1, width // 2))  # 32 at the published width of 64
        self.stem, self.norm = _conv(3, width, kernel, stride), layer(width)
        blocks, inputs = [], width
        for stage, count in enumerate(stages):
            for number in range(count):
                blocks.append(block(inputs, outputs, 2 if stage > 0 and number == 0 else 1, layer))
                inputs = outputs
            outputs *= 2
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images x (B, 3, H, W) -> logits (B, classes)."""
        h = F.relu(self.norm(self.stem(x)), inplace=True)
        if self.pooled:
            h = F.max_pool2d(h, 3, stride=2, padding=1)
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
            elif isinstance(module, BasicBlock | Bottleneck) and self.norm_kind == "group":
                nn.init.zeros_(module.last_norm.weight)  # type: ignore[arg-type]


class ResNet18(ResNet):
    """Four stages of two basic blocks with ``width``, 2, 4 and 8 times ``width`` channels.

    Args:
        classes: outputs.
        width: channels of the first stage; 64 gives the 11 173 962 parameters of the CIFAR variant at 10 classes.
        norm: ``batch`` or ``group``.
        stem: ``cifar`` or ``imagenet``.
    """

    def __init__(self, classes: int, width: int = 64, norm: str = "batch", stem: str = "cifar") -> None:
        super().__init__(BasicBlock, (2, 2, 2, 2), width, classes, width, norm, stem)


class ResNet50(ResNet):
    """Stages of 3, 4, 6 and 3 bottleneck blocks with 4, 8, 16 and 32 times ``width`` channels.

    Args:
        classes: outputs.
        width: channels of the stem; 64 gives the 25 557 032 parameters of the ImageNet variant at 1000 classes.
        norm: ``batch`` or ``group``.
        stem: ``cifar`` or ``imagenet``.
    """

    def __init__(self, classes: int, width: int = 64, norm: str = "batch", stem: str = "cifar") -> None:
        super().__init__(Bottleneck, (3, 4, 6, 3), 4 * width, classes, width, norm, stem)
