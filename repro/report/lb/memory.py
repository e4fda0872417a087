"""Memory of the paper's performance models: figure 4, and Eq. 3 term by term."""

from __future__ import annotations

import numpy as np

from repro.registry.labels import number
from repro.report import layout, marks
from repro.report.artefact import figure, table
from repro.report.layout import Axes, Figure
from repro.report.lb.measured import (
    ACTIVATIONS,
    CAPACITY,
    LOADED,
    MEMORY,
    PUBLISHED,
    SHOWN_BATCHES,
    TIMED,
    batch_axis,
    measured_row,
    records_of,
    where_measured,
)
from repro.report.look import GREY, MEASURED
from repro.report.rows import Row, Rows
from repro.report.selection import Selection
from repro.report.tables import ABSENT, Table
from repro.results import batch_costs, fits, measurements
from repro.results.measurements import TERMS
from repro.results.records import Record

BUDGET = 2 * 2**30
_LINES = {"extremes_bytes": "line, extremes", "all_sizes_bytes": "line, all sizes"}
"""Column -> fit of the loader's memory."""
_DASHES = (":", "--")


def memory_rows(chosen: Selection) -> list[Row]:
    """Activation, batch and loader bytes at every size, with both lines of the loader's memory."""
    rows = []
    for record in records_of(chosen, MEMORY):
        sizes, grown = measurements.bytes_of(record, "loader")
        lines = {
            column: fits.FITS[fit](*measurements.fitted(fit, sizes, grown))
            for column, fit in _LINES.items()
            if len(sizes) > 3
        }
        rows += [
            measured_row(chosen.artefact, record)
            | {"batch": row["batch"], "activation_bytes": row["activations"], "batch_held_bytes": row["batch_held"]}
            | {"loader_bytes": row["loader"]}
            | {column: lines[column](row["batch"]) if column in lines else None for column in _LINES}
            for row in measurements.rows(record)
        ]
    return rows


@figure("lb.fig4", title="Activation memory and batch memory", runs=MEMORY, rows=memory_rows)
def memory(groups: Selection, rows: Rows) -> Figure:
    """Draw (a) activation memory; (b) batch memory measured and predicted by a line (statements lb.c7, lb.c8)."""
    records = records_of(groups, MEMORY)
    notes = [
        "(a) What autograd saves in a forward pass, counted; lines through the smallest and the largest batch. "
        "(b) Growth of resident memory while the loader makes a batch, medians; dotted: line through the extremes "
        f"{measurements.LEAST_FITTED} and 1024 (judged between), dashed: least squares from "
        f"{measurements.LEAST_FITTED} up, shaded by the largest error published of it. "
        "The system counts whole pages of memory, which decide the reading of a batch of 1.",
    ]
    figure, (left, right) = layout.grid(
        layout.Texts("lb.fig4  Activation memory and batch memory", where_measured(records), notes),
        panels=["(a) activations", "(b) batch"],
        legend_rows=3,
    )
    _draw_activations(left, groups, rows)
    _draw_loaded(right, groups, rows)
    for axes in (left, right):
        axes.set_yscale("log")
        axes.set_ylabel("memory (MiB)", fontsize=8)
        batch_axis(axes, measurements.batches(records[0]))
    return figure


def _draw_activations(axes: Axes, groups: Selection, rows: Rows) -> None:
    handles = []
    for record, look in zip(records_of(groups, ACTIVATIONS), MEASURED, strict=True):
        sizes, held = rows.where(run=record.run).numbers("batch", "activation_bytes")
        line = fits.extremes(sizes.tolist(), held.tolist())
        axes.plot(sizes, [line(size) / 2**20 for size in sizes], color=look.colour, linewidth=1.2)
        handles += axes.plot(sizes, held / 2**20, color=look.colour, marker=look.marker, linestyle="none",
                             label=measurements.TITLES[record.spec["model"]])  # fmt: skip
    handles += axes.plot([], [], color=GREY, linewidth=1.2, label="line, extremes")
    marks.legend(axes, handles, 3)


def _draw_loaded(axes: Axes, groups: Selection, rows: Rows) -> None:
    handles = []
    for record, look in zip(records_of(groups, LOADED), MEASURED, strict=True):
        own = Rows(row for row in rows.where(run=record.run) if row["loader_bytes"] is not None)
        sizes, grown, extremes, all_sizes = own.numbers("batch", "loader_bytes", *_LINES)
        if not len(sizes):
            continue
        for predicted, dash in zip((extremes, all_sizes), _DASHES, strict=True):
            drawn = predicted / 2**20
            axes.plot(sizes, np.where(drawn > 0, drawn, np.nan), color=look.colour, linestyle=dash, linewidth=1.2)
        error, line = PUBLISHED["loader", record.spec["dataset"]][1] / 100, all_sizes / 2**20
        known = np.where(line > 0, line, np.nan)
        marks.shade(axes, sizes, known * (1 - error), known * (1 + error), look.colour, 0.2)
        handles += axes.plot(sizes, grown / 2**20, color=look.colour, marker=look.marker, linestyle="none",
                             label=measurements.DATASETS[record.spec["dataset"]])  # fmt: skip
    for words, dash in zip(_LINES.values(), _DASHES, strict=True):
        handles += axes.plot([], [], color=GREY, linestyle=dash, linewidth=1.2, label=words)
    marks.legend(axes, handles, 2)


