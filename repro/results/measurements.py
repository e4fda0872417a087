"""Numbers of a measurement record that figures, tables, verdicts and ``advise`` share. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from repro.errors import ReproError
from repro.results import batch_costs, fits
from repro.results.records import Record

LEAST_FITTED = 32
"""The paper's lines are fitted from this batch up: a batch of 1 takes a fixed time, and fewer bytes than one page."""

#: The scenario of lb.c17: ten clients, as in the paper's cluster; four fast, three at half and three at quarter speed.
SPEEDS = (1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25)
LOCAL_BATCH = 128

TITLES = {
    "resnet18": "ResNet18", "resnet50": "ResNet50", "vgg11": "VGG11", "alexnet": "AlexNet", "vit": "ViT",
    "cnn": "small CNN",
}  # fmt: skip
DATASETS = {
    "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "caltech101": "CalTech-101", "caltech256": "CalTech-256",
    "food101": "Food-101",
}  # fmt: skip


def title(record: Record) -> str:
    """Network and data set as readers know them."""
    model, dataset = record.spec["model"], record.spec["dataset"]
    return f"{TITLES.get(model, model)} on {DATASETS.get(dataset, dataset)}"


def rows(record: Record, least: int = 1) -> list[dict[str, Any]]:
    """The rows of a measurement from batch ``least`` up.

    Raises:
        ReproError: another kind of record.
    """
    if record.kind != "measure":
        raise ReproError(
            f"record {record.run}.s{record.seed}: kind {record.kind} measures no batch sizes; a record of kind measure "
            "was expected; name another run"
        )
    return [row for row in record.rows if row["batch"] >= least]


def batches(record: Record, least: int = 1) -> list[int]:
    """The batch sizes from ``least`` up."""
    return [row["batch"] for row in rows(record, least)]


def samples(record: Record, part: str, batch: int) -> np.ndarray:
    """(blocks, repetitions) seconds of ``compute``, ``movement``, ``update`` or ``step`` at one batch size.

    Raises:
        ReproError: the record was not timed.
    """
    found = record.series.get(f"{part} {batch}")
    if not found:
        raise ReproError(
            f"record {record.run}.s{record.seed}: no time of {part} at batch {batch}; a timed run was expected; name "
            "another run"
        )
    return np.asarray(found).reshape(int(record.spec["blocks"]), -1)


def loader_blocks(record: Record, sizes: Sequence[int]) -> np.ndarray:
    """(blocks, sizes) bytes by which resident memory grew while the loader made a batch.

    Raises:
        ReproError: the record holds no such readings.
    """
    found = [record.series.get(f"loader {size}") for size in sizes]
    if not all(found):
        raise ReproError(
            f"record {record.run}.s{record.seed}: no readings of the loader's memory; a series `loader BATCH` was "
            "expected; name another run"
        )
    return np.stack([np.asarray(each, float) for each in found], axis=1)


def medians(record: Record, part: str, sizes: Sequence[int]) -> list[float]:
    """Median seconds of a part at each of ``sizes``, over all blocks."""
    return [float(np.median(samples(record, part, size))) for size in sizes]


def block_medians(record: Record, part: str, sizes: Sequence[int]) -> np.ndarray:
    """(blocks, sizes) median seconds of a part within each block: repetitions of the whole measurement."""
    return np.stack([np.median(samples(record, part, size), axis=1) for size in sizes], axis=1)


def noise(record: Record) -> float:
    """How much the same step differs from itself: half the distance of the quartiles over the median, a fraction."""
    return noise_of(record.series["probe"])


def noise_of(seconds: Sequence[float]) -> float:
    """The same of any times of one and the same step."""
    low, middle, high = np.quantile(seconds, (0.25, 0.5, 0.75))
    return float((high - low) / 2 / middle)


def busy(record: Record) -> float:
    """Least share of the wall time in which the process had its cores (1: it was alone)."""
    return min(row["cpu_share"] for row in rows(record) if row["cpu_share"] is not None)


def off_line(record: Record, quantity: str) -> float:
    """Largest relative distance of a quantity from the line through its smallest and largest batch."""
    x, y = batches(record), [row[quantity] for row in rows(record)]
    return float(fits.errors(fits.extremes(x, y), x, y).max())


def bytes_of(record: Record, quantity: str) -> tuple[list[int], list[float]]:
    """Batch sizes and bytes of a quantity that can be absent at some of them."""
    known = [row for row in rows(record) if row[quantity] is not None]
    return [row["batch"] for row in known], [float(row[quantity]) for row in known]


