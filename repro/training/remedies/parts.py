"""The images of a round in parts, as workers would share them, and the gradients of the parts.

What changes a result here changes every remedy that imports it: raise their versions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from repro.errors import ReproError
from repro.experiments.sizes import local_steps
from repro.models.norms import batch_norms
from repro.randomness import derive
from repro.training import steps
from repro.training.remedies.base import Step


class Part(NamedTuple):
    """Some images of a round: x (b, 3, H, W), y (b,), and the seed of what the network drops for them."""

    x: Tensor
    y: Tensor
    seed: int


class Gradient(NamedTuple):
    """The gradient of the mean loss on some images, parameter by parameter, and what else the pass tells."""

    values: list[Tensor]
    loss: float
    correct: int
    images: int


def split(step: Step, size: int) -> list[Part]:
    """The images of a round in their order, in parts whose sizes differ by at most one and are near ``size``.

    Raises:
        ReproError: a network with BatchNorm, which would normalise each part by itself.
    """
    return shares(step, local_steps(len(step.y), size))


def shares(step: Step, count: int) -> list[Part]:
    """The images of a round in their order, in ``count`` parts whose sizes differ by at most one.

    Raises:
        ReproError: as ``split``, or fewer images than parts.
    """
    if batch_norms(step.model):
        raise ReproError("norm batch with a remedy that trains on parts of a batch; another norm was expected")
    if len(step.y) < count:
        raise ReproError(f"{len(step.y)} images in a round for {count} parts; an image each was expected")
    seeds = [step.seed, *(derive(step.seed, "part", number) for number in range(1, count))]
    return list(map(Part, step.x.tensor_split(count), step.y.tensor_split(count), seeds))


def gradient(step: Step, part: Part) -> Gradient:
    """The gradient on a part at the weights that the model has now; the model holds it, too."""
    loss, correct = steps.backward(step.model, part.x, part.y, step.precision, [part.seed])
    return Gradient(list(steps.gradients(step.model).values()), loss, correct, len(part.y))


def gradients(step: Step, size: int) -> Iterator[Gradient]:
    """``gradient`` on each part of ``split``, one after the other."""
    return (gradient(step, part) for part in split(step, size))


def square(values: list[Tensor]) -> float:
    """Squared L2 norm of a gradient."""
    return float(torch.stack([(value.double() ** 2).sum() for value in values]).sum())
