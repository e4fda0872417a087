"""The clients' side: a process that holds some of the clients, trains them and sends what they send."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from repro.checkpoint import cpu_seconds
from repro.distributed.group import Group, frame, pack, unpack
from repro.distributed.memory import memory_of, remember
from repro.errors import Diverged, ReproError
from repro.training.buffers import shared_state
from repro.training.clients import Local, SerialClients
from repro.training.rounds import Tally
from repro.training.steps import backward, decayed_gradients

_SERVER = 0


class Host:
    """A process that holds clients, until the server lets it end.

    Args:
        group: of which this process is one.
        serial: all clients of the training, of whom this process trains its own.
        schedule: sets the learning-rate schedule to a state.
    """

    def __init__(self, group: Group, serial: SerialClients, schedule: Callable[[dict[str, Any]], None]) -> None:
        self.group, self.serial, self._set_schedule = group, serial, schedule
        self._began = cpu_seconds()
        self.clients = group.hosted(serial.batches.clients)[group.rank]

    def serve(self, fingerprint: str) -> None:
        """Do what the server asks for.

        Raises:
            Lost: the server has ended, or is silent for too long.
            ReproError: the server has another ``fingerprint``.
        """
        where = next(self.serial.worker.parameters()).device
        while (told := unpack(self.group.receive(_SERVER), where))["task"] != "end":
            if told["task"] == "begin":
                if told["fingerprint"] != fingerprint:
                    raise ReproError(
                        f"process {self.group.rank} has other settings, data or numerics than the server; the same "
                        "commit, profile and data were expected on all machines"
                    )
                remember(self.serial, told["memory"])
            elif told["task"] == "tell":
                kept = {"memory": memory_of(self.serial, self.clients), "cpu_seconds": cpu_seconds() - self._began}
                self.group.send(frame(pack(kept)), _SERVER)
            else:
                self._round(told)
            self.group.settle()

    def _round(self, told: Mapping[str, Any]) -> None:
        """Train the clients of this process that take part, and send what each of them sends as soon as it is there."""
        self._set_schedule(told["schedule"])
        part = set(self.serial.batches.round(told["number"])) if told["task"] == "step" else set(self.clients)
        work = self._step if told["task"] == "step" else self._train
        for client in filter(part.__contains__, self.clients):
            shared, momentum = self.group.receive(_SERVER), self.group.receive(_SERVER)
            diverged, local = "", Local(b"", b"", Tally(), [])
            try:
                local = work(client, told, shared, momentum)
            except Diverged as error:
                diverged = str(error)
            answer = {
                "tally": asdict(local.tally),
                "top1_by_class": local.top1_by_class,
                "received": len(shared) + len(momentum),
                "diverged": diverged,
            }
            for message in (pack(answer), local.payload, local.momentum):
                assert isinstance(message, bytes)
                self.group.send(frame(message), _SERVER)

    def _train(self, client: int, told: Mapping[str, Any], shared: bytes, momentum: bytes) -> Local:
        """The local part of a round of federated averaging; what is sent is bytes with every codec."""
        exchange = self.serial.exchange
        local = self.serial.train(client, told["number"], shared, momentum, told["score"])
        if isinstance(local.payload, bytes):
            return local
        change = dict(zip(shared_state(self.serial.worker, exchange.buffers), local.payload, strict=True))
        epoch = self.serial.local.epochs_before(self.serial.batches, told["number"])
        return local._replace(payload=exchange.send(client, change, epoch))

    def _step(self, client: int, told: Mapping[str, Any], shared: bytes, _: bytes) -> Local:
        """A worker's part of a step of large-batch training, as in ``plain.large_batch``."""
        serial, exchange, number = self.serial, self.serial.exchange, told["number"]
        worker, batches = serial.worker, serial.batches
        exchange.receive(worker, shared)
        exchange.buffers.restore(worker, client)
        x, y = batches.get(client, batches.local_step(client, number))
        seeds, tally = [batches.dropout_seed(client, number)], Tally()
        loss, correct = backward(worker, x, y, serial.optimisation.precision, seeds)
        tally.count(loss, correct, len(y))
        exchange.buffers.keep(worker, client)
        decay = serial.optimisation.decay_of_workers(exchange.codec)
        gradients = decayed_gradients(worker, decay) | exchange.buffers.sent(worker)
        return Local(exchange.send(client, gradients, number / batches.rounds_per_epoch), b"", tally, [])
