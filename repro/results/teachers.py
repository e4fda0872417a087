"""How well teachers predict the gradients of small batches: numbers of one record of kind ``teacher`` (paper, Eq. 5).

R2 is 1 less the squared error over the squared norm of what is predicted, summed over pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from repro.errors import ReproError
from repro.results.records import Record

LATER, ANOTHER = "later steps", "another training"
"""Held-out pairs: of later steps of the training whose first pairs trained the teachers, and of another training."""
IDENTITY = "identity"
"""The teacher that leaves the gradient as it is."""
MEAN = "mean of all large batches"
"""Row of the mean of the gradients of all large batches of a step: nearly the best that any prediction can be."""


def larges(record: Record) -> list[int]:
    """Large batches that a record compares with its small one, ascending.

    Raises:
        ReproError: another kind of record.
    """
    if record.kind != "teacher":
        raise ReproError(
            f"record {record.run}.s{record.seed}: kind {record.kind} has no teachers; a record of kind teacher was "
            "expected; name another run"
        )
    return sorted({row["large"] for row in record.rows})


def row(record: Record, teacher: str, held_out: str, large: int) -> Mapping[str, Any]:
    """What a teacher reached on held-out pairs with a large batch.

    Raises:
        ReproError: another kind of record, or one without such a row.
    """
    sizes = larges(record)
    for found in record.rows:
        if (found["teacher"], found["held_out"], found["large"]) == (teacher, held_out, large):
            return found
    raise ReproError(
        f"record {record.run}.s{record.seed}: no row of {teacher} at batch {large}, {held_out}; it has batches "
        f"{', '.join(map(str, sizes))}; recompute it"
    )


def gain(record: Record, teacher: str, held_out: str) -> float:
    """R2 of a teacher minus that of the large batch's own gradient, at the largest batch, in points."""
    large = larges(record)[-1]
    ours, plain = (float(row(record, name, held_out, large)["r2"]) for name in (teacher, IDENTITY))
    return 100 * (ours - plain)


def _gain_of(name: str, teacher: str, held_out: str) -> Callable[[Record], float]:
    def read(record: Record) -> float:
        return gain(record, teacher, held_out)

    read.__name__ = name  # by which verdicts tell numbers of one record apart
    return read


GAINS = {
    name: _gain_of(name, teacher, held_out)
    for name, teacher, held_out in (
        ("scale_gain", "scale by layer", LATER),
        ("autoencoder_gain", "autoencoder", LATER),
        ("skip_gain", "autoencoder with skip", LATER),
        ("scale_gain_elsewhere", "scale by layer", ANOTHER),
        ("autoencoder_gain_elsewhere", "autoencoder", ANOTHER),
        ("skip_gain_elsewhere", "autoencoder with skip", ANOTHER),
    )
}
"""``gain`` of each trained teacher, after later steps and in another training (elsewhere)."""
