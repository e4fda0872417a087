"""Times of the paper's performance models: figures 1, 2 and 5, and Eq. 2 term by term."""

from __future__ import annotations

from typing import Any

import numpy as np

from repro.registry.labels import number
from repro.report import layout, marks
from repro.report.artefact import figure, table
from repro.report.layout import Axes, Figure
from repro.report.lb.measured import (
    PUBLISHED,
    SHOWN_BATCHES,
    TIMED,
    batch_axis,
    measured_row,
    noise,
    records_of,
    where_measured,
)
from repro.report.look import GREY, MEASURED
from repro.report.look import PUBLISHED as LONG_DASHES
from repro.report.rows import Row, Rows
from repro.report.selection import Selection
from repro.report.tables import Table
from repro.results import batch_costs, fits, links, measurements
from repro.results.records import Record

LINK, EVERY = "LTE", (1, 10, 250)
"""The link of lb.eq2's synchronisation (pipelines/e2.yaml), and steps between two of them; 250: lb.table2."""

_QUARTILES = ("lower_quartile_s", "median_s", "upper_quartile_s")
_QUANTILES = ("least_s", *_QUARTILES, "most_s")


def _panels(groups: Selection, heading: str, note: str, legend_rows: int = 1) -> tuple[Figure, list[Any]]:
    """A figure with axes for each timed run, and (axes, record) of them."""
    records = records_of(groups, TIMED)
    figure, axes = layout.grid(
        layout.Texts(f"{groups.artefact}  {heading}", where_measured(records), [note, noise(records)]),
        panels=[measurements.title(record) for record in records],
        legend_rows=legend_rows,
    )
    return figure, list(zip(axes, records, strict=True))


# Compute and data movement --------------------------------------------------------------------------------------


def part_rows(chosen: Selection) -> list[Row]:
    """Every part, batch size and its quartiles in seconds."""
    return [
        measured_row(chosen.artefact, record)
        | {"batch": row["batch"], "part": part, "n": row["n"]}
        | dict(zip(_QUARTILES, row[part], strict=True))
        | {"cpu_share": row["cpu_share"], "noise": measurements.noise(record)}
        for record in records_of(chosen, TIMED)
        for row in measurements.rows(record)
        for part in ("compute", "movement", "update", "step")
    ]


@figure("lb.fig1", title="Compute and data-movement time of a step", runs=TIMED, rows=part_rows)
def parts_of_a_step(groups: Selection, rows: Rows) -> Figure:
    """Draw both against the batch size (statement lb.c4)."""
    note = (
        "Medians with their quartiles as a band; both axes logarithmic. Data movement: gathering, augmenting and "
        "normalising a batch, and on a GPU the copy to it; compute: forward and backward pass, without the update."
    )
    figure, panels = _panels(groups, "Compute and data-movement time of a step", note)
    for axes, record in panels:
        lines = []
        for part, words, look in (("compute", "compute", MEASURED[1]), ("movement", "data movement", MEASURED[2])):
            sizes, *quartiles = rows.where(run=record.run, part=part).numbers("batch", *_QUARTILES)
            low, middle, high = 1000 * np.array(quartiles)
            marks.shade(axes, sizes, low, high, look.colour, alpha=0.2)
            lines += axes.plot(sizes, middle, **look.kwargs(), label=words)
        axes.set_yscale("log")
        axes.set_ylabel("time of a step (ms)", fontsize=8)
        batch_axis(axes, measurements.batches(record))
        marks.legend(axes, lines, 2)
    return figure


# Epochs ---------------------------------------------------------------------------------------------------------


def epoch_rows(chosen: Selection) -> list[Row]:
    """Quantiles of the epoch time at every batch size, in seconds."""
    return [
        measured_row(chosen.artefact, record)
        | {"batch": batch, "epoch_images": record.spec["train_images"]}
        | dict(zip(_QUANTILES, map(float, _epoch_quantiles(record, batch)), strict=True))
        for record in records_of(chosen, TIMED)
        for batch in measurements.batches(record)
    ]


def _epoch_quantiles(record: Record, batch: int) -> np.ndarray:
    images, samples = int(record.spec["train_images"]), measurements.samples(record, "step", batch)
    return np.quantile(batch_costs.epoch_seconds(samples, images, batch), (0, 0.25, 0.5, 0.75, 1))


