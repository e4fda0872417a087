"""Networks, built by name. Facts and parameter counts: Table 4 of post 2 and the tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from repro.errors import ReproError
from repro.models.alexnet import AlexNet
from repro.models.cnn import SmallCNN
from repro.models.resnet import SMALLEST, ResNet18, ResNet50
from repro.models.vgg import VGG11
from repro.models.vit import VisionTransformer
from repro.randomness import generator

__all__ = ["build"]

_OTHERS: dict[str, tuple[Callable[..., nn.Module], str, tuple[str, ...]]] = {
    "vgg11": (VGG11, "none", ("dropout",)),
    "alexnet": (AlexNet, "none", ("dropout",)),
    "vit": (VisionTransformer, "layer", ("patch", "depth")),
    "cnn": (SmallCNN, "none", ()),
}
"""Networks that are no ResNets: class, the only normalisation it has, and what else can be chosen."""


def build(
    model: str,
    *,
    classes: int,
    width: int = 64,
    norm: str = "batch",
    last_scale_zero: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    image_size: int = 32,
    dropout: float | None = None,
    patch: int | None = None,
    depth: int | None = None,
    plain: bool = False,
) -> nn.Module:
    """Build and initialise a network; the same arguments always give the same weights.

    Args:
        model: ``resnet18``, ``resnet50``, ``vgg11``, ``alexnet``, ``vit`` or ``cnn``.
        classes: outputs of the classifier.
        width: channels of the first stage (64 in the original).
        norm: of a ResNet ``batch``, ``group``, ``layer``, ``instance``, ``none`` or ``fixup``; ``layer`` for ``vit``,
            ``none`` for the others.
        last_scale_zero: a ResNet's group, layer and instance norm start with the last scale of each block at zero.
        seed: seed of the initial weights.
        dtype: floating type of the weights.
        image_size: height and width of the images in pixels; at least 8 for ResNets, whose last stride would otherwise
            meet a single pixel, where the bfloat16 weight gradient of torch's CPU build is uninitialised memory.
        dropout: of ``vgg11`` and ``alexnet``, the share of dropped features; 0.5 when None.
        patch, depth: of ``vit``, pixels of a patch and number of blocks; 16 and 24 when None.
        plain: without shortcuts that give the same results for less (``vgg11`` has one): what a measurement of costs is
            about.

    Raises:
        ReproError: an unknown network or norm, something that it does not have, or images that are too small for it.
    """
    chosen = {"dropout": dropout, "patch": patch, "depth": depth}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    networks = {"resnet18": ResNet18, "resnet50": ResNet50}
    if model not in networks and model not in _OTHERS:
        raise ReproError(f"unknown model {model!r}; one of {', '.join([*_OTHERS, *networks])} was expected")
    has = _OTHERS[model][2] if model in _OTHERS else ()
    if foreign := [name for name in chosen if name not in has]:
        raise ReproError(f"{model} has no {foreign[0]}; leave it out")
    if model in networks and image_size < SMALLEST:
        raise ReproError(f"{model} on images of {image_size} px; at least {SMALLEST} px were expected")
    if plain and model == "vgg11":
        chosen["plain"] = True
    with torch.random.fork_rng(devices=[]):  # torch's own initialisation, overwritten below, draws globally
        if model in _OTHERS:
            net = _other(model, norm, classes=classes, width=width, image_size=image_size, **chosen)
        else:
            net = networks[model](classes=classes, width=width, norm=norm)
    random = generator(seed, "initial weights")
    if model in networks:
        net.initialise(random, last_scale_zero)
    else:
        net.initialise(random)
    net.to(dtype)
    net.to(memory_format=torch.channels_last)
    return net


def _other(model: str, norm: str, **options: Any) -> Any:
    network, own, _ = _OTHERS[model]
    if norm != own:
        raise ReproError(f"{model} with norm {norm!r}; {own!r} was expected, the only one it has")
    return network(**options)
