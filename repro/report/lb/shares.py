"""Ten unequal devices with three ways to share the global batch: time of a round and accuracy."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from repro.experiments.sizes import apportion
from repro.registry.labels import number
from repro.report.artefact import table
from repro.report.intervals import change, interval
from repro.report.lb.accuracy import accuracy_cells
from repro.report.lb.measured import TIMED, measured_row, noise, records_of, where_measured
from repro.report.notes import gaps_of_many, stamp_by_network
from repro.report.rows import Row, span
from repro.report.selection import Selection, finals, only, setting
from repro.report.tables import ABSENT, Table
from repro.results import measurements
from repro.results.records import Record

SHARED = "lb-shares-resnet50"
TRAINED = {
    "lb-perf-resnet50": ("lb-bsp-resnet50-iid", SHARED),
    "lb-perf-vgg11": ("lb-bsp-vgg11-iid", "lb-shares-vgg11"),
}
"""Measurement -> runs of the same network and data with equal shares, and with shares by speed."""
TRAINED_RUNS = tuple(run for pair in TRAINED.values() for run in pair)
_WAYS = ("uniform", "proportional", "equalising")
_UNKNOWN = ("round_s", "times_shorter", "times_low", "times_high", "top1_percent", "mean_percent", "low_percent",
            "high_percent", "imputed_chance")  # fmt: skip


def _row(artefact: str, record: Record, n: int, way: str) -> Row:
    """A CSV row in which nothing is known yet; ``n``: blocks of a measurement, seeds of a training."""
    return measured_row(artefact, record) | {"shares": way, "n": n} | dict.fromkeys(_UNKNOWN)


def _simulated(artefact: str, record: Record) -> tuple[list[str], list[Row]]:
    """Cells and CSV rows of the simulated round of one network: its time, and how many times shorter it is."""
    sizes = measurements.batches(record)
    times = measurements.round_times(measurements.medians(record, "step", sizes), sizes)
    gains = {way: [math.exp(end) for end in interval(measurements.log_gains(record, way))] for way in _WAYS}
    said = [f"× {number(mean, 2)} [{number(low, 2)}, {number(high, 2)}]" for mean, low, high in gains.values()]
    rows = [
        _row(artefact, record, int(record.spec["blocks"]), way)
        | {"round_s": times[way]}
        | dict(zip(("times_shorter", "times_low", "times_high"), gains[way], strict=True))
        for way in _WAYS
    ]
    return [*(number(1000 * times[way], 1) for way in _WAYS), *said[1:]], rows


def _accuracy_rows(artefact: str, group: Sequence[Record], way: str) -> list[Row]:
    return [
        _row(artefact, record, len(group), way)
        | {"top1_percent": value, "imputed_chance": int(record.status == "diverged")}
        | span(finals(group))
        for record, value in zip(group, finals(group), strict=True)
    ]


def _local_batches(group: Sequence[Record]) -> str:
    """Of the clients of a run with shares by speed, in words."""
    union = setting(group, "workers") * setting(group, "local_batch")
    counted = Counter(apportion(union, setting(group, "batch_shares")))
    return f"{number(union)} images in local batches of " + ", ".join(
        f"{size} ({clients})" for size, clients in counted.items()
    )


@table("lb.extra-shares", title="Unequal devices: time of a round, and accuracy", runs=(*TIMED, *TRAINED_RUNS))
def shares(groups: Selection) -> Table:
    """Simulate a round, and compare training with local batches in proportion to speed (statement lb.c17)."""
    rows, csv_rows = [], []
    for record in records_of(groups, TIMED):
        cells, lines = _simulated(groups.artefact, record)
        csv_rows += lines
        trained = [ABSENT] * 4
        if record.run in TRAINED:
            equal, by_speed = (groups[run] for run in TRAINED[record.run])
            trained = [accuracy_cells(equal)[0], accuracy_cells(by_speed)[0], change(equal, by_speed)]
            trained.append(str(len(by_speed)))
            for group, way in ((equal, "uniform"), (by_speed, "proportional")):
                csv_rows += _accuracy_rows(groups.artefact, group, way)
        rows.append([measurements.title(record), *cells, *trained])
    return Table(
        "lb.extra-shares: ten unequal devices: local time of a round, and accuracy, by shares of the batch",
        ["network and data", "round, uniform (ms)", "round, proportional (ms)", "round, equalising (ms)",
         "proportional is shorter", "equalising is shorter", "top-1, uniform (%)", "top-1, proportional (%)", "change",
         "n of top-1"],
        rows,
        _notes(groups),
        csv_rows,
    )  # fmt: skip


def _notes(groups: Selection) -> list[str]:
    records, trained, speeds = records_of(groups, TIMED), only(groups, TRAINED_RUNS), measurements.SPEEDS
    devices = ", ".join(f"{speeds.count(speed)} at {speed:g}" for speed in dict.fromkeys(speeds))
    return [
        f"Rounds: {where_measured(records)}.",
        noise(records),
        "Simulated from measured local steps (compute, data movement, update); assumed are the devices by speed, "
        f"{devices}, and a global batch of {number(measurements.LOCAL_BATCH * len(speeds))}. "
        "A device of speed s "
        "takes 1 / s times as long, a round as long as its slowest device. Synchronisation, which no way to share "
        "changes, is not in it. Equalising: one image at a time to the device that would be done first. [95 % "
        "Student-t interval over blocks.]",
        f"Accuracies: {stamp_by_network(trained)}.",
        f"Trained with gradients averaged at every step, weighted by images: {_local_batches(groups[SHARED])}. Mean "
        "over seeds at the end (last tenth) [95 % Student-t interval]; changes are paired by seed. On one and the "
        "same union batch the step does not depend on the shares where there is no BatchNorm (tests/test_engines.py "
        "executes this); BatchNorm normalises each device's batch by itself.",
        *gaps_of_many(trained),
    ]
