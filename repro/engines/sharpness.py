"""How sharp the minimum is that training ended in: the largest eigenvalue of the Hessian of the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import NotFinite
from repro.randomness import generator

MAX_ITERATIONS = 100
TOLERANCE = 1e-3  # relative change of the estimate at which power iteration ends

Product = Callable[[list[Tensor]], list[Tensor]]


class TopEigenvalue(NamedTuple):
    """What power iteration found.

    Attributes:
        value: the largest eigenvalue (algebraically), in units of the loss per squared unit of the weights.
        iterations: products with the Hessian that were made.
        converged: whether the last one changed the estimate by at most ``TOLERANCE`` of it.
    """

    value: float
    iterations: int
    converged: bool


def top_eigenvalue(product: Product, like: Sequence[Tensor], seed: int) -> TopEigenvalue:
    """Largest eigenvalue of a symmetric operator by power iteration.

    Power iteration finds the eigenvalue of largest magnitude. Should that be negative, it is repeated on the operator
    shifted by it, whose largest magnitude is at the largest eigenvalue.

    Args:
        product: the operator applied to tensors of the shapes of ``like``.
        like: tensors whose shapes, type and device the vectors have.
        seed: of the first vector.

    Raises:
        NotFinite: a product holds NaN or infinity.
    """
    first = _power_iteration(product, like, seed)
    if first.value >= 0:
        return first

    def shifted(vector: list[Tensor]) -> list[Tensor]:
        return [h - first.value * v for h, v in zip(product(vector), vector, strict=True)]

    again = _power_iteration(shifted, like, seed)
    return TopEigenvalue(again.value + first.value, first.iterations + again.iterations, again.converged)


def _power_iteration(product: Product, like: Sequence[Tensor], seed: int) -> TopEigenvalue:
    random = generator(seed, "first vector")  # numpy's: torch's float32 numbers depend on the processor
    vector = _unit([torch.from_numpy(random.standard_normal(t.shape)).to(t) for t in like])
    value = 0.0
    for iteration in range(1, MAX_ITERATIONS + 1):
        image = product(vector)
        before, value = value, _dot(vector, image)
        if not torch.isfinite(torch.tensor(value)):
            raise NotFinite(f"the Hessian's eigenvalue is {value}; a finite one was expected; lower the learning rate")
        if value == 0 or abs(value - before) <= TOLERANCE * abs(value):
            return TopEigenvalue(value, iteration, True)
        vector = _unit(image)
    return TopEigenvalue(value, MAX_ITERATIONS, False)


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return sum(float((x.double() * y.double()).sum()) for x, y in zip(a, b, strict=True))


def _unit(vector: Sequence[Tensor]) -> list[Tensor]:
    length = _dot(vector, vector) ** 0.5
    return [tensor / length for tensor in vector]


def hessian_top_eigenvalue(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> TopEigenvalue:
    """Largest eigenvalue of the Hessian of the mean cross-entropy on x (B, 3, H, W), y (B,), over all parameters.

    The model is in evaluation mode, without autocast; its gradients and mode stay as they are.

    Raises:
        NotFinite: a second derivative is NaN or infinite.
    """
    was_training = model.training
    model.eval()
    try:
        parameters = list(model.parameters())
        gradient = torch.autograd.grad(F.cross_entropy(model(x), y), parameters, create_graph=True)

        def product(vector: list[Tensor]) -> list[Tensor]:
            along = torch.stack([(g * v).sum() for g, v in zip(gradient, vector, strict=True)]).sum()
            return list(torch.autograd.grad(along, parameters, retain_graph=True))

        return top_eigenvalue(product, parameters, seed)
    finally:
        model.train(was_training)
