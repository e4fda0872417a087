"""The three methods as the first post lists their steps, with really separate workers. Slow, and easy to check."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import nn

from repro.codecs import Codec, Dense
from repro.codecs.state import State
from repro.data.batches import Batches
from repro.training.averages import WeightedMean, client_weights
from repro.training.buffers import AVERAGED, Buffers, expected, load_state, shared_state
from repro.training.momenta import RESTARTED, Momenta
from repro.training.rounds import Progress, Round, broadcast, epochs_before, epochs_seen, local_range, settle
from repro.training.steps import Schedule, backward, decayed_gradients, set_gradients, set_lr, sgd


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
    weight_decay: float = 0.0,
) -> Iterator[Round]:  # fmt: skip
    """Large-batch training (bulk-synchronous SGD): gradients are averaged every step (post 1, steps 1 to 8).

    ``codec`` compresses what workers send, with its memory of each in ``states``; ``download`` what they receive.
    ``buffers`` says what happens to BatchNorm's running statistics. ``weight_decay`` is the workers', for a codec that
    corrects momentum; with any other, both are the ``optimiser``'s.
    """
    states = states or [codec.new_state(client=client) for client in range(batches.clients)]
    download, wanted = download or Dense(), expected(model, buffers)
    for step in rounds:
        epoch = step / batches.rounds_per_epoch
        set_lr(optimiser, lr(epoch))
        images = batches.images_of(step)
        mean, up, down, losses, correct = WeightedMean(sum(images)), 0, 0, 0.0, 0
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
            local = decayed_gradients(worker, weight_decay) | buffers.sent(worker)
            sent = codec.encode(states[client], local)  # 4., 5. compress, upload
            mean.add(codec.decode(sent, wanted), len(y))  # 6. decompress, average
            up += len(sent)
            losses, correct = losses + loss * len(y), correct + right
        set_gradients(model, mean.result(), buffers)
        optimiser.step()  # 7. one step of SGD on the shared model
        settle(model, download, buffers)
        yield Round(step + 1, lr(epoch), losses / sum(images), correct, sum(images), up, down)


def federated_averaging(
    model: nn.Module, batches: Batches, codec: Codec, lr: Schedule, rounds: Iterable[int],
    local_epochs: int = 1, momentum: float = 0.0, weight_decay: float = 0.0, precision: str = "fp32", *,
    states: Sequence[State] | None = None, download: Codec | None = None, progress: Progress = epochs_seen,
    buffers: Buffers = AVERAGED, local_steps: int | None = None, momenta: Momenta = RESTARTED,
    weights: Literal["images", "equal"] = "images",
) -> Iterator[Round]:  # fmt: skip
    """Federated averaging (McMahan et al. 2017): local SGD, then the average of the models, by ``weights``.

    What is sent is the change of the local model. ``momenta`` says what happens to local momentum. A round lasts
    ``local_epochs``, or ``local_steps`` where they are given. ``codec``, ``states``, ``download``, ``progress`` and
    ``buffers`` are those of ``large_batch``.
    """
    states = states or [codec.new_state(client=client) for client in range(batches.clients)]
    download, wanted = download or Dense(), expected(model, buffers)
    for number in rounds:
        shares = client_weights(batches, weights)
        mean, mean_momentum, up, down = WeightedMean(sum(shares)), WeightedMean(sum(shares)), 0, 0
        losses, correct, images = 0.0, 0, 0
        epoch = epochs_before(batches, number, local_epochs, local_steps)
        shared, shared_momentum = broadcast(model, download, buffers), momenta.message()
        for client in range(batches.clients):
            worker = copy.deepcopy(model).train()
            load_state(worker, download.decode(shared, wanted), buffers)  # 2. download the current shared model
            buffers.restore(worker, client)
            down += len(shared) + len(shared_momentum)
            before = {name: tensor.clone() for name, tensor in shared_state(worker, buffers).items()}
            optimiser = sgd(worker, momentum, weight_decay)
            momenta.restore(optimiser, worker, client, shared_momentum)
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
            sent, sent_momentum = codec.encode(states[client], change), momenta.keep(optimiser, worker, client)
            up += len(sent) + len(sent_momentum)  # 4., 5. compress, upload
            mean.add(codec.decode(sent, wanted), shares[client])  # 6., 7. decompress, average
            if sent_momentum:
                mean_momentum.add(Dense().decode(sent_momentum), shares[client])
        with torch.no_grad():
            for tensor, change_of in zip(shared_state(model, buffers).values(), mean.result(), strict=True):
                tensor.add_(change_of.to(tensor.device))  # 8. update the shared model
        if momenta.policy == "average":
            momenta.settle(mean_momentum.result())
        settle(model, download, buffers)
        yield Round(number + 1, lr(epoch), losses / images, correct, images, up, down)
