"""Teachers A: the gradient of a small batch, made from that of a large one (paper, Equation 5).

The paper proposes an encoder-like network that is trained on pairs of gradients; the others here are what it has to be
compared with. A teacher is two functions, and what it has learnt is tensors by name:

    identity               the large batch's gradient as it is
    best scalar            times the one factor with the least squared error
    norm matching          times the one factor that gives the small batch's mean squared norm
    scale by layer         times a factor of least squared error for every tensor of the network
    autoencoder            a small convolutional one over pieces of the gradient
    autoencoder with skip  the same, added to its input
    isotropic noise        plus normal noise of one variance for all weights
    diagonal noise         plus normal noise of a variance for every weight (as diagonal Fisher noise, Wen et al.)
    conditional noise      plus normal noise with the covariance of the differences within the pairs

The last three draw from a distribution. Where noise does not depend on the large batch, the mean is the best prediction
in squared error, and a draw is worse than it by the variance of the noise: that is the price of noise, not a fault.
n = pairs, d = weights of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from repro.results.teachers import IDENTITY
from repro.training import autoencoder

Learnt = dict[str, Tensor]


@dataclass(frozen=True)
class Pairs:
    """Gradients at equal weights of batches that share no image.

    Attributes:
        large, small: (n, d), of large and of small batches.
        lengths: values of each tensor of the network; their sum is d.
        batch_large, batch_small: images B and b.
        seed: of what a teacher draws when it is trained.
    """

    large: Tensor
    small: Tensor
    lengths: Sequence[int]
    batch_large: int
    batch_small: int
    seed: int = 0

    @property
    def added_share(self) -> float:
        """Covariance that a small batch has beyond a large one, as a share of that of the differences within pairs.

        With the covariance C of one image's gradient the differences have C (1/b + 1/B), and what must be added is
        C (1/b - 1/B).
        """
        return (self.batch_large - self.batch_small) / (self.batch_large + self.batch_small)


class Teacher(NamedTuple):
    """How a teacher is trained, and what it then makes of large batches' gradients.

    Attributes:
        fit: learns from pairs.
        predict: gradients (n, d) of small batches for those of large ones; what is drawn comes from the generator.
    """

    fit: Callable[[Pairs], Learnt]
    predict: Callable[[Learnt, Tensor, torch.Generator], Tensor]


def _nothing(pairs: Pairs) -> Learnt:
    return {}


def _as_it_is(learnt: Learnt, large: Tensor, random: torch.Generator) -> Tensor:
    return large


def _best_scalar(pairs: Pairs) -> Learnt:
    return {"factor": (pairs.large * pairs.small).sum() / pairs.large.square().sum()}


def _norm_matching(pairs: Pairs) -> Learnt:
    return {"factor": (pairs.small.square().sum() / pairs.large.square().sum()).sqrt()}


def _times(learnt: Learnt, large: Tensor, random: torch.Generator) -> Tensor:
    return large * learnt["factor"]


def _scale_by_layer(pairs: Pairs) -> Learnt:
    both, own = (pairs.large * pairs.small).sum(dim=0), pairs.large.square().sum(dim=0)
    sums = [
        (a.sum(), b.sum()) for a, b in zip(both.split(list(pairs.lengths)), own.split(list(pairs.lengths)), strict=True)
    ]
    factors = torch.stack([a / b if b > 0 else torch.zeros_like(a) for a, b in sums])
    return {"factors": factors, "lengths": torch.tensor(list(pairs.lengths))}


def _times_by_layer(learnt: Learnt, large: Tensor, random: torch.Generator) -> Tensor:
    return large * torch.repeat_interleave(learnt["factors"], learnt["lengths"])


def _isotropic_noise(pairs: Pairs) -> Learnt:
    longer = (pairs.small.square().sum() - pairs.large.square().sum()) / pairs.small.numel()
    return {"deviation": longer.clamp(min=0).sqrt()}


def _diagonal_noise(pairs: Pairs) -> Learnt:
    return {"deviation": (pairs.added_share * (pairs.small - pairs.large).square().mean(dim=0)).sqrt()}


def _independent(learnt: Learnt, large: Tensor, random: torch.Generator) -> Tensor:
    return large + learnt["deviation"] * torch.randn(large.shape, generator=random, dtype=large.dtype)


def _conditional_noise(pairs: Pairs) -> Learnt:
    return {"root": (pairs.small - pairs.large) * (pairs.added_share / len(pairs.small)) ** 0.5}


def _correlated(learnt: Learnt, large: Tensor, random: torch.Generator) -> Tensor:
    root = learnt["root"]
    return large + torch.randn(len(large), len(root), generator=random, dtype=large.dtype) @ root


def _autoencoder(pairs: Pairs, skip: bool = False) -> Learnt:
    return autoencoder.train(pairs.large, pairs.small, pairs.seed, skip)


def _encoded(learnt: Learnt, large: Tensor, random: torch.Generator, skip: bool = False) -> Tensor:
    return autoencoder.apply(learnt, large, skip)


TEACHERS: dict[str, Teacher] = {
    IDENTITY: Teacher(_nothing, _as_it_is),
    "best scalar": Teacher(_best_scalar, _times),
    "norm matching": Teacher(_norm_matching, _times),
    "scale by layer": Teacher(_scale_by_layer, _times_by_layer),
    "autoencoder": Teacher(_autoencoder, _encoded),
    "autoencoder with skip": Teacher(partial(_autoencoder, skip=True), partial(_encoded, skip=True)),
    "isotropic noise": Teacher(_isotropic_noise, _independent),
    "diagonal noise": Teacher(_diagonal_noise, _independent),
    "conditional noise": Teacher(_conditional_noise, _correlated),
}
"""All teachers by name, in the order of their rows."""
