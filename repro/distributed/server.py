"""The server's side: clients that train in other processes, and the averaging of what they send."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self

import torch
from torch import nn

from repro.distributed.group import Crossed, Group, frame, pack, unpack
from repro.distributed.memory import memory_of, remember
from repro.errors import Diverged, NotFinite
from repro.training.averages import WeightedMean
from repro.training.clients import Local, Message, SerialClients
from repro.training.rounds import Round, Tally
from repro.training.steps import set_gradients, set_lr


class Server:
    """``Clients`` in the other processes of a group.

    A context: when it is left, the other processes end as well, unless an error other than a diverged training leaves
    it; then they learn from their connections that this one has ended.

    Args:
        group: of which this process is number 0.
        serial: the same clients in this process, who hold what they keep between rounds while it is stored.
        model: the shared model.
        schedule: the state of the learning-rate schedule now.
    """

    def __init__(
        self, group: Group, serial: SerialClients, model: nn.Module, schedule: Callable[[], dict[str, Any]]
    ) -> None:
        self.batches, self.exchange = serial.batches, serial.exchange
        self.optimisation, self.local = serial.optimisation, serial.local
        self.group, self.model, self._here, self._schedule = group, model, serial, schedule
        self._hosted = group.hosted(self.batches.clients)
        self._host_of = {client: rank for rank, clients in self._hosted.items() for client in clients}
        self._due: list[int] = []  # clients whose answer of this round is still to come
        self._spent_before = group.crossed.cpu_seconds

    def begin(self, fingerprint: str) -> Self:
        """Let all begin with what their clients keep; ``fingerprint`` is that of the run, the same everywhere."""
        for rank, clients in self._hosted.items():
            told = {"task": "begin", "fingerprint": fingerprint, "memory": memory_of(self._here, clients)}
            self.group.send(frame(pack(told)), rank)
        self.group.settle()
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, Diverged):
            while self._due:
                self._answer(self._due.pop(0))
            self.gather()
            dismiss(self.group)

    def run(self, number: int, shared: Message, momentum: bytes, score: bool) -> Iterator[Local]:
        """See ``Clients``."""
        message = shared if isinstance(shared, bytes) else self.exchange.broadcast(self.model)
        told = {"task": "train", "number": number, "score": score}
        yield from self._round(told, range(self.batches.clients), message, momentum)

    def step(self, number: int, shared: bytes) -> Iterator[Local]:
        """The gradients of all clients that take part in a step of large-batch training, in their order."""
        yield from self._round({"task": "step", "number": number}, self.batches.round(number), shared, b"")

    def evaluate(self, model: nn.Module, final: bool = False) -> Mapping[str, Any]:
        """See ``Clients``; the server evaluates."""
        if self.exchange.buffers.own:
            self.gather()
        return self._here.evaluate(model, final)

    def gather(self) -> None:
        """Bring what the clients keep, and the time that their processes spent, to this process."""
        told, spent = frame(pack({"task": "tell"})), 0.0
        for rank in self.group.hosts:
            self.group.send(told, rank)
        for rank in self.group.hosts:
            answer = unpack(self.group.receive(rank), next(self.model.parameters()).device)
            remember(self._here, answer["memory"])
            spent += answer["cpu_seconds"]
        self.group.crossed.cpu_seconds = self._spent_before + spent
        self.group.settle()

    def _round(
        self, told: Mapping[str, Any], clients: Iterable[int], shared: bytes, momentum: bytes
    ) -> Iterator[Local]:
        """Send all what a round begins with, and yield what they answer, one after the other."""
        self._due = list(clients)
        instruction = frame(pack({**told, "schedule": self._schedule()}))
        for rank in self.group.hosts:
            self.group.send(instruction, rank)
        messages, crossed = (frame(shared), frame(momentum)), Crossed()
        for client in self._due:
            for message in messages:
                self.group.send(message, self._host_of[client])
        while self._due:
            local, received, error = self._answer(self._due.pop(0))
            if error:
                raise NotFinite(error)
            crossed.up += len(local.payload) + len(local.momentum)
            crossed.down += received
            yield local
        self.group.settle()
        self.group.crossed.up += crossed.up
        self.group.crossed.down += crossed.down

    def _answer(self, client: int) -> tuple[Local, int, str]:
        """What a client did in this round, how many bytes it received, and why it diverged, if it did."""
        rank = self._host_of[client]
        answer = unpack(self.group.receive(rank))
        payload, momentum = self.group.receive(rank), self.group.receive(rank)
        local = Local(payload, momentum, Tally(**answer["tally"]), answer["top1_by_class"])
        return local, answer["received"], answer["diverged"]


def dismiss(group: Group) -> None:
    """Let the other processes end."""
    for rank in group.hosts:
        group.send(frame(pack({"task": "end"})), rank)
    group.settle()


def large_batch(server: Server, optimiser: torch.optim.Optimizer, rounds: Iterable[int]) -> Iterator[Round]:
    """``plain.large_batch`` with the clients of a ``Server``: the same sums in the same order, to the last bit."""
    model, batches, exchange, optimisation = server.model, server.batches, server.exchange, server.optimisation
    for step in rounds:
        lr = optimisation.lr(step / batches.rounds_per_epoch)
        set_lr(optimiser, lr)
        mean, tally, shared = WeightedMean(sum(batches.images_of(step))), Tally(), exchange.broadcast(model)
        for done in server.step(step, shared):
            assert isinstance(done.payload, bytes)
            mean.add(exchange.codec.decode(done.payload, exchange.expected(model)), done.tally.images)
            tally.add(done.tally)
            tally.up, tally.down = tally.up + len(done.payload), tally.down + len(shared)
        set_gradients(model, mean.result(), exchange.buffers)
        optimiser.step()
        exchange.settle(model)
        yield tally.round(step + 1, lr)
