"""Which state of a network is shared: weights, and the running statistics of its normalisation (buffers)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from repro.codecs import Expected


def float_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Floating-point buffers by name: the running statistics."""
    return {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}


@dataclass(frozen=True)
class Buffers:
    """What happens to BatchNorm's running statistics, and what each worker keeps of them.

    Attributes:
        policy: ``average`` sends and averages them every round. ``local`` leaves them on each worker; the shared model
            is evaluated with each worker's in turn. ``drop`` keeps none; an evaluation batch is normalised by its own
            statistics, so that an accuracy depends on which images share a batch, and on how many.
        own: with ``local``, and a network that has any, the running statistics of each worker by name; the caller's,
            who may store them.
    """

    policy: Literal["average", "local", "drop"] = "average"
    own: list[dict[str, Tensor]] = field(default_factory=list)

    @classmethod
    def start(cls, policy: Literal["average", "local", "drop"], model: nn.Module, clients: int) -> Buffers:
        """The policy at the start of training: every worker has the running statistics of ``model``."""
        kept = policy == "local" and float_buffers(model)
        return cls(policy, [copied_buffers(model) for _ in range(clients if kept else 0)])

    def sent(self, model: nn.Module) -> dict[str, Tensor]:
        """The buffers of ``model`` that travel, by name."""
        return float_buffers(model) if self.policy == "average" else {}

    def restore(self, model: nn.Module, client: int) -> None:
        """With ``local``, give ``model`` the running statistics of worker ``client``."""
        if self.own:
            load_buffers(model, self.own[client])

    def keep(self, model: nn.Module, client: int) -> None:
        """With ``local``, note the running statistics of ``model`` as those of worker ``client``."""
        if self.own:
            self.own[client] = copied_buffers(model)

    @contextmanager
    def of_worker(self, model: nn.Module, client: int) -> Iterator[None]:
        """Within the context, ``model`` has the running statistics that worker ``client`` keeps, if it does."""
        before = copied_buffers(model)
        self.restore(model, client)
        try:
            yield
        finally:
            load_buffers(model, before)


AVERAGED = Buffers()


def copied_buffers(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the float buffers of a network, by name."""
    return {name: buffer.clone() for name, buffer in float_buffers(model).items()}


def load_buffers(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Overwrite the floating-point buffers of ``model``."""
    for name, buffer in float_buffers(model).items():
        buffer.copy_(values[name])


def shared_state(model: nn.Module, buffers: Buffers = AVERAGED) -> dict[str, Tensor]:
    """Parameters and, where they travel, floating-point buffers by name: what workers and server exchange."""
    state = dict(model.named_parameters()) | buffers.sent(model)
    return {name: tensor.detach() for name, tensor in state.items()}


def expected(model: nn.Module, buffers: Buffers = AVERAGED) -> Expected:
    """What both sides wait for: weights, their changes or gradients, all of the types and shapes of the model's own."""
    return Expected.like(shared_state(model, buffers).values())


def load_state(model: nn.Module, tensors: Iterable[Tensor], buffers: Buffers = AVERAGED) -> None:
    """Overwrite the shared state of ``model`` with ``tensors``, in order of ``shared_state``."""
    with torch.no_grad():
        for own, tensor in zip(shared_state(model, buffers).values(), tensors, strict=True):
            own.copy_(tensor)
