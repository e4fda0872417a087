"""The step-up gate of the paper: which steps are multiplied by X."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from repro.experiments.stepup import StepUp, gradient_change
from repro.randomness import generator
from repro.training.steps import gradient_norm


@dataclass(frozen=True)
class Gate:
    """The step-up method in a training (paper lb, Eqs. 6 and 8): call it between the backward pass and the step.

    Attributes:
        rule: when gradients are stepped up, and by how much.
        seed: of the run; a ``random`` rule draws by the number of the step.
        norms: L2 norm of the unscaled gradient in every iteration so far; the caller's, who may store them.
        factors: factor of the gradient in every iteration so far, likewise.
    """

    rule: StepUp
    seed: int
    norms: list[float]
    factors: list[float]

    def __call__(self, model: nn.Module, step: int) -> None:
        """Multiply the gradient that ``model`` holds by its factor in ``step``.

        Raises:
            NotFinite: the gradient holds NaN or infinity.
        """
        norm = gradient_norm(model)
        change = gradient_change(norm, self.norms[-1] if self.norms else None)
        factor = self.rule.factor_at(change, generator(self.seed, "step_up", step).random())
        if factor != 1:
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)
        self.norms.append(norm)
        self.factors.append(factor)
