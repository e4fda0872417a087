"""Companions of the figures of post e3, which the post does not have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from repro.errors import ReproError
from repro.experiments.sizes import local_steps
from repro.registry.labels import number
from repro.report import e1, select, style
from repro.report.e3 import (
    BN,
    BN_SKEWED,
    COLUMNS,
    FIXUP_RUNS,
    GN,
    LINEAR_RUNS,
    LINES,
    SKEWED_RUNS,
    _by_layer,
    _curve,
    _every,
    _layer_axis,
    _network,
    _percent,
    _recorded,
    _reference,
    _split,
    _thin,
    _warm_up,
    _with_interval,
    layer_rows,
)
from repro.results import metrics
from repro.results.records import Record

COLLAPSE_RUNS = (BN, BN_SKEWED)
#: Fixup to a rate of 0.1 with the length of GroupNorm's warm-up, so that rate and warm-up can be told apart.
SHORT_RUNS = ("e3-fixup-1024-short", "e3-fixup-2048-short")
DIVERGENCE_RUNS = (*FIXUP_RUNS[1:], *SHORT_RUNS, *LINEAR_RUNS)
REGULARISATION_RUNS = (BN, GN)
TRAINED_RUNS = ("e3-gn-128", "e3-gn-128-unit-scale", "e3-none-128")
WIDE_RUNS = ("e3-gn-wide", "e3-gn-wide-unit-scale")
INITIALISATION_RUNS = (*TRAINED_RUNS, *WIDE_RUNS)

STEP = "round (one step of the shared model)"
_GREY = "#555555"
_DRAWN_ROUNDS = 300  # of a series of one number a round; its CSV would else be larger than the record

# What devices forget -----------------------------------------------------


def by_device(group: Sequence[Record]) -> tuple[np.ndarray, np.ndarray, list[list[int]]] | None:
    """Accuracy by class before and after the last aggregation, mean over seeds, in percent.

    Returns:
        (devices, classes) of the devices' own models, (classes,) of the shared model, and the classes of each device;
        None if every seed diverged.

    Raises:
        ReproError: a completed run did not record it, or its seeds gave the devices different classes.
    """
    kept = [record for record in group if record.status == "completed"]
    if not kept:
        return None
    shards = [_recorded(record, "classes_of_clients") for record in kept]
    if any(other != shards[0] for other in shards):
        raise ReproError(
            f"run {group[0].run}: devices have different classes in different seeds; the same ones were expected, or "
            "their mean has no meaning; recompute stale records with `python -m repro sweep`"
        )
    # None, where there is no test image of a class, becomes NaN and is left blank.
    before = np.mean([np.array(_recorded(record, "clients_top1_by_class"), float) for record in kept], axis=0)
    after = np.mean([np.array(_recorded(record, "test_top1_by_class"), float) for record in kept], axis=0)
    return 100 * before, 100 * after, shards[0]


def forgetting(groups: select.Groups, profile: str) -> Figure:
    """Accuracy by class of each device's own model before averaging, and of the shared model after it (e3.c7)."""
    titles = [f"every {_every(groups[run])} batches" for run in SKEWED_RUNS]
    figure, panels = style.new(
        "e3.extra-forgetting  What devices know before and after averaging",
        select.stamp(groups),
        [
            "Accuracy by class at the end of the last round, mean over completed seeds: a row a device with its own "
            "model before aggregation, framed its own classes; at the bottom the shared model after aggregation. "
            f"{e1.OURS}",
            *select.gaps(groups),
        ],
        panels=titles,
        legend_rows=2,
        right=0.85,
    )
    image = None
    for axes, run in zip(panels, SKEWED_RUNS, strict=True):
        found = by_device(groups[run])
        axes.grid(False)
        if found is None:
            axes.text(0.5, 0.5, "every seed diverged", transform=axes.transAxes, ha="center")
            continue
        before, after, shards = found
        devices, classes = before.shape
        shown = np.full((devices + 2, classes), np.nan)
        shown[:devices], shown[-1] = before, after
        image = axes.imshow(shown, cmap="cividis", vmin=0, vmax=100, aspect="auto", interpolation="nearest")
        for device, own in enumerate(shards):
            for each in own:
                corner = (each - 0.46, device - 0.46)
                for colour, width in (("#1A1A1A", 2.6), ("white", 1.1)):  # seen on any cell, in grey too
                    axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor=colour, linewidth=width,
                                             clip_on=False))  # fmt: skip
        axes.set_xticks(range(classes))
        axes.set_yticks([*range(devices), devices + 1], [*(str(d + 1) for d in range(devices)), "shared"])
        axes.set_xlabel("class")
        axes.tick_params(length=0, labelsize=7)
        kept = [record for record in groups[run] if record.status == "completed"]
        known, unknown = (
            _with_interval([100 * metric(record) for record in kept])
            for metric in (metrics.own_classes_top1, metrics.other_classes_top1)
        )
        text = f"own classes {known} %\nothers {unknown} %"
        axes.text(0.0, 1.015, text, transform=axes.transAxes, fontsize=7, va="bottom", color="#444444")
    panels[0].set_ylabel("device")
    if image is not None:
        box = panels[-1].get_position()
        bar = figure.add_axes((box.x1 + 0.015, box.y0, 0.018, box.height))
        figure.colorbar(image, cax=bar).set_label("test accuracy, top-1 (%)", fontsize=8)
        bar.tick_params(labelsize=7)
    return figure


