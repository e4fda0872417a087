"""ResNet18 and ResNet50 (He et al. 2016), with the stem for small images or the original one.

The stem ``cifar`` is a 3x3 convolution of stride 1; ``imagenet`` is a 7x7 convolution of stride 2 with max pooling
after it. One argument chooses the normalisation; ``fixup`` has none, but the initialisation, scalar biases and scalar
multipliers of Fixup (Zhang et al. 2019), placed as in the authors' repository (github.com/hongyi-zhang/Fixup).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import ReproError
from repro.models import draws
from repro.models.base import register
from repro.models.norms import KINDS, Norms

FIXUP_LR_FACTOR = 0.1  # of Fixup's scalars, in the authors' repository
SMALLEST = 8  # pixels that leave the last stride, at an eighth of the image, more than one to stride over
VECTOR = 8  # float32 numbers in a vector of AVX2


def _conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def _shortcut(inputs: int, outputs: int, stride: int, norms: Norms) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    kind = _Subsampling if stride > 1 and inputs < VECTOR else nn.Conv2d
    return nn.Sequential(kind(inputs, outputs, 1, stride, bias=False), norms.shortcut(outputs))


class _Subsampling(nn.Conv2d):
    """A 1x1 convolution with a stride, computed as one without on the pixels that it reads.

    On processors without AVX-512, oneDNN's weight gradient of such a convolution in float32, channels last, writes
    beyond its memory for some numbers of channels that do not fill a vector (github.com/oneapi-src/oneDNN/issues/6035).
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, O, H / stride, W / stride)."""
        return F.conv2d(x[:, :, :: self.stride[0], :: self.stride[1]], self.weight)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: (B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int, norms: Norms) -> None:
        super().__init__()
        self.shift1, self.conv1, self.norm1 = norms.before(), _conv(inputs, outputs, 3, stride), norms.layer(outputs)
        self.shift2, self.conv2, self.norm2 = norms.before(), _conv(outputs, outputs, 3, 1), norms.last(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride, norms)

    @property
    def branch(self) -> list[nn.Conv2d]:
        """The convolutions of the residual branch."""
        return [self.conv1, self.conv2]

    @property
    def last_norm(self) -> nn.Module:
        """The norm layer in front of the sum."""
        return self.norm2

    def forward(self, x: Tensor) -> Tensor:
        """x (B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        shifted = self.shift1(x)
        h = F.relu(self.norm1(self.conv1(shifted)), inplace=True)
        h = self.norm2(self.conv2(self.shift2(h)))
        return _joined(h, x, shifted, self.shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut: (B, inputs, H, W) -> (B, outputs, H / stride, W / stride).

    The 3x3 convolution has a quarter of the output channels and takes the stride, as in torchvision.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, norms: Norms) -> None:
        super().__init__()
        inner = outputs // 4
        self.shift1, self.conv1, self.norm1 = norms.before(), _conv(inputs, inner, 1, 1), norms.layer(inner)
        self.shift2, self.conv2, self.norm2 = norms.before(), _conv(inner, inner, 3, stride), norms.layer(inner)
        self.shift3, self.conv3, self.norm3 = norms.before(), _conv(inner, outputs, 1, 1), norms.last(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride, norms)

    @property
    def branch(self) -> list[nn.Conv2d]:
        """The convolutions of the residual branch."""
        return [self.conv1, self.conv2, self.conv3]

    @property
    def last_norm(self) -> nn.Module:
        """The norm layer in front of the sum."""
        return self.norm3

    def forward(self, x: Tensor) -> Tensor:
        """x (B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        shifted = self.shift1(x)
        h = F.relu(self.norm1(self.conv1(shifted)), inplace=True)
        h = F.relu(self.norm2(self.conv2(self.shift2(h))), inplace=True)
        h = self.norm3(self.conv3(self.shift3(h)))
        return _joined(h, x, shifted, self.shortcut)


def _joined(h: Tensor, x: Tensor, shifted: Tensor, shortcut: nn.Module) -> Tensor:
    """The end of a block: an identity takes the block's input, a convolution what the branch takes, as Fixup has it."""
    beside = x if isinstance(shortcut, nn.Identity) else shortcut(shifted)
    return F.relu(h + beside, inplace=True)


class ResNet(nn.Module):
    """Four stages of blocks; a stage halves the image, but for the first, and doubles the channels.

    Args:
        block: kind of block.
        stages: blocks in each of the four stages.
        outputs: channels that leave the first stage.
        classes: outputs of the classifier.
        width: channels of the stem.
        norm: ``batch``, ``group``, ``layer``, ``instance``, ``none`` or ``fixup``.
        stem: ``cifar`` or ``imagenet``.

    Raises:
        ReproError: an unknown stem or norm.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        stages: Sequence[int],
        outputs: int,
        classes: int,
        width: int,
        norm: str,
        stem: str,
    ) -> None:
        super().__init__()
        if stem not in ("cifar", "imagenet"):
            raise ReproError(f"unknown stem {stem!r}; cifar or imagenet was expected")
        self.norm_kind, self.pooled = norm, stem == "imagenet"
        kernel, stride = (7, 2) if stem == "imagenet" else (3, 1)
        norms = Norms(norm, groups=max(1, width // 2))  # 32 at the published width of 64
        self.stem, self.norm = _conv(3, width, kernel, stride), norms.layer(width)
        blocks, inputs = [], width
        for stage, count in enumerate(stages):
            for number in range(count):
                blocks.append(block(inputs, outputs, 2 if stage > 0 and number == 0 else 1, norms))
                inputs = outputs
            outputs *= 2
        self.blocks = nn.Sequential(*blocks)
        self.shift, self.classifier = norms.before(), nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images x (B, 3, H, W) -> logits (B, classes)."""
        h = F.relu(self.norm(self.stem(x)), inplace=True)
        if self.pooled:
            h = F.max_pool2d(h, 3, stride=2, padding=1)
        return self.classifier(self.shift(self.blocks(h).mean(dim=(2, 3))))

    @torch.no_grad()
    def initialise(self, random: np.random.Generator, last_scale_zero: bool = True) -> None:
        """He-normal convolutions (fan out), uniform classifier (PyTorch's default range), norms at one and zero.

        Args:
            random: draws the weights.
            last_scale_zero: with group, layer and instance norm the last scale of each block starts at zero (Wu & He
                2018), so that no branch adds anything at first; otherwise each adds one of unit variance.
        """
        zeroed = last_scale_zero and self.norm_kind in ("group", "layer", "instance")
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                draws.he_normal(module.weight, random)
            elif isinstance(module, nn.Linear):
                draws.default_uniform(module.weight, module.bias, random)
            elif isinstance(module, BasicBlock | Bottleneck) and zeroed:
                nn.init.zeros_(module.last_norm.weight)  # type: ignore[arg-type]
        if self.norm_kind == "fixup":
            self._fixup(random)

    def _fixup(self, random: np.random.Generator) -> None:
        """Fixup's three changes: zero classifier, zero last convolutions, the others in a branch made smaller.

        The factor is L^(-1 / (2m - 2)) for L branches of m convolutions. The stem is not part of a branch; it keeps
        PyTorch's default, as in the authors' repository.
        """
        draws.default_uniform(self.stem.weight, None, random)
        for block in self.blocks:
            *inner, last = block.branch  # type: ignore[misc]
            for conv in inner:
                conv.weight *= len(self.blocks) ** (-1 / (2 * len(inner)))
            nn.init.zeros_(last.weight)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def lr_factors(self) -> dict[str, float]:
        """Learning rate of parameters against the schedule's, by name, where it is not 1.

        With Fixup every bias and multiplier, the classifier's bias among them, learns at a tenth, as in the authors'
        repository; there the scalars' rate does not grow with the batch, here the factor is of the same schedule.
        """
        if self.norm_kind != "fixup":
            return {}
        names = (name for name, _ in self.named_parameters())
        return {name: FIXUP_LR_FACTOR for name in names if name.endswith(("bias", "scale"))}


@register("resnet18", norms=KINDS, options=("last_scale_zero",), smallest=SMALLEST)
class ResNet18(ResNet):
    """Four stages of two basic blocks with ``width``, 2, 4 and 8 times ``width`` channels.

    Args:
        classes: outputs.
        width: channels of the first stage; 64 gives the 11 173 962 parameters of the CIFAR variant at 10 classes, and
            11 164 404 with Fixup: its 42 scalars for 9 600 of norm layers. Its shortcuts are the 1x1 convolutions of
            the other networks, where the authors' networks for CIFAR, but not those for ImageNet, have none.
        norm: ``batch``, ``group``, ``layer``, ``instance``, ``none`` or ``fixup``.
        stem: ``cifar`` or ``imagenet``.
    """

    def __init__(self, classes: int, width: int = 64, norm: str = "batch", stem: str = "cifar") -> None:
        super().__init__(BasicBlock, (2, 2, 2, 2), width, classes, width, norm, stem)


@register("resnet50", norms=KINDS, options=("last_scale_zero",), smallest=SMALLEST)
class ResNet50(ResNet):
    """Stages of 3, 4, 6 and 3 bottleneck blocks with 4, 8, 16 and 32 times ``width`` channels.

    Args:
        classes: outputs.
        width: channels of the stem; 64 gives the 25 557 032 parameters of the ImageNet variant at 1000 classes.
        norm: ``batch``, ``group``, ``layer``, ``instance``, ``none`` or ``fixup``.
        stem: ``cifar`` or ``imagenet``.
    """

    def __init__(self, classes: int, width: int = 64, norm: str = "batch", stem: str = "cifar") -> None:
        super().__init__(Bottleneck, (3, 4, 6, 3), 4 * width, classes, width, norm, stem)
