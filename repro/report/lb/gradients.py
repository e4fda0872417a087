"""Gradients of many batches at the same weights: their noise, how well they agree, and how sparse they are."""

from __future__ import annotations

import numpy as np

from repro.registry.labels import number
from repro.report import layout, marks
from repro.report.artefact import figure
from repro.report.intervals import intervals
from repro.report.layout import Axes, Figure
from repro.report.lb.runs import STEPPED
from repro.report.look import GREY, MEASURED, Style
from repro.report.notes import REDUCED, network_size, ours, seeds
from repro.report.rows import Row, Rows, measured
from repro.report.selection import Selection, setting
from repro.results.measurements import TITLES

RUNS = tuple(f"lb-gradients-{model}" for model in STEPPED)
_SETTINGS = ("dataset", "model", "norm", "image_size", "width", "local_batch", "momentum")
_COLUMNS = {"noise": "noise", "cosine": "cosine", "top_share": "largest_percent"}
"""Key of a record's row -> column."""
_POSSIBLE = {"cosine": (-1.0, 1.0), "largest_percent": (0.0, 100.0)}
_LOOKS = {
    "resnet50": tuple(Style(colour, marker, "-") for colour, marker in
                      (("#8A8A8A", "o"), ("#5C5C5C", "s"), (MEASURED[0].colour, "^"))),
    "vgg11": tuple(Style(colour, marker, (0, (5.0, 1.5)), filled=False) for colour, marker in
                   (("#A97FD0", "o"), ("#7F4FB0", "s"), (MEASURED[1].colour, "^"))),
}  # fmt: skip


def gradient_rows(chosen: Selection) -> list[Row]:
    """One row for each run, seed, step and batch size."""
    return [
        measured(chosen.artefact, record, _SETTINGS)
        | {"n": len(group), "step": row["step"], "batch": row["batch"], "repetitions": row["repetitions"]}
        | {column: (100 if name == "top_share" else 1) * row[name] for name, column in _COLUMNS.items()}
        for group in chosen.values() for record in group for row in record.rows
    ]  # fmt: skip


@figure("lb.extra-gradients", title="Noise and sparsity of gradients against the batch", runs=RUNS, rows=gradient_rows)
def gradients(groups: Selection, rows: Rows) -> Figure:
    """Draw the noise, the agreement and the share of the largest values (statements lb.c25, lb.c26)."""
    first = next(iter(groups.values()))
    trained = ", ".join(
        f"{TITLES[model]} after {', '.join(number(step) for step in setting(groups[run], 'measured_steps'))} steps of "
        f"batch {setting(groups[run], 'local_batch')}"
        for model, run in zip(STEPPED, RUNS, strict=True)
    )
    notes = [
        f"{trained}; at the same weights {setting(first, 'repetitions')} batches of each size, drawn independently. "
        "Noise: trace of their covariance, grey: proportional to 1 / b; cosine: of a gradient with the mean of the "
        "others; right: share of the squared norm in the largest 0.1 % of its values. Bars: 95 % Student-t interval "
        "over seeds, of the noise that of its logarithm, else cut at what is possible (arrows).",
    ]
    figure, panels = layout.new(
        layout.Texts("lb.extra-gradients  Noise and sparsity of gradients", _stamp(groups), notes),
        panels=["noise", "cosine", "largest 0.1 %"], legend_rows=3, share_y=False,
    )  # fmt: skip
    for axes, column, text in zip(
        panels,
        _COLUMNS.values(),
        ("trace of the covariance (no unit)", "cosine (no unit)", "squared norm (%)"),
        strict=True,
    ):
        lines = [
            _draw(axes, rows.where(run=run, step=step), column, look, f"{TITLES[model]}, step {number(step)}")
            for model, run in zip(STEPPED, RUNS, strict=True)
            for step, look in zip(setting(groups[run], "measured_steps"), _LOOKS[model], strict=False)
        ]
        if column == "noise":
            marks.legend(axes, lines, 2)
            _one_over(axes, rows)
        marks.log2_axis(axes, sorted({int(row["batch"]) for row in rows}))
        axes.set_xlabel("batch (images)", fontsize=8)
        axes.set_ylabel(text, fontsize=8)
        axes.tick_params(axis="x", labelsize=7)
    return figure


def _stamp(groups: Selection) -> str:
    """Sizes of the networks, images and seeds; these runs have no epochs."""
    first = [group[0] for group in groups.values()]
    return (
        f"{groups.profile} profile: {', '.join(map(network_size, first))}; {number(first[0].spec['train_images'])} "
        f"images, {seeds([len(group) for group in groups.values()])}{'' if groups.profile == 'paper' else REDUCED}"
        f"{ours(groups)}"
    )


def _draw(axes: Axes, rows: Rows, column: str, look: Style, text: str) -> layout.Line2D:
    """Mean over seeds at each batch, with its interval; of the noise those of its logarithm."""
    batches = rows.once("batch")[0]
    values = np.array([seed.numbers(column)[0] for seed in rows.seeds()])
    if column == "noise":
        spread = np.exp(intervals(np.log(values)))
        marks.errors(axes, batches, spread, look.colour, 2.0, linewidth=1.0)
    else:
        ends = _POSSIBLE[column]
        spread = np.clip(intervals(values), *ends)
        marks.errors(axes, batches, spread, look.colour, 2.0, ends=ends, linewidth=1.0)
    (line,) = axes.plot(batches, spread[0], **look.kwargs(), label=text, linewidth=1.3, zorder=3)
    return line


def _one_over(axes: Axes, rows: Rows) -> None:
    """A line of slope -1 on logarithmic axes, below all points."""
    axes.set_yscale("log")
    batches = np.array(sorted({int(row["batch"]) for row in rows}), float)
    least = min(float(row["noise"]) * int(row["batch"]) for row in rows)
    axes.plot(batches, least / batches / 1.5, color=GREY, linewidth=1.0, linestyle=":", zorder=1)
