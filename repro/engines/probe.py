"""How far the statistics of each device's batch lie from those of all devices, and what that does to predictions.

Post 3: BatchNorm trains with the statistics of a device's own batch and predicts with those of all data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repro.batches import Batches, Images
from repro.engines.bfloat16 import precise
from repro.engines.common import Buffers, mean_score, scores
from repro.errors import ReproError
from repro.models.norms import batch_norms, batch_statistics, worker_batches
from repro.partition import local_steps


def shift(x: Tensor, sizes: Sequence[int]) -> tuple[float, float]:
    """Statistics of each device's rows against those of all rows.

    Standard deviations are those that BatchNorm divides by (biased), without its epsilon. A channel that is constant
    over all rows tells nothing and is left out.

    Args:
        x: (B, C, H, W) inputs of a norm layer; the rows of the first device, then of the second, and so on.
        sizes: rows of each device.

    Returns:
        Mean over devices and channels of |device's mean - mean over all| / standard deviation over all, and of
        device's standard deviation / that over all. 0 and 1 if no device differs, or if every channel is constant.
    """
    channels = x.detach().double().transpose(0, 1).flatten(2)  # (C, B, H W)

    def statistics(rows: Tensor) -> tuple[Tensor, Tensor]:
        std, mean = torch.std_mean(rows.flatten(1), dim=1, correction=0)
        return mean, std

    mean, std = statistics(channels)
    own_mean, own_std = zip(*map(statistics, channels.split(list(sizes), dim=1)), strict=True)
    varied = std > 0
    if not varied.any():
        return 0.0, 1.0
    apart = ((torch.stack(own_mean) - mean).abs() / std)[:, varied]
    return float(apart.mean()), float((torch.stack(own_std) / std)[:, varied].mean())


@torch.no_grad()
def layer_shifts(model: nn.Module, x: Tensor, sizes: Sequence[int], precision: str) -> dict[str, tuple[float, float]]:
    """``shift`` of the input of every BatchNorm layer, in forward order, in a training pass over the devices' batches.

    The model and its running statistics stay as they are.

    Args:
        model: the network.
        x: (B, 3, H, W) images of all devices, in order.
        sizes: images of each device.
        precision: of the forward pass.

    Raises:
        ReproError: the network has no BatchNorm layer.
    """
    found: dict[str, tuple[float, float]] = {}

    def note(name: str, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        found[name] = shift(inputs[0], sizes)

    hooks = [layer.register_forward_pre_hook(partial(note, name)) for name, layer in batch_norms(model).items()]
    if not hooks:
        raise ReproError("batch statistics of a network without BatchNorm; norm batch was expected; do not track them")
    was_training = model.training
    model.train()
    try:
        with worker_batches(model, sizes), batch_statistics(model), precise(precision, x.device):
            model(x)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return found


def own_classes(batches: Batches) -> list[tuple[int, ...]]:
    """The labels in the shard of each client, ascending."""
    labels = batches.images.labels.cpu().numpy()
    return [tuple(np.unique(labels[shard]).tolist()) for shard in batches.shards]


def statistics_against_union(
    model: nn.Module, batches: Batches, step: int, evaluation: Images, buffers: Buffers, precision: str = "fp32"
) -> dict[str, Any]:
    """How the batch statistics of devices differ after training, and what they do to the shared model's accuracy.

    Evaluation images are taken in batches as near to the devices' batch size as an even split allows.

    Args:
        model: the shared model.
        batches: the devices' batches.
        step: number of the step that each device would take next.
        evaluation: images that nobody trains on.
        buffers: what happened to running statistics in training.
        precision: of the forward passes.

    Returns:
        ``layers``, names of the BatchNorm layers in forward order; ``mean_shift`` and ``std_ratio``, for each of them
        the two numbers of ``shift`` on the batches of ``step``. Accuracies (fractions): ``own_classes``, on images of
        each device's own classes, normalised by the statistics of batches of such images, mean over devices;
        ``own_classes_running``, the same images with the running statistics (None under the policy ``drop``, which has
        none); ``mixed``, all images, normalised by the statistics of batches of all classes. A device without an
        evaluation image of its classes is left out; None if that is all of them.
    """
    x, _, sizes = batches.union(step)
    shifts = layer_shifts(model, x, sizes, precision)
    labels = evaluation.labels.cpu().numpy()

    def parts(index: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
        return map(evaluation.whole, np.array_split(index, local_steps(len(index), batches.size)))

    def accuracy(index: np.ndarray) -> float:
        return float(mean_score(scores(model, parts(index), precision))["top1"])

    # Devices with equal classes share their images and, unless they keep their own, the running statistics.
    local = buffers.policy == "local"
    devices = [(own, client if local else 0) for client, own in enumerate(own_classes(batches))]
    index = {own: np.flatnonzero(np.isin(labels, own)) for own, _ in devices}
    devices = [device for device in devices if len(index[device[0]])]
    with batch_statistics(model):
        mixed = accuracy(np.arange(len(labels)))
        by_batch = {own: accuracy(index[own]) for own in dict(devices)}
    by_running = {}
    for own, client in dict.fromkeys(devices) if buffers.policy != "drop" else ():
        with buffers.of_worker(model, client):
            by_running[own, client] = accuracy(index[own])
    return {
        "layers": list(shifts),
        "mean_shift": [mean for mean, _ in shifts.values()],
        "std_ratio": [ratio for _, ratio in shifts.values()],
        "own_classes": _mean([by_batch[own] for own, _ in devices]),
        "own_classes_running": _mean([by_running[device] for device in devices]) if by_running else None,
        "mixed": mixed,
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
