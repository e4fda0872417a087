"""The same rounds as ``plain``, faster.

* Large batch: one pass over the union of the workers' batches, with BatchNorm statistics worker by worker. Averaging
  the gradients, weighted by images, is the gradient of the union's mean loss, so no worker is ever copied.
* Federated averaging: one reused local model instead of a copy a client; clients, and the batches of an evaluation,
  spread over processes (``pool``). Where a codec is of fixed size, and so exact, tensors are handed over instead of
  messages, whose length is that of one message that is really made, and decoded, in the first round.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from repro.codecs import Codec, Dense, Expected
from repro.codecs.message import check
from repro.data.batches import Batches
from repro.models.dropout import drops
from repro.models.norms import batch_statistics, worker_batches
from repro.training.averages import WeightedMean
from repro.training.buffers import Buffers, copied_buffers, load_buffers, shared_state
from repro.training.clients import Clients, Message
from repro.training.exchange import Exchange
from repro.training.plain import centralised
from repro.training.pool import client_pool
from repro.training.rounds import Round, Tally
from repro.training.steps import Optimisation, backward, decayed_gradients, gradients, set_gradients, set_lr

__all__ = ["centralised", "client_pool", "federated_averaging", "large_batch"]


def large_batch(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    batches: Batches,
    exchange: Exchange,
    optimisation: Optimisation,
    rounds: Iterable[int],
) -> Iterator[Round]:
    """``plain.large_batch``: in one pass a round where the codec allows it, else worker by worker on one model.

    One pass needs a codec of fixed size: every worker's payload then has the length of the payload of the averaged
    gradient, which is really made, and decoded, in the first round.
    """
    model.train()
    up = down = 0
    seeded = drops(model)
    for step in rounds:
        epoch = step / batches.rounds_per_epoch
        lr = optimisation.lr(epoch)
        set_lr(optimiser, lr)
        if not (down and exchange.download.fixed_size):
            down = len(exchange.broadcast(model))
        if exchange.codec.fixed_size:
            x, y, sizes = batches.union(step)
            with _all_at_once(model, batches, step, sizes, exchange.buffers):
                seeds = [batches.dropout_seed(client, step) for client in batches.round(step)] if seeded else []
                loss, correct = backward(model, x, y, optimisation.precision, seeds, sizes)
            if not up:
                up = _measured(exchange.codec, gradients(model) | exchange.buffers.sent(model))
            done = Round(step + 1, lr, loss, correct, len(y), len(sizes) * up, len(sizes) * down)
        else:
            tally = _one_by_one(model, batches, exchange, optimisation, step)
            tally.down = len(batches.round(step)) * down
            done = tally.round(step + 1, lr)
        optimiser.step()
        exchange.settle(model)
        yield done


@contextmanager
def _all_at_once(
    model: nn.Module, batches: Batches, step: int, sizes: Sequence[int], buffers: Buffers
) -> Iterator[None]:
    """The batches of all workers in one pass, and what happens to the running statistics in it."""
    own = [buffers.own[client] for client in batches.round(step)] if buffers.own else None
    forget: AbstractContextManager[None] = batch_statistics(model) if buffers.policy == "drop" else nullcontext()
    with worker_batches(model, sizes, own), forget:
        yield


def _one_by_one(model: nn.Module, batches: Batches, exchange: Exchange, optimisation: Optimisation, step: int) -> Tally:
    """Set gradients and buffers to the average of what the workers send in ``step``."""
    before, buffers, codec = copied_buffers(model), exchange.buffers, exchange.codec
    mean, tally = WeightedMean(sum(batches.images_of(step))), Tally()
    for client in batches.round(step):
        buffers.restore(model, client)
        x, y = batches.get(client, batches.local_step(client, step))
        loss, correct = backward(model, x, y, optimisation.precision, [batches.dropout_seed(client, step)])
        buffers.keep(model, client)
        own = decayed_gradients(model, optimisation.decay_of_workers(codec)) | buffers.sent(model)
        sent = exchange.send(client, own, step / batches.rounds_per_epoch)
        mean.add(codec.decode(sent, exchange.expected(model)), len(y))
        tally.count(loss, correct, len(y))
        tally.up += len(sent)
        load_buffers(model, before)
    set_gradients(model, mean.result(), buffers)
    return tally


def _measured(codec: Codec, tensors: dict[str, torch.Tensor]) -> int:
    payload = codec.encode(codec.new_state(), tensors)
    codec.decode(payload, Expected.like(tensors.values()))
    return len(payload)


def federated_averaging(
    model: nn.Module, clients: Clients, rounds: Iterable[int], *, score_clients_in: int | None = None
) -> Iterator[Round]:
    """``plain.federated_averaging`` with the clients of a ``client_pool``.

    In round ``score_clients_in`` (from 0) the clients evaluate their own models before they are averaged. What a
    client sends is averaged and forgotten before that of the next one is looked at: memory is that of a few models.
    """
    batches, exchange, local = clients.batches, clients.exchange, clients.local
    codec, download, buffers = exchange.codec, exchange.download, exchange.buffers
    shares, momenta = local.shares(batches), local.momenta
    down = up_each = 0
    for number in rounds:
        if down and download.fixed_size:
            check(shared_state(model, buffers))
        else:
            message = exchange.broadcast(model)
            down = len(message)
        shared: Message = list(shared_state(model, buffers).values()) if download.fixed_size else message
        if codec.fixed_size and not up_each:
            up_each = _measured(codec, shared_state(model, buffers))
        shared_momentum, scored = momenta.message(), number == score_clients_in
        mean, mean_momentum = WeightedMean(sum(shares)), WeightedMean(sum(shares))
        tally, scores = Tally(down=(down + len(shared_momentum)) * batches.clients), []
        for client, done in enumerate(clients.run(number, shared, shared_momentum, scored)):
            sent = done.payload
            mean.add(codec.decode(sent, exchange.expected(model)) if isinstance(sent, bytes) else sent, shares[client])
            if done.momentum:
                mean_momentum.add(Dense().decode(done.momentum), shares[client])
            tally.add(done.tally)
            tally.up += (up_each or len(sent)) + len(done.momentum)
            scores.append(done.top1_by_class)
        if codec.fixed_size:  # no message said so; a mean of finite values is finite, and no other
            check(dict(zip(shared_state(model, buffers), mean.result(), strict=True)))
        with torch.no_grad():
            for tensor, change in zip(shared_state(model, buffers).values(), mean.result(), strict=True):
                tensor.add_(change.to(tensor.device))
        if momenta.policy == "average":
            momenta.settle(mean_momentum.result())
        exchange.settle(model)
        lr = clients.optimisation.lr(local.epochs_before(batches, number))
        yield tally.round(number + 1, lr, scores if scored else None)
