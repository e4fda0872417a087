"""Test accuracy over iterations and over training images seen, of runs whose every step is a round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from repro.report import marks
from repro.report.lb.runs import iterations, lb_origin
from repro.report.look import of_group
from repro.report.rows import SPAN, Row, Rows, curve
from repro.report.selection import setting
from repro.results import metrics
from repro.results.records import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

POINTS = 200
"""Of a series or density that is drawn, at most; its CSV holds the same ones."""


def thinned(count: int) -> np.ndarray:
    """Indices of at most ``POINTS`` of ``count`` values, evenly spread, the first and the last among them.

    >>> len(thinned(7)), len(thinned(5000)), int(thinned(5000)[-1])
    (7, 200, 4999)
    """
    return np.unique(np.round(np.linspace(0, count - 1, min(count, POINTS))).astype(int))


def path_rows(artefact: str, group: Sequence[Record], until: float = math.inf) -> list[Row]:
    """One row per seed and evaluation up to iteration ``until``.

    One row without numbers per seed where all diverged before any evaluation there.
    """
    data = curve(group)
    counted = {round(float(row["epoch"]), 6): row["round"] for record in group for row in record.rows}
    # The end of a run whose every seed diverged is in no row.
    places = [int(counted.get(float(epoch), iterations(group))) for epoch in data.epochs]
    images = data.epochs * int(setting(group, "train_images"))
    names = ("iteration", "epoch", "images_seen", "accuracy_percent", "imputed_chance", *SPAN)
    rows = []
    for record, values, imputed in zip(group, data.values, data.imputed, strict=True):
        start = lb_origin(artefact, record, len(group))
        columns = (places, data.epochs, images, values, imputed.astype(int), data.mean, data.low, data.high)
        found = [start | dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True) if row[0] <= until]
        rows += found or [start | dict.fromkeys(names)]
    return rows


def draw_path(
    axes: Axes, x: np.ndarray, spread: np.ndarray, group: Sequence[Record], text: str, *, shift: int = 0,
    band: bool = True, images: bool = False,
) -> Line2D:  # fmt: skip
    """Mean and band of a run; an X at chance where a seed diverged.

    Args:
        axes: where.
        x: iterations, or thousands of ``images``.
        spread: (3, n) mean, low and high.
        group, text: the run, and words of the legend.
        shift, band: as in ``marks.curve``.
        images: whether ``x`` is that.
    """
    style = of_group(group)
    ends = [found for record in group if (found := metrics.divergence(record)) is not None]
    line = None
    if len(ends) < len(group):
        every = max(1, len(x) // 8)
        line = marks.curve(
            axes, x, spread, style, text, every=every, shift=shift, band="filled" if band else "none"
        )  # fmt: skip
    if not ends:
        assert line is not None
        return line
    seen = float(group[0].spec["train_images"]) / 1000
    at = [epochs * seen if images else max(1.0, rounds) for rounds, epochs in ends]  # 0 is on no logarithmic axis
    crosses = marks.cross(axes, at, [100 * group[0].chance] * len(at), style.colour)
    if line is None:
        crosses.set_label(f"{text}: diverged")
        return crosses
    line.set_label(f"{text}: {len(ends)} diverged")
    return line


def of_run(rows: Rows, run: str, *names: str) -> np.ndarray:
    """(columns, n) numbers of a run that all its seeds share, without rows that have none."""
    found = rows.where(run=run).once(*names)
    return found[:, ~np.isnan(found[0])]
