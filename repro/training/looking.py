"""Gradients at the weights that a network has now, which stays as it is; and batches that share no image."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from repro.data.batches import Images
from repro.models.dropout import SeededDropout
from repro.training.steps import backward, gradients


def of_batch(model: nn.Module, images: Images, index: np.ndarray, precision: str = "fp32") -> Tensor:
    """Gradient of the mean loss on the images ``index``, without augmentation, as one vector in float64."""
    x, y = images.whole(index)
    backward(model, x, y, precision)
    return torch.cat([g.flatten() for g in gradients(model).values()]).double()


@contextmanager
def looking(model: nn.Module) -> Iterator[None]:
    """Within the context gradients of ``model`` are those of training without dropout; afterwards it is as it was."""
    kept = copy.deepcopy(model.state_dict())
    modes = [(layer, layer.training) for layer in model.modules()]
    model.train()
    for layer in model.modules():
        if isinstance(layer, SeededDropout):
            layer.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training
        model.load_state_dict(kept)
        model.zero_grad(set_to_none=True)


def drawn(
    images: int, small: Sequence[int], large: Sequence[int], random: np.random.Generator
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images of small batches, which share none, and of a large one of each size, which holds none of the small ones'.

    A large batch that held them would predict them too well.
    """
    order = random.permutation(images)
    few, rest = np.split(order, [sum(small)])
    return np.split(few, np.cumsum(small)[:-1]), [rest[:size] for size in large]
