"""Randomness by derivation: every random choice has a generator of its own, named by what it is for.

A result therefore does not depend on the number of worker processes, on the order in which clients run, or on
where a run was interrupted.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose of one run, for example ``derive(1, "order", client, epoch)``.

    >>> derive(1, "order", 0, 0) == derive(1, "order", 0, 0) != derive(1, "order", 0, 1)
    True
    """
    text = json.dumps([seed, *purpose])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A numpy generator (Philox, the same stream on every platform) for one purpose of one run."""
    return np.random.Generator(np.random.Philox(derive(seed, *purpose)))
