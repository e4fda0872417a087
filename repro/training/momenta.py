"""What happens to the momentum of a client between two rounds of federated averaging."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from repro.codecs import Dense


@dataclass(frozen=True)
class Momenta:
    """What happens between rounds of federated averaging to the momentum of the clients' local SGD.

    Attributes:
        policy: ``restart``: it is zero when a round begins. ``keep``: each client goes on with its own. ``average``:
            clients send it with the change of their model, uncompressed; the server averages it with the same weights
            and sends the average with the shared model.
        own: momentum by name of the parameter, with ``keep`` for each client, with ``average`` one for all; the
            caller's, who may store it.
    """

    policy: Literal["restart", "keep", "average"] = "restart"
    own: list[dict[str, Tensor]] = field(default_factory=list)

    @classmethod
    def start(cls, policy: Literal["restart", "keep", "average"], model: nn.Module, clients: int) -> Momenta:
        """The policy at the start of training: all momentum is zero."""
        sets = {"restart": 0, "keep": clients, "average": 1}[policy]
        zeros = [{name: torch.zeros_like(p.detach()) for name, p in model.named_parameters()} for _ in range(sets)]
        return cls(policy, zeros)

    @property
    def kept(self) -> list[dict[str, Tensor]]:
        """With ``keep``, the momentum of each client; else empty."""
        return self.own if self.policy == "keep" else []

    def message(self) -> bytes:
        """With ``average``, what the server sends of it; else nothing."""
        return Dense().encode(None, self.own[0]) if self.policy == "average" else b""

    def restore(self, optimiser: torch.optim.Optimizer, model: nn.Module, client: int, received: bytes) -> None:
        """Give the fresh ``optimiser`` of ``client`` the momentum that it begins a round with.

        ``received`` is the server's ``message``.
        """
        if self.policy == "restart":
            return
        named = dict(model.named_parameters())
        values = Dense().decode(received) if self.policy == "average" else [self.own[client][name] for name in named]
        for parameter, value in zip(named.values(), values, strict=True):
            optimiser.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter.detach()).copy_(value)

    def keep(self, optimiser: torch.optim.Optimizer, model: nn.Module, client: int) -> bytes:
        """Note the momentum that ``client`` ends a round with; returned is what it sends of it."""
        if self.policy == "restart":
            return b""
        named = model.named_parameters()
        found = {name: optimiser.state[parameter]["momentum_buffer"].clone() for name, parameter in named}
        if self.policy == "average":
            return Dense().encode(None, found)
        self.own[client] = found
        return b""

    def settle(self, mean: Sequence[Tensor]) -> None:
        """With ``average``, go on from the average of what the clients sent."""
        for own, value in zip(self.own[0].values(), mean, strict=True):
            own.copy_(value)


RESTARTED = Momenta()