def forgetting_rows(artefact: str, groups: select.Groups) -> list[dict[str, Any]]:
    """One CSV row per run, seed, device and class."""
    rows = []
    for group in groups.values():
        for record in group:
            origin = select.provenance(artefact, record, len(group), COLUMNS)
            before = _recorded(record, "clients_top1_by_class")
            if before is None:
                rows.append(origin | dict.fromkeys(("device", "class", "own_class", "before_percent", "after_percent")))
                continue
            shards, after = (_recorded(record, name) for name in ("classes_of_clients", "test_top1_by_class"))
            rows += [
                origin
                | {"device": device + 1, "class": each, "own_class": int(each in shards[device])}
                | {"before_percent": _percent(top1), "after_percent": _percent(after[each])}
                for device, by_class in enumerate(before)
                for each, top1 in enumerate(by_class)
            ]
    return rows


# Why BatchNorm collapses --------------------------------------------------


def _modes(record: Record) -> dict[str, tuple[float, str]]:
    """Accuracy under each way to normalise a test batch, and in training, in percent, and the way in words."""
    found, last = _recorded(record, "batch_statistics"), record.rows[-1]
    return {
        "all_running": (100 * last["test_top1"], "all classes,\nrunning"),
        "mixed_batch": (100 * found["mixed"], "all classes,\nof the batch"),
        "own_batch": (100 * found["own_classes"], "own classes,\nof the batch"),
        "training_batches": (100 * last["train_top1"], "training\nbatches"),
    }


def _own_running(record: Record) -> float:
    """Accuracy on devices' own classes with the averaged running statistics, mean over devices, in percent."""
    return 100 * float(_recorded(record, "batch_statistics")["own_classes_running"])


def _completed(groups: select.Groups) -> list[Record]:
    return [record for group in groups.values() for record in group if record.status == "completed"]


def _twice_the_same(groups: select.Groups) -> str:
    """Why own classes with the averaged running statistics have no place of their own, and whether that is so."""
    apart = [abs(_own_running(r) - 100 * r.rows[-1]["test_top1"]) for r in _completed(groups)]
    if not apart:
        return ""
    return (
        "Own classes with running statistics would be the first value again, since these are the same for all devices "
        "and every class is on equally many of them, and are not drawn (largest difference "
        f"{number(max(apart), 1)} points). "
    )


def _spread(groups: select.Groups) -> str:
    """Reads the right panel: the layer and split with the least spread in a device's batch."""
    least: tuple[float, int, str] | None = None
    for group in groups.values():
        found = [_recorded(record, "batch_statistics")["std_ratio"] for record in group if record.status == "completed"]
        if found:
            means = np.mean(found, axis=0)
            layer = int(np.argmin(means))
            here = (float(means[layer]), layer + 1, _split(group))
            least = here if least is None else min(least, here)
    if least is None:
        return ""
    ratio, layer, split = least
    return (
        f"Its least value is {number(ratio, 2)} ({split}, layer {layer}): a device's batch alone has "
        f"{number(100 * (1 - ratio))} % less spread there than all batches together, and less is missing elsewhere."
    )


def _batch_of_probe(group: Sequence[Record]) -> int:
    """Test images in a batch of the probe: as near to the devices' batch as an even split allows."""
    images = int(select.setting(group, "test_images"))
    return round(images / local_steps(images, int(select.setting(group, "local_batch"))))


