"""The same rounds as ``plain``, faster.

* Large batch: one pass over the union of the workers' batches, with BatchNorm statistics worker by worker. Averaging
  the gradients, weighted by images, is the gradient of the union's mean loss, so no worker is ever copied.
* Federated averaging: one reused local model instead of a copy a client, and clients spread over processes.
"""

from __future__ import annotations

import copy
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import NamedTuple, Protocol

import torch
from torch import nn

from repro.batches import Batches
from repro.codecs import Codec
from repro.engines.common import (
    Round,
    Schedule,
    backward,
    float_buffers,
    gradients,
    load_state,
    set_lr,
    shared_state,
    weighted_mean,
)
from repro.engines.plain import centralised
from repro.errors import ReproError
from repro.models.norms import worker_batches

__all__ = ["Clients", "Local", "centralised", "client_pool", "federated_averaging", "large_batch"]


def large_batch(
    model: nn.Module, optimiser: torch.optim.Optimizer, batches: Batches, codec: Codec, lr: Schedule,
    rounds: Iterable[int], precision: str = "fp32",
) -> Iterator[Round]:  # fmt: skip
    """``plain.large_batch`` in one pass a round.

    Every worker's payload has the length of the payload of the averaged gradient, because the codec's length depends
    on shapes only; that payload is really made, and decoded, in the first round.

    Raises:
        ReproError: the codec's payloads differ by content, so that workers must be encoded one by one.
    """
    if not codec.fixed_size:
        raise ReproError("one pass over the union batch needs a codec of fixed size; use engines.plain.large_batch")
    model.train()
    up = down = 0
    for step in rounds:
        rate = lr(step / batches.rounds_per_epoch)
        set_lr(optimiser, rate)
        if not down:
            down = _measured(codec, shared_state(model))
        x, y, sizes = batches.union(step)
        with worker_batches(model, sizes):
            loss, correct = backward(model, x, y, precision)
        if not up:
            up = _measured(codec, gradients(model) | float_buffers(model))
        optimiser.step()
        yield Round(step + 1, rate, loss, correct, len(y), len(sizes) * up, len(sizes) * down)


def _measured(codec: Codec, tensors: dict[str, torch.Tensor]) -> int:
    payload = codec.encode(codec.new_state(), tensors)
    codec.decode(payload)
    return len(payload)


class Local(NamedTuple):
    """What a client returns: its payload, the sum of its losses over images, images classified correctly, and seen."""

    payload: bytes
    loss: float
    correct: int
    images: int


class Clients(Protocol):
    """Runs the local part of a round for all clients, in order."""

    def run(self, number: int, shared: bytes) -> list[Local]:
        """Every client's result of round ``number`` (from 0), started from the shared model ``shared``."""


class _Serial:
    """All clients one after the other on one reused model."""

    def __init__(
        self, model: nn.Module, batches: Batches, codec: Codec, lr: Schedule, local_epochs: int, momentum: float,
        weight_decay: float, precision: str,
    ) -> None:  # fmt: skip
        self.worker = copy.deepcopy(model).train()
        self.batches, self.codec, self.lr, self.local_epochs = batches, codec, lr, local_epochs
        self.momentum, self.weight_decay, self.precision = momentum, weight_decay, precision
        self.states = [codec.new_state() for _ in range(batches.clients)]

    def client(self, number: int, client: int, shared: bytes) -> Local:
        """Local SGD of one client."""
        load_state(self.worker, self.codec.decode(shared))
        before = [tensor.clone() for tensor in shared_state(self.worker).values()]
        optimiser = torch.optim.SGD(
            self.worker.parameters(),
            lr=1.0,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            foreach=True,
        )
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
        return Local(self.codec.encode(self.states[client], change), losses, correct, images)

    def run(self, number: int, shared: bytes) -> list[Local]:
        return [self.client(number, client, shared) for client in range(self.batches.clients)]


class _Forked:
    """Clients spread over forked processes; each keeps its clients for the whole run, and so their codec states."""

    def __init__(self, serial: _Serial, processes: int) -> None:
        context = multiprocessing.get_context("fork")
        self._clients = [list(range(serial.batches.clients))[k::processes] for k in range(processes)]
        self._ends: list[Connection] = []
        self._processes = []
        for clients in self._clients:
            ours, theirs = context.Pipe()
            process = context.Process(target=self._serve, args=(serial, clients, theirs, ours), daemon=True)
            process.start()
            theirs.close()
            self._ends.append(ours)
            self._processes.append(process)

    @staticmethod
    def _serve(serial: _Serial, clients: Sequence[int], end: Connection, parents_end: Connection) -> None:
        torch.set_num_threads(1)  # a forked process that starts OpenMP threads of its own can hang
        parents_end.close()  # so that the parent's death ends the pipe, and with it this process
        try:
            while True:
                number, shared = end.recv()
                try:
                    end.send([serial.client(number, client, shared) for client in clients])
                except ReproError as error:
                    end.send(error)
        except (EOFError, BrokenPipeError):
            return

    def run(self, number: int, shared: bytes) -> list[Local]:
        for end in self._ends:
            end.send((number, shared))
        answers = [end.recv() for end in self._ends]
        for answer in answers:
            if isinstance(answer, ReproError):
                raise answer
        by_client = {
            client: local
            for clients, answer in zip(self._clients, answers, strict=True)
            for client, local in zip(clients, answer, strict=True)
        }
        return [by_client[client] for client in sorted(by_client)]

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
    weight_decay: float = 0.0, precision: str = "fp32", processes: int = 1,
) -> Iterator[Clients]:  # fmt: skip
    """Clients of federated averaging, on ``processes`` processes. The result does not depend on how many.

    The schedule is evaluated in the processes, so with more than one it must be a closed form.
    """
    serial = _Serial(model, batches, codec, lr, local_epochs, momentum, weight_decay, precision)
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
    local_epochs: int = 1,
) -> Iterator[Round]:  # fmt: skip
    """``plain.federated_averaging`` with the clients of a ``client_pool``."""
    weights = [len(shard) for shard in batches.shards]
    for number in rounds:
        shared = codec.encode(codec.new_state(), shared_state(model))
        done = clients.run(number, shared)
        mean = weighted_mean([codec.decode(local.payload) for local in done], weights)
        with torch.no_grad():
            for tensor, change in zip(shared_state(model).values(), mean, strict=True):
                tensor.add_(change.to(tensor.device))
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
