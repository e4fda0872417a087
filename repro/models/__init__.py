"""Networks, built by name. Facts and parameter counts: Table 4 of post 2 and the tests."""

from __future__ import annotations

import torch
from torch import nn

from repro.errors import ReproError
from repro.models.resnet import ResNet18, ResNet50

__all__ = ["build"]


def build(
    model: str,
    *,
    classes: int,
    width: int = 64,
    norm: str = "batch",
    last_scale_zero: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """Build and initialise a network; the same arguments always give the same weights.

    Args:
        model: ``resnet18`` or ``resnet50``.
        classes: outputs of the classifier.
        width: channels of the first stage (64 in the original).
        norm: ``batch``, ``group``, ``layer``, ``instance``, ``none`` or ``fixup``.
        last_scale_zero: group, layer and instance norm start with the last scale of each block at zero.
        seed: seed of the initial weights.
        dtype: floating type of the weights.

    Raises:
        ReproError: an unknown network or norm.
    """
    networks = {"resnet18": ResNet18, "resnet50": ResNet50}
    if model not in networks:
        raise ReproError(f"unknown model {model!r}; one of {', '.join(networks)} was expected")
    with torch.random.fork_rng(devices=[]):  # torch's own initialisation, overwritten below, draws globally
        net = networks[model](classes=classes, width=width, norm=norm)
    net.initialise(torch.Generator().manual_seed(seed), last_scale_zero)
    net.to(dtype)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net
