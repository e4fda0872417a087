"""Post 2's comparison of total data, under every reading of what the post leaves open."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from repro.experiments.post2 import EPOCHS, IMAGES, SPARSITY, WARM_UP, WORKERS

FACTORS = {10: 5.0, 1000: 3.0}  # the winner sends so many times less; large batch at 10 classes, federated at 1000


@dataclass(frozen=True)
class Network:
    """Parameters of a network: of its convolutions (sparsified by post 2), and all others (sent dense)."""

    convolutional: int
    other: int
    tensors: int

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.convolutional + self.other


def network(model: str, classes: int, stem: str) -> Network:
    """Counted from the definition; imports torch."""
    from repro.models import sizes

    size = sizes.count(model, classes, stem)
    return Network(size.convolutional, size.other, size.tensors)


def dgc_bytes(net: Network, bytes_per_value: float, sparsity: float = SPARSITY) -> float:
    """Upload of one worker: the kept share of the convolutions at ``bytes_per_value``, all else as float32."""
    return net.convolutional * (1 - sparsity) * bytes_per_value + 4 * net.other


@dataclass(frozen=True)
class Reading:
    """One way to fill what post 2 leaves open when it compares total data.

    Attributes:
        images: of all workers in a round of large batch; federated learning has one round an epoch.
        bytes_per_value: of a value that DGC keeps, its place included: 6 (16-bit gaps) or 8 (32-bit places), or less
            where zip helps.
        bytes_per_parameter: of federated learning: 1 (int8), or 0.5 where zip halves it.
        warm_up: whether the denser messages of DGC's first four epochs count.
        stem: ``cifar`` or ``imagenet``.
    """

    images: int
    bytes_per_value: float
    bytes_per_parameter: float
    warm_up: bool
    stem: str

    def factors(self, nets: Mapping[int, Network]) -> dict[int, float]:
        """By number of classes: how many times less the side sends that the post says is ahead."""
        rounds = math.ceil(IMAGES / self.images)
        found = {}
        for classes, net in nets.items():
            sparsities = [SPARSITY] * EPOCHS["large_batch"]
            if self.warm_up:
                sparsities[: len(WARM_UP)] = WARM_UP
            large = rounds * sum(dgc_bytes(net, self.bytes_per_value, one) for one in sparsities)
            federated = EPOCHS["federated"] * net.parameters * self.bytes_per_parameter
            found[classes] = federated / large if classes == 10 else large / federated
        return found


def readings() -> list[Reading]:
    """Every combination of the open choices, at the batches that 32 workers with 32, 64 or 128 images make."""
    batches = [WORKERS * local for local in (32, 64, 128)]
    return [Reading(*choice) for choice in product(batches, (6, 8), (1, 0.5), (False, True), ("cifar", "imagenet"))]


def meets(factors: Mapping[int, float]) -> bool:
    """Whether both factors round to the published ones."""
    return all(abs(factors[classes] - published) <= 0.5 for classes, published in FACTORS.items())


def mean_bytes_per_value(nets: Mapping[int, Network]) -> float:
    """Bytes per kept value at which the product of both published factors comes out.

    The product depends neither on the batch nor on what federated learning sends for a parameter: with dense rest o and
    sparse part c of a message it is (P10 / P1000) (c + o1000) / (c + o10).
    """
    ratio, wanted = nets[10].parameters / nets[1000].parameters, math.prod(FACTORS.values())
    few, many = 4 * nets[10].other, 4 * nets[1000].other
    sparse = (ratio * many - wanted * few) / (wanted - ratio)
    return sparse / (nets[10].convolutional * (1 - SPARSITY))


def mean_density() -> float:
    """Share of values that DGC keeps, over its training with the warm-up."""
    sent = sum(1 - sparsity for sparsity in WARM_UP) + (EPOCHS["large_batch"] - len(WARM_UP)) * (1 - SPARSITY)
    return sent / EPOCHS["large_batch"]
