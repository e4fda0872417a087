"""The same rounds as ``plain``, faster.

* Large batch: one pass over the union of the workers' batches, with BatchNorm statistics worker by worker. Averaging
  the gradients, weighted by images, is the gradient of the union's mean loss, so no worker is ever copied.
* Federated averaging: one reused local model instead of a copy a client; clients, and the batches of an evaluation,
  spread over processes.
"""

from __future__ import annotations

import copy
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import nn

from repro.batches import Batches
from repro.codecs import Codec, Dense
from repro.codecs.state import State
from repro.engines.common import (
    Progress,
    Round,
    Schedule,
    Score,
    backward,
    broadcast,
    epochs_seen,
    evaluate,
    float_buffers,
    gradients,
    load_state,
    mean_score,
    scores,
    set_lr,
    settle,
    sgd,
    shared_state,
    weighted_mean,
)
from repro.engines.plain import centralised
from repro.errors import ReproError
from repro.models.norms import worker_batches

Part = Callable[[], tuple[torch.Tensor, torch.Tensor]]  # makes one evaluation batch: x (B, 3, H, W), y (B,)

__all__ = ["Clients", "Local", "centralised", "client_pool", "federated_averaging", "large_batch"]


def large_batch(
    model: nn.Module, optimiser: torch.optim.Optimizer, batches: Batches, codec: Codec, lr: Schedule,
    rounds: Iterable[int], precision: str = "fp32", *, states: Sequence[State] | None = None,
    download: Codec | None = None, progress: Progress = epochs_seen,
) -> Iterator[Round]:  # fmt: skip
    """``plain.large_batch``: in one pass a round where the codec allows it, else worker by worker on one model.

    One pass needs a codec of fixed size: every worker's payload then has the length of the payload of the averaged
    gradient, which is really made, and decoded, in the first round.
    """
    model.train()
    states = states or [codec.new_state(client=client) for client in range(batches.clients)]
    download = download or Dense()
    up = down = 0
    for step in rounds:
        epoch = step / batches.rounds_per_epoch
        set_lr(optimiser, lr(epoch))
        if not (down and download.fixed_size):
            down = len(broadcast(model, download))
        if codec.fixed_size:
            x, y, sizes = batches.union(step)
            with worker_batches(model, sizes):
                loss, correct = backward(model, x, y, precision)
            if not up:
                up = _measured(codec, gradients(model) | float_buffers(model))
            sent = len(sizes) * up
        else:
            sizes, loss, correct, sent = _one_by_one(model, batches, codec, states, step, progress(epoch), precision)
        optimiser.step()
        settle(model, download)
        yield Round(step + 1, lr(epoch), loss, correct, sum(sizes), sent, len(sizes) * down)


def _one_by_one(
    model: nn.Module, batches: Batches, codec: Codec, states: Sequence[State], step: int, progress: float,
    precision: str,
) -> tuple[list[int], float, int, int]:  # fmt: skip
    """Set gradients and buffers to the average of what the workers send in ``step``.

    Returns:
        Images of each worker, mean loss over all images, images classified correctly, bytes sent.
    """
    buffers = float_buffers(model)
    before = [buffer.clone() for buffer in buffers.values()]
    sent, sizes, losses, correct = [], [], 0.0, 0
    for client in batches.round(step):
        for buffer, old in zip(buffers.values(), before, strict=True):
            buffer.copy_(old)
        x, y = batches.get(client, batches.local_step(client, step))
        loss, right = backward(model, x, y, precision)
        states[client]["progress"] = progress
        sent.append(codec.encode(states[client], gradients(model) | buffers))
        sizes.append(len(y))
        losses, correct = losses + loss * len(y), correct + right
    mean = weighted_mean([codec.decode(payload) for payload in sent], sizes)
    parameters = list(model.parameters())
    for parameter, gradient in zip(parameters, mean, strict=False):
        parameter.grad = gradient.to(parameter.device)
    for buffer, average in zip(buffers.values(), mean[len(parameters) :], strict=True):
        buffer.copy_(average)
    return sizes, losses / sum(sizes), correct, sum(map(len, sent))


def _measured(codec: Codec, tensors: dict[str, torch.Tensor]) -> int:
    payload = codec.encode(codec.new_state(), tensors)
    codec.decode(payload)
    return len(payload)


class Local(NamedTuple):
    """What a client did in a round.

    Attributes:
        payload: what it sends.
        state: the codec's memory of it afterwards.
        loss: sum of its losses over images.
        correct, images: images classified correctly, and seen.
    """

    payload: bytes
    state: State
    loss: float
    correct: int
    images: int


class Clients(Protocol):
    """Runs the local part of a round for all clients."""

    def run(self, number: int, shared: bytes, states: Sequence[State]) -> list[Local]:
        """Every client's result of round ``number`` (from 0), started from the shared model ``shared``, in order."""

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """``common.evaluate`` of ``model`` on the evaluation batches, to the last bit."""