def collapse(groups: select.Groups, profile: str) -> Figure:
    """Why BatchNorm collapses: one model normalised in several ways, and the spread in devices' batches (e3.c1)."""
    notes = [
        "Left: the last shared model on test images of all classes, or of one device's own classes (mean over "
        "devices), normalised with the running statistics or with those of the batch (about "
        f"{_batch_of_probe(groups[BN])} images); beside them accuracy counted while training, over the last epoch: "
        f"augmented training images, batches of one device. {_twice_the_same(groups)}",
        "Right: mean over devices and channels of the standard deviation in the device's batch over that of all "
        f"batches. {_spread(groups)}",
        f"Mean over seeds with 95 % Student-t interval. {e1.OURS}",
        *select.gaps(groups),
    ]
    figure, (left, right) = style.new(
        "e3.extra-collapse  Why BatchNorm collapses on label-skewed data",
        select.stamp(groups),
        notes,
        panels=("one model; images, and statistics used", "one device against all"),
        share_y=False,
        ratios=(1.6, 1.0),
    )
    lines: list[Line2D] = []
    names: list[str] = []
    for shift, group in zip((-0.1, 0.1), groups.values(), strict=True):
        look = style.of(group[0].run, "large_batch")
        kept = [_modes(record) for record in group if record.status == "completed"]
        names = names or [words for _, words in (kept[0].values() if kept else [])]
        lines += left.plot([], [], **look.kwargs() | {"linestyle": "none"}, label=_split(group))
        for place, mode in enumerate(kept[0] if kept else []):
            mean, low, high = select.interval([found[mode][0] for found in kept])
            if not np.isnan(low):
                left.plot([place + shift] * 2, [low, high], color=look.colour, linewidth=1.4, zorder=2)
            left.plot([place + shift], [mean], **look.kwargs(), zorder=3)
    left.set_xticks(range(len(names)), names, fontsize=7)
    left.set_xlim(-0.5, max(len(names), 1) - 0.5)
    left.set_ylabel("accuracy, top-1 (%)")
    left.set_ylim(0, 100)
    _reference(left, 100 * next(iter(groups.values()))[0].chance, "", last=False)
    style.legend(left, lines, 2)
    drawn = [_by_layer(right, group, "std_ratio", _split(group)) for group in groups.values()]
    right.axhline(1, color=_GREY, linewidth=1.0, linestyle=(0, (1, 2)), zorder=2)
    far = max((abs(float(y) - 1) for line in drawn for y in np.asarray(line.get_ydata(), float)), default=0.0)
    right.set_ylim(1 - 1.5 * max(far, 0.02), 1 + 0.5 * max(far, 0.02))
    _layer_axis(right, "standard deviation, relative (no unit)")
    style.legend(right, drawn, 1 if any("diverged" in str(line.get_label()) for line in drawn) else 2)
    return figure


def collapse_rows(artefact: str, groups: select.Groups) -> list[dict[str, Any]]:
    """As ``layer_rows``, and one row per run, seed and accuracy."""
    rows = layer_rows(artefact, groups)
    for record in _completed(groups):
        origin = select.provenance(artefact, record, len(groups[record.run]), COLUMNS)
        values = {name: value for name, (value, _) in _modes(record).items()} | {"own_running": _own_running(record)}
        rows += [origin | {"layer": None, "quantity": f"{name}_percent", "value": v} for name, v in values.items()]
    return rows


# Why Fixup diverges --------------------------------------------------------


def _drawn_rounds(count: int) -> np.ndarray:
    """Indices of a series that are drawn: all of a short one, of a longer one about as many for each factor of ten."""
    if count <= _DRAWN_ROUNDS:
        return np.arange(count)
    return np.unique(np.round(np.geomspace(1, count, _DRAWN_ROUNDS)).astype(int)) - 1


def _norms(record: Record) -> list[float]:
    """The norm of the gradient in every round.

    Raises:
        ReproError: the run did not record it.
    """
    if "gradient_norm" not in record.series:
        raise ReproError(
            f"record {record.run}.s{record.seed}: no gradient_norm; a run that tracks it was expected; correct `track` "
            "in pipelines/e3.yaml and run the sweep again"
        )
    return record.series["gradient_norm"]