TERMS = ("model", "gradients", "optimiser", "activations", "batch_held")
"""Eq. 3's five parts as rows name them, in its order."""


def predicted_terms(record: Record, batch: int) -> dict[str, float]:
    """Eq. 3 before it is measured at ``batch``: float32 weights, one gradient and, with momentum, one more number each.

    Activations and batch come from the line through the smallest and the largest measured batch.
    """
    (row,) = (row for row in rows(record) if row["batch"] == batch)
    weights = 4.0 * row["parameters"]
    lines = {name: fits.extremes(*bytes_of(record, name)) for name in TERMS[3:]}
    return {
        "model": weights + row["buffers"], "gradients": weights, "optimiser": weights * (record.spec["momentum"] > 0),
        **{name: line(batch) for name, line in lines.items()},
    }  # fmt: skip


def predicted_step(record: Record, batch: int) -> float:
    """Seconds of a step before it is measured at ``batch``: Eq. 2 without t_sync, fitted to other sizes."""
    others = [size for size in batches(record, LEAST_FITTED) if size != batch]
    lines = [fits.least_squares(others, medians(record, part, others)) for part in ("compute", "movement")]
    return sum(line(batch) for line in lines) + float(np.median(medians(record, "update", others)))


def largest_batch(record: Record, budget: float) -> int:
    """The advised batch for ``budget`` bytes of a whole process, from the two largest watched ones."""
    sizes, peaks = bytes_of(record, "peak")
    return batch_costs.advised_batch(fits.extremes(sizes[-2:], peaks[-2:]), budget)


def terms_line(record: Record) -> fits.Line:
    """The sum of Eq. 3 by batch, on the line through its extreme probes: what only tensors take, in bytes."""
    ends = [batches(record)[0], batches(record)[-1]]
    return fits.extremes(ends, [sum(predicted_terms(record, end).values()) for end in ends])


def batch_by_terms(record: Record, held: float) -> float:
    """The batch at which ``terms_line`` is ``held`` bytes."""
    line = terms_line(record)
    return (held - line.intercept) / line.slope


def grown(record: Record) -> dict[int, float]:
    """Bytes that a watched training added to its process, by batch: its peak without interpreter and libraries."""
    return {row["batch"]: float(row["peak"] - row["base"]) for row in rows(record) if row["peak"] is not None}


def fitted(fit: str, sizes: Sequence[int], cost: Sequence[float]) -> tuple[list[int], list[float]]:
    """The sizes and costs that a fit of ``fits.FITS`` gets: lines those from ``LEAST_FITTED`` up, the roofline all."""
    least = 1 if fit == "roofline" else LEAST_FITTED
    kept = [(size, each) for size, each in zip(sizes, cost, strict=True) if size >= least]
    return [size for size, _ in kept], [each for _, each in kept]


_SHARES: dict[str, Callable[[int, batch_costs.Cost], Sequence[int]]] = {
    "uniform": lambda total, _: batch_costs.uniform_shares(total, len(SPEEDS)),
    "proportional": lambda total, _: batch_costs.proportional_shares(total, SPEEDS),
    "equalising": lambda total, cost: batch_costs.equalising_shares(total, SPEEDS, cost),
}
"""Ways to share the global batch of lb.c17's scenario, whose step costs what ``Cost`` says on the fastest device."""


@lru_cache(maxsize=256)
def _round_time(way: str, sizes: tuple[int, ...], seconds: tuple[float, ...]) -> float:
    """Local time of that round under ``way``; ``seconds``: of a step at each of ``sizes``, on the fastest device."""
    cost = fits.between(sizes, seconds)
    return batch_costs.round_seconds(_SHARES[way](LOCAL_BATCH * len(SPEEDS), cost), SPEEDS, cost)


def round_times(seconds: Sequence[float], sizes: Sequence[int]) -> dict[str, float]:
    """Local time of a synchronous round of the scenario of lb.c17 under three ways to share its global batch.

    Args:
        seconds: of a local step at each of ``sizes``, on a device of speed 1.
        sizes: batch sizes, ascending.

    Returns:
        Seconds by ``uniform``, ``proportional`` and ``equalising`` shares.
    """
    return {way: _round_time(way, (*sizes,), (*seconds,)) for way in _SHARES}


def log_gains(record: Record, way: str) -> list[float]:
    """Logarithm, block by block, of how many times shorter shares of this ``way`` make that round than uniform ones."""
    sizes = (*batches(record),)
    blocks = [(*block,) for block in block_medians(record, "step", sizes).tolist()]
    return [math.log(_round_time("uniform", sizes, each) / _round_time(way, sizes, each)) for each in blocks]
