"""A batch that follows gradient noise (McCandlish et al. 2018, "An empirical model of large-batch training")."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from repro.errors import ReproError
from repro.experiments.sizes import local_steps
from repro.training.averages import WeightedMean
from repro.training.remedies.base import Course, Remedy, Step, Taken, expect_option, register
from repro.training.remedies.parts import Part, gradient, shares, square
from repro.training.rounds import Tally


def two_batch_estimate(small: float, large: float, sizes: tuple[float, float]) -> tuple[float, float]:
    """Squared norm of the true gradient, and trace of the covariance of single images' gradients (appendix A.1).

    Both are unbiased, and either may come out negative. Their ratio, trace over norm, is the simple noise scale.

    Args:
        small, large: mean squared norms of gradients of the two ``sizes``.
        sizes: images b and B of each, b < B.

    Raises:
        ReproError: sizes that do not rise.

    >>> two_batch_estimate(3.0, 2.0, (1, 2))  # |G|^2 + S / b
    (1.0, 2.0)
    """
    few, many = sizes
    if not 0 < few < many:
        raise ReproError(f"gradients of {few:g} and {many:g} images; two rising sizes were expected")
    return (many * large - few * small) / (many - few), (small - large) / (1 / few - 1 / many)


@dataclass
class Scale:
    """Running means of both estimates, of which only the ratio is used, and images of the next steps."""

    norm: float = 0.0
    trace: float = 0.0
    images: int = 0


@register("adaptive", version=1)
class Adaptive(Remedy):
    """Steps of as many images as the simple noise scale says, a power of two, between ``least`` and a whole round.

    Every step is passed in two halves: the squared norms of their gradients and of their mean are the two batches of
    the estimate. Its two numbers are averaged over steps, each of which keeps ``memory`` of the past, and the size
    changes between rounds. The rate stays that of the schedule.

    Args:
        course: the training that it is part of.
        least: images of a step, at the least and at first.
        memory: what a running mean keeps of its last value in a step.
    """

    def __init__(self, course: Course, least: int = 32, memory: float = 0.95) -> None:
        expect_option("least", least, isinstance(least, int) and least > 1, "a whole number from 2 up")
        expect_option("memory", memory, 0 <= memory < 1, "a number from 0 up and below 1")
        super().__init__(course)
        self.least, self.memory, self.scale = least, memory, Scale(images=least)

    def take(self, step: Step) -> Taken:
        """See ``Remedy``."""
        tally, steps = Tally(), split_in_halves(step, self.scale.images)
        for halves in steps:
            found = [gradient(step, half) for half in halves]
            mean = WeightedMean(sum(half.images for half in found))
            for half in found:
                mean.add(half.values, half.images)
                tally.count(half.loss, half.correct, half.images)
            whole = mean.result()
            for parameter, average in zip(step.model.parameters(), whole, strict=True):
                parameter.grad = average
            step.optimiser.step()
            self._observe([square(half.values) for half in found], square(whole), sum(half.images for half in found))
        self.scale.images = self._next(len(step.y))
        return Taken(tally.loss / tally.images, tally.correct, len(steps))

    def _observe(self, halves: list[float], whole: float, images: int) -> None:
        norm, trace = two_batch_estimate(sum(halves) / 2, whole, (images / 2, images))
        self.scale.norm = self.memory * self.scale.norm + (1 - self.memory) * norm
        self.scale.trace = self.memory * self.scale.trace + (1 - self.memory) * trace

    def _next(self, most: int) -> int:
        """Images of the next steps; a norm that is not above 0 is drowned in noise, and calls for the most."""
        if self.scale.norm <= 0:
            return most
        wanted = max(1.0, self.scale.trace / self.scale.norm)
        return int(min(most, max(self.least, 2 ** round(math.log2(wanted)))))

    def state(self) -> dict[str, Any]:
        """See ``Remedy``."""
        return asdict(self.scale)

    def restore(self, state: Mapping[str, Any]) -> None:
        """See ``Remedy``."""
        self.scale = Scale(**state)


def split_in_halves(step: Step, size: int) -> list[tuple[Part, Part]]:
    """The images of a round in pairs of halves of parts near ``size``."""
    halves = shares(step, 2 * local_steps(len(step.y), size))
    return list(zip(halves[::2], halves[1::2], strict=True))
