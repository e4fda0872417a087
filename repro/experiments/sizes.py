"""How many images and steps each worker has: the arithmetic of local batches."""

from __future__ import annotations

import math
from collections.abc import Sequence

from repro.errors import ReproError

SMALL_BATCHES = 8
"""Small batches beside each large one on which what a teacher predicts is tested: they cost little."""


def local_steps(images: int, batch: int) -> int:
    """Local batches in one epoch over a shard: a rest of half a batch or more counts, a smaller one joins the last.

    >>> local_steps(500, 32), local_steps(521, 32), local_steps(3, 32)
    (16, 16, 1)
    """
    return max(1, (images + batch // 2) // batch)


def apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers of sum ``total`` in proportion to ``weights``, at least 1 each: largest remainders are rounded up.

    Raises as ``check_weights``.

    >>> apportion(320, [1, 0.5, 0.25]), apportion(5, [100, 1, 1])
    ([183, 91, 46], [3, 1, 1])
    """
    check_weights(total, weights)
    exact = [total * weight / sum(weights) for weight in weights]
    shares = [max(1, math.floor(each)) for each in exact]
    order = sorted(range(len(exact)), key=lambda i: (shares[i] - exact[i], i))
    while sum(shares) < total:
        for i in order[: total - sum(shares)]:
            shares[i] += 1
    while sum(shares) > total:  # what was below 1 was rounded up to it
        shares[shares.index(max(shares))] -= 1
    return shares


def check_weights(total: int, weights: Sequence[float]) -> None:
    """Raise a ReproError unless ``weights`` are finite numbers above 0, at least one and at most ``total``."""
    if not weights or not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise ReproError(f"shares of {list(weights)}; one or more numbers above 0 were expected; correct them")
    if total < len(weights):
        raise ReproError(f"{total} images for {len(weights)} clients; at least one image each was expected")


def shards_of_batches(images: int, batches: Sequence[int]) -> list[int]:
    """Images of each client, so that clients with local batches of different sizes end an epoch together.

    All take as many steps as their ``batches`` together need, ``local_steps(images, sum(batches))``, every step but the
    last with a whole batch each. What is left for the last is shared in the same proportion, at least one image each.

    Raises:
        ReproError: fewer images are left for the last step than there are clients.

    >>> shards_of_batches(100, [8, 4, 4])
    [50, 25, 25]
    """
    whole = local_steps(images, sum(batches)) - 1
    rests = apportion(images - whole * sum(batches), batches)
    return [whole * batch + rest for batch, rest in zip(batches, rests, strict=True)]
