"""What a remedy is, and how one is made from its name.

A remedy is one file of this folder: a class registered under its name with the version of its numerics (see
``repro.experiments.numerics``, which reads it from there).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from repro.data.batches import Images
from repro.errors import ReproError
from repro.training.steps import backward, sgd


@dataclass(frozen=True)
class Course:
    """The training that a remedy is part of: the seed of the run, and how many rounds it has."""

    seed: int
    rounds: int


@dataclass(frozen=True)
class Step:
    """What a round of central training is given.

    Attributes:
        model, optimiser: what trains; the optimiser has the learning rate of the round.
        x, y: the images of the round (B, 3, H, W) and their labels (B,).
        precision: of forward and backward passes.
        lr: the learning rate of the round.
        number: rounds before it.
        seed: of what the network drops.
        images: all training images; None where only those of the round are known.
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    x: Tensor
    y: Tensor
    precision: str
    lr: float
    number: int
    seed: int
    images: Images | None = None


class Taken(NamedTuple):
    """What a round did: mean loss over its images, images classified correctly, and synchronisations.

    ``synchronisations``: how often workers that share the round's images would average gradients or models in it.
    ``further``: training images besides those of the round whose gradients it took, as often as it took them.
    """

    loss: float
    correct: int
    synchronisations: int = 1
    further: int = 0


class Remedy:
    """Plain training: one step of SGD a round. A remedy overrides what it changes; its options are its arguments.

    Args:
        course: the training that it is part of.
    """

    def __init__(self, course: Course) -> None:
        self.course = course

    def optimiser(self, model: nn.Module, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
        """The optimiser of all parameters of ``model``; its learning rate is set before every round."""
        return sgd(model, momentum, weight_decay)

    def take(self, step: Step) -> Taken:
        """Train on the images of a round, each of which is used once."""
        loss, correct = backward(step.model, step.x, step.y, step.precision, [step.seed])
        step.optimiser.step()
        return Taken(loss, correct)

    def state(self) -> dict[str, Any]:
        """What the rounds so far have changed, for a checkpoint."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``, as `state` gave it."""


class Entry(NamedTuple):
    """What a name stands for: the class of the remedy, and the version of its numerics."""

    make: Any
    version: int


REGISTERED: dict[str, Entry] = {}
"""Every remedy by name."""

R = TypeVar("R", bound=type[Remedy])


def register(name: str, *, version: int) -> Callable[[R], R]:
    """Class decorator: ``name`` is this class.

    ``repro.experiments.numerics`` reads the arguments from the source, so they must be literals. Raise ``version`` when
    a change alters any result, also one of what the class imports from this folder.

    Raises:
        ValueError: the name is taken.
    """

    def add(made: R) -> R:
        if name in REGISTERED:
            raise ValueError(f"remedy {name}: its name is taken; take another one")
        REGISTERED[name] = Entry(made, version)
        return made

    return add


def names() -> tuple[str, ...]:
    """All remedies, in alphabetical order."""
    return tuple(sorted(REGISTERED))


def build(name: str, course: Course, options: Mapping[str, Any] | None = None) -> Remedy:
    """A remedy by its name.

    Args:
        name: one of ``names()``.
        course: the training that it is part of.
        options: the arguments of its class besides.

    Raises:
        ReproError: an unknown remedy, or options that it does not have or whose values it refuses.
    """
    if name not in REGISTERED:
        raise ReproError(f"unknown remedy {name!r}; one of {', '.join(names())} was expected")
    try:
        made: Remedy = REGISTERED[name].make(course, **(options or {}))
    except TypeError as error:
        raise ReproError(f"remedy {name}: {error}; see its class in repro/training/remedies") from error
    return made


def expect_option(name: str, value: object, fits: bool, expected: str) -> None:
    """Raise a ReproError unless the value of an option ``fits``."""
    if not fits:
        raise ReproError(f"remedy option {name}: {value!r}; {expected} was expected; correct it")
