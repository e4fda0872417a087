"""The clients of federated averaging: the local part of a round, one after the other in this process."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import nn

from repro.codecs import State
from repro.data.batches import Batches
from repro.models.dropout import drops
from repro.training.buffers import load_buffers, load_state, shared_state
from repro.training.evaluate import Part, Score, evaluate_shared, mean_score, scores_by_policy
from repro.training.exchange import Exchange
from repro.training.local import LocalTraining
from repro.training.rounds import Tally
from repro.training.steps import Optimisation, backward, set_lr

Message = bytes | Sequence[torch.Tensor]  # with a codec of fixed size, the tensors that its message would hold
Arrays = Mapping[str, np.ndarray]  # running statistics or momentum by name, on their way between processes


class Local(NamedTuple):
    """What a client did in a round.

    Attributes:
        payload: what it sends; it may be overwritten once the next client's result was asked for.
        momentum: what it sends of its momentum, where that is averaged.
        tally: its losses and images.
        top1_by_class: accuracies of its own model on the evaluation batches; empty where they were not asked for.
    """

    payload: Message
    momentum: bytes
    tally: Tally
    top1_by_class: list[float | None]


class Kept(NamedTuple):
    """What a client keeps between rounds, on its way between processes: memory of its codec, statistics, momentum."""

    state: State
    buffers: Arrays
    momentum: Arrays


class Clients(Protocol):
    """Runs the local part of a round for all clients.

    Attributes:
        batches, exchange, optimisation, local: with what they train.
    """

    batches: Batches
    exchange: Exchange
    optimisation: Optimisation
    local: LocalTraining

    def run(self, number: int, shared: Message, momentum: bytes, score: bool) -> Iterator[Local]:
        """Every client's result of round ``number`` (from 0), started from the shared model ``shared``.

        Results come in the order of the clients, each as soon as it is there, so that not all need to be held at once.
        ``momentum`` is the server's message of it. With ``score`` every client evaluates its own model as well, with
        the running statistics that it has then.
        """

    def evaluate(self, model: nn.Module, final: bool = False) -> Mapping[str, Any]:
        """``evaluate_shared`` of ``model`` on the evaluation batches, or the final ones, to the last bit."""


class SerialClients:
    """All clients one after the other on one reused model.

    Args:
        model: the network; a copy of it trains.
        batches, exchange, optimisation, local: with what the clients train.
        evaluation: a function for each evaluation batch.
        final: one for each of those that the last evaluations take instead, and the clients' own models before the last
            aggregation; the same ones when empty.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        exchange: Exchange,
        optimisation: Optimisation,
        local: LocalTraining,
        evaluation: Sequence[Part] = (),
        final: Sequence[Part] = (),
    ) -> None:
        self.worker, self._drops = copy.deepcopy(model).train(), drops(model)
        self.batches, self.exchange, self.optimisation, self.local = batches, exchange, optimisation, local
        self.evaluation, self.final = evaluation, final or evaluation
        self.down: Sequence[torch.Tensor] = []  # in shared memory: the shared model,
        self.up: Sequence[Sequence[torch.Tensor]] = []  # and places for what clients send
        self._received: tuple[Message, list[torch.Tensor]] | None = None

    def run(self, number: int, shared: Message, momentum: bytes, score: bool) -> Iterator[Local]:
        """See ``Clients``."""
        for client in range(self.batches.clients):
            yield self.train(client, number, shared, momentum, score)

    def evaluate(self, model: nn.Module, final: bool = False) -> Mapping[str, Any]:
        """See ``Clients``."""
        parts = self.final if final else self.evaluation
        return evaluate_shared(model, parts, self.optimisation.precision, self.exchange.buffers)

    def train(self, client: int, number: int, shared: Message, momentum: bytes, score: bool) -> Local:
        """Local SGD of one client."""
        before, optimiser = self.begin(client, shared, momentum)
        steps, per_epoch = self.local.range(self.batches, client, number)
        tally = Tally()
        for step in steps:
            set_lr(optimiser, self.optimisation.lr(step / per_epoch))
            x, y = self.batches.get(client, step)
            seeds = [self.batches.dropout_seed(client, step)] if self._drops else []
            loss, correct = backward(self.worker, x, y, self.optimisation.precision, seeds)
            optimiser.step()
            tally.count(loss, correct, len(y))
        return self.end(client, before, optimiser, tally, steps.start / per_epoch, score)

    def begin(self, client: int, shared: Message, momentum: bytes) -> tuple[list[torch.Tensor], torch.optim.Optimizer]:
        """Give ``worker`` the shared model as ``client`` has it; that model, and the client's optimiser."""
        buffers = self.exchange.buffers
        before = self._decoded(shared)
        load_state(self.worker, before, buffers)
        buffers.restore(self.worker, client)
        if not self.exchange.codec.fixed_size:  # in the memory format of the model, in which codecs send
            before = [tensor.clone() for tensor in shared_state(self.worker, buffers).values()]
        optimiser = self.optimisation.optimiser(self.worker)
        self.local.momenta.restore(optimiser, self.worker, client, momentum)
        return before, optimiser

    def end(
        self, client: int, before: Sequence[torch.Tensor], optimiser: torch.optim.Optimizer, tally: Tally, epoch: float,
        score: bool,
    ) -> Local:  # fmt: skip
        """What ``client`` keeps and sends after its local steps, which led ``worker`` away from ``before``.

        ``epoch`` is that in which the round began.
        """
        self.exchange.buffers.keep(self.worker, client)
        payload = self._sent(client, before, epoch)
        by_class = mean_score(self._scores(self.final))["top1_by_class"] if score else []
        return Local(payload, self.local.momenta.keep(optimiser, self.worker, client), tally, by_class)

    def _decoded(self, shared: Message) -> list[torch.Tensor]:
        """The shared model as received, on the model's device; decoded once a round, whatever the number of clients."""
        if self._received is None or self._received[0] is not shared:
            tensors: Sequence[torch.Tensor]
            if isinstance(shared, bytes) and shared:
                tensors = self.exchange.download.decode(shared, self.exchange.expected(self.worker))
            else:
                tensors = shared if shared else self.down
            device = next(self.worker.parameters()).device
            self._received = shared, [tensor.to(device) for tensor in tensors]
        return self._received[1]

    def _sent(self, client: int, before: Sequence[torch.Tensor], epoch: float) -> Message:
        """What a client sends: the change of its model since ``before``."""
        after = shared_state(self.worker, self.exchange.buffers)
        if not self.exchange.codec.fixed_size:
            change = {name: after[name] - old for name, old in zip(after, before, strict=True)}
            return self.exchange.send(client, change, epoch)
        places = self.up[client % len(self.up)] if self.up else [_row_major(tensor) for tensor in after.values()]
        for place, tensor, old in zip(places, after.values(), before, strict=True):
            if tensor.device == place.device:
                torch.sub(tensor, old, out=place)
            else:
                place.copy_(tensor - old)
        return places

    def _scores(self, parts: Iterable[Part]) -> list[Score]:
        return scores_by_policy(self.worker, parts, self.optimisation.precision, self.exchange.buffers)

    def kept(self, client: int) -> Kept:
        """What ``client`` keeps between rounds."""
        momenta, buffers = self.local.momenta.kept, self.exchange.buffers.own
        return Kept(self.exchange.state(client), _arrays(buffers, client), _arrays(momenta, client))

    def keep(self, client: int, kept: Kept) -> None:
        """The inverse of ``kept``."""
        self.exchange.state(client)
        self.exchange.states[client] = kept.state
        _put(self.exchange.buffers.own, client, kept.buffers)
        _put(self.local.momenta.kept, client, kept.momentum)

    def train_elsewhere(
        self, item: tuple[int, Kept], number: int, shared: Message, momentum: bytes, score: bool
    ) -> tuple[Local, Kept]:
        """``train`` in a process of its own, where what the client keeps comes and goes."""
        client, kept = item
        self.keep(client, kept)
        local = self.train(client, number, shared, momentum, score)
        if self.exchange.codec.fixed_size:
            local = local._replace(payload=b"")  # it lies in shared memory
        return local, self.kept(client)

    def score_elsewhere(self, item: tuple[Arrays, int], state: Sequence[np.ndarray], final: bool) -> Score:
        """Score on one evaluation batch of the model with shared state ``state`` and a worker's running statistics."""
        own, part = item
        load_state(self.worker, map(torch.from_numpy, state), self.exchange.buffers)
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