def divergence(groups: select.Groups, profile: str) -> Figure:
    """Norm of Fixup's gradient in every round, by the last rate and by the length of the warm-up (e3.c5)."""
    sides = tuple(zip(FIXUP_RUNS[1:], SHORT_RUNS, LINEAR_RUNS, strict=True))
    figure, panels = style.new(
        "e3.extra-divergence  Fixup's gradient, by learning rate and warm-up",
        select.stamp(groups),
        [
            "Above the panels: the learning rate in the warm-up, and its length. A line a seed, X where it diverged. "
            f"Of long runs some rounds are drawn. {e1.OURS}",
            *select.gaps(groups),
        ],
        panels=[f"batch {number(e1.global_batch(groups[side[0]]))}" for side in sides],
        legend_rows=3,
    )
    for axes, side in zip(panels, sides, strict=True):
        lines: list[Line2D] = []
        for run in side:
            look = style.of(run, groups[run][0].spec["method"])
            lines += axes.plot([], [], color=look.colour, linestyle=look.line, label=f"rate {_warm_up(groups[run])}")
            for record in groups[run]:
                norms = np.asarray(_norms(record), float)
                at = _drawn_rounds(len(norms))
                axes.plot(at + 1, norms[at], color=look.colour, linestyle=look.line, linewidth=1.1, zorder=3)
                if record.status == "diverged" and len(norms):
                    axes.plot([len(norms)], norms[-1:], color=look.colour, marker="X", markersize=8, zorder=4,
                              markeredgecolor="white", clip_on=False)  # fmt: skip
        axes.set_xlabel(STEP, fontsize=8)
        style.legend(axes, lines, 1)
    if any(np.any(np.asarray(line.get_ydata(), float) > 0) for axes in panels for line in axes.lines):
        for axes in panels:
            axes.set_xscale("log")
            axes.set_yscale("log")
    panels[0].set_ylabel("L2 norm of the gradient (no unit)")
    return figure


def norm_rows(artefact: str, groups: select.Groups) -> list[dict[str, Any]]:
    """One CSV row per run, seed and drawn round."""
    rows = []
    for group in groups.values():
        for record in group:
            origin, norms = select.provenance(artefact, record, len(group), COLUMNS), _norms(record)
            drawn = [{"round": int(at) + 1, "gradient_norm": norms[at]} for at in _drawn_rounds(len(norms))]
            rows += [origin | row for row in drawn or [{"round": None, "gradient_norm": None}]]
    return rows


# Training against test accuracy ---------------------------------------------


def _on_training_images(record: Record) -> float:
    """Accuracy of the last model on its training images, without augmentation, in percent; chance if it diverged."""
    return 100 * (metrics.final_top1(record) + metrics.regularisation_gap(record))


def regularisation(groups: select.Groups, profile: str) -> Figure:
    """Training and test accuracy of BatchNorm and GroupNorm on IID shards (e3.c10)."""
    figure, panels = style.new(
        "e3.extra-regularisation  Training against test accuracy",
        select.stamp(groups),
        [
            "Above the panels: accuracy of the last model on its training images, evaluated as test images are (not "
            "augmented; diamond), minus that on test images (end of the solid line), with its 95 % interval.",
            "Dotted: accuracy counted while training (augmented images, weights that still move, statistics of each "
            "batch, mean over the epoch). It has no part in that difference.",
            f"{LINES} {e1.OURS}",
            *select.gaps(groups),
        ],
        panels=[
            f"{_network(run)}: {_with_interval([100 * metrics.regularisation_gap(r) for r in group])} points"
            for run, group in groups.items()
        ],
        legend_rows=2,
    )
    for axes, (run, group) in zip(panels, groups.items(), strict=True):
        train, look = select.curve(group, "train_top1"), style.of(run, "large_batch")
        tested = e1._draw_curve(axes, group, "test images")
        tested.set_linestyle("-")
        (line,) = axes.plot(
            train.epochs, train.mean, color=look.colour, linestyle=(0, (1.2, 1.2)), label="counted while training"
        )
        axes.fill_between(train.epochs, train.low, train.high, color=look.colour, alpha=0.16, linewidth=0)
        mean, low, high = select.interval([_on_training_images(record) for record in group])
        if not np.isnan(low):
            axes.plot(train.epochs[-1:].repeat(2), [low, high], color=look.colour, linewidth=1.4, zorder=4)
        (end,) = axes.plot(
            train.epochs[-1:], [mean], color=look.colour, marker="D", markersize=7, markerfacecolor="white",
            linestyle="none", label="training images", zorder=5, clip_on=False,
        )  # fmt: skip
        style.legend(axes, [tested, end, line], 2)
    e1._scale(panels, groups)
    panels[0].set_ylabel("accuracy, top-1 (%)")
    return figure


