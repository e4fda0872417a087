"""The same rounds as ``plain``, faster.

* Large batch: one pass over the union of the workers' batches, with BatchNorm statistics worker by worker. Averaging
  the gradients, weighted by images, is the gradient of the union's mean loss, so no worker is ever copied.
* Federated averaging: one reused local model instead of a copy a client; clients, and the batches of an evaluation,
  spread over processes.
"""

from __future__ import annotations

import copy
import multiprocessing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import nn

from repro.batches import Batches
from repro.codecs import Codec, Dense
from repro.codecs.state import State
from repro.engines.common import (
    AVERAGED,
    Buffers,
    Part,
    Progress,
    Round,
    Schedule,
    Score,
    backward,
    broadcast,
    epochs_before,
    epochs_seen,
    evaluate_shared,
    float_buffers,
    gradients,
    load_buffers,
    load_state,
    local_range,
    mean_score,
    scores_by_policy,
    set_lr,
    settle,
    sgd,
    shared_state,
    weighted_mean,
)
from repro.engines.plain import centralised
from repro.errors import ReproError
from repro.models.norms import batch_statistics, worker_batches

__all__ = ["Clients", "Local", "centralised", "client_pool", "federated_averaging", "large_batch"]

Statistics = Mapping[str, np.ndarray]  # running statistics by name, on their way between processes


