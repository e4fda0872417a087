"""Tables of post e3: accuracy by batch and warm-up, and what to do with BatchNorm's running statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from repro.registry.labels import number
from repro.report import e1, select
from repro.report.e3 import (
    BATCHES,
    BN_SKEWED,
    COLUMNS,
    FIXUP_RUNS,
    GN_RUNS,
    IN_RUNS,
    LINEAR_RUNS,
    LN_RUNS,
    OTHER_NORM_RUNS,
    SKEWED_RUNS,
    _finals,
    _network,
    _recorded,
    _steps,
    _warm_up,
    _with_interval,
)
from repro.report.e3_extras import SHORT_RUNS
from repro.report.tables import ABSENT, MEGABYTE, Table
from repro.results import metrics
from repro.results.records import Record

SLOW_RUNS = ("e3-gn-1024-slow", "e3-gn-2048-slow")
TABLE1_RUNS = (*GN_RUNS, *SLOW_RUNS, *OTHER_NORM_RUNS, *FIXUP_RUNS, *SHORT_RUNS, *LINEAR_RUNS)
BSP_BUFFERS_RUNS = (BN_SKEWED, "e3-noniid-bn-local", "e3-noniid-bn-drop")
FEDERATED_BUFFERS_RUNS = ("e3-fedavg-noniid-bn", "e3-fedavg-noniid-bn-local", "e3-fedavg-noniid-bn-drop")
GROUP_NORM = SKEWED_RUNS[1]  # federated averaging as often as with BatchNorm above, and no running statistics at all
BUFFERS_RUNS = (*BSP_BUFFERS_RUNS, *FEDERATED_BUFFERS_RUNS, GROUP_NORM)

AVERAGED = tuple(f"e3-fedavg-{split}-{every}" for split in ("iid", "noniid") for every in (10, 150))
MOMENTUM_RUNS = tuple(run + ending for run in AVERAGED for ending in ("", "-averaged"))

#: Test images that are evaluated, and under the policy ``drop`` normalised, together (``repro.running.runner``).
EVALUATION_BATCH = 500

LOST = "No value published: the post's own table was a picture and is lost."

#: (rows of e3.table1) network -> the run of each batch. Batch 128 has no warm-up.
_ROWS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("GroupNorm", GN_RUNS),
    ("GroupNorm", (GN_RUNS[0], *SLOW_RUNS)),
    ("LayerNorm", LN_RUNS),
    ("InstanceNorm", IN_RUNS),
    ("Fixup", FIXUP_RUNS),
    ("Fixup", (FIXUP_RUNS[0], *SHORT_RUNS)),
    ("Fixup", (FIXUP_RUNS[0], *LINEAR_RUNS)),
)


def _cell(group: Sequence[Record]) -> str:
    """Accuracy at the end, how many seeds diverged, and what the last quarter of training still brought."""
    lost = sum(record.status == "diverged" for record in group)
    if lost == len(group):
        return f"diverged ({lost} of {len(group)} seeds)"
    gained = float(np.mean([100 * metrics.last_quarter_gain(record) for record in group]))
    words = [_with_interval(_finals(group)), f"({number(gained, 1, sign=True)})"]
    return " ".join(words) + (f", diverged {lost} of {len(group)} seeds" if lost else "")


def table1(groups: select.Groups, profile: str) -> Table:
    """Accuracy at the end of training by network, warm-up and batch (e3.c3, e3.c4, e3.c6)."""
    rows = []
    for norm, runs in _ROWS:
        first, *larger = (groups[run] for run in runs)
        cells = [_cell(group) for group in (first, *larger)]
        rows.append([norm, _warm_up(*larger), *cells, e1._change(first, larger[-1])])
    csv_rows = [row for group in groups.values() for row in _csv(group)]
    return Table(
        "e3.table1: test accuracy at the end of training (mean of the last tenth), by batch and warm-up",
        [
            "network",
            "learning rate in warm-up",
            *(f"batch {number(batch)} (%)" for batch in BATCHES),
            "2048 minus 128",
        ],
        rows,
        [
            select.stamp(groups) + ".",
            "Mean over seeds [95 % Student-t interval]; differences are paired by seed. In round brackets: points "
            "gained over the last quarter of training; where that is much, a larger batch suffers from fewer steps.",
            f"Batch 128 has a rate of 0.1 without a warm-up under every policy. {_steps(groups, GN_RUNS)}",
            "Diverged seeds count at chance. Ours: schedules of LayerNorm and InstanceNorm; Fixup to a rate of 0.1 in "
            "GroupNorm's shorter warm-up, which tells the length of the warm-up from the rate.",
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
    "drop": ("none kept", "those of a batch of {images} test images"),
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
    """Accuracy on each device's own classes in percent, mean over devices; None where there is no such number.

    In large-batch training of the shared model with running statistics; in federated averaging of each device's own
    model before the last averaging.
    """
    if record.status == "diverged":
        return None
    if record.spec["method"] == "federated":
        return 100 * metrics.own_classes_top1(record)
    value = _recorded(record, "batch_statistics")["own_classes_running"]
    return None if value is None else 100 * value


def buffers(groups: select.Groups, profile: str) -> Table:
    """BatchNorm on label-skewed data under each policy for its running statistics, and GroupNorm, which has none."""
    rows, csv_rows = [], []
    images = min(EVALUATION_BATCH, int(select.setting(groups[BN_SKEWED], "test_images")))
    for run in BUFFERS_RUNS:
        group = groups[run]
        method = _METHODS[select.setting(group, "method")]
        averaged = (BSP_BUFFERS_RUNS if run in BSP_BUFFERS_RUNS else FEDERATED_BUFFERS_RUNS)[0]
        finals, policy = _finals(group), str(select.setting(group, "buffers"))
        kept, evaluated = _POLICIES[policy]
        if run == GROUP_NORM:
            policy, kept, evaluated = ABSENT, "GroupNorm: has none", "those of each image"
        own = [value for record in group if (value := _own_classes(record)) is not None]
        mean, low, high = select.interval(finals)
        change = ABSENT if run == averaged else e1._change(groups[averaged], group)
        sent = [record.rows[-1]["bytes_up"] / MEGABYTE for record in group if record.status == "completed"]
        up = number(float(np.mean(sent)), 1) if sent else "diverged"
        known = _with_interval(own) if own else ABSENT
        if own and method == _METHODS["federated"]:
            known += " (own model)"
        evaluated = evaluated.format(images=images)
        rows.append([method, policy, kept, evaluated, _with_interval(finals), change, known, up, str(len(group))])
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
            "method", "policy", "running statistics", "evaluated with", "accuracy at the end (%)", "minus average",
            "own classes (%)", "sent up (MB)", "n",
        ],
        rows,
        [
            select.stamp(groups) + ".",
            "Mean over seeds [95 % Student-t interval]; differences are paired by seed. MB = 10^6 bytes, all devices.",
            _training(groups),
            "Test batches hold images of all classes, whatever a device has: with `drop` accuracy depends on what else "
            "is in the batch.",
            "Own classes: test images of each device's own classes, mean over devices and completed seeds. Large "
            "batch: the shared model, normalised by the device's running statistics; under `average` this is the "
            "accuracy again, since every class is on equally many devices. Federated averaging (own model): the "
            "device's own model before the last averaging.",
            f"Federated averaging: {select.setting(groups[FEDERATED_BUFFERS_RUNS[0]], 'local_steps')} local batches "
            "between two synchronisations. Its last row is GroupNorm, for comparison.",
            "Ours: the post averages, says so of large-batch training, and tries nothing else.",
            *select.gaps(groups),
        ],
        csv_rows,
    )  # fmt: skip


_MOMENTA = {"restart": "starts at zero", "keep": "goes on, each device's own", "average": "averaged, goes on"}


def momentum(groups: select.Groups, profile: str) -> Table:
    """Federated averaging with local momentum that starts anew in every round, and that is averaged (e3.c7, e3.c9)."""
    rows, csv_rows = [], []
    for run in MOMENTUM_RUNS:
        group, first = groups[run], groups[run.removesuffix("-averaged")]
        finals, policy = _finals(group), str(group[0].spec.get("local_momentum", "restart"))
        mean, low, high = select.interval(finals)
        change = ABSENT if group is first else e1._change(first, group)
        split = "IID" if select.setting(group, "partition") == "iid" else "non-IID"
        rows.append([
            split, number(int(select.setting(group, "local_steps"))), _MOMENTA[policy], _with_interval(finals), change,
            str(len(group)),
        ])  # fmt: skip
        csv_rows += [
            select.provenance("e3.extra-momentum", record, len(group), (*COLUMNS, "local_momentum"))
            | {"accuracy_percent": value, "imputed_chance": int(record.status == "diverged")}
            | {"mean_percent": mean, "low_percent": low, "high_percent": high}
            for record, value in zip(group, finals, strict=True)
        ]
    return Table(
        "e3.extra-momentum: local momentum of federated averaging between rounds",
        ["split", "local batches in a round", "momentum", "accuracy at the end (%)", "minus zero", "n"],
        rows,
        [
            select.stamp(groups) + ".",
            "Mean over seeds [95 % Student-t interval]; differences are paired by seed.",
            "Momentum that starts at zero takes some steps to build up, so that 10 local batches move a model less "
            "than 150 do at the same rate. Averaged momentum is sent like the model and goes on.",
            "Ours: the post does not say what becomes of momentum, and has no such table.",
            *select.gaps(groups),
        ],
        csv_rows,
    )
