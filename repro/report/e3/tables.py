"""Tables of post 3: accuracy by batch and warm-up, running statistics of BatchNorm, and local momentum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from repro.registry.labels import number
from repro.report.artefact import table
from repro.report.e3.runs import (
    BATCHES,
    BN_SKEWED,
    COLUMNS,
    FIXUP_RUNS,
    GN_RUNS,
    IN_RUNS,
    LINEAR_RUNS,
    LN_RUNS,
    OTHER_NORM_RUNS,
    SHORT_RUNS,
    SKEWED_RUNS,
    network,
    steps,
    warm_up,
)
from repro.report.intervals import change, with_interval
from repro.report.notes import LOST, gaps, stamp
from repro.report.rows import Row, origin, span
from repro.report.selection import Selection, completed, diverged, finals, percent, recorded, setting
from repro.report.tables import ABSENT, MEGABYTE, NO_VALUE, Table, buffer_policy
from repro.results import metrics
from repro.results.records import Record

SLOW_RUNS = ("e3-gn-1024-slow", "e3-gn-2048-slow")
TABLE1_RUNS = (*GN_RUNS, *SLOW_RUNS, *OTHER_NORM_RUNS, *FIXUP_RUNS, *SHORT_RUNS, *LINEAR_RUNS)
BSP_BUFFERS_RUNS = (BN_SKEWED, "e3-noniid-bn-local", "e3-noniid-bn-drop")
FEDERATED_BUFFERS_RUNS = ("e3-fedavg-noniid-bn", "e3-fedavg-noniid-bn-local", "e3-fedavg-noniid-bn-drop")
GROUP_NORM = SKEWED_RUNS[1]  # federated averaging as often as with BatchNorm above, and no running statistics at all
BUFFERS_RUNS = (*BSP_BUFFERS_RUNS, *FEDERATED_BUFFERS_RUNS, GROUP_NORM)
MOMENTUM_RUNS = tuple(
    f"e3-fedavg-{split}-{every}{ending}" for split in ("iid", "noniid") for every in (10, 150)
    for ending in ("", "-averaged")
)  # fmt: skip

_PAIRED = "Mean over seeds [95 % Student-t interval, cut at 0 and 100 %]; differences are paired by seed."


def _row(artefact: str, record: Record, group: Sequence[Record], columns: Sequence[str] = COLUMNS) -> Row:
    """The columns of accuracy at the end, with which the rows of these tables begin."""
    return origin(artefact, record, len(group), columns) | {
        "accuracy_percent": finals([record])[0],
        "imputed_chance": int(record.status == "diverged"),
    }


# Batch and warm-up ----------------------------------------------------------------------------------------------

#: network -> the run of each batch. Batch 128 has no warm-up.
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
    lost = len(diverged(group))
    if lost == len(group):
        return f"diverged ({lost} of {len(group)} seeds)"
    gained = float(np.mean([100 * metrics.last_quarter_gain(record) for record in group]))
    words = f"{with_interval(finals(group))} ({number(gained, 1, sign=True)})"
    return words + (f", diverged {lost} of {len(group)} seeds" if lost else "")


@table("e3.table1", title="Accuracy at the end of training by batch and warm-up", runs=TABLE1_RUNS)
def by_batch(groups: Selection) -> Table:
    """Compare networks, warm-ups and batches (statements e3.c3, e3.c4, e3.c6)."""
    rows = []
    for norm, runs in _ROWS:
        first, *larger = (groups[run] for run in runs)
        rows.append([norm, warm_up(*larger), *map(_cell, (first, *larger)), change(first, larger[-1])])
    csv_rows = [
        _row(groups.artefact, record, group)
        | {"last_quarter_points": 100 * metrics.last_quarter_gain(record)}
        | {"rounds": record.rows[-1]["round"] if record.rows else 0}
        | span(finals(group))
        | NO_VALUE
        for group in groups.values()
        for record in group
    ]
    return Table(
        "e3.table1: test accuracy at the end of training (mean of the last tenth), by batch and warm-up",
        ["network", "learning rate in warm-up", *(f"batch {number(batch)} (%)" for batch in BATCHES), "2048 minus 128"],
        rows,
        [
            stamp(groups) + ".",
            f"{_PAIRED} In round brackets: points "
            "gained over the last quarter of training; where that is much, a larger batch suffers from fewer steps.",
            f"Batch 128 has a rate of 0.1 without a warm-up under every policy. {steps(groups, GN_RUNS)}",
            "Diverged seeds count at chance. Ours: schedules of LayerNorm and InstanceNorm; Fixup to a rate of 0.1 in "
            "GroupNorm's shorter warm-up, which tells the length of the warm-up from the rate.",
            LOST,
            *gaps(groups),
        ],
        csv_rows,
    )


# Running statistics ---------------------------------------------------------------------------------------------


def _trained_alike(groups: Selection) -> str:
    """Whether the seeds that completed under every policy trained alike, by their training loss in every round."""
    losses: dict[int, list[list[float]]] = {}
    for record in (record for run in BSP_BUFFERS_RUNS for record in completed(groups[run])):
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
    return percent(recorded(record, "batch_statistics")["own_classes_running"])


def _buffer_cells(groups: Selection, run: str) -> list[str]:
    group = groups[run]
    federated = setting(group, "method") == "federated"
    averaged = (BSP_BUFFERS_RUNS if run in BSP_BUFFERS_RUNS else FEDERATED_BUFFERS_RUNS)[0]
    policy = str(setting(group, "buffers"))
    kept, evaluated = buffer_policy(groups[BN_SKEWED], policy)
    if run == GROUP_NORM:
        policy, kept, evaluated = ABSENT, "GroupNorm: has none", "those of each image"
    own = [value for record in group if (value := _own_classes(record)) is not None]
    sent = [record.rows[-1]["bytes_up"] / MEGABYTE for record in completed(group)]
    return [
        "federated averaging" if federated else "large batch", policy, kept, evaluated,
        with_interval(finals(group)),
        ABSENT if run == averaged else change(groups[averaged], group),
        with_interval(own) + " (own model)" * federated if own else ABSENT,
        number(float(np.mean(sent)), 1) if sent else "diverged", str(len(group)),
    ]  # fmt: skip


@table(
    "e3.extra-buffers", title="Running statistics of BatchNorm averaged, local or dropped", runs=BUFFERS_RUNS,
    group="control",
)  # fmt: skip
def buffers(groups: Selection) -> Table:
    """Compare policies for BatchNorm's running statistics on label-skewed data, and GroupNorm, which has none."""
    csv_rows = [
        _row(groups.artefact, record, group)
        | span(finals(group))
        | {"own_classes_percent": _own_classes(record)}
        | {"bytes_up": record.rows[-1]["bytes_up"] if record.rows else None}
        for group in (groups[run] for run in BUFFERS_RUNS)
        for record in group
    ]
    return Table(
        f"e3.extra-buffers: running statistics of {network(BN_SKEWED)} on label-skewed data",
        [
            "method", "policy", "running statistics", "evaluated with", "accuracy at the end (%)", "minus average",
            "own classes (%)", "sent up (MB)", "n",
        ],
        [_buffer_cells(groups, run) for run in BUFFERS_RUNS],
        [
            stamp(groups) + ".",
            f"{_PAIRED} MB = 10^6 bytes, all devices.",
            _trained_alike(groups),
            "Test batches hold images of all classes, whatever a device has: with `drop` accuracy depends on what else "
            "is in the batch.",
            "Own classes: test images of each device's own classes, mean over devices and completed seeds. Large "
            "batch: the shared model, normalised by the device's running statistics; under `average` this is the "
            "accuracy again, since every class is on equally many devices. Federated averaging (own model): the "
            "device's own model before the last averaging.",
            f"Federated averaging: {setting(groups[FEDERATED_BUFFERS_RUNS[0]], 'local_steps')} local batches "
            "between two synchronisations. Its last row is GroupNorm, for comparison.",
            "Ours: the post averages, says so of large-batch training, and tries nothing else.",
            *gaps(groups),
        ],
        csv_rows,
    )  # fmt: skip


