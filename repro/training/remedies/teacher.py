"""A teacher that makes the gradient of a small batch from that of a large one (paper, Equation 5)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from repro.errors import ReproError
from repro.randomness import derive, generator
from repro.training.looking import drawn, looking, of_batch
from repro.training.remedies.base import Course, Remedy, Step, Taken, expect_option, register
from repro.training.steps import backward
from repro.training.teachers import TEACHERS, Learnt, Pairs


@register("teacher", version=1)  # raised too when a change of training/teachers.py alters what a teacher makes
class Taught(Remedy):
    """Steps along A(G) in place of the gradient G of the round: w <- w - lr A(G), with A one of ``training.teachers``.

    After each of the shares of the training that ``fitted`` names, and before the next step, A is trained anew on
    ``pairs`` pairs of gradients at the weights of that moment. Before the first of them the training is plain. The
    images of a pair are drawn at random from the training images, without augmentation: ``small`` of them for the small
    batch, and others, as many as the round has, for the large one; where there are fewer, all others. Momentum and
    weight decay of the run follow as in plain SGD.

    The images of the pairs are counted apart from those of the round, and their gradients as one synchronisation each.

    Args:
        course: the training that it is part of.
        teacher: its name.
        small: images b of the small batch.
        pairs: of each training of A.
        fitted: shares of the training, ascending.
    """

    def __init__(
        self, course: Course, teacher: str = "autoencoder with skip", small: int = 32, pairs: int = 16,
        fitted: Sequence[float] = (0.05, 0.25, 0.5),
    ) -> None:  # fmt: skip
        expect_option("teacher", teacher, teacher in TEACHERS, f"one of {', '.join(TEACHERS)}")
        for name, value in (("small", small), ("pairs", pairs)):
            expect_option(name, value, isinstance(value, int) and value > 0, "a whole number from 1 up")
        rising = all(0 <= share < 1 for share in fitted) and sorted(set(fitted)) == list(fitted)
        expect_option("fitted", fitted, rising and len(fitted) > 0, "ascending shares from 0 up and below 1")
        super().__init__(course)
        self.name, self.small, self.pairs = teacher, small, pairs
        self.rounds = {math.ceil(share * course.rounds) for share in fitted}
        """Rounds before which the teacher is trained: how many are finished then."""
        self.learnt: Learnt | None = None

    def take(self, step: Step) -> Taken:
        """See ``Remedy``."""
        further = 0
        if step.number in self.rounds:
            pairs = self._pairs(step)
            self.learnt = TEACHERS[self.name].fit(pairs)
            further = len(pairs.small) * (pairs.batch_small + pairs.batch_large)
        loss, correct = backward(step.model, step.x, step.y, step.precision, [step.seed])
        if self.learnt is not None:
            self._teach(step, self.learnt)
        step.optimiser.step()
        return Taken(loss, correct, 1 + (2 * self.pairs if further else 0), further)

    def _pairs(self, step: Step) -> Pairs:
        """Pairs of gradients at the weights of ``step``.

        Raises:
            ReproError: no training images to draw from, or none left for the large batch.
        """
        images, random = step.images, generator(self.course.seed, "pairs", step.number)
        if images is None or len(images) <= self.small:
            raise ReproError(
                f"remedy teacher: {0 if images is None else len(images)} training images to draw pairs from; more than "
                f"the {self.small} of a small batch were expected; give it more images"
            )
        size, large, small = min(len(step.y), len(images) - self.small), list[Tensor](), list[Tensor]()
        dtype = next(step.model.parameters()).dtype
        with looking(step.model):
            for _ in range(self.pairs):
                (few,), (many,) = drawn(len(images), [self.small], [size], random)
                for found, index in ((small, few), (large, many)):
                    found.append(of_batch(step.model, images, index, step.precision).to("cpu", dtype))
        lengths, seed = [p.numel() for p in step.model.parameters()], derive(self.course.seed, "teacher", step.number)
        return Pairs(torch.stack(large), torch.stack(small), lengths, size, self.small, seed)

    def _teach(self, step: Step, learnt: Learnt) -> None:
        """Put A(G) in the place of the gradient that the model holds."""
        parameters = list(step.model.parameters())
        held = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        random = torch.Generator().manual_seed(derive(self.course.seed, "noise of the teacher", step.number))
        flat = torch.cat([each.flatten() for each in held]).cpu()
        made = TEACHERS[self.name].predict(learnt, flat[None], random)[0].to(flat.dtype)
        for parameter, like, values in zip(parameters, held, made.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = values.reshape(like.shape).to(like)

    def state(self) -> dict[str, Any]:
        """See ``Remedy``."""
        return {"learnt": self.learnt}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See ``Remedy``."""
        self.learnt = state["learnt"]
