"""Layer-wise adaptive rate scaling (You, Gitman, Ginsburg 2017, "Large batch training of convolutional networks")."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from repro.training.remedies.base import Course, Remedy, expect_option, register
from repro.training.steps import parameter_groups


@register("lars", version=1)
class Lars(Remedy):
    """SGD in which each layer has a learning rate in proportion to its weights over its gradient (algorithm 1).

    With the rate g of the schedule, momentum m and weight decay b, for the weights w of a layer and their gradient d::

        rate = g * trust * |w| / (|d| + b |w|)
        v <- m v + rate (d + b w),   w <- w - v

    The paper speaks of layers. Here biases and the scales of norms, which start at zero or one, keep the rate g, as in
    later implementations; so do weights that are all zero, or whose gradient is.

    Args:
        course: the training that it is part of.
        trust: the share of its length by which a layer moves at rate 1.
    """

    def __init__(self, course: Course, trust: float = 0.001) -> None:
        expect_option("trust", trust, trust > 0, "a number above 0")
        super().__init__(course)
        self.trust = trust

    def optimiser(self, model: nn.Module, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
        """See ``Remedy``."""
        return LayerwiseSGD(parameter_groups(model), momentum, weight_decay, self.trust)


class LayerwiseSGD(torch.optim.Optimizer):
    """The update of ``Lars``; ``groups`` as any optimiser of torch takes them."""

    def __init__(self, groups: Iterable[dict[str, Any]], momentum: float, weight_decay: float, trust: float) -> None:
        super().__init__(groups, {"lr": 1.0, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        for group in self.param_groups:
            for weights in group["params"]:
                if weights.grad is not None:
                    self._update(weights, weights.grad, group)

    def _update(self, weights: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        decay, rate = group["weight_decay"], group["lr"]
        if weights.dim() > 1:
            length, slope = (float(torch.linalg.vector_norm(each)) for each in (weights, gradient))
            if length > 0 and slope > 0:
                rate *= group["trust"] * length / (slope + decay * length)
        state = self.state[weights]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weights)
        state["momentum_buffer"].mul_(group["momentum"]).add_(gradient.add(weights, alpha=decay), alpha=rate)
        weights.sub_(state["momentum_buffer"])
