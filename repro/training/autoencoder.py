"""A small convolutional autoencoder over pieces of a gradient, as in learned compression (Abrahamyan et al. 2021)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PIECE = 1024
"""Consecutive values of a gradient that are mapped together."""
EPOCHS = 8
"""Times that a training goes through all pieces: the paper trains its teacher "briefly"."""
BATCH = 128
"""Pieces in a step of it."""
RATE = 2e-3
"""Learning rate of Adam."""


class Autoencoder(nn.Module):
    """Maps pieces of 1024 values through a code of 256: (N, 1, 1024) to (N, 1, 1024).

    Args:
        seed: of the initial weights.
        skip: add the input to the output. The last layer then starts at zero, so that the untrained network is the
            identity.
    """

    def __init__(self, seed: int, skip: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = nn.Sequential(
                nn.Conv1d(1, 8, 8, stride=4, padding=2), nn.LeakyReLU(0.1),
                nn.Conv1d(8, 16, 8, stride=4, padding=2), nn.LeakyReLU(0.1),
                nn.Conv1d(16, 4, 1),
            )  # fmt: skip
            self.decoder = nn.Sequential(
                nn.Conv1d(4, 16, 1), nn.LeakyReLU(0.1),
                nn.ConvTranspose1d(16, 8, 8, stride=4, padding=2), nn.LeakyReLU(0.1),
                nn.ConvTranspose1d(8, 1, 8, stride=4, padding=2),
            )  # fmt: skip
        self.skip = skip
        if skip:
            for parameter in self.decoder[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Map pieces (N, 1, 1024)."""
        out: Tensor = self.decoder(self.encoder(x))
        return x + out if self.skip else out


def pieces(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients (n, d) as pieces (m, 1, 1024) of mean square 1, and the root mean square of each, (m, 1, 1).

    The last piece of a gradient is filled up with zeros. A piece of zeros stays as it is, with 1 beside it.
    """
    filled = F.pad(vectors, (0, -vectors.shape[1] % PIECE)).reshape(-1, 1, PIECE)
    scale = filled.square().mean(dim=2, keepdim=True).sqrt()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return filled / scale, scale


def train(large: Tensor, small: Tensor, seed: int, skip: bool = False) -> dict[str, Tensor]:
    """Train on pairs of gradients, each (n, d), and return the weights by name.

    What is minimised is the squared error of the gradient itself: that of a piece, scaled by what the input was
    divided by, counts by the square of this scale.
    """
    network = Autoencoder(seed, skip).to(large.dtype)
    x, scale = pieces(large)
    y = F.pad(small, (0, -small.shape[1] % PIECE)).reshape(-1, 1, PIECE) / scale
    weight = scale.square() / scale.square().mean()
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    for chosen in _shuffled(len(x), seed):
        loss = (weight[chosen] * (network(x[chosen]) - y[chosen]).square()).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _shuffled(n: int, seed: int) -> Iterator[Tensor]:
    """Places of the pieces of every step."""
    random = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        yield from torch.randperm(n, generator=random).split(BATCH)


@torch.no_grad()
def apply(weights: dict[str, Tensor], vectors: Tensor, skip: bool = False) -> Tensor:
    """Gradients (n, d) mapped by a network with these ``weights``."""
    network = Autoencoder(0, skip).to(vectors.dtype)
    network.load_state_dict(weights)
    x, scale = pieces(vectors)
    return (network(x) * scale).reshape(len(vectors), -1)[:, : vectors.shape[1]]
