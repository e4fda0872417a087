"""Accuracy curves of post 1: the three methods, skewed labels, batches, devices and momentum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from repro.registry.labels import label, number
from repro.report import layout, look, marks
from repro.report.artefact import figure
from repro.report.intervals import bounded, change
from repro.report.layout import Axes, Figure
from repro.report.notes import BAND, gaps, stamp
from repro.report.rows import Rows, curves
from repro.report.selection import Selection, finals, global_batch, named, setting
from repro.results.metrics import target_accuracy
from repro.results.records import Record

FIG1_RUNS = ("e1-central", "e1-large-batch", "e1-federated")
SKEW_RUNS = ("e1-large-batch", "e1-large-batch-2labels", "e1-federated", "e1-federated-2labels")
SKEW_GN_RUNS = tuple(f"{run}-gn" for run in SKEW_RUNS)
BATCH_RUNS = ("e1-central", "e1-large-batch", "e1-large-batch-x2")
SYNC_RUNS = ("e1-federated", "e1-federated-2epochs", "e1-federated-4epochs")
DEVICES_RUNS = ("e1-federated-32workers", "e1-federated", "e1-federated-384workers")
MOMENTUM_RUNS = ("e1-central", "e1-central-momentum", "e1-federated", "e1-federated-momentum")
DIRICHLET_RUNS = ("e1-federated", "e1-federated-alpha10", "e1-federated-alpha1", "e1-federated-alpha0_1")

_FURTHER = curves("momentum", "dirichlet_alpha")


@figure("e1.fig1", title="Test accuracy against epochs", runs=FIG1_RUNS)
def methods(groups: Selection, rows: Rows) -> Figure:
    """Draw the three methods, and the target of e1.table2 as a line."""
    target = 100 * target_accuracy([r for group in groups.values() for r in group], groups.profile)
    texts = layout.Texts("e1.fig1  Test accuracy of the three methods", stamp(groups), [BAND, *gaps(groups)])
    figure, (axes,) = layout.new(texts, right=0.72)
    lines = [marks.accuracy(axes, rows, groups[run], named(groups[run]), i) for i, run in enumerate(FIG1_RUNS)]
    marks.reference(axes, target, f"target\n{target:.1f} %")
    marks.epoch_axes([axes], rows)
    marks.legend(axes, lines, 3)
    return figure


@figure("e1.extra-skew", title="IID shards against two labels per client", runs=SKEW_RUNS)
def skew(groups: Selection, rows: Rows) -> Figure:
    """Draw large batch and federated averaging (statement e1.c5)."""
    return _skew(groups, rows, "What label skew costs")


@figure(
    "e1.extra-skew-gn", title="IID shards against two labels per client, with GroupNorm", runs=SKEW_GN_RUNS,
    group="control",
)  # fmt: skip
def skew_with_group_norm(groups: Selection, rows: Rows) -> Figure:
    """Draw the same with GroupNorm, which has no statistics of the local batch (statement e1.c5)."""
    return _skew(groups, rows, "What label skew costs with GroupNorm")


def _skew(groups: Selection, rows: Rows, heading: str) -> Figure:
    runs = list(groups)
    labels = {
        run: "IID shards"
        if setting(group, "partition") == "iid"
        else f"{setting(group, 'labels_per_client')} labels per client"
        for run, group in groups.items()
    }
    pairs = (runs[:2], runs[2:])
    said = "Above the panels: at the end (last tenth), skewed minus IID shards, paired by seed, with 95 % interval."
    figure, panels = layout.new(
        layout.Texts(f"{groups.artefact}  {heading}", stamp(groups), [BAND, said, *gaps(groups)]),
        panels=[f"{label(iid.removesuffix('-gn'))}: {change(groups[iid], groups[skewed])}" for iid, skewed in pairs],
    )
    for axes, pair in zip(panels, pairs, strict=True):
        marks.legend(axes, [marks.accuracy(axes, rows, groups[run], labels[run]) for run in pair], 2)
    marks.epoch_axes(panels, rows)
    return figure


@figure(
    "e1.extra-convergence",
    title="Accuracy per epoch by global batch and by synchronisation",
    runs=BATCH_RUNS + SYNC_RUNS,
)
def convergence(groups: Selection, rows: Rows) -> Figure:
    """Draw larger global batches, and rarer synchronisation (statement e1.c7)."""
    labels = {run: number(global_batch(groups[run])) for run in BATCH_RUNS}
    labels[BATCH_RUNS[0]] += " (centralised)"
    for run in SYNC_RUNS:
        every = int(setting(groups[run], "local_epochs"))
        labels[run] = f"{every} epoch{'s' if every > 1 else ''}"
    heading = "e1.extra-convergence  Larger batches, rarer synchronisation"
    figure, panels = layout.new(
        layout.Texts(heading, stamp(groups), [BAND, *gaps(groups)]),
        panels=["large batch: images per step", "federated averaging: synchronised every"],
    )
    for axes, runs in zip(panels, (BATCH_RUNS, SYNC_RUNS), strict=True):
        lines = [marks.accuracy(axes, rows, groups[run], labels[run], i) for i, run in enumerate(runs)]
        marks.legend(axes, lines, 3)
    marks.epoch_axes(panels, rows)
    return figure


@figure(
    "e1.extra-momentum", title="Momentum in centralised training and in federated averaging", runs=MOMENTUM_RUNS,
    rows=_FURTHER,
)  # fmt: skip
def momentum(groups: Selection, rows: Rows) -> Figure:
    """Draw both methods with and without momentum (statement e1.c9)."""
    pairs = (MOMENTUM_RUNS[:2], MOMENTUM_RUNS[2:])
    labels = {run: f"momentum {float(setting(group, 'momentum')):g}" for run, group in groups.items()}
    rates = ", ".join(f"{named(group)} {float(setting(group, 'lr')):g}" for group in groups.values())
    notes = [
        f"{BAND} Above the panels: at the end (last tenth), with minus without momentum, paired by seed, with 95 % "
        f"Student-t interval. Learning rates, each the best of a grid of its own: {rates}; in federated averaging "
        "momentum starts at zero in every round.",
        *gaps(groups),
    ]
    figure, panels = layout.new(
        layout.Texts("e1.extra-momentum  Momentum in both methods", stamp(groups), notes),
        panels=[f"{label(plain)}: {change(groups[plain], groups[with_it])}" for plain, with_it in pairs],
    )
    for axes, pair in zip(panels, pairs, strict=True):
        marks.legend(axes, [marks.accuracy(axes, rows, groups[run], labels[run]) for run in pair], 2)
    marks.epoch_axes(panels, rows)
    return figure


# Accuracy at the end against a setting --------------------------------------------------------------------------


@figure("e1.extra-devices", title="Federated averaging by the number of devices", runs=DEVICES_RUNS, rows=_FURTHER)
def devices(groups: Selection, rows: Rows) -> Figure:
    """Draw the same images on few, more and many devices (statement e1.c8)."""
    counts = {run: int(setting(groups[run], "workers")) for run in DEVICES_RUNS}
    images = int(setting(groups[DEVICES_RUNS[0]], "train_images"))
    note = (
        f"A device has about {', '.join(number(images / count) for count in counts.values())} images, so that more "
        "devices take fewer local steps in a round."
    )
    figure, right = _curves_and_ends(
        groups, rows, ("More devices for the same images", "federated averaging: devices", note),
        {run: number(count) for run, count in counts.items()}, counts,
    )  # fmt: skip
    right.set_xlabel("devices (count; log2 axis)")
    return figure


@figure(
    "e1.extra-dirichlet", title="Federated averaging by the unevenness of the shards", runs=DIRICHLET_RUNS,
    rows=_FURTHER,
)  # fmt: skip
def dirichlet(groups: Selection, rows: Rows) -> Figure:
    """Draw shards ever more uneven in their labels, and IID ones (statement e1.c10)."""
    iid, *uneven = DIRICHLET_RUNS
    alphas = {run: float(setting(groups[run], "dirichlet_alpha")) for run in uneven}
    note = (
        "A device draws its mix of labels from a Dirichlet distribution, the more uneven the smaller alpha; dotted: "
        "IID shards."
    )
    figure, right = _curves_and_ends(
        groups, rows, ("Shards of uneven labels", "federated averaging: alpha", note),
        {iid: "IID"} | {run: f"{alpha:g}" for run, alpha in alphas.items()}, alphas,
    )  # fmt: skip
    marks.reference(right, bounded(finals(groups[iid]))[0])
    right.set_xlabel("alpha (no unit; log2 axis)")
    return figure


def _curves_and_ends(
    groups: Selection, rows: Rows, texts: tuple[str, str, str], labels: Mapping[str, str], places: Mapping[str, float]
) -> tuple[Figure, Axes]:
    """Accuracy against epochs on the left, and at the end on a logarithmic axis on the right.

    Args:
        groups, rows: what is drawn.
        texts: heading, title of the left panel, note.
        labels: of the curves, by run.
        places: of runs on the right axis.

    Returns:
        The figure and the right axes.
    """
    heading, panel, note = texts
    ends = "Right: at the end (last tenth), with the same interval (arrows: cut); dots: seeds."
    notes = [f"{BAND} {ends} {note}", *gaps(groups)]
    rows_of_legend, columns = (1, 3) if len(labels) < 4 else (2, 2)
    figure, (left, right) = layout.new(
        layout.Texts(f"{groups.artefact}  {heading}", stamp(groups), notes),
        panels=[panel, "at the end"],
        legend_rows=rows_of_legend,
    )
    lines = [marks.accuracy(left, rows, groups[run], text, i) for i, (run, text) in enumerate(labels.items())]
    marks.legend(left, lines, columns)
    _ends_against(right, [(at, groups[run]) for run, at in places.items()], look.METHODS["federated"].colour)
    marks.epoch_axes([left], rows)
    ticks = sorted(places.values())
    right.set_xscale("log", base=2)
    right.set_xlim(ticks[0] / 1.6, ticks[-1] * 1.6)
    marks.plain_ticks(right.xaxis, ticks)
    return figure, right


def _ends_against(axes: Axes, points: Sequence[tuple[float, Sequence[Record]]], colour: str) -> None:
    """Accuracy at the end of training: mean and interval over seeds, joined by a line, and every seed as a dot."""
    x = [at for at, _ in points]
    spread = np.array([bounded(finals(group)) for _, group in points]).T
    axes.plot(x, spread[0], color=colour, linewidth=1.2, zorder=3)
    for at, group in points:
        values = finals(group)
        axes.plot([at * 1.06] * len(values), values, ".", color="#888888", markersize=4, zorder=2)
    for (at, group), middle in zip(points, spread[0], strict=True):
        axes.plot([at], [middle], **look.of_group(group).kwargs(), zorder=4)
    marks.errors(axes, x, spread, colour, 3, zorder=3)
