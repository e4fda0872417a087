"""Sizes of the networks of post 2, counted from their definitions (e2.table4): nothing is allocated."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from repro.errors import ReproError
from repro.models.resnet import ResNet18, ResNet50

_NETWORKS = {"resnet18": ResNet18, "resnet50": ResNet50}


@dataclass(frozen=True)
class Size:
    """What one network holds.

    Attributes:
        model, classes, stem: which network.
        parameters, convolutional, other: numbers of parameters; the latter two add up to the first.
        classifier: parameters of the classifier, which are among ``other``.
        tensors: number of parameter tensors.
        statistics: numbers in the running means and variances of BatchNorm, which are no parameters.
    """

    model: str
    classes: int
    stem: str
    parameters: int
    convolutional: int
    other: int
    classifier: int
    tensors: int
    statistics: int


def shapes(model: str, classes: int, stem: str = "cifar", width: int = 64) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by name, in the network's order.

    Raises:
        ReproError: an unknown network or stem.
    """
    return {name: tuple(p.shape) for name, p in _skeleton(model, classes, stem, width).named_parameters()}


def count(model: str, classes: int, stem: str = "cifar", width: int = 64) -> Size:
    """Count the parameters of a network with BatchNorm.

    Args:
        model: ``resnet18`` or ``resnet50``.
        classes: outputs of the classifier.
        stem: ``cifar`` or ``imagenet``.
        width: channels of the stem (64 in the original).

    Raises:
        ReproError: an unknown network or stem.
    """
    net = _skeleton(model, classes, stem, width)
    parameters = dict(net.named_parameters())
    total = sum(p.numel() for p in parameters.values())
    convolutional = sum(p.numel() for p in parameters.values() if p.dim() == 4)
    return Size(
        model=model,
        classes=classes,
        stem=stem,
        parameters=total,
        convolutional=convolutional,
        other=total - convolutional,
        classifier=sum(p.numel() for name, p in parameters.items() if name.startswith("classifier.")),
        tensors=len(parameters),
        statistics=sum(buffer.numel() for buffer in net.buffers() if buffer.is_floating_point()),
    )


def _skeleton(model: str, classes: int, stem: str, width: int) -> torch.nn.Module:
    if model not in _NETWORKS:
        raise ReproError(f"unknown model {model!r}; {' or '.join(_NETWORKS)} was expected")
    with torch.device("meta"):
        return _NETWORKS[model](classes=classes, stem=stem, width=width)
