"""What follows from fitted costs: the largest and the fastest batch, epochs, shares of unequal devices, Eq. 2."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from repro.errors import ReproError
from repro.experiments.sizes import apportion, check_weights
from repro.randomness import generator
from repro.results.fits import Line

Cost = Callable[[float], float]  # batch size -> seconds


def largest_batch(memory: Line, budget: float) -> int:
    """The largest batch whose predicted memory fits into ``budget`` (both in bytes).

    Raises:
        ReproError: not even one image fits, or the fitted memory does not grow with the batch.
    """
    if memory.slope <= 0:
        raise ReproError(
            f"memory changes by {memory.slope:.0f} bytes an image; growth was expected; probe larger batches"
        )
    if memory(1) > budget:
        raise ReproError(
            f"{gibibytes(budget)} of memory; one image already needs {gibibytes(memory(1))}; allow more, or take a "
            "smaller model or image"
        )
    return math.floor((budget - memory.intercept) / memory.slope)


MARGIN = 0.02
"""Share of a budget that an advice leaves free: two processes at the same batch differ by some megabytes."""


def advised_batch(memory: Line, budget: float) -> int:
    """The largest batch that leaves ``MARGIN`` of the budget free. Raises as ``largest_batch``."""
    return largest_batch(memory, (1 - MARGIN) * budget)


def gibibytes(count: float) -> str:
    """Bytes for readers.

    >>> gibibytes(2**31)
    '2.00 GiB'
    """
    return f"{count / 2**30:.2f} GiB"


class Fastest(NamedTuple):
    """The batch of the highest throughput, and the smallest whose throughput cannot be told from it."""

    batch: int
    images_per_second: float
    smallest_as_fast: int


def fastest_batch(steps: Mapping[int, float], noise: float) -> Fastest:
    """Of the batch sizes with known seconds a step, the one that trains most images a second.

    Args:
        steps: batch size -> seconds of a step.
        noise: relative; throughputs that differ by less are not told apart.

    Raises:
        ReproError: no batch size.
    """
    if not steps:
        raise ReproError("no batch size was timed; at least one was expected; probe first")
    rate = {batch: batch / seconds for batch, seconds in steps.items()}
    best = max(rate, key=lambda batch: (rate[batch], -batch))
    return Fastest(best, rate[best], min(batch for batch in rate if rate[batch] >= rate[best] * (1 - noise)))


def epoch_seconds(steps: ArrayLike, images: int, batch: int, draws: int = 200) -> np.ndarray:
    """Times of ``draws`` epochs, in each of which ceil(images / batch) steps take measured times of one block.

    First a block is drawn, then steps of it: blocks that differ because the machine drifts make epochs that differ.

    Args:
        steps: (blocks, repetitions) seconds.
        images: of an epoch.
        batch: images of a step.
        draws: how many epochs.

    Raises:
        ReproError: no measured step.
    """
    blocks = np.atleast_2d(np.asarray(steps, float))
    if not blocks.size:
        raise ReproError(f"no step of batch {batch} was timed; at least one was expected; probe first")
    random = generator(0, "epoch", images, batch)
    count = math.ceil(images / batch)
    drawn = random.integers(len(blocks), size=draws)
    return np.array([random.choice(blocks[block], size=count).sum() for block in drawn])


def step_seconds(compute: float, movement: float, synchronisation: float, step: int, every: int) -> float:
    """Eq. 2: t_c + t_mov, plus t_sync in every ``every``-th step; steps count from 0, and step 0 synchronises.

    >>> [step_seconds(1.0, 0.5, 4.0, i, every=2) for i in range(4)]
    [5.5, 1.5, 5.5, 1.5]
    """
    return compute + movement + (synchronisation if (step + every) % every == 0 else 0.0)


def mean_step_seconds(compute: float, movement: float, synchronisation: float, every: int) -> float:
    """Mean of Eq. 2 over many steps.

    Raises:
        ReproError: ``every`` is below 1.
    """
    if every < 1:
        raise ReproError(f"synchronisation every {every} steps; 1 or more was expected")
    return compute + movement + synchronisation / every


def uniform_shares(batch: int, devices: int) -> list[int]:
    """The same share for every device; the first ones take what is left over."""
    return apportion(batch, [1] * devices)


def proportional_shares(batch: int, speeds: Sequence[float]) -> list[int]:
    """Shares of a global batch in proportion to the speeds of the devices (section III-B, heterogeneity).

    >>> proportional_shares(100, [2, 1, 1])
    [50, 25, 25]

    Raises:
        ReproError: no device, a speed that is not above 0, or fewer images than devices.
    """
    return apportion(batch, speeds)


def equalising_shares(batch: int, speeds: Sequence[float], cost: Cost) -> list[int]:
    """Shares that make the slowest device as fast as can be: one image at a time to who is done first.

    Equal to ``proportional_shares`` where a step costs the same for every image, and better where it has a fixed part.

    Args:
        batch: global batch.
        speeds: of the devices, relative to the one that ``cost`` was measured on.
        cost: batch -> seconds of a step there; must not fall with the batch.

    Raises:
        ReproError: as ``proportional_shares``.
    """
    check_weights(batch, speeds)
    shares = np.ones(len(speeds), int)
    known: dict[int, float] = {}

    def seconds(share: int) -> float:
        if share not in known:
            known[share] = cost(share)
        return known[share]

    after = np.array([seconds(2) / speed for speed in speeds])  # time of each device with one image more
    for _ in range(batch - len(speeds)):
        device = int(after.argmin())
        shares[device] += 1
        after[device] = seconds(int(shares[device]) + 1) / speeds[device]
    return [int(share) for share in shares]


def round_seconds(shares: Sequence[int], speeds: Sequence[float], cost: Cost) -> float:
    """Local time of a synchronous round: everyone waits for the slowest device."""
    return max(cost(share) / speed for share, speed in zip(shares, speeds, strict=True))
