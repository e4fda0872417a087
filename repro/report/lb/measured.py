"""Measurements of the paper's performance models: what figures of them share, and errors of the fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from repro.registry.labels import number
from repro.report import marks
from repro.report.artefact import table
from repro.report.layout import Axes
from repro.report.notes import REDUCED, network_size, reduced_data
from repro.report.rows import Row, measured
from repro.report.selection import Groups, Selection
from repro.report.tables import ABSENT, Table
from repro.results import fits, measurements
from repro.results.records import Record

TIMED = ("lb-perf-resnet50", "lb-perf-vgg11", "lb-perf-alexnet", "lb-perf-vit")
ACTIVATIONS = ("lb-memory-resnet18", "lb-perf-vgg11", "lb-perf-alexnet")
LOADED = ("lb-perf-vgg11", "lb-perf-alexnet", "lb-memory-resnet18")
"""Runs whose activations, and whose loader's memory, figure 4 shows."""
CAPACITY = tuple(run.replace("perf", "capacity") for run in TIMED)
MEMORY = tuple(dict.fromkeys(ACTIVATIONS + LOADED))

SHOWN_BATCHES = (32, 256, 1024)
"""Rows of lb.eq2 and lb.eq3: batch sizes whose process is watched."""

_SETTINGS = ("dataset", "model", "image_size", "width", "precision", "blocks", "repetitions")


def records_of(groups: Groups, runs: Sequence[str]) -> list[Record]:
    """One record of each run: a measurement is executed once."""
    return [groups[run][0] for run in runs]


def where_measured(records: Sequence[Record]) -> str:
    """Where and how the measurements of a figure were made: the stamp on its face."""
    first = records[0]
    machine = first.machine or {}
    return (
        f"{first.profile} profile: {', '.join(map(network_size, records))}; {first.spec['precision']}; "
        f"{machine['device']}, threads: {machine['threads']}"
        f"{'' if first.profile == 'paper' else REDUCED}{reduced_data(records)}"
    )


def noise(records: Sequence[Record]) -> str:
    """Repetitions, and how far one and the same step varies."""
    spec, probed = records[0].spec, [record for record in records if "probe" in record.series]
    each = ", ".join(
        f"{measurements.TITLES[r.spec['model']]} {number(100 * measurements.noise(r), 1)} %" for r in probed
    )
    least = min(measurements.busy(record) for record in probed)
    return (
        f"n = {spec['blocks']} blocks of {spec['repetitions']} steps for each size; noise, half the quartile distance "
        f"of one and the same step over its median: {each}; the process had its core for at least "
        f"{number(100 * least)} % of the time."
    )


def measured_row(artefact: str, record: Record) -> Row:
    """Columns with which every row of these CSV files begins."""
    machine = record.machine or {}
    return measured(artefact, record, _SETTINGS) | {
        "device": machine.get("device"), "threads": machine.get("threads"), "reduced": record.data.get("reduced"),
    }  # fmt: skip


def batch_axis(axes: Axes, sizes: Sequence[int]) -> None:
    """A log axis with a tick at each measured batch size."""
    marks.log2_axis(axes, sizes)
    axes.tick_params(labelsize=7)
    axes.set_xlabel("batch size (images)", fontsize=8)


# Errors of the fits at sizes that they have not seen ---------------------------------------------------------------


PUBLISHED = {
    ("compute", "resnet50"): (0.6, 9),
    ("compute", "vgg11"): (2.88, 15.7),
    ("compute", "alexnet"): (5.98, 13.6),
    ("compute", "vit"): (0.9, 6.34),
    ("loader", "cifar100"): (4.56, 20.45),
    ("loader", "caltech101"): (0.45, 3.47),
    ("loader", "food101"): (0.08, 3.02),
}
"""Errors of the paper's lines in percent, least and largest, by network or data set (lb.c9, lb.c8)."""


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


def _errors(artefact: str, case: _Case, name: str) -> tuple[str, float, list[Row]]:
    """Cell, largest error in percent and CSV rows of one fit."""
    fit, (sizes, costs) = fits.FITS[name], measurements.fitted(name, case.sizes, case.costs)
    if min(costs) <= 0:  # a batch within pages that the process has already
        return ABSENT, math.inf, []
    inside, outside = fits.errors(fit(sizes, costs), sizes, costs), fits.held_out(fit, sizes, costs)
    cell = f"{number(100 * float(np.median(outside)), 1)} ({number(100 * float(outside.max()), 1)})"
    return (
        cell,
        100 * float(outside.max()),
        [
            measured_row(artefact, case.record)
            | {"quantity": case.quantity, "fit": name, "batch": size, "measured": cost}
            | {"error_percent": 100 * seen, "held_out_error_percent": 100 * unseen}
            for size, cost, seen, unseen in zip(sizes, costs, inside.tolist(), outside.tolist(), strict=True)
        ],
    )


@table("lb.extra-fits", title="Errors of the fits at sizes they have not seen", runs=(*TIMED, *MEMORY))
def errors(groups: Selection) -> Table:
    """List errors of all fits of compute time and loader memory (statements lb.c8, lb.c9)."""
    rows, csv_rows = [], []
    for case in _cases(groups):
        what = {"compute": "compute time", "loader": "batch memory"}[case.quantity]
        named = case.record.spec["model" if case.quantity == "compute" else "dataset"]
        published = PUBLISHED.get((case.quantity, named))
        said = "{:g} to {:g}".format(*published) if published else ABSENT
        rows.append([f"{what}, {measurements.title(case.record)}", said])
        fitting = []
        for name in fits.FITS:
            cell, largest, lines = _errors(groups.artefact, case, name)
            rows[-1].append(cell)
            csv_rows += lines
            fitting += [name] if published and largest <= published[1] else []
        rows[-1].append(", ".join(fitting) or "none" if published else ABSENT)
    return Table(
        "lb.extra-fits: errors of the fits at sizes they have not seen, in percent: median (largest)",
        ["quantity", "published, a line", *fits.FITS, "which fits"],
        rows,
        [f"{where_measured(records_of(groups, tuple(groups)))}.",
         "Each size is predicted from all others; leaving out an end of the range means to extrapolate. Lines from "
         f"batch {measurements.LEAST_FITTED} up, the roofline with a batch of 1 as well.",
         "Which fits: no error above the largest published one. Published errors are those inside the fit, on another "
         "machine and at other sizes: no difference is taken.",
         f"{ABSENT}: a reading of the system that is not above 0, of which there is no error in percent."],
        csv_rows,
    )  # fmt: skip
