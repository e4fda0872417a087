"""Layer-wise adaptive moments (You et al. 2020, "Large batch optimization for deep learning", algorithm 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from repro.training.remedies.base import Course, Remedy, expect_option, register
from repro.training.steps import parameter_groups


@register("lamb", version=1)
class Lamb(Remedy):
    """Adam in which each layer moves in proportion to its weights.

    With the rate g of the schedule, the run's momentum as b1, weight decay c, and in step t for the weights w of a
    layer and their gradient d::

        m <- b1 m + (1 - b1) d,   v <- b2 v + (1 - b2) d^2
        r = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + c w
        w <- w - g |w| / |r| r

    Biases and the scales of norms, weights that are all zero, and layers whose r is, move by g r.

    Args:
        course: the training that it is part of.
        second: b2, the memory of the squared gradient.
        eps: added to its root.
    """

    def __init__(self, course: Course, second: float = 0.999, eps: float = 1e-6) -> None:
        expect_option("second", second, 0 <= second < 1, "a number from 0 up and below 1")
        expect_option("eps", eps, eps > 0, "a number above 0")
        super().__init__(course)
        self.second, self.eps = second, eps

    def optimiser(self, model: nn.Module, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
        """See ``Remedy``."""
        return LayerwiseAdam(parameter_groups(model), (momentum, self.second), weight_decay, self.eps)


class LayerwiseAdam(torch.optim.Optimizer):
    """The update of ``Lamb``; ``groups`` as any optimiser of torch takes them, ``betas`` b1 and b2."""

    def __init__(
        self, groups: Iterable[dict[str, Any]], betas: tuple[float, float], weight_decay: float, eps: float
    ) -> None:
        super().__init__(groups, {"lr": 1.0, "betas": betas, "weight_decay": weight_decay, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        for group in self.param_groups:
            for weights in group["params"]:
                if weights.grad is not None:
                    self._update(weights, weights.grad, group)

    def _update(self, weights: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        (first, second), state = group["betas"], self.state[weights]
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(weights), "square": torch.zeros_like(weights)}
        state["step"] += 1
        state["mean"].mul_(first).add_(gradient, alpha=1 - first)
        state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        mean, square = (state[name] / (1 - b ** state["step"]) for name, b in (("mean", first), ("square", second)))
        update = mean.div_(square.sqrt_().add_(group["eps"])).add_(weights, alpha=group["weight_decay"])
        rate = group["lr"]
        if weights.dim() > 1:
            length, reach = (float(torch.linalg.vector_norm(each)) for each in (weights, update))
            rate *= length / reach if length > 0 and reach > 0 else 1.0
        weights.sub_(update, alpha=rate)
