"""How sharp the minimum is that training ended in: the largest eigenvalue of the Hessian of the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import NotFinite
from repro.randomness import generator

MAX_ITERATIONS = 60
TOLERANCE = 1e-3  # residual, relative to the eigenvalue
CONFIRMATIONS = 10
"""Products in a row after which the residual must be that small. A start with little along the top can rest for a while
on a cluster of eigenvalues just below it, until products have made the top's part grow."""

Product = Callable[[list[Tensor]], list[Tensor]]


class TopEigenvalue(NamedTuple):
    """What the Lanczos iteration found.

    Attributes:
        value: the largest eigenvalue (algebraically), in units of the loss per squared unit of the weights.
        iterations: products with the Hessian that were made.
        converged: whether the residual ``|H v - value v|`` of the unit vector v found with it is at most
            ``TOLERANCE * |value|``, so that an eigenvalue lies within that of ``value``, and was so ``CONFIRMATIONS``
            times in a row; or whether the products have found all that the start consists of.
    """

    value: float
    iterations: int
    converged: bool


def top_eigenvalue(product: Product, like: Sequence[Tensor], seed: int) -> TopEigenvalue:
    """Largest eigenvalue of a symmetric operator by the Lanczos iteration with full reorthogonalisation.

    After k products the operator is known on the span of b, H b, .., H^(k-1) b for a random start b, as a tridiagonal
    matrix T in an orthonormal basis. ``value`` is the largest eigenvalue of T. With s the last entry of its unit
    eigenvector, and beta the length of what the next product has outside of the span, its residual is ``beta |s|``
    (Golub & Van Loan, Matrix Computations, chapter 10). ``value`` is never above the largest eigenvalue of H but for
    rounding. No test can exclude that it is one further down, because a start may lack the top; the start is therefore
    random in all directions, and the residual must stay small. The basis takes the memory of a vector for each product.

    Args:
        product: the operator applied to tensors of the shapes of ``like``.
        like: tensors whose shapes, type and device the vectors have.
        seed: of the first vector, which is the same on every processor.

    Raises:
        NotFinite: a product holds NaN or infinity.
    """
    size = sum(tensor.numel() for tensor in like)
    start = torch.from_numpy(generator(seed, "Lanczos").standard_normal(size)).to(like[0])
    basis = torch.empty(min(MAX_ITERATIONS, size), size, dtype=start.dtype, device=start.device)
    basis[0] = start / _length(start)
    diagonal: list[float] = []
    beside: list[float] = []
    value, confirmed = 0.0, 0
    for k in range(len(basis)):
        image = _flat(product(_split(basis[k], like)))
        diagonal.append(float(torch.dot(basis[k].double(), image.double())))
        if not np.isfinite(diagonal[k]):
            raise NotFinite(
                f"the Hessian's eigenvalue is {diagonal[k]}; a finite one was expected; lower the learning rate"
            )
        known = basis[: k + 1]
        for _ in range(2):  # the second time takes away what rounding left
            image = image - known.T @ (known @ image)
        beta = _length(image)
        values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
        value = float(values[-1])
        rounding = torch.finfo(start.dtype).eps * float(np.abs(values).max())
        exhausted = beta <= 10 * rounding or k + 1 == size  # nothing is left outside of the span
        residual = 0.0 if exhausted else beta * abs(float(vectors[-1, -1]))
        confirmed = confirmed + 1 if residual <= TOLERANCE * abs(value) else 0
        if exhausted or confirmed == CONFIRMATIONS or k + 1 == len(basis):
            break
        beside.append(beta)
        basis[k + 1] = image / beta
    return TopEigenvalue(value, len(diagonal), exhausted or confirmed == CONFIRMATIONS)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _split(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = vector.split([tensor.numel() for tensor in like])
    return [part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]


def _length(vector: Tensor) -> float:
    return float(torch.linalg.vector_norm(vector, dtype=torch.float64))


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
