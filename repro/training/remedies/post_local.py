"""Post-local SGD (Lin, Stich, Patel, Jaggi 2020, "Don't use large mini-batches, use local SGD")."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from repro.training.averages import weighted_mean
from repro.training.remedies.base import Course, Remedy, Step, Taken, expect_option, register
from repro.training.remedies.parts import gradient, shares
from repro.training.rounds import Tally
from repro.training.steps import set_lr


@register("post-local", version=1)
class PostLocal(Remedy):
    """Large batch up to a share of the training; from there workers step alone and average their models now and then.

    A round is a step of each of K workers on its share of the images. Up to the switch their gradients are averaged in
    every round, which is one step of the large batch; after it their models are, every ``every`` rounds and at the end.
    Workers begin with the momentum of the shared optimiser and keep their own from then on. Between two averages the
    shared model is that of the last one.

    Args:
        course: the training that it is part of.
        workers: K.
        every: rounds between two averages after the switch.
        switch: the share of the training after which workers step alone.
    """

    def __init__(self, course: Course, workers: int = 8, every: int = 8, switch: float = 0.5) -> None:
        for name, value in (("workers", workers), ("every", every)):
            expect_option(name, value, isinstance(value, int) and value > 0, "a whole number from 1 up")
        expect_option("switch", switch, 0 <= switch <= 1, "a number from 0 to 1")
        super().__init__(course)
        self.workers, self.every, self.switch = workers, every, switch
        self._alone = 0  # rounds since the switch
        self._own: list[tuple[nn.Module, torch.optim.Optimizer]] = []
        self._kept: list[dict[str, Any]] = []

    def take(self, step: Step) -> Taken:
        """See ``Remedy``."""
        if step.number < self.switch * self.course.rounds:
            return super().take(step)
        if not self._own:
            self._own = self._start(step)
        tally = Tally()
        for (model, optimiser), part in zip(self._own, shares(step, self.workers), strict=True):
            set_lr(optimiser, step.lr)
            found = gradient(replace(step, model=model), part)
            optimiser.step()
            tally.count(found.loss, found.correct, found.images)
        self._alone += 1
        averages = self._alone % self.every == 0 or step.number + 1 == self.course.rounds
        if averages:
            self._average(step.model)
        return Taken(tally.loss / tally.images, tally.correct, int(averages))

    def _start(self, step: Step) -> list[tuple[nn.Module, torch.optim.Optimizer]]:
        """A copy of the shared model and its optimiser for each worker; where a checkpoint kept them, as they were."""
        own = [copy.deepcopy((step.model, step.optimiser)) for _ in range(self.workers)]
        for (model, optimiser), kept in zip(own, self._kept, strict=bool(self._kept)):
            model.load_state_dict(kept["model"])
            optimiser.load_state_dict(kept["optimiser"])
        return own

    @torch.no_grad()
    def _average(self, shared: nn.Module) -> None:
        """Give the shared model and all workers the mean of the workers' weights."""
        weights = [list(model.parameters()) for model, _ in self._own]
        mean = weighted_mean(weights, [1] * self.workers)
        for each in [list(shared.parameters()), *weights]:
            for parameter, value in zip(each, mean, strict=True):
                parameter.copy_(value)

    def state(self) -> dict[str, Any]:
        """See ``Remedy``."""
        own = [{"model": model.state_dict(), "optimiser": optimiser.state_dict()} for model, optimiser in self._own]
        return {"alone": self._alone, "own": own or self._kept}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See ``Remedy``."""
        self._alone, self._kept = state["alone"], state["own"]
