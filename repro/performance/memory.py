"""The five parts of Eq. 3, counted: every storage that training really holds, each once, in bytes.

M_total = M_model + M_grad + M_opt + M_act + M_batch. Nothing is estimated: parameters, gradients and the state of the
optimiser are asked for their storages after a step, activations are what autograd saves in a forward pass, and the
batch is what the loader returns. What a process needs besides (gradients of activations while they pass back,
workspaces of convolutions, the libraries) is no part of Eq. 3; ``peak`` measures the total from outside.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.engines.bfloat16 import precise
from repro.models.dropout import dropout_seeds
from repro.performance.workload import Trainer


class Terms(NamedTuple):
    """Bytes of the five parts of Eq. 3, named as there; ``model`` holds parameters and buffers."""

    model: int
    gradients: int
    optimiser: int
    activations: int
    batch: int

    @property
    def total(self) -> int:
        """Their sum, M_total."""
        return sum(self)


def held(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of ``tensors``; one that several share counts once."""
    return sum({storage._cdata: storage.nbytes() for storage in (t.untyped_storage() for t in tensors)}.values())


def activation_bytes(model: nn.Module, x: Tensor, y: Tensor, precision: str = "fp32") -> int:
    """Bytes that autograd keeps between the forward and the backward pass on x (B, 3, H, W), y (B,).

    Parameters, buffers and the batch itself are kept too, but are other parts of Eq. 3 and left out. In ``bf16``, the
    bfloat16 copies of weights that a forward pass makes count here; they do not grow with the batch.
    """
    own = [*model.parameters(), *model.buffers(), x, y]
    apart = {tensor.untyped_storage()._cdata for tensor in own}
    saved: dict[int, int] = {}
    alive: list[Tensor] = []  # the address of a storage that is gone could be used again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in apart:
            saved[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, precise(precision, x.device), dropout_seeds(model, [0]):
        loss = F.cross_entropy(model(x), y)
    del loss
    return sum(saved.values())


def terms(trainer: Trainer, size: int) -> Terms:
    """Count all five parts at one batch size; takes a training step."""
    x, y = trainer.move(trainer.batches(size), 0)
    trainer.compute(x, y)
    trainer.update()
    parameters = list(trainer.model.parameters())
    state = [value for each in trainer.optimiser.state.values() for value in each.values() if torch.is_tensor(value)]
    return Terms(
        model=held([*parameters, *trainer.model.buffers()]),
        gradients=held(p.grad for p in parameters if p.grad is not None),
        optimiser=held(state),
        activations=activation_bytes(trainer.model, x, y, trainer.workload.precision),
        batch=held([x, y]),
    )
