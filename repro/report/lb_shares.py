"""Ten unequal devices with three ways to share the global batch: time of a round and accuracy (lb.extra-shares)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from repro.experiments.sizes import apportion
from repro.registry.labels import number
from repro.report import e1, select
from repro.report.lb_performance import TIMED, _noise, _provenance, _records, _stamp
from repro.report.lb_training import _gaps, _scale
from repro.report.lb_training_tables import _accuracies, _cells
from repro.report.tables import ABSENT, Table
from repro.results import measurements
from repro.results.records import Record

SHARED = "lb-shares-resnet50"
TRAINED = {
    "lb-perf-resnet50": ("lb-bsp-resnet50-iid", SHARED),
    "lb-perf-vgg11": ("lb-bsp-vgg11-iid", "lb-shares-vgg11"),
}
"""Measurement -> runs of the same network and data with equal shares, and with shares by speed."""
SHARES_RUNS = (*TIMED, *(run for pair in TRAINED.values() for run in pair))
_WAYS = ("uniform", "proportional", "equalising")


def _gain(record: Record, way: str) -> tuple[float, float, float]:
    """How many times shorter a round is than with uniform shares, and its interval over the measurement's blocks."""
    mean, low, high = map(math.exp, select.interval(measurements.log_gains(record, way)))
    return mean, low, high


def _times(record: Record) -> tuple[list[str], list[dict[str, Any]]]:
    """Cells and CSV rows of the simulated round of one network."""
    sizes = measurements.batches(record)
    times = measurements.round_times(record, measurements.medians(record, "step", sizes), sizes)
    gains = {way: _gain(record, way) for way in _WAYS}
    said = [f"× {number(mean, 2)} [{number(low, 2)}, {number(high, 2)}]" for mean, low, high in gains.values()]
    rows = [
        _row(record, int(record.spec["blocks"]), way)
        | {"round_s": times[way]} | dict(zip(("times_shorter", "times_low", "times_high"), gains[way], strict=True))
        for way in _WAYS
    ]  # fmt: skip
    return [*(number(1000 * times[way], 1) for way in _WAYS), *said[1:]], rows


def _row(record: Record, n: int, way: str) -> dict[str, Any]:
    """A CSV row in which nothing is known yet; ``n``: blocks of a measurement, seeds of a training."""
    unknown = ("round_s", "times_shorter", "times_low", "times_high", "top1_percent", "mean_percent", "low_percent",
               "high_percent", "imputed_chance")  # fmt: skip
    return _provenance("lb.extra-shares", record) | {"shares": way, "n": n} | dict.fromkeys(unknown)


def _accuracy_rows(group: Sequence[Record], way: str) -> list[dict[str, Any]]:
    values = _accuracies(group, "test_top1")
    ends = dict(zip(("mean_percent", "low_percent", "high_percent"), select.interval(values), strict=True))
    return [
        _row(record, len(group), way)
        | {"top1_percent": value, "imputed_chance": int(record.status == "diverged")} | ends
        for record, value in zip(group, values, strict=True)
    ]  # fmt: skip


def _local_batches(group: Sequence[Record]) -> str:
    """Of the clients of a run with shares by speed, in words."""
    union = select.setting(group, "workers") * select.setting(group, "local_batch")
    counted = Counter(apportion(union, select.setting(group, "batch_shares")))
    return f"{number(union)} images in local batches of " + ", ".join(
        f"{size} ({clients})" for size, clients in counted.items()
    )


def shares(groups: select.Groups, profile: str) -> Table:
    """Time of a simulated round, and accuracy of training with local batches in proportion to speed (lb.c17)."""
    records = _records(groups, TIMED)
    rows, csv_rows = [], []
    for record in records:
        cells, found = _times(record)
        csv_rows += found
        trained = [ABSENT] * 4
        if record.run in TRAINED:
            equal, by_speed = (groups[run] for run in TRAINED[record.run])
            trained = [_cells(equal)[0], _cells(by_speed)[0], e1._change(equal, by_speed), str(len(by_speed))]
            csv_rows += _accuracy_rows(equal, "uniform") + _accuracy_rows(by_speed, "proportional")
        rows.append([measurements.title(record), *cells, *trained])
    devices = ", ".join(
        f"{measurements.SPEEDS.count(speed)} at {speed:g}" for speed in dict.fromkeys(measurements.SPEEDS)
    )
    of_training = {run: groups[run] for pair in TRAINED.values() for run in pair}
    return Table(
        "lb.extra-shares: ten unequal devices: local time of a round, and accuracy, by shares of the batch",
        ["network and data", "round, uniform (ms)", "round, proportional (ms)", "round, equalising (ms)",
         "proportional is shorter", "equalising is shorter", "top-1, uniform (%)", "top-1, proportional (%)", "change",
         "n of top-1"],
        rows,
        [f"Rounds: {_stamp(records)}.", _noise(records),
         "Simulated from measured local steps (compute, data movement, update); assumed are the devices by speed, "
         f"{devices}, and a global batch of {number(measurements.LOCAL_BATCH * len(measurements.SPEEDS))}. "
         "A device of speed s "
         "takes 1 / s times as long, a round as long as its slowest device. Synchronisation, which no way to share "
         "changes, is not in it. Equalising: one image at a time to the device that would be done first. [95 % "
         "Student-t interval over blocks.]",
         f"Accuracies: {_scale(of_training)}.",
         f"Trained with gradients averaged at every step, weighted by images: {_local_batches(groups[SHARED])}. Mean "
         "over seeds at the end (last tenth) [95 % Student-t interval]; changes are paired by seed. On one and the "
         "same union batch the step does not depend on the shares where there is no BatchNorm (tests/test_engines.py "
         "executes this); BatchNorm normalises each device's batch by itself.",
         *_gaps(of_training)],
        csv_rows,
    )  # fmt: skip
