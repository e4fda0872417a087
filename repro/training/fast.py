"""The same rounds as ``plain``, faster.

* Large batch: one pass over the union of the workers' batches, with BatchNorm statistics worker by worker. Averaging
  the gradients, weighted by images, is the gradient of the union's mean loss, so no worker is ever copied.
* Federated averaging: one reused local model instead of a copy a client; clients, and the batches of an evaluation,
  spread over processes. Where a codec is of fixed size, and so exact, tensors are handed over in shared memory instead
  of messages, whose length is that of one message that is really made, and decoded, in the first round.
"""

from __future__ import annotations

import copy
import math
import mmap
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import nn

from repro.codecs import Codec, Dense, Expected
from repro.codecs.message import check
from repro.codecs.state import State
from repro.data.batches import Batches
from repro.errors import ReproError
from repro.models.dropout import drops
from repro.models.norms import batch_statistics, worker_batches
from repro.training.averages import WeightedMean, client_weights
from repro.training.buffers import AVERAGED, Buffers, expected, float_buffers, load_buffers, load_state, shared_state
from repro.training.evaluate import Part, Score, evaluate_shared, mean_score, scores_by_policy
from repro.training.momenta import RESTARTED, Momenta
from repro.training.plain import centralised
from repro.training.rounds import Progress, Round, broadcast, epochs_before, epochs_seen, local_range, settle
from repro.training.steps import Schedule, backward, decayed_gradients, gradients, set_gradients, set_lr, sgd

__all__ = ["Clients", "Local", "centralised", "client_pool", "federated_averaging", "large_batch"]

Message = bytes | Sequence[torch.Tensor]  # with a codec of fixed size, the tensors that its message would hold
Arrays = Mapping[str, np.ndarray]  # running statistics or momentum by name, on their way between processes

_TASK, _ITEM = "task", "item"  # what a message to a process holds
_AHEAD = 2
_ALIGNED = 64  # bytes at which a tensor in shared memory begins


def large_batch(
    model: nn.Module, optimiser: torch.optim.Optimizer, batches: Batches, codec: Codec, lr: Schedule,
    rounds: Iterable[int], precision: str = "fp32", *, states: Sequence[State] | None = None,
    download: Codec | None = None, progress: Progress = epochs_seen, buffers: Buffers = AVERAGED,
    weight_decay: float = 0.0,
) -> Iterator[Round]:  # fmt: skip
    """``plain.large_batch``: in one pass a round where the codec allows it, else worker by worker on one model.

    One pass needs a codec of fixed size: every worker's payload then has the length of the payload of the averaged
    gradient, which is really made, and decoded, in the first round.
    """
    if weight_decay and not codec.corrects_momentum:
        raise ReproError("weight decay on the workers with a codec that leaves momentum to the server; decay there")
    model.train()
    states = states or [codec.new_state(client=client) for client in range(batches.clients)]
    download = download or Dense()
    up = down = 0
    seeded = drops(model)
    for step in rounds:
        epoch = step / batches.rounds_per_epoch
        set_lr(optimiser, lr(epoch))
        if not (down and download.fixed_size):
            down = len(broadcast(model, download, buffers))
        if codec.fixed_size:
            x, y, sizes = batches.union(step)
            with _all_at_once(model, batches, step, sizes, buffers):
                seeds = [batches.dropout_seed(client, step) for client in batches.round(step)] if seeded else []
                loss, correct = backward(model, x, y, precision, seeds, sizes)
            if not up:
                up = _measured(codec, gradients(model) | buffers.sent(model))
            sent = len(sizes) * up
        else:
            sizes, loss, correct, sent = _one_by_one(
                model, batches, codec, states, step, progress(epoch), precision, buffers, weight_decay
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
    precision: str, buffers: Buffers, weight_decay: float,
) -> tuple[list[int], float, int, int]:  # fmt: skip
    """Set gradients and buffers to the average of what the workers send in ``step``.

    Returns:
        Images of each worker, mean loss over all images, images classified correctly, bytes sent.
    """
    before = {name: buffer.clone() for name, buffer in float_buffers(model).items()}
    sizes = batches.images_of(step)
    mean, up, losses, correct = WeightedMean(sum(sizes)), 0, 0.0, 0
    for client in batches.round(step):
        buffers.restore(model, client)
        x, y = batches.get(client, batches.local_step(client, step))
        loss, right = backward(model, x, y, precision, [batches.dropout_seed(client, step)])
        buffers.keep(model, client)
        states[client]["progress"] = progress
        payload = codec.encode(states[client], decayed_gradients(model, weight_decay) | buffers.sent(model))
        mean.add(codec.decode(payload, expected(model, buffers)), len(y))
        up += len(payload)
        load_buffers(model, before)
        losses, correct = losses + loss * len(y), correct + right
    set_gradients(model, mean.result(), buffers)
    return sizes, losses / sum(sizes), correct, up


