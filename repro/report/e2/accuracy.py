"""Accuracy of large-batch training in post 2."""

from __future__ import annotations

from repro.registry.labels import label
from repro.report.artefact import table
from repro.report.e2.runs import BASELINE, COLUMNS, COSINE, DGC_COSINE, LARGE_BATCH_RUNS, WEIGHTS
from repro.report.intervals import change, with_interval
from repro.report.notes import LOST, gaps, stamp
from repro.report.rows import curve, origin, span
from repro.report.selection import Selection, finals, named, setting
from repro.report.tables import ABSENT, NO_VALUE, Table


@table(
    "e2.table3", title="Large-batch accuracy at the end", runs=(*LARGE_BATCH_RUNS, COSINE, DGC_COSINE, WEIGHTS)
)  # fmt: skip
def at_the_end(groups: Selection) -> Table:
    """Compare accuracy at the end of training with the uncompressed run."""
    rows, csv_rows = [], []
    for run, group in groups.items():
        data, final = curve(group), finals(group)
        distance = ABSENT if run == BASELINE else change(groups[BASELINE], group)
        kind, epochs = setting(group, "schedule")["kind"], f"{data.epochs[-1]:g}"
        rows.append([named(group), kind, epochs, with_interval(final), distance, str(len(group))])
        csv_rows += [
            origin(groups.artefact, record, len(group), COLUMNS)
            | {"accuracy_percent": final[i], "imputed_chance": int(data.imputed[i, -1])}
            | span(final)
            | NO_VALUE
            for i, record in enumerate(group)
        ]
    return Table(
        "e2.table3: large-batch test accuracy at the end of training (mean of the last tenth)",
        ["method", "schedule", "epochs", "accuracy, top-1 (%)", f"minus {label(BASELINE)}", "n"],
        rows,
        [
            stamp(groups) + ".",
            "Mean over seeds [95 % Student-t interval]; differences are paired by seed.",
            f"The runs with cosine annealing and with int8 weights are ours. {LOST}",
            *gaps(groups),
        ],
        csv_rows,
    )
