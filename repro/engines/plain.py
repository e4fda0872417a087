"""The three methods as the first post lists their steps, with really separate workers. Slow, and easy to check."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import nn

from repro.batches import Batches
from repro.codecs import Codec, Dense
from repro.codecs.state import State
from repro.engines.common import (
    AVERAGED,
    Buffers,
    Progress,
    Round,
    Schedule,
    backward,
    broadcast,
    epochs_before,
    epochs_seen,
    expected,
    gradients,
    load_state,
    local_range,
    set_lr,
    settle,
    sgd,
    shared_state,
    weighted_mean,
)


def centralised(
    model: nn.Module, optimiser: torch.optim.Optimizer, batches: Batches, lr: Schedule, steps: Iterable[int],
    precision: str = "fp32", *, before_step: Callable[[nn.Module, int], None] | None = None,
) -> Iterator[Round]:  # fmt: skip
    """Mini-batch SGD in one place. A round is a step; nothing is sent.

    ``before_step``, if given, is called with the model, which holds its gradient, and the number of the step, and may
    change the gradient.
    """
    model.train()
    for step in steps:
        rate = lr(step / batches.rounds_per_epoch)
        set_lr(optimiser, rate)
        x, y = batches.get(0, step)
        loss, correct = backward(model, x, y, precision, [batches.dropout_seed(0, step)])
        if before_step is not None:
            before_step(model, step)
        optimiser.step()
        yield Round(step + 1, rate, loss, correct, len(y), 0, 0)


def large_batch(
    model: nn.Module, optimiser: torch.optim.Optimizer, batches: Batches, codec: Codec, lr: Schedule,
    rounds: Iterable[int], precision: str = "fp32", *, states: Sequence[State] | None = None,
    download: Codec | None = None, progress: Progress = epochs_seen, buffers: Buffers = AVERAGED,
) -> Iterator[Round]:  # fmt: skip
    """Large-batch training (bulk-synchronous SGD): gradients are averaged every step (post 1, steps 1 to 8).

    ``codec`` compresses what workers send, with its memory of each in ``states``; ``download`` what they receive.
    ``buffers`` says what happens to BatchNorm's running statistics.
    """
    states = states or [codec.new_state(client=client) for client in range(batches.clients)]
    download, wanted = download or Dense(), expected(model, buffers)
    for step in rounds:
        epoch = step / batches.rounds_per_epoch
        set_lr(optimiser, lr(epoch))
        sent, images, losses, correct, down = [], [], 0.0, 0, 0
        shared = broadcast(model, download, buffers)
        for client in batches.round(step):
            worker = copy.deepcopy(model).train()
            load_state(worker, download.decode(shared, wanted), buffers)  # 2. download the current shared model
            buffers.restore(worker, client)
            down += len(shared)
            x, y = batches.get(client, batches.local_step(client, step))
            seeds = [batches.dropout_seed(client, step)]
            loss, right = backward(worker, x, y, precision, seeds)  # 3. one forward and backward pass
            buffers.keep(worker, client)
            states[client]["progress"] = progress(epoch)
            sent.append(codec.encode(states[client], gradients(worker) | buffers.sent(worker)))  # 4., 5. upload
            images.append(len(y))
            losses, correct = losses + loss * len(y), correct + right
        mean = weighted_mean([codec.decode(payload, wanted) for payload in sent], images)  # 6. decompress, average
        parameters = list(model.parameters())
        for parameter, gradient in zip(parameters, mean, strict=False):
            parameter.grad = gradient.to(parameter.device)
        for buffer, average in zip(buffers.sent(model).values(), mean[len(parameters) :], strict=True):
            buffer.copy_(average)
        optimiser.step()  # 7. one step of SGD on the shared model
        settle(model, download, buffers)
        yield Round(step + 1, lr(epoch), losses / sum(images), correct, sum(images), sum(map(len, sent)), down)


def federated_averaging(
    model: nn.Module, batches: Batches, codec: Codec, lr: Schedule, rounds: Iterable[int],
    local_epochs: int = 1, momentum: float = 0.0, weight_decay: float = 0.0, precision: str = "fp32", *,
    states: Sequence[State] | None = None, download: Codec | None = None, progress: Progress = epochs_seen,
    buffers: Buffers = AVERAGED, local_steps: int | None = None,
) -> Iterator[Round]:  # fmt: skip
    """Federated averaging (McMahan et al. 2017): local SGD, then the average of the models, weighted by images.

    What is sent is the change of the local model. Local momentum starts at zero in every round. A round lasts
    ``local_epochs``, or ``local_steps`` where they are given. ``codec``, ``states``, ``download``, ``progress`` and
    ``buffers`` are those of ``large_batch``.
    """
    states = states or [codec.new_state(client=client) for client in range(batches.clients)]
    download, wanted = download or Dense(), expected(model, buffers)
    for number in rounds:
        sent, weights, losses, correct, images, down = [], [], 0.0, 0, 0, 0
        epoch = epochs_before(batches, number, local_epochs, local_steps)
        shared = broadcast(model, download, buffers)
        for client in range(batches.clients):
            worker = copy.deepcopy(model).train()
            load_state(worker, download.decode(shared, wanted), buffers)  # 2. download the current shared model
            buffers.restore(worker, client)
            down += len(shared)
            before = {name: tensor.clone() for name, tensor in shared_state(worker, buffers).items()}
            optimiser = sgd(worker, momentum, weight_decay)
            steps, per_epoch = local_range(batches, client, number, local_epochs, local_steps)
            for step in steps:  # 3. a number of SGD iterations
                set_lr(optimiser, lr(step / per_epoch))
                x, y = batches.get(client, step)
                loss, right = backward(worker, x, y, precision, [batches.dropout_seed(client, step)])
                optimiser.step()
                losses, correct, images = losses + loss * len(y), correct + right, images + len(y)
            buffers.keep(worker, client)
            change = {name: tensor - before[name] for name, tensor in shared_state(worker, buffers).items()}
            states[client]["progress"] = progress(epoch)
            sent.append(codec.encode(states[client], change))  # 4., 5. upload
            weights.append(len(batches.shards[client]))
        mean = weighted_mean([codec.decode(payload, wanted) for payload in sent], weights)  # 6., 7. decompress, average
        with torch.no_grad():
            for tensor, change_of in zip(shared_state(model, buffers).values(), mean, strict=True):
                tensor.add_(change_of.to(tensor.device))  # 8. update the shared model
        settle(model, download, buffers)
        yield Round(number + 1, lr(epoch), losses / images, correct, images, sum(map(len, sent)), down)