def _measured(codec: Codec, tensors: dict[str, torch.Tensor]) -> int:
    payload = codec.encode(codec.new_state(), tensors)
    codec.decode(payload, Expected.like(tensors.values()))
    return len(payload)


class Local(NamedTuple):
    """What a client did in a round.

    Attributes:
        payload: what it sends; it may be overwritten once the next client's result was asked for.
        momentum: what it sends of its momentum, where that is averaged.
        state: the codec's memory of it afterwards.
        loss: sum of its losses over images.
        correct, images: images classified correctly, and seen.
        top1_by_class: accuracies of its own model on the evaluation batches; empty where they were not asked for.
    """

    payload: Message
    momentum: bytes
    state: State
    loss: float
    correct: int
    images: int
    top1_by_class: list[float | None]


class Clients(Protocol):
    """Runs the local part of a round for all clients."""

    def run(
        self, number: int, shared: Message, momentum: bytes, states: Sequence[State], score: bool
    ) -> Iterator[Local]:  # fmt: skip
        """Every client's result of round ``number`` (from 0), started from the shared model ``shared``.

        Results come in the order of the clients, each as soon as it is there, so that not all need to be held at once.
        ``momentum`` is the server's message of it. With ``score`` every client evaluates its own model as well, with
        the running statistics that it has then.
        """

    def evaluate(self, model: nn.Module, final: bool = False) -> Mapping[str, Any]:
        """``common.evaluate_shared`` of ``model`` on the evaluation batches, or the final ones, to the last bit."""


