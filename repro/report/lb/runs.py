"""Trained runs of the paper: their ids, words, and paths of accuracy over iterations and images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from repro.registry.labels import number
from repro.report import marks
from repro.report.layout import Axes, Line2D
from repro.report.look import of_group
from repro.report.rows import SPAN, Row, Rows, curve, origin
from repro.report.selection import Groups, completed, setting
from repro.results import metrics
from repro.results.measurements import TITLES, title
from repro.results.metrics import planned_rounds
from repro.results.records import Record

MODELS = ("resnet50", "vgg11", "alexnet")
BATCHES = {"resnet50": (32, 256, 512, 1024), "vgg11": (64, 256, 512, 1024), "alexnet": (32, 256, 512, 1024)}
FACTORS = (2, 4, 8, 16)
STEPPED = ("resnet50", "vgg11")
"""Networks whose gradients are stepped up."""
Case = tuple[str, str]
CASES: tuple[Case, ...] = (("resnet50", "t05"), ("vgg11", "t05"), ("vgg11", "t08"))
"""Network and threshold of figures 7 and 8, as run ids have them."""
LOW = "-low"
"""Ending of the runs at the second learning rate."""

_COLUMNS = ("model", "local_steps", "momentum", "weight_decay", "buffers")


def batch_run(model: str, batch: int = 1024) -> str:
    """The run of a network at a batch."""
    return f"lb-batch-{model}-{batch}"


def small_run(model: str) -> str:
    """The run of a network at its smallest batch."""
    return batch_run(model, BATCHES[model][0])


def stepped_runs(model: str, threshold: str) -> tuple[str, ...]:
    """Runs of factors 1, 2, 4, 8 and 16."""
    return (batch_run(model), *(f"lb-step-{model}-{threshold}-x{factor}" for factor in FACTORS))


def lb_origin(artefact: str, record: Record, n: int) -> Row:
    """The columns with which the CSV rows of the paper's trained runs begin."""
    step_up = record.spec.get("step_up") or {}
    return origin(artefact, record, n, _COLUMNS) | {
        f"step_up_{name}": step_up.get(name) for name in ("factor", "threshold", "when", "share_of")
    }


def iterations(group: Sequence[Record]) -> int:
    """Iterations that a run was given."""
    return planned_rounds((completed(group) or group)[0])


def given(groups: Groups, models: Sequence[str], ending: str = "") -> str:
    """Iterations of the largest batch, in words; ``ending``: of the ids of its runs."""
    return ", ".join(f"{number(iterations(groups[batch_run(model) + ending]))} of {TITLES[model]}" for model in models)


def factor(group: Sequence[Record]) -> int:
    """The step-up factor of a run; 1 without a step-up."""
    step_up = setting(group, "step_up") if "step_up" in group[0].spec else None
    return 1 if step_up is None else int(step_up["factor"])


def titles(groups: Groups, models: Sequence[str]) -> list[str]:
    """Network and data of each panel."""
    return [title(groups[batch_run(model)][0]) for model in models]


# Accuracy over iterations and images -------------------------------------------------------------------------------

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
        line = marks.curve(axes, x, spread, style, text, every=every, shift=shift, band=band)
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
