"""Clients, and the batches of an evaluation, spread over processes. Results do not depend on how many there are.

Where a codec is of fixed size, and so exact, tensors are handed over in shared memory instead of messages.
"""

from __future__ import annotations

import math
import mmap
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, cast

import torch
from torch import nn

from repro.data.batches import Batches
from repro.errors import ReproError
from repro.training.buffers import shared_state
from repro.training.clients import Arrays, Clients, Kept, Local, Message, SerialClients
from repro.training.evaluate import Part, mean_score
from repro.training.exchange import Exchange
from repro.training.local import ONE_EPOCH, LocalTraining
from repro.training.steps import Optimisation

_TASK, _ITEM = "task", "item"  # what a message to a process holds
_AHEAD = 2
_ALIGNED = 64  # bytes at which a tensor in shared memory begins


@contextmanager
def client_pool(
    model: nn.Module,
    batches: Batches,
    exchange: Exchange,
    optimisation: Optimisation,
    local: LocalTraining = ONE_EPOCH,
    *,
    processes: int = 1,
    evaluation: Sequence[Part] = (),
    final: Sequence[Part] = (),
) -> Iterator[Clients]:
    """Clients of federated averaging, on ``processes`` processes; they evaluate, too (see ``SerialClients``).

    The schedule is evaluated in the processes, so with more than one it must be a closed form.
    """
    serial = SerialClients(model, batches, exchange, optimisation, local, evaluation, final)
    if min(processes, batches.clients) < 2:
        yield serial
        return
    pool = _ForkedClients(serial, min(processes, batches.clients))
    try:
        yield pool
    finally:
        pool.close()


class _ForkedClients:
    """``SerialClients`` in forked processes."""

    def __init__(self, serial: SerialClients, processes: int) -> None:
        context = multiprocessing.get_context("fork")
        self.batches, self.exchange = serial.batches, serial.exchange
        self.optimisation, self.local = serial.optimisation, serial.local
        self._here = serial
        state = shared_state(serial.worker, serial.exchange.buffers).values()
        if serial.exchange.download.fixed_size:
            serial.down = _in_shared_memory(state)
        if serial.exchange.codec.fixed_size:
            serial.up = [_in_shared_memory(state) for _ in range(_AHEAD * processes)]
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
    def _serve(serial: SerialClients, end: Connection, parents_ends: Sequence[Connection]) -> None:
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
        except (EOFError, BrokenPipeError, KeyboardInterrupt):
            return

    def _spread(self, task: str, count: int, item: Callable[[int], Any], *arguments: Any) -> Iterator[Any]:
        """``task`` of ``SerialClients`` for the items from 0 to ``count``, in order, each given out in its turn.

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

    def run(self, number: int, shared: Message, momentum: bytes, score: bool) -> Iterator[Local]:
        """See ``Clients``."""
        if not isinstance(shared, bytes):
            self._drain()
            for place, tensor in zip(self._here.down, shared, strict=True):
                place.copy_(tensor)
            shared = b""
        up = self._here.up

        def item(client: int) -> tuple[int, Kept]:
            return client, self._here.kept(client)

        done = self._spread("train_elsewhere", self.batches.clients, item, number, shared, momentum, score)
        for client, (local, kept) in enumerate(done):
            self._here.keep(client, kept)
            yield local._replace(payload=up[client % len(up)]) if up else local

    def evaluate(self, model: nn.Module, final: bool = False) -> Mapping[str, Any]:
        """See ``Clients``."""
        own = self.exchange.buffers.own
        state = [tensor.numpy() for tensor in shared_state(model, self.exchange.buffers).values()]
        parts = len(self._here.final if final else self._here.evaluation)

        def item(number: int) -> tuple[Arrays, int]:
            client, part = divmod(number, parts)
            return (self._here.kept(client).buffers if own else {}), part

        return mean_score(self._spread("score_elsewhere", (len(own) or 1) * parts, item, state, final))

    def close(self) -> None:
        """End the processes."""
        for end in self._ends:
            end.close()
        for process in self._processes:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()


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