def regularisation_rows(artefact: str, groups: select.Groups) -> list[dict[str, Any]]:
    """As the rows of a curve, with both training accuracies beside test accuracy; that of the last model at the end."""
    rows = select.curve_rows(artefact, groups, COLUMNS)
    for group in groups.values():
        train = select.curve(group, "train_top1")
        last = {record.seed: _on_training_images(record) for record in group}
        found = {
            (group[0].run, seed, epoch): (value, mean)
            for seed, values in zip(train.seeds, train.values, strict=True)
            for epoch, value, mean in zip(train.epochs, values, train.mean, strict=True)
        }
        for row in (row for row in rows if row["run"] == group[0].run):
            value, mean = found[row["run"], row["seed"], row["epoch"]]
            at_the_end = row["epoch"] == train.epochs[-1]
            row |= {"train_percent": value, "train_mean_percent": mean}
            row |= {"train_images_percent": last[row["seed"]] if at_the_end else None}
    return rows


# How GroupNorm starts -------------------------------------------------------


def initialisation(groups: select.Groups, profile: str) -> Figure:
    """GroupNorm whose blocks start as the identity, or with scales of one; the first steps at full width on the right.

    On the left also the network without any normalisation.
    """
    trained = {run: groups[run] for run in TRAINED_RUNS}
    wide = groups[WIDE_RUNS[0]]
    classes = int(wide[0].data["classes"])
    size, width = (int(select.setting(wide, name)) for name in ("image_size", "width"))
    figure, (left, right) = style.new(
        "e3.extra-initialisation  GroupNorm's last scale, and no normalisation",
        f"Left: {select.stamp(trained)}",
        [
            f"Left: batch {number(e1.global_batch(groups[TRAINED_RUNS[0]]))}. {LINES} {_thin(groups)}",
            f"Right: width {width}, {size} × {size} px, batch {number(e1.global_batch(wide))}, constant rate "
            f"{wide[0].spec['lr']:g}, n = {len(wide)}; a line a seed, X where it diverged. A network that guesses "
            f"has a loss of ln {classes}.",
            e1.OURS,
            *select.gaps(groups),
        ],
        panels=("accuracy", f"first steps at width {width}"),
        legend_rows=4,
        right=0.5,
        share_y=False,
        ratios=(1.5, 1.0),
    )
    words = ("GroupNorm, last scale of a block zero", "GroupNorm, all scales one", "no normalisation")
    runs = zip(TRAINED_RUNS, words, strict=True)
    lines = [_curve(left, groups[run], text, 2 * i, when=True) for i, (run, text) in enumerate(runs)]
    chance = 100 * groups[TRAINED_RUNS[0]][0].chance
    _reference(left, chance, "", last=False)
    e1._scale([left], trained)
    lines += left.plot([], [], color=_GREY, linewidth=1.0, linestyle=(0, (1, 2)), label=f"chance, {number(chance)} %")
    style.legend(left, lines, 1)
    shown = []
    for run, text in zip(WIDE_RUNS, words[:2], strict=True):
        look = style.of(run, groups[run][0].spec["method"])
        shown += right.plot([], [], color=look.colour, linestyle=look.line, label=text.removeprefix("GroupNorm, "))
        for record in groups[run]:
            losses = record.series["train_loss"]
            steps = range(1, len(losses) + 1)
            right.plot(steps, losses, color=look.colour, linestyle=look.line, linewidth=1.1, zorder=3)
            if record.status == "diverged" and losses:
                right.plot([len(losses)], losses[-1:], color=look.colour, marker="X", markersize=8, zorder=4,
                           markeredgecolor="white", clip_on=False)  # fmt: skip
    right.axhline(np.log(classes), color=_GREY, linewidth=1.0, linestyle=(0, (1, 2)), zorder=2)
    style.margin_label(right, float(np.log(classes)), f"ln {classes}")
    right.set_yscale("log")
    right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    right.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))
    right.yaxis.set_minor_locator(NullLocator())
    right.set_xlabel("step")
    right.set_ylabel("training loss (no unit)", fontsize=8)
    style.legend(right, shown, 1)
    return figure


def initialisation_rows(artefact: str, groups: select.Groups) -> list[dict[str, Any]]:
    """The rows of the curves on the left, then one per seed and step of the losses on the right."""
    trained, wide = ({run: groups[run] for run in runs} for runs in (TRAINED_RUNS, WIDE_RUNS))
    rows = [row | {"train_loss": None} for row in select.curve_rows(artefact, trained, COLUMNS)]
    for group in wide.values():
        for record in group:
            origin = dict.fromkeys(rows[0]) | select.provenance(artefact, record, len(group), COLUMNS)
            steps = [{"round": at, "train_loss": loss} for at, loss in enumerate(record.series["train_loss"], 1)]
            rows += [origin | step for step in steps or [{}]]
    return rows
