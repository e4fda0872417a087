"""Clients of federated averaging that train together, as one network of grouped convolutions.

They do what those of ``clients`` do: each has its own images, learning rate, dropout, momentum, running statistics and
codec. Sums are added up in another order than one after the other, so that results differ by round-off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from repro.errors import ReproError
from repro.models.stacked import Stack
from repro.training.bfloat16 import precise
from repro.training.buffers import float_buffers, load_buffers
from repro.training.clients import Local, Message, SerialClients
from repro.training.evaluate import expect_finite
from repro.training.rounds import Tally
from repro.training.steps import parameter_groups, sgd

_NO_IMAGE = -100
"""Label of a row that only fills a batch."""


class _Row(NamedTuple):
    """A client that trains in a row of the stack: what it has to do, and what it has done."""

    client: int
    steps: range
    per_epoch: int
    before: Sequence[Tensor]
    optimiser: torch.optim.Optimizer
    tally: Tally


class _Group(NamedTuple):
    """Parameters, by name, that learn at ``factor`` times the schedule's rate."""

    names: list[str]
    factor: float


class StackedClients:
    """``SerialClients``, of which some train together.

    Args:
        serial: the clients.
        together: how many train as one network; where stacking pays, 10 to 25 were equally fast on a CPU.

    Raises:
        ReproError: the network, or its optimiser, cannot be stacked.
    """

    def __init__(self, serial: SerialClients, together: int) -> None:
        self.batches, self.exchange = serial.batches, serial.exchange
        self.optimisation, self.local = serial.optimisation, serial.local
        if self.optimisation.make is not sgd:
            raise ReproError("stacked clients with an optimiser that is not SGD; leave `stacked` out")
        self._serial, worker = serial, serial.worker
        self._together = min(together, self.batches.clients)
        self._stack = Stack(worker, self._together).to(next(worker.parameters()).device).train()
        self._expect_same(worker)
        net = self._stack.net
        self._named, self._buffers = dict(net.named_parameters()), float_buffers(net)
        self._momentum = {name: torch.zeros_like(parameter.detach()) for name, parameter in self._named.items()}
        names = {id(parameter): name for name, parameter in self._named.items()}
        self._groups = [
            _Group([names[id(parameter)] for parameter in group["params"]], group["lr_factor"])
            for group in parameter_groups(net)
        ]

    @torch.no_grad()
    def _expect_same(self, worker: nn.Module) -> None:
        """Raise a ReproError if the stack computes anything else than its networks do, one after the other."""
        first = self.batches.together([(client, 0) for client in range(self._together)])
        x = [images[:2] for images in first[0].split(first[2])]
        self._stack.eval().begin([len(each) for each in x], [])
        worker.eval()
        ours, apart = self._stack(pad_sequence(x, batch_first=True)), [worker(each) for each in x]
        worker.train()
        self._stack.train()
        for logits, expected in zip(ours, apart, strict=True):
            error = float((logits[: len(expected)] - expected).abs().max())
            if not error <= 1e-3 * float(expected.abs().max()):
                raise ReproError(
                    f"{type(worker).__name__} cannot be stacked: its forward pass mixes networks whose channels lie "
                    f"side by side (logits differ by {error:.2g}); leave `stacked` out"
                )

    def run(self, number: int, shared: Message, momentum: bytes, score: bool) -> Iterator[Local]:
        """See ``Clients``."""
        for at in range(0, self.batches.clients, self._together):
            block = range(at, min(at + self._together, self.batches.clients))
            steps = {client: len(self.local.range(self.batches, client, number)[0]) for client in block}
            # Those with most steps come first, so that in every step the first rows of the stack take part.
            order = sorted(block, key=lambda client: -steps[client])
            rows = [self._begun(row, client, number, shared, momentum) for row, client in enumerate(order)]
            for step in range(steps[order[0]]):
                self._step([row for row in rows if step < len(row.steps)], step)
            for client in block:
                yield self._ended(order.index(client), rows[order.index(client)], score)

    def evaluate(self, model: nn.Module, final: bool = False) -> Mapping[str, Any]:
        """See ``Clients``."""
        return self._serial.evaluate(model, final)

    def _begun(self, row: int, client: int, number: int, shared: Message, momentum: bytes) -> _Row:
        """Put ``client`` with what it begins the round with in a row of the stack."""
        before, optimiser = self._serial.begin(client, shared, momentum)
        with torch.no_grad():
            for name, parameter in self._serial.worker.named_parameters():
                self._named[name][row].copy_(parameter)
                kept = optimiser.state[parameter].get("momentum_buffer")
                self._momentum[name][row] = 0 if kept is None else kept
            for name, buffer in float_buffers(self._serial.worker).items():
                self._buffers[name][row].copy_(buffer)
        return _Row(client, *self.local.range(self.batches, client, number), before, optimiser, Tally())

    def _step(self, rows: Sequence[_Row], step: int) -> None:
        """A step of SGD of the first clients of the stack."""
        taken = [(row.client, row.steps[step]) for row in rows]
        x, y, sizes = self.batches.together(taken)
        seeds = [self.batches.dropout_seed(*each) for each in taken] if self._stack.drops else []
        labels = pad_sequence(y.split(sizes), batch_first=True, padding_value=_NO_IMAGE)
        self._stack.begin(sizes, seeds)
        with precise(self.optimisation.precision, x.device):
            logits = self._stack(pad_sequence(x.split(sizes), batch_first=True))  # (k, B, classes)
        wide = logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))
        losses = F.cross_entropy(wide, labels.flatten(), reduction="none", ignore_index=_NO_IMAGE).view(labels.shape)
        means = losses.sum(1) / torch.tensor(sizes, device=x.device)
        correct = (logits.detach().argmax(2) == labels).sum(1).tolist()
        for row, loss, right, images in zip(rows, means.tolist(), correct, sizes, strict=True):
            expect_finite("training", loss)
            row.tally.count(loss, right, images)
        self._stack.zero_grad(set_to_none=True)
        means.sum().backward()
        self._descend([self.optimisation.lr(row.steps[step] / row.per_epoch) for row in rows])

    @torch.no_grad()
    def _descend(self, rates: Sequence[float]) -> None:
        """What ``torch.optim.SGD`` does, for the first clients, each at its own rate; the others stay as they are."""
        decay, momentum, count = self.optimisation.weight_decay, self.optimisation.momentum, len(rates)
        for group in self._groups:
            named = [(name, self._named[name]) for name in group.names]
            weights = [parameter[:count] for _, parameter in named]
            changes = [parameter.grad[:count] for _, parameter in named if parameter.grad is not None]
            if decay:
                torch._foreach_add_(changes, weights, alpha=decay)
            if momentum:
                kept = [self._momentum[name][:count] for name, _ in named]
                torch._foreach_mul_(kept, momentum)
                torch._foreach_add_(kept, changes)
                changes = kept
            if len(set(rates)) == 1:
                torch._foreach_add_(weights, changes, alpha=-rates[0] * group.factor)
                continue
            for weight, change in zip(weights, changes, strict=True):
                own = weight.new_tensor(rates).view(-1, *(1 for _ in weight.shape[1:]))
                weight.addcmul_(change, own, value=-group.factor)

    def _ended(self, at: int, row: _Row, score: bool) -> Local:
        """What the client in row ``at`` sends."""
        worker = self._serial.worker
        with torch.no_grad():
            for name, parameter in worker.named_parameters():
                parameter.copy_(self._named[name][at])
                if self.optimisation.momentum:
                    row.optimiser.state[parameter]["momentum_buffer"] = self._momentum[name][at].clone()
        load_buffers(worker, {name: buffer[at] for name, buffer in self._buffers.items()})
        epoch = row.steps.start / row.per_epoch
        return self._serial.end(row.client, row.before, row.optimiser, row.tally, epoch, score)
