"""One round of a distributed method: what it did, its epochs, and the message to all workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from repro.codecs import Codec
from repro.data.batches import Batches
from repro.training.buffers import AVERAGED, Buffers, expected, load_state, shared_state

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
        clients_top1_by_class: where asked for, the accuracy of each class (None: no image of it) for each client's own
            model, before the aggregation.
    """

    number: int
    lr: float
    loss: float
    correct: int
    images: int
    bytes_up: int
    bytes_down: int
    clients_top1_by_class: list[list[float | None]] | None = None


def local_range(
    batches: Batches, client: int, number: int, local_epochs: int, local_steps: int | None
) -> tuple[range, int]:
    """Local steps of ``client`` in round ``number`` (from 0) of federated averaging, and steps in an epoch.

    Where rounds are counted in ``local_steps`` (H) instead of local epochs, every client takes H steps, so that one
    with a smaller shard sees its images more often; epochs are then those of ``batches.rounds_per_epoch`` for all.
    """
    if local_steps is not None:
        return range(number * local_steps, (number + 1) * local_steps), batches.rounds_per_epoch
    per_epoch = batches.steps_per_epoch(client)
    return range(number * local_epochs * per_epoch, (number + 1) * local_epochs * per_epoch), per_epoch


def epochs_before(batches: Batches, number: int, local_epochs: int, local_steps: int | None) -> float:
    """Epochs that every client has trained when round ``number`` (from 0) of federated averaging begins."""
    steps, per_epoch = local_range(batches, 0, number, local_epochs, local_steps)
    return steps.start / per_epoch


def broadcast(model: nn.Module, download: Codec, buffers: Buffers = AVERAGED) -> bytes:
    """The payload by which workers get the shared model; the server goes on from the model that they received.

    With an exact codec nothing changes. With a lossy one the weights themselves live in its precision during training.
    """
    payload = download.encode(download.new_state(), shared_state(model, buffers))
    if not download.fixed_size:
        load_state(model, download.decode(payload, expected(model, buffers)), buffers)
    return payload


def settle(model: nn.Module, download: Codec, buffers: Buffers = AVERAGED) -> None:
    """After a step of the server: a lossy ``download`` rounds the model at once, so that it is evaluated rounded."""
    if not download.fixed_size:
        broadcast(model, download, buffers)
