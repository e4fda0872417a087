"""How likely a comparison of two arms is decided by a look, if the arms really differ by so much.

An effect is given in standard deviations of the paired difference over seeds. ``python -m repro.verdicts.power``
simulates the table from the multipliers of ``data/looks.json`` and writes ``data/power.json``, which the page of terms
shows.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from repro import files
from repro.errors import ReproError
from repro.results import looks

EFFECTS = (0.5, 1.0, 1.5, 2.0, 3.0)
"""Standard deviations of the paired difference."""
_SEED, _PATHS, _CHUNK = 20_250_918, 1_000_000, 250_000


def simulate(effect: float, paths: int = _PATHS, seed: int = _SEED) -> list[float]:
    """Share of studies whose interval lay wholly above zero at a look up to that of 5, 8 and 12 seeds.

    A study stops at the first look that decides, be it the wrong way.
    """
    generator = np.random.default_rng(seed)
    decided = np.zeros(len(looks.LOOKS), np.int64)
    for start in range(0, paths, _CHUNK):
        size = min(_CHUNK, paths - start)
        drawn = generator.standard_normal((looks.LOOKS[-1], size)) + effect
        going = np.ones(size, bool)
        for row, n in enumerate(looks.LOOKS):
            t = drawn[:n].mean(axis=0) / (drawn[:n].std(axis=0, ddof=1) / math.sqrt(n))
            limit = looks.multiplier(n)
            decided[row] += int((going & (t > limit)).sum())
            going &= abs(t) <= limit
    return [round(float(share), 3) for share in decided.cumsum() / paths]


def load(root: Path = Path()) -> dict[str, Any]:
    """The stored table: ``effects``, ``looks``, and ``power`` with a row for each effect and a column for each look.

    Raises:
        ReproError: the file is missing or damaged.
    """
    path = root / "data/power.json"
    if not path.exists():
        raise ReproError(f"{path}: missing; it is part of the repository; restore it with `git checkout -- {path}`")
    return dict(files.read_json(path))


def write(root: Path = Path()) -> None:
    """Simulate the table and store it (some seconds)."""
    content = {
        "effects": list(EFFECTS), "looks": list(looks.LOOKS), "paths": _PATHS, "seed": _SEED,
        "power": [simulate(effect) for effect in EFFECTS],
    }  # fmt: skip
    files.write_atomic(root / "data/power.json", files.canonical_json(content))


if __name__ == "__main__":
    write()