class _Serial:
    """All clients one after the other on one reused model."""

    def __init__(
        self, model: nn.Module, batches: Batches, codec: Codec, lr: Schedule, local_epochs: int, momentum: float,
        weight_decay: float, precision: str, download: Codec, progress: Progress, evaluation: Sequence[Part],
        buffers: Buffers, local_steps: int | None, momenta: Momenta, final: Sequence[Part] = (),
    ) -> None:  # fmt: skip
        self.worker, self._drops = copy.deepcopy(model).train(), drops(model)
        self.batches, self.codec, self.lr, self.local_epochs = batches, codec, lr, local_epochs
        self.momentum, self.weight_decay, self.precision = momentum, weight_decay, precision
        self.download, self.progress, self.evaluation = download, progress, evaluation
        self.buffers, self.local_steps, self.momenta = buffers, local_steps, momenta
        self.final = final or evaluation
        self.down: Sequence[torch.Tensor] = []  # in shared memory: the shared model,
        self.up: Sequence[Sequence[torch.Tensor]] = []  # and places for what clients send
        self._received: tuple[Message, list[torch.Tensor]] | None = None

    def client(self, client: int, state: State, number: int, shared: Message, momentum: bytes, score: bool) -> Local:
        """Local SGD of one client; ``state`` is its codec's memory."""
        before = self._decoded(shared)
        load_state(self.worker, before, self.buffers)
        self.buffers.restore(self.worker, client)
        if not self.codec.fixed_size:  # in the memory format of the model, in which codecs send
            before = [tensor.clone() for tensor in shared_state(self.worker, self.buffers).values()]
        optimiser = sgd(self.worker, self.momentum, self.weight_decay)
        self.momenta.restore(optimiser, self.worker, client, momentum)
        steps, per_epoch = local_range(self.batches, client, number, self.local_epochs, self.local_steps)
        losses, correct, images = 0.0, 0, 0
        for step in steps:
            set_lr(optimiser, self.lr(step / per_epoch))
            x, y = self.batches.get(client, step)
            seeds = [self.batches.dropout_seed(client, step)] if self._drops else []
            loss, right = backward(self.worker, x, y, self.precision, seeds)
            optimiser.step()
            losses, correct, images = losses + loss * len(y), correct + right, images + len(y)
        self.buffers.keep(self.worker, client)
        state["progress"] = self.progress(steps.start / per_epoch)
        payload = self._sent(client, state, before)
        by_class = mean_score(self._scores(self.final))["top1_by_class"] if score else []
        sent_momentum = self.momenta.keep(optimiser, self.worker, client)
        return Local(payload, sent_momentum, state, losses, correct, images, by_class)

    def _decoded(self, shared: Message) -> list[torch.Tensor]:
        """The shared model as received, on the model's device; decoded once a round, whatever the number of clients."""
        if self._received is None or self._received[0] is not shared:
            tensors: Sequence[torch.Tensor]
            if isinstance(shared, bytes) and shared:
                tensors = self.download.decode(shared, expected(self.worker, self.buffers))
            else:
                tensors = shared if shared else self.down
            device = next(self.worker.parameters()).device
            self._received = shared, [tensor.to(device) for tensor in tensors]
        return self._received[1]

    def _sent(self, client: int, state: State, before: Sequence[torch.Tensor]) -> Message:
        """What a client sends: the change of its model since ``before``."""
        after = shared_state(self.worker, self.buffers)
        if not self.codec.fixed_size:
            change = {name: after[name] - old for name, old in zip(after, before, strict=True)}
            return self.codec.encode(state, change)
        places = self.up[client % len(self.up)] if self.up else [_row_major(tensor) for tensor in after.values()]
        for place, tensor, old in zip(places, after.values(), before, strict=True):
            if tensor.device == place.device:
                torch.sub(tensor, old, out=place)
            else:
                place.copy_(tensor - old)
        return places

    def _scores(self, parts: Iterable[Part]) -> list[Score]:
        return scores_by_policy(self.worker, parts, self.precision, self.buffers)

    def run(
        self, number: int, shared: Message, momentum: bytes, states: Sequence[State], score: bool
    ) -> Iterator[Local]:  # fmt: skip
        for client, state in enumerate(states):
            yield self.client(client, state, number, shared, momentum, score)

    def evaluate(self, model: nn.Module, final: bool = False) -> Mapping[str, Any]:
        return evaluate_shared(model, self.final if final else self.evaluation, self.precision, self.buffers)

    def client_elsewhere(
        self, item: tuple[int, State, Arrays, Arrays], number: int, shared: Message, momentum: bytes, score: bool
    ) -> tuple[Local, Arrays, Arrays]:
        """``client`` in a process of its own, where running statistics and momentum that it keeps come and go."""
        client, state, buffers, momenta = item
        _put(self.buffers.own, client, buffers)
        _put(self.momenta.kept, client, momenta)
        local = self.client(client, state, number, shared, momentum, score)
        if self.codec.fixed_size:
            local = local._replace(payload=b"")  # it lies in shared memory
        return local, _arrays(self.buffers.own, client), _arrays(self.momenta.kept, client)

    def score(self, item: tuple[Arrays, int], state: Sequence[np.ndarray], final: bool) -> Score:
        """Score on one evaluation batch of the model with shared state ``state`` and a worker's running statistics."""
        own, part = item
        load_state(self.worker, map(torch.from_numpy, state), self.buffers)
        if own:
            load_buffers(self.worker, {name: torch.from_numpy(values) for name, values in own.items()})
        return self._scores([(self.final if final else self.evaluation)[part]])[0]


def _arrays(kept: Sequence[Mapping[str, torch.Tensor]], client: int) -> Arrays:
    """What worker ``client`` keeps, if workers do."""
    return {name: values.numpy() for name, values in kept[client].items()} if kept else {}


