"""Measurements of the paper's performance models: their runs, their columns, and what is said of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from repro.registry.labels import number
from repro.report import marks
from repro.report.look import METHODS, Style
from repro.report.notes import REDUCED, network_size, reduced_data
from repro.report.rows import Row, measured
from repro.report.selection import Groups
from repro.results import measurements
from repro.results.records import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TIMED = ("lb-perf-resnet50", "lb-perf-vgg11", "lb-perf-alexnet", "lb-perf-vit")
ACTIVATIONS = ("lb-memory-resnet18", "lb-perf-vgg11", "lb-perf-alexnet")
LOADED = ("lb-perf-vgg11", "lb-perf-alexnet", "lb-memory-resnet18")
"""Runs whose activations, and whose loader's memory, figure 4 shows."""
MEMORY = tuple(dict.fromkeys(ACTIVATIONS + LOADED))

SHOWN_BATCHES = (32, 256, 1024)
"""Rows of lb.eq2 and lb.eq3: batch sizes whose process is watched."""

BLUE, ORANGE, BLACK = (METHODS[name].colour for name in ("large_batch", "federated", "central"))
LOOKS = (Style(BLACK, "o", "-"), Style(BLUE, "s", "-"), Style(ORANGE, "^", "-"))

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
        f"n = {spec['blocks']} blocks of {spec['repetitions']} steps for each size. Noise, half the quartile distance "
        f"of one and the same step over its median: {each}. The process had its core for at least "
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
