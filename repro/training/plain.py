"""The three methods as the first post lists their steps, with really separate workers. Slow, and easy to check."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from torch import nn

from repro.codecs import Dense
from repro.data.batches import Batches
from repro.training.averages import WeightedMean
from repro.training.buffers import shared_state
from repro.training.exchange import Exchange
from repro.training.local import ONE_EPOCH, LocalTraining
from repro.training.remedies import Remedy, Step
from repro.training.rounds import Round, Tally
from repro.training.steps import Optimisation, backward, decayed_gradients, set_gradients, set_lr


def centralised(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    batches: Batches,
    optimisation: Optimisation,
    steps: Iterable[int],
    before_step: Callable[[nn.Module, int], None] | None = None,
    remedy: Remedy | None = None,
) -> Iterator[Round]:
    """Mini-batch SGD in one place. A round is a step; nothing is sent.

    ``before_step``, if given, is called with the model, which holds its gradient, and the number of the step, and may
    change the gradient. ``remedy``, if given, takes the step instead.
    """
    model.train()
    for step in steps:
        lr = optimisation.lr(step / batches.rounds_per_epoch)
        set_lr(optimiser, lr)
        x, y = batches.get(0, step)
        seed = batches.dropout_seed(0, step)
        if remedy is not None:
            taken = remedy.take(Step(model, optimiser, x, y, optimisation.precision, lr, step, seed, batches.images))
            done = Round(step + 1, lr, taken.loss, taken.correct, len(y), 0, 0)
            yield replace(done, synchronisations=taken.synchronisations, further=taken.further)
            continue
        loss, correct = backward(model, x, y, optimisation.precision, [seed])
        if before_step is not None:
            before_step(model, step)
        optimiser.step()
        yield Round(step + 1, lr, loss, correct, len(y), 0, 0)


def large_batch(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    batches: Batches,
    exchange: Exchange,
    optimisation: Optimisation,
    rounds: Iterable[int],
) -> Iterator[Round]:
    """Large-batch training (bulk-synchronous SGD): gradients are averaged every step (post 1, steps 1 to 8).

    ``optimiser`` is the server's, ``optimisation.of_server``, and goes on from the rounds before.
    """
    codec, decay = exchange.codec, optimisation.decay_of_workers(exchange.codec)
    for step in rounds:
        epoch = step / batches.rounds_per_epoch
        lr = optimisation.lr(epoch)
        set_lr(optimiser, lr)
        mean, tally, shared = WeightedMean(sum(batches.images_of(step))), Tally(), exchange.broadcast(model)
        for client in batches.round(step):
            worker = copy.deepcopy(model).train()
            exchange.receive(worker, shared)  # 2. download the current shared model
            exchange.buffers.restore(worker, client)
            x, y = batches.get(client, batches.local_step(client, step))
            seeds = [batches.dropout_seed(client, step)]
            loss, correct = backward(worker, x, y, optimisation.precision, seeds)  # 3. one forward and backward pass
            exchange.buffers.keep(worker, client)
            gradients = decayed_gradients(worker, decay) | exchange.buffers.sent(worker)
            sent = exchange.send(client, gradients, epoch)  # 4., 5. compress, upload
            mean.add(codec.decode(sent, exchange.expected(model)), len(y))  # 6. decompress, average
            tally.count(loss, correct, len(y))
            tally.up, tally.down = tally.up + len(sent), tally.down + len(shared)
        set_gradients(model, mean.result(), exchange.buffers)
        optimiser.step()  # 7. one step of SGD on the shared model
        exchange.settle(model)
        yield tally.round(step + 1, lr)


def federated_averaging(
    model: nn.Module,
    batches: Batches,
    exchange: Exchange,
    optimisation: Optimisation,
    rounds: Iterable[int],
    local: LocalTraining = ONE_EPOCH,
) -> Iterator[Round]:
    """Federated averaging (McMahan et al. 2017): local SGD, then the weighted average of the models.

    What is sent is the change of the local model.
    """
    codec, shares, momenta = exchange.codec, local.shares(batches), local.momenta
    for number in rounds:
        epoch = local.epochs_before(batches, number)
        mean, mean_momentum, tally = WeightedMean(sum(shares)), WeightedMean(sum(shares)), Tally()
        shared, shared_momentum = exchange.broadcast(model), momenta.message()
        for client in range(batches.clients):
            worker = copy.deepcopy(model).train()
            exchange.receive(worker, shared)  # 2. download the current shared model
            exchange.buffers.restore(worker, client)
            before = {name: tensor.clone() for name, tensor in shared_state(worker, exchange.buffers).items()}
            optimiser = optimisation.optimiser(worker)
            momenta.restore(optimiser, worker, client, shared_momentum)
            steps, per_epoch = local.range(batches, client, number)
            for step in steps:  # 3. a number of SGD iterations
                set_lr(optimiser, optimisation.lr(step / per_epoch))
                x, y = batches.get(client, step)
                seeds = [batches.dropout_seed(client, step)]
                loss, correct = backward(worker, x, y, optimisation.precision, seeds)
                optimiser.step()
                tally.count(loss, correct, len(y))
            exchange.buffers.keep(worker, client)
            change = {name: new - before[name] for name, new in shared_state(worker, exchange.buffers).items()}
            sent = exchange.send(client, change, epoch)  # 4., 5. compress, upload
            mean.add(codec.decode(sent, exchange.expected(model)), shares[client])  # 6., 7. decompress, average
            if sent_momentum := momenta.keep(optimiser, worker, client):
                mean_momentum.add(Dense().decode(sent_momentum), shares[client])
            tally.up += len(sent) + len(sent_momentum)
            tally.down += len(shared) + len(shared_momentum)
        with torch.no_grad():
            for tensor, change_of in zip(shared_state(model, exchange.buffers).values(), mean.result(), strict=True):
                tensor.add_(change_of.to(tensor.device))  # 8. update the shared model
        if momenta.policy == "average":
            momenta.settle(mean_momentum.result())
        exchange.settle(model)
        yield tally.round(number + 1, optimisation.lr(epoch))