# Eq. 3 ----------------------------------------------------------------------------------------------------------


@table("lb.eq3", title="Memory of training, term by term", runs=TIMED)
def terms(groups: Selection) -> Table:
    """Set the terms and their sum against what the process really took, and give the largest batch in 2 GiB."""
    records = records_of(groups, TIMED)
    rows, csv_rows = [], []
    for record in records:
        largest = _largest(record)
        for row in (row for row in measurements.rows(record) if row["batch"] in SHOWN_BATCHES):
            cells, lines = _terms(groups.artefact, record, row)
            rows.append([*cells, *largest])
            csv_rows += lines
    return Table(
        "lb.eq3: the memory of training, term by term (MiB, predicted / counted)",
        ["network and data", "batch", "M_model", "M_grad", "M_opt", "M_act", "M_batch", "M_total", "process grew by",
         "M_total against it", "largest batch in 2 GiB by Eq. 3", "largest batch in 2 GiB by processes"],
        rows,
        [f"{where_measured(records)}.",
         "Predicted: 4 bytes a parameter for weights, gradients and momentum; M_act and M_batch on the line through "
         "the smallest and the largest batch, so that those two are exact by construction.",
         "Process: peak resident memory of a child that trains three steps, less what its interpreter and libraries "
         "took before. Beyond the predicted M_total: kernels loaded on first use, gradients of activations while they "
         "pass back, workspaces, the training images.",
         f"Largest batch: where M_total, or the line through the two largest watched processes with their libraries, "
         f"reaches 2 GiB less a margin of {100 * batch_costs.MARGIN:g} %, which `repro advise` leaves, too."],
        csv_rows,
    )  # fmt: skip


@table("lb.extra-capacity", title="The largest batch by Eq. 3 and two probes, beside that of a process", runs=CAPACITY)
def capacity(groups: Selection) -> Table:
    """Set the batch that Eq. 3 predicts for a process's memory against the batch it had (statement lb.c24)."""
    records = records_of(groups, CAPACITY)
    rows, csv_rows = [], []
    for record in records:
        probes = measurements.batches(record)
        for batch, held in measurements.grown(record).items():
            predicted = measurements.batch_by_terms(record, held)
            error = f"{number(100 * (predicted / batch - 1), 1, sign=True)} %"
            rows.append([measurements.title(record), f"{probes[0]} and {probes[-1]}", _mib(held), str(batch),
                         number(predicted, 1), error])  # fmt: skip
            csv_rows.append(
                measured_row(groups.artefact, record)
                | {"batch": batch, "process_growth_bytes": held, "predicted_batch": predicted}
            )
    return Table(
        "lb.extra-capacity: the largest batch for the memory of a process, predicted by Eq. 3 from two probes",
        ["network and data", "probes", "process grew by (MiB)", "batch", "predicted batch", "error"],
        rows,
        [f"{where_measured(records)}.",
         "A device that has exactly what the process grew by holds this batch. Grew by: peak resident memory of a "
         "child that trains three steps, less what its interpreter and libraries took before. Predicted: where the sum "
         "of Eq. 3 reaches it."],
        csv_rows,
    )  # fmt: skip


def _largest(record: Record) -> list[str]:
    """The largest batch in 2 GiB, by Eq. 3 and by watched processes."""
    watched, held = len(measurements.bytes_of(record, "peak")[0]) > 1, int(record.spec["train_images"])
    most = measurements.largest_batch(record, BUDGET) if watched else None
    # Watched processes hold so many images; a larger batch would need more, which no line through them knows.
    by_processes = ABSENT if most is None else number(most) if most <= held else f"> {number(held)}"
    return [number(batch_costs.advised_batch(measurements.terms_line(record), BUDGET)), by_processes]


def _terms(artefact: str, record: Record, row: Row) -> tuple[list[str], list[Row]]:
    """Cells and CSV rows of one batch size."""
    predicted = measurements.predicted_terms(record, row["batch"])
    counted = {name: float(row[name]) for name in TERMS}
    for terms in (predicted, counted):
        terms["total"] = sum(terms[name] for name in TERMS)
    total, grown = predicted["total"], None if row["peak"] is None else float(row["peak"] - row["base"])
    beyond = None if grown is None else 100 * (total / grown - 1)
    cells = [measurements.title(record), str(row["batch"])]
    cells += [f"{_mib(said)} / {_mib(counted[name])}" for name, said in predicted.items()]
    cells += [ABSENT, ABSENT] if grown is None or beyond is None else [_mib(grown), f"{number(beyond, 1, sign=True)} %"]
    return cells, [
        measured_row(artefact, record)
        | {"batch": row["batch"], "term": name, "predicted_bytes": said, "measured_bytes": ours}
        | {"error_percent": 100 * (said / ours - 1) if ours else None}
        | {"process_growth_bytes": grown if name == "total" else None}
        | {"error_against_process_percent": beyond if name == "total" else None}
        for name, said, ours in ((name, predicted[name], counted[name]) for name in (*TERMS, "total"))
    ]


def _mib(count: float) -> str:
    return number(count / 2**20, 1)
