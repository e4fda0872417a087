"""Accuracy and loss of a network on images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import NotFinite
from repro.models.norms import batch_statistics
from repro.training.bfloat16 import precise
from repro.training.buffers import AVERAGED, Buffers

Part = Callable[[], tuple[Tensor, Tensor]]  # makes one evaluation batch: x (B, 3, H, W), y (B,)


def expect_finite(what: str, loss: float) -> None:
    """Raise NotFinite unless the loss of ``what`` is finite."""
    if not math.isfinite(loss):
        raise NotFinite(f"the {what} loss is {loss}; a finite loss was expected; lower the learning rate")


class Score(NamedTuple):
    """Sums over the images of an evaluation batch: cross-entropy, hits of the first and of the first five, images.

    The last two are hits of the first, and images, class by class.
    """

    loss: float
    top1: int
    top5: int
    images: int
    top1_by_class: tuple[int, ...]
    images_by_class: tuple[int, ...]


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
        hits, counts = (torch.bincount(of, minlength=logits.shape[1]).tolist() for of in (y[best[:, 0]], y))
        found.append(Score(loss, int(best[:, 0].sum()), int(best.sum()), len(y), tuple(hits), tuple(counts)))
    model.train(was_training)
    return found


def mean_score(parts: Iterable[Score]) -> Mapping[str, Any]:
    """Mean cross-entropy and top-1 and top-5 accuracy (fractions); summed in order, so that it is reproducible.

    ``top1_by_class`` lists the accuracy of each class; None where it has no image.
    """
    losses, top1, top5, images, hits, counts = zip(*parts, strict=True)
    total = sum(images)
    by_class = zip(map(sum, zip(*hits, strict=True)), map(sum, zip(*counts, strict=True)), strict=True)
    return {
        "loss": sum(losses) / total,
        "top1": sum(top1) / total,
        "top5": sum(top5) / total,
        "top1_by_class": [right / n if n else None for right, n in by_class],
    }


def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], precision: str = "fp32") -> Mapping[str, Any]:
    """Mean cross-entropy and top-1 and top-5 accuracy (fractions) over ``batches``, in evaluation mode."""
    return mean_score(scores(model, batches, precision))


def evaluate_shared(
    model: nn.Module, parts: Sequence[Part], precision: str = "fp32", buffers: Buffers = AVERAGED
) -> Mapping[str, Any]:
    """``evaluate`` of the shared model, with the statistics that the policy of ``buffers`` gives it.

    With ``local`` it is the mean over the workers of the evaluation with each worker's running statistics.
    """
    found = []
    for client in range(len(buffers.own) or 1):
        with buffers.of_worker(model, client):
            found += scores_by_policy(model, parts, precision, buffers)
    return mean_score(found)


def scores_by_policy(model: nn.Module, parts: Iterable[Part], precision: str, buffers: Buffers) -> list[Score]:
    """The score of every batch, normalised by the statistics of the batch under the policy ``drop``."""
    with batch_statistics(model) if buffers.policy == "drop" else nullcontext():
        return scores(model, (part() for part in parts), precision)
