"""What the plain and the fast form of the methods share: one forward pass, one aggregation, one evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.codecs import Codec
from repro.errors import NotFinite, ReproError

Schedule = Callable[[float], float]  # epochs of data seen so far -> learning rate
Progress = Callable[[float], float]  # epochs of data seen so far -> what codecs are told (``state["progress"]``)


def epochs_seen(epoch: float) -> float:
    """The usual progress: codecs are told the epochs of data seen so far."""
    return epoch


@dataclass(frozen=True)
class Round:
    """What one round did.

    Attributes:
        number: rounds finished, this one included (from 1).
        lr: learning rate of the round's first step.
        loss: mean training loss over the round's images, NaN or infinite if training diverged.
        correct, images: training images classified correctly, and seen, in this round.
        bytes_up, bytes_down: length of all payloads from the workers to the server, and back, in this round.
    """

    number: int
    lr: float
    loss: float
    correct: int
    images: int
    bytes_up: int
    bytes_down: int


def shared_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and floating-point buffers by name: what workers and server exchange.

    BatchNorm's running statistics are among them: the policy ``average``.
    """
    state = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: tensor.detach() for name, tensor in state.items() if tensor.is_floating_point()}


def load_state(model: nn.Module, tensors: Iterable[Tensor]) -> None:
    """Overwrite the shared state of ``model`` with ``tensors``, in order of ``shared_state``."""
    with torch.no_grad():
        for own, tensor in zip(shared_state(model).values(), tensors, strict=True):
            own.copy_(tensor)


def precise(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Context of a forward pass: ``bf16`` computes convolutions and matrix products in bfloat16."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def backward(model: nn.Module, x: Tensor, y: Tensor, precision: str) -> tuple[float, int]:
    """Set the gradient of the mean cross-entropy on x (B, 3, H, W), y (B,).

    Returns:
        The loss, and how many of the B images were classified correctly.

    Raises:
        NotFinite: the loss is NaN or infinite.
    """
    with precise(precision, x.device):
        logits = model(x)
        loss = F.cross_entropy(logits, y)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise NotFinite(f"the training loss is {value}; a finite loss was expected; lower the learning rate")
    model.zero_grad(set_to_none=True)
    loss.backward()
    return value, int((logits.detach().argmax(1) == y).sum())


def sgd(model: nn.Module, momentum: float = 0.0, weight_decay: float = 0.0) -> torch.optim.SGD:
    """SGD on all parameters of ``model``; ``set_lr`` sets its learning rate before every step.

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
    return torch.optim.SGD(
        [{"params": group, "lr_factor": factor} for factor, group in groups.items()],
        lr=1.0, momentum=momentum, weight_decay=weight_decay, foreach=True,
    )  # fmt: skip


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameters, each times the factor that ``sgd`` gave its group."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)


def weighted_mean(parts: Sequence[Sequence[Tensor]], images: Sequence[int]) -> list[Tensor]:
    """Average over workers, weighted by their images; summed in order of workers, so that it is reproducible."""
    total = sum(images)
    means = [torch.zeros_like(tensor) for tensor in parts[0]]
    for part, n in zip(parts, images, strict=True):
        for mean, tensor in zip(means, part, strict=True):
            mean.add_(tensor, alpha=n / total)
    return means


def broadcast(model: nn.Module, download: Codec) -> bytes:
    """The payload by which workers get the shared model; the server goes on from the model that they received.

    With an exact codec nothing changes. With a lossy one the weights themselves live in its precision during training.
    """
    payload = download.encode(download.new_state(), shared_state(model))
    if not download.fixed_size:
        load_state(model, download.decode(payload))
    return payload


def settle(model: nn.Module, download: Codec) -> None:
    """After a step of the server: a lossy ``download`` rounds the model at once, so that it is evaluated rounded."""
    if not download.fixed_size:
        broadcast(model, download)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Gradients by name of the parameter."""
    return {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}


def float_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Floating-point buffers by name: the running statistics."""
    return {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}


class Score(NamedTuple):
    """Sums over the images of an evaluation batch: cross-entropy, hits of the first and of the first five, images."""

    loss: float
    top1: int
    top5: int
    images: int


@torch.inference_mode()
def scores(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], precision: str = "fp32") -> list[Score]:
    """The score of every batch, in evaluation mode. With fewer than five classes, all images are top-5 hits."""
    was_training = model.training
    model.eval()
    found = []
    for x, y in batches:
        with precise(precision, x.device):
            logits = model(x)
        logits = logits.float() if precision == "bf16" else logits
        best = logits.topk(min(5, logits.shape[1])).indices == y[:, None]
        loss = float(F.cross_entropy(logits, y, reduction="sum"))
        found.append(Score(loss, int(best[:, 0].sum()), int(best.sum()), len(y)))
    model.train(was_training)
    return found


def mean_score(parts: Iterable[Score]) -> Mapping[str, float]:
    """Mean cross-entropy and top-1 and top-5 accuracy (fractions); summed in order, so that it is reproducible."""
    loss, top1, top5, images = (sum(column) for column in zip(*parts, strict=True))
    return {"loss": loss / images, "top1": top1 / images, "top5": top5 / images}


def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], precision: str = "fp32"
) -> Mapping[str, float]:
    """Mean cross-entropy and top-1 and top-5 accuracy (fractions) over ``batches``, in evaluation mode."""
    return mean_score(scores(model, batches, precision))
