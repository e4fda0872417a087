"""Dropout whose masks are addressed, as batches are, by run, client and step, and not drawn from a global stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from repro.errors import ReproError
from repro.randomness import derive


class SeededDropout(nn.Module):
    """``nn.Dropout`` that draws from the seeds of ``dropout_seeds``, one for each worker whose rows are in the batch.

    A worker's masks therefore depend neither on the order in which workers run nor on whether their batches are passed
    through the network together. In evaluation the layer does nothing.

    Args:
        p: share of the features that are set to zero in training; the others are divided by 1 - p.
        whole: all features of an image are dropped together, or none: stochastic depth.
    """

    def __init__(self, p: float, whole: bool = False) -> None:
        super().__init__()
        self.p, self.whole = p, whole
        self.draws: Sequence[tuple[int, int | None]] | None = None  # (seed, rows) of each worker

    def forward(self, x: Tensor) -> Tensor:
        """Drop features of x (B, ...).

        Raises:
            ReproError: in training, outside of ``dropout_seeds``.
        """
        if not self.training or self.p == 0:
            return x
        if self.draws is None:
            raise ReproError("a network with dropout was trained without seeds; call it within `dropout_seeds`")
        uniform = torch.cat([self._uniform(x, seed, len(x) if rows is None else rows) for seed, rows in self.draws])
        return x * ((uniform >= self.p).to(x.dtype) / (1 - self.p))

    def _uniform(self, x: Tensor, seed: int, rows: int) -> Tensor:
        # Always in single precision: the mask must not depend on the precision of the network. Between 0 and 1 torch's
        # uniform numbers are the same on every processor, other than normal ones (models/test_initial_weights.py).
        source = torch.Generator(x.device).manual_seed(seed)
        shape = [1] * (x.dim() - 1) if self.whole else x.shape[1:]
        return torch.rand(rows, *shape, generator=source, device=x.device)


def drops(model: nn.Module) -> bool:
    """Whether ``model`` has dropout layers, and so needs ``dropout_seeds`` in training."""
    return any(isinstance(layer, SeededDropout) for layer in model.modules())


@contextmanager
def dropout_seeds(model: nn.Module, seeds: Sequence[int], sizes: Sequence[int] | None = None) -> Iterator[None]:
    """Within the context, the dropout layers of ``model`` draw from ``seeds``; without such layers nothing changes.

    Every batch that is passed through the model within one context gets the same masks, so that a step is one context.

    Args:
        model: any network.
        seeds: one for each worker of the batch, such as ``derive(seed, "dropout", client, step)``.
        sizes: images of each worker, in order, as for ``worker_batches``; needed for more than one worker.

    Raises:
        ReproError: the numbers of seeds and sizes differ.
    """
    rows: Sequence[int | None] = [None] * len(seeds) if sizes is None else sizes
    if len(rows) != len(seeds) or (sizes is None and len(seeds) != 1):
        raise ReproError(f"{len(seeds)} seeds of dropout for {len(sizes or [0])} workers; one for each was expected")
    layers = [layer for layer in model.modules() if isinstance(layer, SeededDropout)]
    for number, layer in enumerate(layers):
        layer.draws = [(derive(seed, "layer", number), n) for seed, n in zip(seeds, rows, strict=True)]
    try:
        yield
    finally:
        for layer in layers:
            layer.draws = None
