"""The server's mean over workers, in memory that does not depend on their number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class WeightedMean:
    """Average over workers of what each of them sends, one after the other: it holds one set of tensors, not all.

    Sums are made in the order of ``add``, so that with the workers in order they are reproducible.

    Args:
        total: sum of the weights of all workers.
    """

    def __init__(self, total: int) -> None:
        self._total, self._added = total, 0
        self._sums: list[Tensor] | None = None

    def add(self, part: Sequence[Tensor], weight: int) -> None:
        """Count the tensors of one worker, which are left as they are."""
        if self._sums is None:
            self._sums = [torch.zeros_like(tensor) for tensor in part]
        for mean, tensor in zip(self._sums, part, strict=True):
            mean.add_(tensor, alpha=weight / self._total)
        self._added += weight

    def result(self) -> list[Tensor]:
        """The average, once every worker was counted.

        Raises:
            ValueError: the weights of those counted do not add up to the total.
        """
        if self._sums is None or self._added != self._total:
            raise ValueError(f"weights of {self._added} were counted; {self._total} were expected")
        return self._sums


def weighted_mean(parts: Sequence[Sequence[Tensor]], weights: Sequence[int]) -> list[Tensor]:
    """``WeightedMean`` of all ``parts``."""
    mean = WeightedMean(sum(weights))
    for part, weight in zip(parts, weights, strict=True):
        mean.add(part, weight)
    return mean.result()