# Local momentum -------------------------------------------------------------------------------------------------

_MOMENTA = {"restart": "starts at zero", "keep": "goes on, each device's own", "average": "averaged, goes on"}


@table(
    "e3.extra-momentum", title="Federated averaging with local momentum that restarts or is averaged",
    runs=MOMENTUM_RUNS, group="control",
)  # fmt: skip
def momentum(groups: Selection) -> Table:
    """Compare local momentum that starts anew in every round with averaged momentum (statements e3.c7, e3.c9)."""
    rows, csv_rows = [], []
    for run in MOMENTUM_RUNS:
        group, first = groups[run], groups[run.removesuffix("-averaged")]
        rows.append([
            "IID" if setting(group, "partition") == "iid" else "non-IID",
            number(int(setting(group, "local_steps"))), _MOMENTA[str(group[0].spec.get("local_momentum", "restart"))],
            with_interval(finals(group)), ABSENT if group is first else change(first, group), str(len(group)),
        ])  # fmt: skip
        csv_rows += [
            _row(groups.artefact, record, group, (*COLUMNS, "local_momentum")) | span(finals(group)) for record in group
        ]
    return Table(
        "e3.extra-momentum: local momentum of federated averaging between rounds",
        ["split", "local batches in a round", "momentum", "accuracy at the end (%)", "minus zero", "n"],
        rows,
        [
            stamp(groups) + ".",
            _PAIRED,
            "Momentum that starts at zero takes some steps to build up, so that 10 local batches move a model less "
            "than 150 do at the same rate. Averaged momentum is sent like the model and goes on.",
            "Ours: the post does not say what becomes of momentum, and has no such table.",
            *gaps(groups),
        ],
        csv_rows,
    )
