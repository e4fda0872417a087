"""Errors of the fits of the paper's performance models at sizes that they have not seen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from repro.registry.labels import number
from repro.report.artefact import table
from repro.report.lb.measured import LOADED, MEMORY, TIMED, measured_row, records_of, where_measured
from repro.report.rows import Row
from repro.report.selection import Groups, Selection
from repro.report.tables import ABSENT, Table
from repro.results import fits, measurements
from repro.results.records import Record


class _Case(NamedTuple):
    """Sizes and costs of one quantity."""

    record: Record
    quantity: str
    sizes: list[int]
    costs: list[float]


def _cases(groups: Groups) -> list[_Case]:
    cases = []
    for record in records_of(groups, TIMED):
        sizes = measurements.batches(record)
        cases.append(_Case(record, "compute", sizes, measurements.medians(record, "compute", sizes)))
    loaded = [_Case(r, "loader", *measurements.bytes_of(r, "loader")) for r in records_of(groups, LOADED)]
    return cases + [case for case in loaded if len(case.sizes) > 3]


def _errors(artefact: str, case: _Case, name: str) -> tuple[str, list[Row]]:
    """Cell and CSV rows of one fit."""
    fit, (sizes, costs) = fits.FITS[name], measurements.fitted(name, case.sizes, case.costs)
    if min(costs) <= 0:  # a batch within pages that the process has already
        return ABSENT, []
    inside, outside = fits.errors(fit(sizes, costs), sizes, costs), fits.held_out(fit, sizes, costs)
    cell = f"{number(100 * float(np.median(outside)), 1)} ({number(100 * float(outside.max()), 1)})"
    return cell, [
        measured_row(artefact, case.record)
        | {"quantity": case.quantity, "fit": name, "batch": size, "measured": cost}
        | {"error_percent": 100 * seen, "held_out_error_percent": 100 * unseen}
        for size, cost, seen, unseen in zip(sizes, costs, inside.tolist(), outside.tolist(), strict=True)
    ]


@table("lb.extra-fits", title="Errors of the fits at sizes they have not seen", runs=(*TIMED, *MEMORY))
def errors(groups: Selection) -> Table:
    """List errors of all fits of compute time and loader memory (statements lb.c8, lb.c9)."""
    rows, csv_rows = [], []
    for case in _cases(groups):
        what = {"compute": "compute time", "loader": "batch memory"}[case.quantity]
        rows.append([f"{what}, {measurements.title(case.record)}"])
        for name in fits.FITS:
            cell, lines = _errors(groups.artefact, case, name)
            rows[-1].append(cell)
            csv_rows += lines
    return Table(
        "lb.extra-fits: errors of the fits at sizes they have not seen, in percent: median (largest)",
        ["quantity", *fits.FITS],
        rows,
        [f"{where_measured(records_of(groups, tuple(groups)))}.",
         "Each size is predicted from all others; leaving out an end of the range means to extrapolate. Lines from "
         f"batch {measurements.LEAST_FITTED} up, the roofline with a batch of 1 as well.",
         f"{ABSENT}: a reading of the system that is not above 0, of which there is no error in percent."],
        csv_rows,
    )  # fmt: skip
