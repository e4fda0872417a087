"""Noise added to the gradient of a large batch, as much as a small batch has (Wen et al. 2020).

"An empirical study of large-batch stochastic gradient descent with structured covariance noise" adds noise with the
diagonal of the Fisher matrix as covariance, and compares it with isotropic noise.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from repro.randomness import generator
from repro.training.averages import WeightedMean
from repro.training.remedies.base import Course, Remedy, Step, Taken, expect_option, register
from repro.training.remedies.parts import Gradient, gradients
from repro.training.rounds import Tally


class Noise(Remedy):
    """The round's gradient, of B images, plus normal noise, so that its variance is that of ``small`` images.

    The round is passed in K = B / ``small`` parts, whose gradients g_k have the mean g, which is that of the round, and
    in each coordinate the variance V = sum (g_k - g)^2 / (K - 1): that of a batch of ``small`` images. The gradient of
    the round has V / K of it. What lacks, V (1 - 1 / K), is added.

    Args:
        course: the training that it is part of.
        small: images of the batch whose noise is wanted.
    """

    def __init__(self, course: Course, small: int = 32) -> None:
        expect_option("small", small, isinstance(small, int) and small > 0, "a whole number from 1 up")
        super().__init__(course)
        self.small = small

    def take(self, step: Step) -> Taken:
        """See ``Remedy``."""
        found, tally = list[Gradient](), Tally()
        for part in gradients(step, self.small):
            found.append(part)
            tally.count(part.loss, part.correct, part.images)
        mean, variance = moments(found)
        parameters = list(step.model.parameters())
        if len(found) > 1:
            drawn = self._normal(step.number, variance)
            lacking = 1 - 1 / len(found)
            for average, spread, values in zip(mean, self.shape(variance), drawn, strict=True):
                average.add_(values * (lacking * spread).sqrt())
        for parameter, average in zip(parameters, mean, strict=True):
            parameter.grad = average
        step.optimiser.step()
        return Taken(tally.loss / tally.images, tally.correct)

    def shape(self, variance: list[Tensor]) -> list[Tensor]:
        """The variance of the noise in each coordinate, from that of the gradients of ``small`` images."""
        return variance

    def _normal(self, number: int, like: list[Tensor]) -> list[Tensor]:
        """Standard normal numbers for round ``number``, the same on every processor."""
        random = generator(self.course.seed, "noise", number)
        return [torch.from_numpy(np.asarray(random.standard_normal(tuple(each.shape)))).to(each) for each in like]


@register("fisher-noise", version=1)
class FisherNoise(Noise):
    """In each coordinate the variance that the gradients of the parts have there.

    The diagonal of the Fisher matrix is the mean square of the gradients of single images; the variance of the parts,
    times their size, estimates the same without the square of the mean.
    """


@register("isotropic-noise", version=1)
class IsotropicNoise(Noise):
    """The same variance in all coordinates; their sum is that of the gradients of the parts."""

    def shape(self, variance: list[Tensor]) -> list[Tensor]:
        """See ``Noise``."""
        total = sum(float(each.double().sum()) for each in variance)
        equal = total / sum(each.numel() for each in variance)
        return [torch.full_like(each, equal) for each in variance]


def moments(found: list[Gradient]) -> tuple[list[Tensor], list[Tensor]]:
    """Mean of the gradients of parts, weighted by images, and their variance in each coordinate; zero of one part."""
    mean = WeightedMean(sum(part.images for part in found))
    for part in found:
        mean.add(part.values, part.images)
    average = mean.result()
    variance = [torch.zeros_like(each) for each in average]
    for part in found:
        for total, value, middle in zip(variance, part.values, average, strict=True):
            total.addcmul_(value - middle, value - middle, value=1 / max(1, len(found) - 1))
    return average, variance
