"""Tables of post e3: accuracy by batch and warm-up, and what to do with BatchNorm's running statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from repro import metrics
from repro.records import Record
from repro.report import e1, select
from repro.report.e3 import (
    BATCHES,
    BN_SKEWED,
    COLUMNS,
    FIXUP_RUNS,
    GN_RUNS,
    LINEAR_RUNS,
    OTHER_NORM_RUNS,
    _finals,
    _network,
    _recorded,
    _steps,
    _with_interval,
)
from repro.report.tables import ABSENT, MEGABYTE, Table
from repro.words import number

SLOW_RUNS = ("e3-gn-1024-slow", "e3-gn-2048-slow")
TABLE1_RUNS = (*GN_RUNS, *SLOW_RUNS, *OTHER_NORM_RUNS, *FIXUP_RUNS, *LINEAR_RUNS)
BSP_BUFFERS_RUNS = (BN_SKEWED, "e3-noniid-bn-local", "e3-noniid-bn-drop")
FEDERATED_BUFFERS_RUNS = ("e3-fedavg-noniid-bn", "e3-fedavg-noniid-bn-local", "e3-fedavg-noniid-bn-drop")
BUFFERS_RUNS = (*BSP_BUFFERS_RUNS, *FEDERATED_BUFFERS_RUNS)

LOST = "No value published: the post's own table was a picture and is lost."

#: (rows of e3.table1) norm, policy -> the run of each batch, or None. Batch 128 has one policy only: no warm-up.
_ROWS: dict[tuple[str, str], tuple[str | None, ...]] = {
    ("GroupNorm", "0.1 to 0.8 or 1.6"): GN_RUNS,
    ("GroupNorm", "0.01 to 0.1"): (GN_RUNS[0], *SLOW_RUNS),
    ("LayerNorm", "0.1 to 0.8 or 1.6"): (OTHER_NORM_RUNS[0], None, OTHER_NORM_RUNS[1]),
    ("InstanceNorm", "0.1 to 0.8 or 1.6"): (OTHER_NORM_RUNS[2], None, OTHER_NORM_RUNS[3]),
    ("Fixup", "0.01 to 0.1"): FIXUP_RUNS,
    ("Fixup", "0.1 to 0.8 or 1.6"): (FIXUP_RUNS[0], *LINEAR_RUNS),
}


def _cell(group: Sequence[Record]) -> str:
    """Accuracy at the end, how many seeds diverged, and what the last quarter of training still brought."""
    lost = sum(record.status == "diverged" for record in group)
    if lost == len(group):
        return f"diverged ({lost} of {len(group)} seeds)"
    gained = float(np.mean([100 * metrics.last_quarter_gain(record) for record in group]))
    words = [_with_interval(_finals(group)), f"({number(gained, 1, sign=True)})"]
    return " ".join(words) + (f", diverged {lost} of {len(group)} seeds" if lost else "")


def table1(groups: select.Groups, profile: str) -> Table:
    """Accuracy after the last epoch by network, warm-up and batch (e3.c3, e3.c4, e3.c6)."""
    rows = []
    for (norm, policy), runs in _ROWS.items():
        cells = [ABSENT if run is None else _cell(groups[run]) for run in runs]
        first, last = runs[0], runs[-1]
        change = ABSENT if first is None or last is None else e1._change(groups[first], groups[last])
        rows.append([norm, policy, *cells, change])
    csv_rows = [row for group in groups.values() for row in _csv(group)]
    return Table(
        "e3.table1: test accuracy after the last epoch, by batch and warm-up",
        ["network", "warm-up of the rate", *(f"batch {number(batch)} (%)" for batch in BATCHES), "2048 minus 128"],
        rows,
        [
            select.stamp(groups) + ".",
            "Mean over seeds [95 % Student-t interval]; differences are paired by seed. In round brackets: points "
            "gained over the last quarter of training; where that is much, a larger batch suffers from fewer steps.",
            f"Batch 128 has a rate of 0.1 without a warm-up under either policy. {_steps(groups, GN_RUNS)}",
            "Diverged seeds count at chance. Schedules of LayerNorm and InstanceNorm are ours.",
            LOST,
            *select.gaps(groups),
        ],
        csv_rows,
    )


def _csv(group: Sequence[Record]) -> list[dict[str, Any]]:
    finals = _finals(group)
    mean, low, high = select.interval(finals)
    return [
        select.provenance("e3.table1", record, len(group), COLUMNS)
        | {"accuracy_percent": value, "imputed_chance": int(record.status == "diverged")}
        | {"last_quarter_points": 100 * metrics.last_quarter_gain(record)}
        | {"rounds": record.rows[-1]["round"] if record.rows else 0}
        | {"mean_percent": mean, "low_percent": low, "high_percent": high, "published": "no value published"}
        for record, value in zip(group, finals, strict=True)
    ]


_METHODS = {"large_batch": "large batch", "federated": "federated averaging"}
_POLICIES = {
    "average": ("sent and averaged in every round", "the average"),
    "local": ("kept on each device", "each device's in turn, mean of the accuracies"),
    "drop": ("none kept", "those of the test batch itself"),
}


def _training(groups: select.Groups) -> str:
    """Whether the seeds that completed under every policy trained alike, by their training loss in every round."""
    losses: dict[int, list[list[float]]] = {}
    for record in (record for run in BSP_BUFFERS_RUNS for record in groups[run]):
        if record.status == "completed":
            losses.setdefault(record.seed, []).append(record.series["train_loss"])
    shared = {seed: found for seed, found in losses.items() if len(found) == len(BSP_BUFFERS_RUNS)}
    if not shared:
        return "No seed completed under every policy, so that their training cannot be compared."
    other = sorted(seed for seed, found in shared.items() if any(loss != found[0] for loss in found))
    if other:
        return f"The training loss differs between policies in seeds {', '.join(map(str, other))}, which none should."
    return (
        "In large-batch training no policy can touch the gradients, which are taken with the statistics of each batch: "
        f"the training loss is the same number under all of them in every round of all {number(len(shared))} seeds."
    )


def _own_classes(record: Record) -> float | None:
    """Accuracy on each device's own classes with running statistics, in percent; None where there is no such number."""
    tracked = "batch_statistics" in record.spec.get("track", [])
    found = _recorded(record, "batch_statistics") if tracked else None
    value = None if found is None else found["own_classes_running"]
    return None if value is None else 100 * value


