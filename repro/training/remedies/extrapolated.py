"""Extrapolated SGD (Lin, Kong, Stich, Jaggi 2020, "Extrapolation for large-batch training in deep learning")."""

from __future__ import annotations

import torch

from repro.training.averages import WeightedMean
from repro.training.remedies.base import Course, Remedy, Step, Taken, expect_option, register
from repro.training.remedies.parts import gradient, split
from repro.training.rounds import Tally


@register("extrapolated", version=1)
class Extrapolated(Remedy):
    """Each worker takes its gradient where a step on its own images would lead; the step is made from where all are.

    With the rate g, for the images of worker k and its loss f_k::

        w_k = w - reach g grad f_k(w),   gradient = mean over k of grad f_k(w_k)

    Both gradients of a worker are of the same images, which are passed twice and counted once. The momentum and the
    weight decay of the run follow as in plain SGD.

    Args:
        course: the training that it is part of.
        local: images of a worker.
        reach: length of the extrapolation, in learning rates.
    """

    def __init__(self, course: Course, local: int = 128, reach: float = 1.0) -> None:
        expect_option("local", local, isinstance(local, int) and local > 0, "a whole number from 1 up")
        expect_option("reach", reach, reach >= 0, "a number from 0 up")
        super().__init__(course)
        self.local, self.reach = local, reach

    def take(self, step: Step) -> Taken:
        """See ``Remedy``; the loss is that at the shared weights."""
        parameters = list(step.model.parameters())
        shared = [parameter.detach().clone() for parameter in parameters]
        mean, tally = WeightedMean(len(step.y)), Tally()
        for part in split(step, self.local):
            here = gradient(step, part)
            tally.count(here.loss, here.correct, here.images)
            with torch.no_grad():
                for parameter, slope in zip(parameters, here.values, strict=True):
                    parameter.sub_(slope, alpha=self.reach * step.lr)
            mean.add(gradient(step, part).values, here.images)
            with torch.no_grad():
                for parameter, value in zip(parameters, shared, strict=True):
                    parameter.copy_(value)
        for parameter, average in zip(parameters, mean.result(), strict=True):
            parameter.grad = average
        step.optimiser.step()
        return Taken(tally.loss / tally.images, tally.correct)