def _put(kept: list[dict[str, torch.Tensor]], client: int, values: Arrays) -> None:
    """The inverse of ``_arrays``."""
    if kept:
        kept[client] = {name: torch.from_numpy(array) for name, array in values.items()}


def _row_major(tensor: torch.Tensor) -> torch.Tensor:
    """Room for the values of ``tensor`` in this process."""
    return torch.empty(tensor.shape, dtype=tensor.dtype)


def _in_shared_memory(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Room for the values of ``tensors``, row-major, that processes forked later share with this one."""
    kept = list(tensors)
    sizes = [math.ceil(tensor.nbytes / _ALIGNED) * _ALIGNED for tensor in kept]
    memory, at, places = mmap.mmap(-1, max(1, sum(sizes))), 0, []
    for tensor, size in zip(kept, sizes, strict=True):
        values = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=at) if size else tensor
        places.append(values.view(tensor.shape))
        at += size
    return places


class _Forked:
    """Clients, and the batches of an evaluation, spread over forked processes."""

    def __init__(self, serial: _Serial, processes: int) -> None:
        context = multiprocessing.get_context("fork")
        self._evaluation_batches = (len(serial.evaluation), len(serial.final))
        self._buffers, self._momenta = serial.buffers, serial.momenta
        state = shared_state(serial.worker, serial.buffers).values()
        if serial.download.fixed_size:
            serial.down = _in_shared_memory(state)
        if serial.codec.fixed_size:
            serial.up = [_in_shared_memory(state) for _ in range(_AHEAD * processes)]
        self._down, self._up = serial.down, serial.up
        self._ends: list[Connection] = []
        self._running: dict[Connection, int] = {}  # number of the item that a busy process works on
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
        task, arguments = "", list[Any]()
        try:
            while True:
                kind, content = end.recv()
                if kind == _TASK:
                    task, *arguments = content
                    continue
                try:
                    end.send(getattr(serial, task)(content, *arguments))
                except ReproError as error:
                    end.send(error)
        except (EOFError, BrokenPipeError):
            return

    def _spread(self, task: str, count: int, item: Callable[[int], Any], *arguments: Any) -> Iterator[Any]:
        """``task`` of ``_Serial`` for the items from 0 to ``count``, in order, each given out when it is its turn.

        Whichever process is free takes the next item, but stays at most ``_AHEAD`` a process ahead of the one whose
        turn it is, so that few results are held at once. Of several errors the first in order is raised.
        """
        self._drain()
        for end in self._ends:
            end.send((_TASK, (task, *arguments)))
        idle, done, given = list(self._ends), dict[int, Any](), 0
        for due in range(count):
            while True:
                while idle and given < min(count, due + _AHEAD * len(self._ends)):
                    end = idle.pop()
                    end.send((_ITEM, item(given)))
                    self._running[end], given = given, given + 1
                if due in done:
                    break
                for end in cast("list[Connection]", wait(list(self._running))):
                    number, answer = self._receive(end)
                    done[number] = answer
                    idle.append(end)
            if isinstance(done[due], ReproError):
                raise done[due]
            yield done.pop(due)

    def _drain(self) -> None:
        """Wait for what was broken off before."""
        while self._running:
            self._receive(next(iter(self._running)))

    def _receive(self, end: Connection) -> tuple[int, Any]:
        """Number and result of the item that runs at ``end``."""
        try:
            return self._running.pop(end), end.recv()
        except EOFError as error:
            raise ReproError("a process that trains clients has ended (killed, or out of memory); run again") from error

    def run(
        self, number: int, shared: Message, momentum: bytes, states: Sequence[State], score: bool
    ) -> Iterator[Local]:  # fmt: skip
        buffers, momenta = self._buffers.own, self._momenta.kept
        if not isinstance(shared, bytes):
            self._drain()
            for place, tensor in zip(self._down, shared, strict=True):
                place.copy_(tensor)
            shared = b""

        def item(client: int) -> tuple[int, State, Arrays, Arrays]:
            return client, states[client], _arrays(buffers, client), _arrays(momenta, client)

        done = self._spread("client_elsewhere", len(states), item, number, shared, momentum, score)
        for client, (local, own_buffers, own_momentum) in enumerate(done):
            _put(buffers, client, own_buffers)
            _put(momenta, client, own_momentum)
            yield local._replace(payload=self._up[client % len(self._up)]) if self._up else local

    def evaluate(self, model: nn.Module, final: bool = False) -> Mapping[str, Any]:
        state = [tensor.numpy() for tensor in shared_state(model, self._buffers).values()]
        workers, parts = len(self._buffers.own) or 1, self._evaluation_batches[final]

        def item(number: int) -> tuple[Arrays, int]:
            client, part = divmod(number, parts)
            return _arrays(self._buffers.own, client), part

        return mean_score(self._spread("score", workers * parts, item, state, final))

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
    buffers: Buffers = AVERAGED, local_steps: int | None = None, momenta: Momenta = RESTARTED,
    final: Sequence[Part] = (),
) -> Iterator[Clients]:  # fmt: skip
    """Clients of federated averaging, on ``processes`` processes. The result does not depend on how many.

    They evaluate too: ``evaluation`` holds a function for each evaluation batch, ``final`` for each of those that the
    last evaluations take instead, and the clients' own models before the last aggregation (the same ones when empty).

    The schedule is evaluated in the processes, so with more than one it must be a closed form.
    """
    serial = _Serial(
        model, batches, codec, lr, local_epochs, momentum, weight_decay, precision, download or Dense(), progress,
        evaluation, buffers, local_steps, momenta, final,
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
    momenta: Momenta = RESTARTED, weights: Literal["images", "equal"] = "images",
) -> Iterator[Round]:  # fmt: skip
    """``plain.federated_averaging`` with the clients of a ``client_pool``, made with the same codecs and settings.

    In round ``score_clients_in`` (from 0) the clients evaluate their own models before they are averaged. What a
    client sends is averaged and forgotten before that of the next one is looked at: memory is that of a few models.
    """
    states = [codec.new_state(client=client) for client in range(batches.clients)] if states is None else states
    download = download or Dense()
    shares = client_weights(batches, weights)
    down = up_each = 0
    for number in rounds:
        if down and download.fixed_size:
            check(shared_state(model, buffers))
        else:
            message = broadcast(model, download, buffers)
            down = len(message)
        shared: Message = list(shared_state(model, buffers).values()) if download.fixed_size else message
        if codec.fixed_size and not up_each:
            up_each = _measured(codec, shared_state(model, buffers))
        shared_momentum = momenta.message()
        scored, wanted = number == score_clients_in, expected(model, buffers)
        mean, mean_momentum = WeightedMean(sum(shares)), WeightedMean(sum(shares))
        losses, correct, images, up, scores = 0.0, 0, 0, 0, []
        for client, local in enumerate(clients.run(number, shared, shared_momentum, states, scored)):
            states[client] = local.state
            sent = local.payload
            mean.add(codec.decode(sent, wanted) if isinstance(sent, bytes) else sent, shares[client])
            if local.momentum:
                mean_momentum.add(Dense().decode(local.momentum), shares[client])
            losses, correct, images = losses + local.loss, correct + local.correct, images + local.images
            up += (up_each or len(sent)) + len(local.momentum)
            scores.append(local.top1_by_class)
        if codec.fixed_size:  # no message said so; a mean of finite values is finite, and no other
            check(dict(zip(shared_state(model, buffers), mean.result(), strict=True)))
        with torch.no_grad():
            for tensor, change in zip(shared_state(model, buffers).values(), mean.result(), strict=True):
                tensor.add_(change.to(tensor.device))
        if momenta.policy == "average":
            momenta.settle(mean_momentum.result())
        settle(model, download, buffers)
        yield Round(
            number + 1, lr(epochs_before(batches, number, local_epochs, local_steps)), losses / images, correct, images,
            up, (down + len(shared_momentum)) * batches.clients, scores if scored else None,
        )  # fmt: skip