def buffers(groups: select.Groups, profile: str) -> Table:
    """BatchNorm on label-skewed data under each policy for its running statistics."""
    rows, csv_rows = [], []
    for run in BUFFERS_RUNS:
        group = groups[run]
        method = _METHODS[select.setting(group, "method")]
        averaged = (BSP_BUFFERS_RUNS if run in BSP_BUFFERS_RUNS else FEDERATED_BUFFERS_RUNS)[0]
        finals, policy = _finals(group), str(select.setting(group, "buffers"))
        own = [value for record in group if (value := _own_classes(record)) is not None]
        mean, low, high = select.interval(finals)
        change = ABSENT if run == averaged else e1._change(groups[averaged], group)
        sent = [record.rows[-1]["bytes_up"] / MEGABYTE for record in group if record.status == "completed"]
        up = number(float(np.mean(sent)), 1) if sent else "diverged"
        known = _with_interval(own) if own else ABSENT
        rows.append([method, policy, *_POLICIES[policy], _with_interval(finals), change, known, up, str(len(group))])
        csv_rows += [
            select.provenance("e3.extra-buffers", record, len(group), COLUMNS)
            | {"accuracy_percent": value, "imputed_chance": int(record.status == "diverged")}
            | {"mean_percent": mean, "low_percent": low, "high_percent": high}
            | {"own_classes_percent": _own_classes(record)}
            | {"bytes_up": record.rows[-1]["bytes_up"] if record.rows else None}
            for record, value in zip(group, finals, strict=True)
        ]
    return Table(
        f"e3.extra-buffers: running statistics of {_network(BN_SKEWED)} on label-skewed data",
        [
            "method", "policy", "running statistics", "evaluated with", "accuracy, last epoch (%)", "minus average",
            "own classes (%)", "sent up (MB)", "n",
        ],
        rows,
        [
            select.stamp(groups) + ".",
            "Mean over seeds [95 % Student-t interval]; differences are paired by seed. MB = 10^6 bytes, all devices.",
            _training(groups),
            "Test batches hold images of all classes, whatever a device has: with `drop` accuracy depends on what else "
            "is in the batch.",
            "Own classes: test images of each device's own classes, normalised by its running statistics, mean over "
            f"devices and completed seeds: what a device has that keeps its own. {ABSENT}: no running statistics, or "
            "not recorded (federated averaging).",
            f"Federated averaging: {select.setting(groups[FEDERATED_BUFFERS_RUNS[0]], 'local_steps')} local batches "
            "between two synchronisations.",
            "Ours: the post averages, says so of large-batch training, and tries nothing else.",
            *select.gaps(groups),
        ],
        csv_rows,
    )  # fmt: skip