def large_batch(
    model: nn.Module, optimiser: torch.optim.Optimizer, batches: Batches, codec: Codec, lr: Schedule,
    rounds: Iterable[int], precision: str = "fp32", *, states: Sequence[State] | None = None,
    download: Codec | None = None, progress: Progress = epochs_seen, buffers: Buffers = AVERAGED,
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
            down = len(broadcast(model, download, buffers))
        if codec.fixed_size:
            x, y, sizes = batches.union(step)
            with _all_at_once(model, batches, step, sizes, buffers):
                seeds = [batches.dropout_seed(client, step) for client in batches.round(step)]
                loss, correct = backward(model, x, y, precision, seeds, sizes)
            if not up:
                up = _measured(codec, gradients(model) | buffers.sent(model))
            sent = len(sizes) * up
        else:
            sizes, loss, correct, sent = _one_by_one(
                model, batches, codec, states, step, progress(epoch), precision, buffers
            )
        optimiser.step()
        settle(model, download, buffers)
        yield Round(step + 1, lr(epoch), loss, correct, sum(sizes), sent, len(sizes) * down)


@contextmanager
def _all_at_once(
    model: nn.Module, batches: Batches, step: int, sizes: Sequence[int], buffers: Buffers
) -> Iterator[None]:
    """The batches of all workers in one pass, and what happens to the running statistics in it."""
    own = [buffers.own[client] for client in batches.round(step)] if buffers.own else None
    forget: AbstractContextManager[None] = batch_statistics(model) if buffers.policy == "drop" else nullcontext()
    with worker_batches(model, sizes, own), forget:
        yield


def _one_by_one(
    model: nn.Module, batches: Batches, codec: Codec, states: Sequence[State], step: int, progress: float,
    precision: str, buffers: Buffers,
) -> tuple[list[int], float, int, int]:  # fmt: skip
    """Set gradients and buffers to the average of what the workers send in ``step``.

    Returns:
        Images of each worker, mean loss over all images, images classified correctly, bytes sent.
    """
    before = {name: buffer.clone() for name, buffer in float_buffers(model).items()}
    sent, sizes, losses, correct = [], [], 0.0, 0
    for client in batches.round(step):
        buffers.restore(model, client)
        x, y = batches.get(client, batches.local_step(client, step))
        loss, right = backward(model, x, y, precision, [batches.dropout_seed(client, step)])
        buffers.keep(model, client)
        states[client]["progress"] = progress
        sent.append(codec.encode(states[client], gradients(model) | buffers.sent(model)))
        load_buffers(model, before)
        sizes.append(len(y))
        losses, correct = losses + loss * len(y), correct + right
    mean = weighted_mean([codec.decode(payload) for payload in sent], sizes)
    parameters = list(model.parameters())
    for parameter, gradient in zip(parameters, mean, strict=False):
        parameter.grad = gradient.to(parameter.device)
    for buffer, average in zip(buffers.sent(model).values(), mean[len(parameters) :], strict=True):
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
        top1_by_class: accuracies of its own model on the evaluation batches; empty where they were not asked for.
    """

    payload: bytes
    state: State
    loss: float
    correct: int
    images: int
    top1_by_class: list[float | None]


class Clients(Protocol):
    """Runs the local part of a round for all clients."""

    def run(self, number: int, shared: bytes, states: Sequence[State], score: bool) -> list[Local]:
        """Every client's result of round ``number`` (from 0), started from the shared model ``shared``, in order.

        With ``score`` every client evaluates its own model as well, with the running statistics that it has then.
        """

    def evaluate(self, model: nn.Module, final: bool = False) -> Mapping[str, Any]:
        """``common.evaluate_shared`` of ``model`` on the evaluation batches, or the final ones, to the last bit."""


class _Serial:
    """All clients one after the other on one reused model."""

    def __init__(
        self, model: nn.Module, batches: Batches, codec: Codec, lr: Schedule, local_epochs: int, momentum: float,
        weight_decay: float, precision: str, download: Codec, progress: Progress, evaluation: Sequence[Part],
        buffers: Buffers, local_steps: int | None, final: Sequence[Part] = (),
    ) -> None:  # fmt: skip
        self.worker = copy.deepcopy(model).train()
        self.batches, self.codec, self.lr, self.local_epochs = batches, codec, lr, local_epochs
        self.momentum, self.weight_decay, self.precision = momentum, weight_decay, precision
        self.download, self.progress, self.evaluation = download, progress, evaluation
        self.buffers, self.local_steps = buffers, local_steps
        self.final = final or evaluation

    def client(self, client: int, state: State, number: int, shared: bytes, score: bool) -> Local:
        """Local SGD of one client; ``state`` is its codec's memory."""
        load_state(self.worker, self.download.decode(shared), self.buffers)
        self.buffers.restore(self.worker, client)
        before = [tensor.clone() for tensor in shared_state(self.worker, self.buffers).values()]
        optimiser = sgd(self.worker, self.momentum, self.weight_decay)
        steps, per_epoch = local_range(self.batches, client, number, self.local_epochs, self.local_steps)
        losses, correct, images = 0.0, 0, 0
        for step in steps:
            set_lr(optimiser, self.lr(step / per_epoch))
            x, y = self.batches.get(client, step)
            loss, right = backward(self.worker, x, y, self.precision, [self.batches.dropout_seed(client, step)])
            optimiser.step()
            losses, correct, images = losses + loss * len(y), correct + right, images + len(y)
        self.buffers.keep(self.worker, client)
        after = shared_state(self.worker, self.buffers)
        change = {name: after[name] - old for name, old in zip(after, before, strict=True)}
        state["progress"] = self.progress(steps.start / per_epoch)
        by_class = mean_score(self._scores(self.final))["top1_by_class"] if score else []
        return Local(self.codec.encode(state, change), state, losses, correct, images, by_class)

    def _scores(self, parts: Iterable[Part]) -> list[Score]:
        return scores_by_policy(self.worker, parts, self.precision, self.buffers)

    def run(self, number: int, shared: bytes, states: Sequence[State], score: bool) -> list[Local]:
        return [self.client(client, state, number, shared, score) for client, state in enumerate(states)]

    def evaluate(self, model: nn.Module, final: bool = False) -> Mapping[str, Any]:
        return evaluate_shared(model, self.final if final else self.evaluation, self.precision, self.buffers)

    def client_elsewhere(
        self, item: tuple[int, State, Statistics], number: int, shared: bytes, score: bool
    ) -> tuple[Local, Statistics]:
        """``client`` in a process of its own, where the running statistics that it keeps come and go as arrays."""
        client, state, own = item
        if own:
            self.buffers.own[client] = {name: torch.from_numpy(values) for name, values in own.items()}
        local = self.client(client, state, number, shared, score)
        return local, _arrays(self.buffers, client)

    def score(self, item: tuple[Statistics, int], state: Sequence[np.ndarray], final: bool) -> Score:
        """Score on one evaluation batch of the model with shared state ``state`` and a worker's running statistics."""
        own, part = item
        load_state(self.worker, map(torch.from_numpy, state), self.buffers)
        if own:
            load_buffers(self.worker, {name: torch.from_numpy(values) for name, values in own.items()})
        return self._scores([(self.final if final else self.evaluation)[part]])[0]


def _arrays(buffers: Buffers, client: int) -> Statistics:
    """The running statistics that worker ``client`` keeps, if it does."""
    return {name: values.numpy() for name, values in buffers.own[client].items()} if buffers.own else {}


class _Forked:
    """Clients, and the batches of an evaluation, spread over forked processes."""

    def __init__(self, serial: _Serial, processes: int) -> None:
        context = multiprocessing.get_context("fork")
        self._evaluation_batches, self._buffers = (len(serial.evaluation), len(serial.final)), serial.buffers
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

    def run(self, number: int, shared: bytes, states: Sequence[State], score: bool) -> list[Local]:
        items = [(client, state, _arrays(self._buffers, client)) for client, state in enumerate(states)]
        done = self._spread("client_elsewhere", items, number, shared, score)
        for client in range(len(self._buffers.own)):
            self._buffers.own[client] = {name: torch.from_numpy(values) for name, values in done[client][1].items()}
        return [local for local, _ in done]

    def evaluate(self, model: nn.Module, final: bool = False) -> Mapping[str, Any]:
        state = [tensor.numpy() for tensor in shared_state(model, self._buffers).values()]
        workers = len(self._buffers.own) or 1
        items = [
            (_arrays(self._buffers, client), part)
            for client in range(workers)
            for part in range(self._evaluation_batches[final])
        ]
        return mean_score(self._spread("score", items, state, final))

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
    buffers: Buffers = AVERAGED, local_steps: int | None = None, final: Sequence[Part] = (),
) -> Iterator[Clients]:  # fmt: skip
    """Clients of federated averaging, on ``processes`` processes. The result does not depend on how many.

    They evaluate too: ``evaluation`` holds a function for each evaluation batch, ``final`` for each of those that the
    last evaluations take instead, and the clients' own models before the last aggregation (the same ones when empty).

    The schedule is evaluated in the processes, so with more than one it must be a closed form.
    """
    serial = _Serial(
        model, batches, codec, lr, local_epochs, momentum, weight_decay, precision, download or Dense(), progress,
        evaluation, buffers, local_steps, final,
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
    buffers: Buffers = AVERAGED, local_steps: int | None = None, score_clients_in: int | None = None,
) -> Iterator[Round]:  # fmt: skip
    """``plain.federated_averaging`` with the clients of a ``client_pool``, made with the same codecs and settings.

    In round ``score_clients_in`` (from 0) the clients evaluate their own models before they are averaged.
    """
    states = [codec.new_state(client=client) for client in range(batches.clients)] if states is None else states
    download = download or Dense()
    weights = [len(shard) for shard in batches.shards]
    for number in rounds:
        shared = broadcast(model, download, buffers)
        scored = number == score_clients_in
        done = clients.run(number, shared, states, scored)
        states[:] = [local.state for local in done]
        mean = weighted_mean([codec.decode(local.payload) for local in done], weights)
        with torch.no_grad():
            for tensor, change in zip(shared_state(model, buffers).values(), mean, strict=True):
                tensor.add_(change.to(tensor.device))
        settle(model, download, buffers)
        images = sum(local.images for local in done)
        yield Round(
            number + 1,
            lr(epochs_before(batches, number, local_epochs, local_steps)),
            sum(local.loss for local in done) / images,
            sum(local.correct for local in done),
            images,
            sum(len(local.payload) for local in done),
            len(shared) * batches.clients,
            [local.top1_by_class for local in done] if scored else None,
        )
