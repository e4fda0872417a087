"""One optimiser step: its settings, forward and backward pass, gradients, plain SGD."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.codecs import Codec
from repro.errors import NotFinite, ReproError
from repro.models.dropout import dropout_seeds
from repro.training.bfloat16 import precise
from repro.training.buffers import AVERAGED, Buffers
from repro.training.evaluate import expect_finite

Schedule = Callable[[float], float]  # epochs of data seen so far -> learning rate


def backward(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    precision: str,
    seeds: Sequence[int] = (),
    sizes: Sequence[int] | None = None,
) -> tuple[float, int]:
    """Set the gradient of the mean cross-entropy on x (B, 3, H, W), y (B,).

    ``seeds`` are those of dropout, one for each worker whose images are in the batch, and ``sizes`` how many each has;
    a network without dropout needs neither.

    Returns:
        The loss, and how many of the B images were classified correctly.

    Raises:
        NotFinite: the loss is NaN or infinite.
    """
    dropout = dropout_seeds(model, seeds, sizes) if seeds else nullcontext()
    with dropout, precise(precision, x.device):
        logits = model(x)
        loss = F.cross_entropy(logits, y)
    value = float(loss.detach())
    expect_finite("training", value)
    model.zero_grad(set_to_none=True)
    loss.backward()
    return value, int((logits.detach().argmax(1) == y).sum())


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """All parameters of ``model`` as an optimiser takes them.

    A model whose parameters do not all learn at the schedule's rate says so by a method ``lr_factors``, which returns
    the factor by name of those for which it is not 1; parameters of one factor form one group of the optimiser.

    Raises:
        ReproError: a factor for something that is not a parameter of the model.
    """
    own = getattr(model, "lr_factors", None)
    factors: Mapping[str, float] = own() if own is not None else {}
    parameters = dict(model.named_parameters())
    unknown = sorted(set(factors) - set(parameters))
    if unknown:
        raise ReproError(f"lr_factors: {unknown[0]!r} is no parameter of the model; names of parameters were expected")
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        groups.setdefault(factors.get(name, 1.0), []).append(parameter)
    return [{"params": group, "lr_factor": factor} for factor, group in groups.items()]


def sgd(model: nn.Module, momentum: float = 0.0, weight_decay: float = 0.0) -> torch.optim.SGD:
    """SGD on all parameters of ``model``; ``set_lr`` sets its learning rate before every step.

    Raises:
        ReproError: as ``parameter_groups``.
    """
    return torch.optim.SGD(parameter_groups(model), lr=1.0, momentum=momentum, weight_decay=weight_decay, foreach=True)


@dataclass(frozen=True)
class Optimisation:
    """How weights follow gradients, in every method alike.

    Attributes:
        lr: learning rate by epochs of data seen so far.
        momentum, weight_decay: of SGD.
        precision: of forward and backward passes: ``fp64``, ``fp32`` or ``bf16``.
        make: makes the optimiser of a network from momentum and weight decay. Another optimiser is a function like
            ``sgd`` in a file of its own.
    """

    lr: Schedule
    momentum: float = 0.0
    weight_decay: float = 0.0
    precision: str = "fp32"
    make: Callable[[nn.Module, float, float], torch.optim.Optimizer] = sgd

    def optimiser(self, model: nn.Module) -> torch.optim.Optimizer:
        """A fresh optimiser of all parameters of ``model``."""
        return self.make(model, self.momentum, self.weight_decay)

    def of_server(self, model: nn.Module, codec: Codec) -> torch.optim.Optimizer:
        """The optimiser of the server in large-batch training.

        It has neither momentum nor decay if workers apply both before their ``codec`` encodes.
        """
        return self.make(model, 0.0, 0.0) if codec.corrects_momentum else self.optimiser(model)

    def decay_of_workers(self, codec: Codec) -> float:
        """The weight decay that workers of large-batch training add to their gradient before ``codec`` encodes it."""
        return self.weight_decay if codec.corrects_momentum else 0.0


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameters, each times the factor that ``sgd`` gave its group."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Gradients by name of the parameter."""
    return {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}


def set_gradients(model: nn.Module, received: Sequence[Tensor], buffers: Buffers = AVERAGED) -> None:
    """Give ``model`` the gradients and the running statistics that travel, in the order in which they are sent."""
    parameters = list(model.parameters())
    for parameter, gradient in zip(parameters, received, strict=False):
        parameter.grad = gradient.to(parameter.device)
    for buffer, average in zip(buffers.sent(model).values(), received[len(parameters) :], strict=True):
        buffer.copy_(average)


def decayed_gradients(model: nn.Module, weight_decay: float) -> dict[str, Tensor]:
    """``gradients`` plus ``weight_decay`` times the weights, as ``torch.optim.SGD`` adds it before its momentum.

    A worker whose codec corrects momentum sends these, and the server then decays nothing. PaddlePaddle's DGC decays
    the local gradient, too; in the DGC authors' code the decay has a momentum of its own, outside of what is sparse.
    """
    if not weight_decay:
        return gradients(model)
    with torch.no_grad():
        return {
            f"gradient of {name}": p.grad.add(p, alpha=weight_decay)
            for name, p in model.named_parameters()
            if p.grad is not None
        }


def gradient_norm(model: nn.Module) -> float:
    """L2 norm of the gradient that ``model`` holds. After a round it is the one that the server has just applied.

    Raises:
        NotFinite: the gradient holds NaN or infinity.
    """
    norms = [torch.linalg.vector_norm(p.grad, dtype=torch.float64) for p in model.parameters() if p.grad is not None]
    norm = float(torch.linalg.vector_norm(torch.stack(norms)))
    if not math.isfinite(norm):
        raise NotFinite(f"the gradient's norm is {norm}; a finite one was expected; lower the learning rate")
    return norm