@figure("lb.fig2", title="Time of an epoch", runs=TIMED, rows=epoch_rows)
def epochs(groups: Selection, rows: Rows) -> Figure:
    """Draw its distribution against the batch size (statement lb.c5)."""
    images = number(int(rows[0]["epoch_images"]))
    note = (
        f"An epoch is {images} images, none timed as a whole: each of 200 is resampled from measured steps of one "
        "block, drawn anew for each, without synchronisation. Box: quartiles and median; whiskers: all; long dashes: "
        "where the paper's time saturates (VGG11, AlexNet) or rises again (ResNet50, ViT)."
    )
    figure, panels = _panels(groups, "Time of an epoch, resampled from steps", note, legend_rows=0)
    names = ("whislo", "q1", "med", "q3", "whishi")
    for axes, record in panels:
        sizes, *quantiles = rows.where(run=record.run).numbers("batch", *_QUANTILES)
        boxes = [dict(zip(names, box, strict=True)) | {"fliers": []} for box in np.array(quantiles).T]
        median = {"color": MEASURED[2].colour}
        axes.bxp(boxes, positions=range(len(sizes)), widths=0.6, showfliers=False, medianprops=median)
        axes.set_xticks(range(len(sizes)), [f"{size:g}" for size in sizes], fontsize=8)
        if (turn := PUBLISHED_TURNS[record.spec["model"]]) in sizes:
            axes.axvline(list(sizes).index(turn), color=GREY, linewidth=1.2, linestyle=LONG_DASHES, zorder=1)
        axes.set_xlabel("batch size (images)", fontsize=8)
        axes.set_ylabel("time of an epoch, resampled (s)", fontsize=8)
        marks.log_axis(axes)
    return figure


# Predicted compute time -----------------------------------------------------------------------------------------

PUBLISHED_TURNS = {"vgg11": 512, "alexnet": 512, "resnet50": 1024, "vit": 1024}
"""Batch at which the paper's time of an epoch saturates or rises (statement lb.c5)."""
_FITS = {"line, all sizes": "line", "roofline": "line with a floor"}
_EVERY = 4
"""Of the places between the sizes at which a prediction is not above 0, those that are marked."""


def fit_rows(chosen: Selection) -> list[Row]:
    """Every fit at every batch size: predicted seconds and error, also where the size was held out of the fit."""
    rows = []
    for record in records_of(chosen, TIMED):
        sizes = measurements.batches(record)
        known, start = measurements.medians(record, "compute", sizes), measured_row(chosen.artefact, record)
        for name, fit in fits.FITS.items():
            fitted, cost = measurements.fitted(name, sizes, known)
            model = fit(fitted, cost)
            held_out = dict(zip(fitted, fits.held_out(fit, fitted, cost), strict=True))
            rows += [
                start
                | {"fit": name, "batch": batch, "fitted": int(batch in fitted), "measured_s": seconds,
                   "predicted_s": model(batch), "error_percent": 100 * abs(model(batch) / seconds - 1),
                   "held_out_error_percent": 100 * held_out[batch] if batch in held_out else None}
                for batch, seconds in zip(sizes, known, strict=True)
            ]  # fmt: skip
    return rows


@figure("lb.fig5", title="Compute time, measured and predicted", runs=TIMED, rows=fit_rows)
def predictions(groups: Selection, rows: Rows) -> Figure:
    """Draw measured times, the paper's line and a line with a floor (statement lb.c9)."""
    note = (
        "Points: medians of forward and backward pass, with quartiles; the line is fitted to batches from "
        f"{measurements.LEAST_FITTED} up, the line with a floor to all. A line with a constant part bends on "
        "logarithmic axes, and is not above 0 where arrows stand; grey: the line and the largest error published of it."
    )
    figure, panels = _panels(groups, "Compute time, measured and predicted", note, legend_rows=3)
    for axes, record in panels:
        _draw_fits(axes, record)
    return figure