class _Serial:
    """All clients one after the other on one reused model."""

    def __init__(
        self, model: nn.Module, batches: Batches, codec: Codec, lr: Schedule, local_epochs: int, momentum: float,
        weight_decay: float, precision: str, download: Codec, progress: Progress, evaluation: Sequence[Part],
    ) -> None:  # fmt: skip
        self.worker = copy.deepcopy(model).train()
        self.batches, self.codec, self.lr, self.local_epochs = batches, codec, lr, local_epochs
        self.momentum, self.weight_decay, self.precision = momentum, weight_decay, precision
        self.download, self.progress, self.evaluation = download, progress, evaluation

    def client(self, item: tuple[int, State], number: int, shared: bytes) -> Local:
        """Local SGD of one client; ``item`` is its number and its codec's memory."""
        client, state = item
        load_state(self.worker, self.download.decode(shared))
        before = [tensor.clone() for tensor in shared_state(self.worker).values()]
        optimiser = sgd(self.worker, self.momentum, self.weight_decay)
        per_epoch = self.batches.steps_per_epoch(client)
        losses, correct, images = 0.0, 0, 0
        for step in range(number * self.local_epochs * per_epoch, (number + 1) * self.local_epochs * per_epoch):
            set_lr(optimiser, self.lr(step / per_epoch))
            x, y = self.batches.get(client, step)
            loss, right = backward(self.worker, x, y, self.precision)
            optimiser.step()
            losses, correct, images = losses + loss * len(y), correct + right, images + len(y)
        after = shared_state(self.worker)
        change = {name: after[name] - old for name, old in zip(after, before, strict=True)}
        state["progress"] = self.progress(number * self.local_epochs)
        return Local(self.codec.encode(state, change), state, losses, correct, images)

    def run(self, number: int, shared: bytes, states: Sequence[State]) -> list[Local]:
        return [self.client(item, number, shared) for item in enumerate(states)]

    def score(self, part: int, state: Sequence[np.ndarray]) -> Score:
        """Score of the model with shared state ``state`` on one evaluation batch."""
        load_state(self.worker, map(torch.from_numpy, state))
        return scores(self.worker, [self.evaluation[part]()], self.precision)[0]

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        return evaluate(model, (part() for part in self.evaluation), self.precision)


class _Forked:
    """Clients, and the batches of an evaluation, spread over forked processes."""

    def __init__(self, serial: _Serial, processes: int) -> None:
        context = multiprocessing.get_context("fork")
        self._evaluation_batches = len(serial.evaluation)
        self._ends: list[Connection] = []
        self._processes = []
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=self._serve, args=(serial, theirs, [*self._ends, ours]), daemon=True)
            process.start()
            theirs.close()
            self._ends.append(ours)
            self._processes.append(process)

    @staticmethod
    def _serve(serial: _Serial, end: Connection, parents_ends: Sequence[Connection]) -> None:
        torch.set_num_threads(1)  # a forked process that starts OpenMP threads of its own can hang
        for inherited in parents_ends:
            inherited.close()  # so that the parent's death ends the pipe, and with it this process
        try:
            while True:
                task, items, *arguments = end.recv()
                try:
                    end.send([getattr(serial, task)(item, *arguments) for item in items])
                except ReproError as error:
                    end.send(error)
        except (EOFError, BrokenPipeError):
            return

    def _spread(self, task: str, items: Sequence[Any], *arguments: Any) -> list[Any]:
        """``task`` of ``_Serial`` for every item, in order; the items are dealt to the processes in turn."""
        processes = len(self._ends)
        for k, end in enumerate(self._ends):
            end.send((task, items[k::processes], *arguments))
        answers = [end.recv() for end in self._ends]
        for answer in answers:
            if isinstance(answer, ReproError):
                raise answer
        return [answers[k % processes][k // processes] for k in range(len(items))]

    def run(self, number: int, shared: bytes, states: Sequence[State]) -> list[Local]:
        return self._spread("client", list(enumerate(states)), number, shared)

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        state = [tensor.numpy() for tensor in shared_state(model).values()]
        return mean_score(self._spread("score", range(self._evaluation_batches), state))

    def close(self) -> None:
        for end in self._ends:
            end.close()
        for process in self._processes:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()


@contextmanager
def client_pool(
    model: nn.Module, batches: Batches, codec: Codec, lr: Schedule, *, local_epochs: int = 1, momentum: float = 0.0,
    weight_decay: float = 0.0, precision: str = "fp32", download: Codec | None = None,
    progress: Progress = epochs_seen, evaluation: Sequence[Part] = (), processes: int = 1,
) -> Iterator[Clients]:  # fmt: skip
    """Clients of federated averaging, on ``processes`` processes. The result does not depend on how many.

    They evaluate too: ``evaluation`` holds a function for each evaluation batch.

    The schedule is evaluated in the processes, so with more than one it must be a closed form.
    """
    serial = _Serial(
        model, batches, codec, lr, local_epochs, momentum, weight_decay, precision, download or Dense(), progress,
        evaluation,
    )  # fmt: skip
    if min(processes, batches.clients) < 2:
        yield serial
        return
    pool = _Forked(serial, min(processes, batches.clients))
    try:
        yield pool
    finally:
        pool.close()


def federated_averaging(
    model: nn.Module, clients: Clients, batches: Batches, codec: Codec, lr: Schedule, rounds: Iterable[int],
    local_epochs: int = 1, *, states: list[State] | None = None, download: Codec | None = None,
) -> Iterator[Round]:  # fmt: skip
    """``plain.federated_averaging`` with the clients of a ``client_pool``, made with the same codecs."""
    states = [codec.new_state(client=client) for client in range(batches.clients)] if states is None else states
    download = download or Dense()
    weights = [len(shard) for shard in batches.shards]
    for number in rounds:
        shared = broadcast(model, download)
        done = clients.run(number, shared, states)
        states[:] = [local.state for local in done]
        mean = weighted_mean([codec.decode(local.payload) for local in done], weights)
        with torch.no_grad():
            for tensor, change in zip(shared_state(model).values(), mean, strict=True):
                tensor.add_(change.to(tensor.device))
        settle(model, download)
        images = sum(local.images for local in done)
        yield Round(
            number + 1,
            lr(number * local_epochs),
            sum(local.loss for local in done) / images,
            sum(local.correct for local in done),
            images,
            sum(len(local.payload) for local in done),
            len(shared) * batches.clients,
        )
