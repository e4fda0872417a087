"""Networks, built by name. Facts and parameter counts: Table 4 of post 2 and the tests.

Every module of this folder is imported here, so that a network needs no line outside of its own file.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import numpy as np
import torch
from torch import nn

from repro.errors import ReproError
from repro.experiments.spec import TORCHVISION
from repro.models import vision
from repro.models.base import NETWORKS
from repro.randomness import generator

__all__ = ["NAMES", "build"]

for _found in iter_modules(__path__):
    import_module(f"{__name__}.{_found.name}")
NAMES = tuple(NETWORKS)
"""All networks."""
_WHERE_THERE_IS = {"last_scale_zero", "plain"}  # options that mean nothing to a network that does not have them


def build(
    model: str,
    *,
    classes: int,
    width: int | None = None,
    norm: str | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    image_size: int = 32,
    **options: Any,
) -> nn.Module:
    """Build and initialise a network; the same arguments always give the same weights.

    Args:
        model: one of ``NAMES``, or ``torchvision:`` and the name of a classification network of torchvision, which
            takes neither a width nor a norm nor options (``repro.models.vision``).
        classes: outputs of the classifier.
        width: channels of the first stage; None: 64, as in the original.
        norm: of a ResNet ``batch`` (also when None), ``group``, ``layer``, ``instance``, ``none`` or ``fixup``;
            ``layer`` for ``vit``, ``none`` for the others.
        seed: seed of the initial weights.
        dtype: floating type of the weights.
        image_size: height and width of the images in pixels; at least 8 for ResNets, whose last stride would otherwise
            meet a single pixel, where the bfloat16 weight gradient of torch's CPU build is uninitialised memory.
        options: of single networks; None is the network's own value. ``dropout`` of ``vgg11`` and ``alexnet``: the
            share of dropped features. ``patch`` and ``depth`` of ``vit``: pixels of a patch and number of blocks.
            ``last_scale_zero``: a ResNet's group, layer and instance norm start with the last scale of each block at
            zero (the default). ``plain``: without shortcuts that give the same results for less (``vgg11`` has one):
            what a measurement of costs is about. The last two change nothing of a network that has no such thing.

    Raises:
        ReproError: an unknown network or norm, something that it does not have, or images that are too small for it.
    """
    of_torchvision, random = model.startswith(TORCHVISION), generator(seed, "initial weights")
    if model not in NETWORKS and not of_torchvision:
        raise ReproError(f"unknown model {model!r}; one of {', '.join(NAMES)} or {TORCHVISION}NAME was expected")
    known = _WHERE_THERE_IS if of_torchvision else {*_WHERE_THERE_IS, *NETWORKS[model].options, "width", "norm"}
    chosen = {name: value for name, value in {"width": width, "norm": norm, **options}.items() if value is not None}
    if foreign := [name for name in chosen if name not in known]:
        raise ReproError(f"{model} has no {foreign[0]}; leave it out")
    net: Any
    with torch.random.fork_rng(devices=[]):  # torch's own initialisation, overwritten below, draws globally
        if of_torchvision:
            net = vision.build(model, classes=classes, image_size=image_size, random=random)
        else:
            net = _ours(model, classes, image_size, random, **chosen)
    net.to(dtype)
    return net.to(memory_format=torch.channels_last)


def _ours(
    model: str,
    classes: int,
    image_size: int,
    random: np.random.Generator,
    *,
    width: int = 64,
    norm: str = "batch",
    **options: Any,
) -> nn.Module:
    """A network of this package."""
    entry = NETWORKS[model]
    chosen = {name: value for name, value in options.items() if name in entry.options}
    if entry.smallest is not None and image_size < entry.smallest:
        raise ReproError(f"{model} on images of {image_size} px; at least {entry.smallest} px were expected")
    initial = {name: chosen.pop(name) for name in ("last_scale_zero",) if name in chosen}
    if len(entry.norms) > 1:
        chosen |= {"norm": norm}
    else:
        chosen |= {"image_size": image_size}
        if norm not in entry.norms:
            raise ReproError(f"{model} with norm {norm!r}; {entry.norms[0]!r} was expected, the only one it has")
    net = entry.make(classes=classes, width=width, **chosen)
    net.initialise(random, **initial)
    return net