def _draw_fits(axes: Axes, record: Record) -> None:
    """Quartiles of the record, and the fits between its sizes, neither of which is in the CSV."""
    from matplotlib.lines import Line2D

    sizes = measurements.batches(record)
    low, middle, high = 1000 * np.array([row["compute"] for row in measurements.rows(record)]).T
    axes.errorbar(sizes, middle, yerr=[middle - low, high - middle], color=MEASURED[0].colour, fmt="o", capsize=2)
    handles = [Line2D([], [], color=MEASURED[0].colour, marker="o", linestyle="none", label="measured")]
    cost = measurements.medians(record, "compute", sizes)
    dense = np.geomspace(sizes[0], sizes[-1], 60)
    for (name, words), look, dash in zip(_FITS.items(), MEASURED[1:], ("--", "-."), strict=True):
        model = fits.FITS[name](*measurements.fitted(name, sizes, cost))
        drawn = 1000 * np.array([model(size) for size in dense])
        handles += axes.plot(dense, np.where(drawn > 0, drawn, np.nan), color=look.colour, linestyle=dash, label=words)
        if words == "line":
            error = PUBLISHED["compute", record.spec["model"]][1] / 100
            known = np.where(drawn > 0, drawn, np.nan)
            marks.shade(axes, dense, known * (1 - error), known * (1 + error), GREY, 0.3)
            handles += axes.plot([], [], color=GREY, alpha=0.3, linewidth=6, label=f"± {100 * error:g} % (paper)")
        handles += marks.not_above_zero(axes, dense[::_EVERY][drawn[::_EVERY] <= 0], look.colour, words)
    axes.set_yscale("log")
    axes.set_ylim(bottom=low.min() / 2)
    axes.set_ylabel("compute time (ms)", fontsize=8)
    batch_axis(axes, sizes)
    marks.legend(axes, handles, 2)


# Eq. 2 ----------------------------------------------------------------------------------------------------------


@table("lb.eq2", title="Time of a step, term by term", runs=TIMED)
def terms(groups: Selection) -> Table:
    """Set the local terms and their sum against the measured step, and add synchronisation."""
    records = records_of(groups, TIMED)
    link = next(each for each in links.load_links(groups.root) if each.name == LINK)
    made = [
        _step(groups.artefact, record, row, link)
        for record in records for row in measurements.rows(record) if row["batch"] in SHOWN_BATCHES
    ]  # fmt: skip
    return Table(
        "lb.eq2: the time of a step, term by term",
        ["network and data", "batch", "t_c (ms)", "t_mov (ms)", "update (ms)", "step measured (ms)",
         "sum of terms (ms)", "predicted unseen (ms)", f"t_sync, assumed {LINK} (s)",
         *(f"mean step, H = {every}, t_sync assumed (s)" for every in EVERY)],
        [cells for cells, _ in made],
        [f"{where_measured(records)}.", noise(records),
         "t_c: forward and backward pass. The update of the optimiser, which Eq. 2 does not name, stands by itself and "
         "is part of the sum. Terms and whole step were timed in different steps; in brackets the error against the "
         "measured step.",
         "Predicted unseen: this batch was held out; t_c and t_mov on lines through the other sizes from "
         f"{measurements.LEAST_FITTED} up, the update as their median. At the ends of the range this extrapolates.",
         f"t_sync is assumed, not measured: all weights and buffers as float32, down and up over a link of the speed "
         f"of {LINK}, without latency."],
        [row for _, row in made],
    )  # fmt: skip


def _step(artefact: str, record: Record, row: Row, link: links.Link) -> tuple[list[str], Row]:
    """Cells and CSV row of one batch size."""
    compute, movement, update, step = (row[part][1] for part in ("compute", "movement", "update", "step"))
    local, unseen = compute + movement + update, measurements.predicted_step(record, row["batch"])
    message = float(row["model"])
    wait = link.seconds(message, message)
    means = [batch_costs.mean_step_seconds(compute + update, movement, wait, every) for every in EVERY]
    errors = [100 * (each / step - 1) for each in (local, unseen)]
    cells = [
        measurements.title(record), str(row["batch"]),
        *(number(1000 * each, 2) for each in (compute, movement, update, step)),
        *(f"{number(1000 * each, 2)} ({number(error, 1, sign=True)} %)"
          for each, error in zip((local, unseen), errors, strict=True)),
        number(wait, 2), *(number(each, 3) for each in means),
    ]  # fmt: skip
    return cells, (
        measured_row(artefact, record)
        | {"batch": row["batch"], "n": row["n"], "compute_s": compute, "movement_s": movement, "update_s": update}
        | {"measured_step_s": step, "sum_of_terms_s": local, "sum_error_percent": errors[0]}
        | {"held_out_step_s": unseen, "held_out_error_percent": errors[1]}
        | {"message_bytes": message, "assumed_link": LINK, "assumed_synchronisation_s": wait}
        | {f"mean_step_every_{every}_s": mean for every, mean in zip(EVERY, means, strict=True)}
    )
