"""Figures of post e3: normalisation on label-skewed data, in large batches and in federated averaging."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from repro import metrics
from repro.errors import ReproError
from repro.records import Record
from repro.report import e1, e2, select, style
from repro.words import label, number

BN, GN, FIXUP = "e3-iid-bn", "e3-iid-gn", "e3-iid-fixup"
BN_SKEWED, GN_SKEWED, FIXUP_SKEWED = "e3-noniid-bn", "e3-noniid-gn", "e3-noniid-fixup"
LAW = "e3-normalisation-law"
BATCHES = (128, 1024, 2048)
SYNCHRONISED = (10, 40, 150)

FIG1_RUNS = (BN, BN_SKEWED, LAW)
FIG2_RUNS = (BN, GN, FIXUP, BN_SKEWED, GN_SKEWED, FIXUP_SKEWED)
GN_RUNS = tuple(f"e3-gn-{batch}" for batch in BATCHES)
OTHER_NORM_RUNS = ("e3-ln-128", "e3-ln-2048", "e3-in-128", "e3-in-2048")
FIG3_RUNS = (*GN_RUNS, *OTHER_NORM_RUNS)
FIXUP_RUNS = tuple(f"e3-fixup-{batch}" for batch in BATCHES)
LINEAR_RUNS = ("e3-fixup-1024-linear", "e3-fixup-2048-linear")
FIG4_RUNS = (*FIXUP_RUNS, *LINEAR_RUNS)
IID_RUNS = ("e3-fedavg-iid-10", "e3-fedavg-iid-150")
SKEWED_RUNS = tuple(f"e3-fedavg-noniid-{steps}" for steps in SYNCHRONISED)
FIG5_RUNS = (*IID_RUNS, *SKEWED_RUNS)
COLLAPSE_RUNS = (BN, BN_SKEWED)
DIVERGENCE_RUNS = (*FIXUP_RUNS[1:], *LINEAR_RUNS)
REGULARISATION_RUNS = (BN, GN)
INITIALISATION_RUNS = ("e3-gn-128", "e3-gn-128-unit-scale", "e3-none-128")

#: Fields of a spec in which the runs of this post differ; columns of its CSV files.
COLUMNS = ("schedule", "local_steps", "buffers", "last_scale_zero", "momentum", "weight_decay")

LINES = "Lines: mean over seeds. Bands: 95 % Student-t interval."
STEP = "round (one step of the shared model)"
_GREY = "#555555"
_DRAWN_ROUNDS = 300  # of a series of one number a round; its CSV would else be larger than the record


def _network(run: str) -> str:
    """The network of a run, without its split or batch."""
    return label(run).partition(" (")[0]


def _split(group: Sequence[Record]) -> str:
    per_client = select.setting(group, "labels_per_client")
    return "IID" if per_client is None else f"{per_client} classes a device"


def _recorded(record: Record, name: str) -> Any:
    """What a run recorded at its last evaluation under ``name``; None for a diverged run, which has no end.

    Raises:
        ReproError: a completed run did not record it.
    """
    if record.status == "diverged":
        return None
    if name not in record.rows[-1]:
        raise ReproError(
            f"record {record.run}.s{record.seed}: no {name} at the last evaluation; a run that tracks it was expected; "
            "correct `track` in pipelines/e3.yaml and run the sweep again"
        )
    return record.rows[-1][name]


def _without(groups: select.Groups, *runs: str) -> dict[str, list[Record]]:
    return {run: group for run, group in groups.items() if run not in runs}


def _reference(axes: Axes, value: float, text: str, *, last: bool = True) -> None:
    """A dotted horizontal line at ``value`` percent; its text stands right of the ``last`` axes of a row."""
    axes.axhline(value, color=_GREY, linewidth=1.0, linestyle=(0, (1, 2)), zorder=2)
    if last:
        style.margin_label(axes, value, text)


def _chance(panels: Sequence[Axes], groups: select.Groups) -> None:
    chance = 100 * next(iter(groups.values()))[0].chance
    for axes in panels:
        _reference(axes, chance, f"chance\n{number(chance)} %", last=axes is panels[-1])


def _curve(axes: Axes, group: Sequence[Record], text: str, shift: int = 0, *, when: bool = False) -> Line2D:
    """Mean and band of a run; an X at chance wherever a seed diverged, and nothing else where all of them did.

    ``when``: the legend says at which epochs, for which there is room in figures of one panel.
    """
    lost = [found[1] for record in group if (found := metrics.divergence(record)) is not None]
    line = e1._draw_curve(axes, group, text, shift) if len(lost) < len(group) else None
    if lost:
        look, chance = style.of(group[0].run, group[0].spec["method"]), 100 * group[0].chance
        ends = dict.fromkeys(number(epoch, 1) for epoch in (min(lost), max(lost)))
        said = f"{text}: diverged at epoch {' to '.join(ends)}" if when else f"{text}: diverged"
        (marks,) = axes.plot(
            lost, [chance] * len(lost), color=look.colour, marker="X", markersize=8, linestyle="none", zorder=5,
            clip_on=False, label=said, markeredgecolor="white",
        )  # fmt: skip
        return line or marks
    assert line is not None
    return line


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def _finals(group: Sequence[Record]) -> list[float]:
    return [100 * metrics.final_top1(record) for record in group]


def _with_interval(values: Sequence[float], digits: int = 1) -> str:
    if not len(values):
        return "no number"
    mean, low, high = (number(value, digits) for value in select.interval(values))
    return f"{mean} [{low}, {high}]" if len(values) > 1 else f"{mean} (one seed)"


# e3.fig1 ----------------------------------------------------------------

_IMAGES, _CHANNELS = 4, 6
#: norm -> (what one statistic averages over, in words; rows; columns of the cells that share it)
AVERAGED: dict[str, tuple[str, str, range, range]] = {
    "batch": ("BatchNorm", "all images, one channel", range(_IMAGES), range(1, 2)),
    "layer": ("LayerNorm", "one image, all channels", range(1, 2), range(_CHANNELS)),
    "instance": ("InstanceNorm", "one image, one channel", range(1, 2), range(1, 2)),
    "group": ("GroupNorm", "one image, some channels", range(1, 2), range(_CHANNELS // 2)),
}


def _teach(axes: Axes) -> None:
    """Four grids of images x channels; coloured are the cells, each of H x W pixels, that share a mean and variance."""
    axes.set_axis_off()
    across, down = _CHANNELS + 1.6, _IMAGES + 2.6
    for place, (norm, (name, words, rows, columns)) in enumerate(AVERAGED.items()):
        left, top = (place % 2) * across, -(place // 2) * down
        for row in range(_IMAGES):
            for column in range(_CHANNELS):
                colour = style.NORMS[norm].colour if row in rows and column in columns else "#D9D9D9"
                corner = (left + column, top - row - 1)
                axes.add_patch(Rectangle(corner, 1, 1, linewidth=0.8, edgecolor="white", facecolor=colour))
        axes.text(left, top + 0.85, name, fontsize=8.5, fontweight="bold", va="bottom")
        axes.text(left, top + 0.15, words, fontsize=7, color="#444444", va="bottom")
        axes.text(left - 0.25, top - _IMAGES / 2, "images", fontsize=7, rotation=90, va="center", ha="right")
        axes.text(left + _CHANNELS / 2, top - _IMAGES - 0.2, "channels", fontsize=7, va="top", ha="center")
    axes.set_xlim(-1, 2 * across - 1.2)
    axes.set_ylim(-2 * down + 1.3, 1.9)


def _by_layer(axes: Axes, group: Sequence[Record], quantity: str, text: str) -> Line2D:
    """Mean over seeds of a statistic of every normalisation layer, with its band."""
    found = [s[quantity] for record in group if (s := _recorded(record, "batch_statistics")) is not None]
    look = style.of(group[0].run, group[0].spec["method"])
    if not found:
        return axes.plot([], [], **look.kwargs(), label=f"{text}: diverged")[0]
    mean, low, high = np.array([select.interval(values) for values in np.array(found).T]).T
    layers = np.arange(1, len(mean) + 1)
    (line,) = axes.plot(layers, mean, **look.kwargs(), label=text, markevery=3, zorder=3)
    axes.fill_between(layers, low, high, color=look.colour, alpha=0.16, linewidth=0)
    axes.set_ylim(0, max(axes.get_ylim()[1], 1.08 * float(np.nanmax([mean, high]))))
    return line


def _layer_axis(axes: Axes, text: str) -> None:
    axes.set_xlabel("BatchNorm layer, from input to output", fontsize=8)
    axes.set_ylabel(text, fontsize=8)


def fig1(groups: select.Groups, profile: str) -> Figure:
    """What each normalisation averages over, and how far one device's batch means lie from those of all (e3.c8)."""
    trained = _without(groups, LAW)
    notes = [
        "Left: images × channels of one layer, a cell for all pixels. Coloured cells share one mean and variance;",
        "only those of BatchNorm belong to several images.",
        "Right: end of training, mean over devices and channels of |mean of the device's batch − mean of all|, in",
        "standard deviations over all. Bands: 95 % Student-t interval over seeds.",
        *textwrap.wrap(_law_note(groups[LAW]), 104),  # capitals and minus signs are wider than other letters
        *select.gaps(trained),
    ]
    figure, (left, right) = style.new(
        "e3.fig1  What a normalisation averages over", select.stamp(trained), notes,
        panels=("one mean and variance for", "one device against all"), share_y=False, ratios=(1.25, 1.0),
    )  # fmt: skip
    _teach(left)
    lines = [_by_layer(right, group, "mean_shift", _split(group)) for group in trained.values()]
    _layer_axis(right, "distance of means (standard deviations)")
    style.legend(right, lines, 2)
    return figure


def _law_note(group: Sequence[Record]) -> str:
    numbers = group[0].law or {}
    said = []
    for norm, (name, *_) in AVERAGED.items():
        found = [numbers.get(f"{norm}_{what}_difference") for what in ("mode", "batch")]
        if None not in found:
            said.append(
                f"{name} {found[0]:.1g} and {found[1]:.1g}".replace("-", "\u2212")
            )  # no hyphen to break a line at
    return (
        "Executed in float64 on a toy network, the largest change of an output from training to evaluation, and from "
        f"an image alone to the same image in a batch: {'; '.join(said)}."
    )


def layer_rows(artefact: str, groups: select.Groups) -> list[dict[str, Any]]:
    """One CSV row per run, seed, layer and statistic; and per number of the law, where it is shown."""
    rows = []
    for run, group in groups.items():
        for record in group:
            origin = select.provenance(artefact, record, len(group), COLUMNS)
            if run == LAW:
                numbers = {name: value for name, value in (record.law or {}).items() if isinstance(value, float)}
                rows += [origin | {"layer": None, "quantity": name, "value": value} for name, value in numbers.items()]
                continue
            found = _recorded(record, "batch_statistics")
            if found is None:
                rows.append(origin | {"layer": None, "quantity": "diverged", "value": None})
                continue
            for quantity in ("mean_shift", "std_ratio"):
                pairs = zip(found["layers"], found[quantity], strict=True)
                rows += [origin | {"layer": layer, "quantity": quantity, "value": value} for layer, value in pairs]
            if artefact != "e3.fig1":
                accuracies = {name: value for name, (value, _) in _modes(record).items()}
                rows += [
                    origin | {"layer": None, "quantity": f"{name}_percent", "value": value}
                    for name, value in accuracies.items()
                ]
    return rows


# e3.fig2 ----------------------------------------------------------------


def fig2(groups: select.Groups, profile: str) -> Figure:
    """Three networks on IID and on label-skewed shards, gradients averaged in every round (e3.c1, e3.c2)."""
    sides = (FIG2_RUNS[:3], FIG2_RUNS[3:])
    notes = [
        f"{LINES} Ten devices, gradients averaged in every round; evaluated with averaged running statistics.",
        *select.gaps(groups),
    ]
    figure, panels = style.new(
        "e3.fig2  Networks on IID and on label-skewed data",
        select.stamp(groups),
        notes,
        panels=[_split(groups[side[0]]) for side in sides],
        legend_rows=2,
        right=0.62,
    )
    for axes, side in zip(panels, sides, strict=True):
        lines = [_curve(axes, groups[run], _network(run), 2 * i) for i, run in enumerate(side)]
        if side is sides[1]:
            lines.append(_curve(axes, groups[BN], f"{_network(BN)} on IID data", 6))
        style.legend(axes, lines, 2)
    _chance(panels, groups)
    e1._scale(panels, groups)
    return figure


# e3.fig3, e3.fig4 -------------------------------------------------------


def _steps(groups: select.Groups, runs: Iterable[str]) -> str:
    """Steps that each run was given, which differ because the epochs do not."""
    counted = {}
    for run in runs:
        ends = [record.rows[-1]["round"] for record in groups[run] if record.status == "completed"]
        if ends:
            counted[e1.global_batch(groups[run])] = int(ends[0])
    said = ", ".join(f"{number(steps)} of {number(batch)} images" for batch, steps in counted.items())
    return f"Equal epochs are unequal steps: {said}." if said else "No run completed."


def fig3(groups: select.Groups, profile: str) -> Figure:
    """GroupNorm by batch; LayerNorm and InstanceNorm at the ends of the range (e3.c3)."""
    figure, axes = style.new(
        "e3.fig3  Normalisation within an image, by batch",
        select.stamp(groups),
        [f"{LINES} Below: learning rate, a line a seed.", _steps(groups, GN_RUNS), *select.gaps(groups)],
        panels=("GroupNorm", "LayerNorm and InstanceNorm"),
        legend_rows=2,
        lower=1.2,
    )
    upper, lower = axes[:2], axes[2:]
    batches = {run: number(e1.global_batch(groups[run])) for run in FIG3_RUNS}
    for one, below, runs in zip(upper, lower, (GN_RUNS, OTHER_NORM_RUNS), strict=True):
        several = runs is OTHER_NORM_RUNS
        words = {run: f"{_network(run) if several else 'batch'} {batches[run]}" for run in runs}
        lines = [_curve(one, groups[run], words[run], 2 * i) for i, run in enumerate(runs)]
        e2._rates(below, groups, runs)
        style.legend(one, lines, 2)
    e1._scale(upper, groups)
    for one, below in zip(upper, lower, strict=True):
        e2._below(one, below)
    _rate_axis(figure, lower)
    return figure


def _rate_axis(figure: Figure, lower: Sequence[Axes]) -> None:
    """As in post 2; without a rate to draw, where every run diverged before its first evaluation, an empty axis."""
    if any(len(np.asarray(line.get_xdata())) for axes in lower for line in axes.lines):
        e2._rate_axis(figure, lower)
    else:
        lower[0].set_ylabel("learning rate (no unit)", fontsize=8)


def fig4(groups: select.Groups, profile: str) -> Figure:
    """Fixup by batch, and where it diverged with rates in proportion to the batch (e3.c4, e3.c5)."""
    figure, (upper, lower) = style.new(
        "e3.fig4  Fixup by batch",
        select.stamp(groups),
        [
            f"{LINES} X: a seed that diverged. Below: learning rate of runs with an evaluation, a line a seed.",
            _steps(groups, FIXUP_RUNS),
            *select.gaps(groups),
        ],
        legend_rows=5,
        right=0.62,
        lower=1.2,
    )
    words = {run: f"batch {number(e1.global_batch(groups[run]))}" for run in FIG4_RUNS}
    words |= {run: f"{words[run]}, rate {groups[run][0].spec['lr']:g} (linear scaling)" for run in LINEAR_RUNS}
    lines = [_curve(upper, groups[run], words[run], 2 * i, when=True) for i, run in enumerate(FIG4_RUNS)]
    e2._rates(lower, groups, FIG4_RUNS)
    _chance([upper], groups)
    e1._scale([upper], groups)
    e2._below(upper, lower)
    _rate_axis(figure, [lower])
    style.legend(upper, lines, 1)
    return figure


# e3.fig5 and forgetting -------------------------------------------------


def _every(group: Sequence[Record]) -> int:
    return int(select.setting(group, "local_steps"))


def _rounds(group: Sequence[Record]) -> str:
    """Rounds of the completed seeds of a run, in words."""
    ends = sorted({int(record.rows[-1]["round"]) for record in group if record.status == "completed"})
    if not ends:
        return "no round completed"
    return " or ".join(map(number, ends)) + (" round" if ends == [1] else " rounds")


def fig5(groups: select.Groups, profile: str) -> Figure:
    """Federated averaging with GroupNorm, by the local batches between two synchronisations (e3.c7, e3.c9)."""
    figure, (left, right) = style.new(
        "e3.fig5  Federated averaging with GroupNorm",
        select.stamp(groups),
        [
            f"{LINES} Right: last epoch of the same runs. 40 batches are ours. In brackets: rounds in all.",
            *select.gaps(groups),
        ],
        panels=("accuracy against epochs", "at the end"),
        legend_rows=3,
        right=0.62,
        ratios=(2.2, 1.0),
    )
    words = {
        run: f"{'IID' if run in IID_RUNS else 'non-IID'}, every {_every(groups[run])} batches ({_rounds(groups[run])})"
        for run in FIG5_RUNS
    }
    lines = [_curve(left, groups[run], words[run], 2 * i) for i, run in enumerate(FIG5_RUNS)]
    for runs, open_ in ((IID_RUNS, False), (SKEWED_RUNS, True)):
        ends = np.array([select.interval(_finals(groups[run])) for run in runs])
        for run, (mean, low, high) in zip(runs, ends, strict=True):
            look = style.of(run, "federated")
            if not np.isnan(low):
                right.plot([_every(groups[run])] * 2, [low, high], color=look.colour, linewidth=1.2, zorder=2)
            right.plot([_every(groups[run])], [mean], **look.kwargs(), zorder=3)
        right.plot(
            [_every(groups[run]) for run in runs], ends[:, 0], color=_GREY, linewidth=0.8, zorder=1,
            linestyle=(0, (5.0, 1.2, 1.2, 1.2)) if open_ else "-",
        )  # fmt: skip
    e1._scale([left], groups)
    right.set_xscale("log")
    right.set_xticks(SYNCHRONISED, [str(steps) for steps in SYNCHRONISED])
    right.xaxis.set_minor_locator(NullLocator())
    right.set_xlim(7, 215)
    right.set_xlabel("local batches in a round")
    _chance([left, right], groups)
    if profile == "paper":
        for axes in (left, right):
            _reference(axes, 50, "post, every\n10: 50 %", last=axes is right)
    style.legend(left, lines, 2)
    return figure


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
                axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor="#DB0000", linewidth=1.1))
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


# Companions -------------------------------------------------------------


def _modes(record: Record) -> dict[str, tuple[float, str]]:
    """Accuracy under each way to normalise a test batch, and in training, in percent, and the way in words."""
    found, last = _recorded(record, "batch_statistics"), record.rows[-1]
    return {
        "all_running": (100 * last["test_top1"], "all classes,\nrunning"),
        "own_running": (100 * found["own_classes_running"], "own classes,\nrunning"),
        "mixed_batch": (100 * found["mixed"], "all classes,\nof the batch"),
        "own_batch": (100 * found["own_classes"], "own classes,\nof the batch"),
        "training_batches": (100 * last["train_top1"], "training\nbatches"),
    }


def collapse(groups: select.Groups, profile: str) -> Figure:
    """Why BatchNorm collapses: one model normalised in several ways, and the spread in devices' batches (e3.c1)."""
    notes = [
        "Left: the last shared model on test images of all classes, or of one device's own classes (mean over "
        "devices), normalised with the running statistics or with those of the batch; beside them accuracy counted "
        "while training, over the last epoch: augmented training images, batches of one device. Right: mean over "
        "devices and channels of the standard deviation in the device's batch over that of all batches.",
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
    _layer_axis(right, "standard deviation, relative (no unit)")
    style.legend(right, drawn, 1 if any("diverged" in str(line.get_label()) for line in drawn) else 2)
    return figure


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
    """Norm of Fixup's gradient in every round, at a rate of 0.1 and in proportion to the batch (e3.c5)."""
    figure, (axes,) = style.new(
        "e3.extra-divergence  Fixup's gradient at two learning rates",
        select.stamp(groups),
        [
            f"A line a seed, X where it diverged. Of long runs some rounds are drawn. {e1.OURS}",
            *select.gaps(groups),
        ],
        legend_rows=2,
    )
    lines = []
    for run, group in groups.items():
        look = style.of(run, group[0].spec["method"])
        text = f"batch {number(e1.global_batch(group))}, rate {group[0].spec['lr']:g}"
        lines += axes.plot([], [], color=look.colour, linestyle=look.line, label=text)
        for record in group:
            norms = np.asarray(_norms(record), float)
            at = _drawn_rounds(len(norms))
            axes.plot(at + 1, norms[at], color=look.colour, linestyle=look.line, linewidth=1.1, zorder=3)
            if record.status == "diverged" and len(norms):
                axes.plot([len(norms)], norms[-1:], color=look.colour, marker="X", markersize=8, zorder=4,
                          markeredgecolor="white", clip_on=False)  # fmt: skip
    if any(np.any(np.asarray(line.get_ydata(), float) > 0) for line in axes.lines):
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set_xlabel(STEP)
    axes.set_ylabel("L2 norm of the gradient (no unit)")
    style.legend(axes, lines, 2)
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


def regularisation(groups: select.Groups, profile: str) -> Figure:
    """Training and test accuracy of BatchNorm and GroupNorm on IID shards (e3.c10)."""
    figure, panels = style.new(
        "e3.extra-regularisation  Training against test accuracy",
        select.stamp(groups),
        [
            "Above the panels: training minus test accuracy at the last epoch, with its 95 % interval. Training "
            "accuracy is counted while training: augmented images, statistics of each batch, mean over the epoch.",
            f"{LINES} {e1.OURS}",
            *select.gaps(groups),
        ],
        panels=[
            f"{_network(run)}: {_with_interval([100 * metrics.regularisation_gap(r) for r in group])} points"
            for run, group in groups.items()
        ],
    )
    for axes, (run, group) in zip(panels, groups.items(), strict=True):
        train, look = select.curve(group, "train_top1"), style.of(run, "large_batch")
        tested = e1._draw_curve(axes, group, "test")
        tested.set_linestyle("-")
        (line,) = axes.plot(train.epochs, train.mean, color=look.colour, linestyle=(0, (1.2, 1.2)), label="training")
        axes.fill_between(train.epochs, train.low, train.high, color=look.colour, alpha=0.16, linewidth=0)
        style.legend(axes, [line, tested], 2)
    e1._scale(panels, groups)
    panels[0].set_ylabel("accuracy, top-1 (%)")
    return figure


def regularisation_rows(artefact: str, groups: select.Groups) -> list[dict[str, Any]]:
    """As the rows of a curve, with training accuracy beside test accuracy."""
    rows = select.curve_rows(artefact, groups, COLUMNS)
    for group in groups.values():
        train = select.curve(group, "train_top1")
        found = {
            (group[0].run, seed, epoch): (value, mean)
            for seed, values in zip(train.seeds, train.values, strict=True)
            for epoch, value, mean in zip(train.epochs, values, train.mean, strict=True)
        }
        for row in (row for row in rows if row["run"] == group[0].run):
            value, mean = found[row["run"], row["seed"], row["epoch"]]
            row |= {"train_percent": value, "train_mean_percent": mean}
    return rows


def initialisation(groups: select.Groups, profile: str) -> Figure:
    """GroupNorm whose blocks start as the identity, GroupNorm with scales of one, and no normalisation at all."""
    lost = any(record.status == "diverged" for group in groups.values() for record in group)
    crosses = "X without a line: a seed that diverged. " if lost else ""
    figure, (axes,) = style.new(
        "e3.extra-initialisation  GroupNorm's last scale, and no normalisation",
        select.stamp(groups),
        [f"{LINES} {crosses}{e1.OURS}", *select.gaps(groups)],
        legend_rows=3,
        right=0.62,
    )
    words = ("GroupNorm, last scale of a block zero", "GroupNorm, all scales one", "no normalisation")
    runs = zip(INITIALISATION_RUNS, words, strict=True)
    lines = [_curve(axes, groups[run], text, 2 * i, when=True) for i, (run, text) in enumerate(runs)]
    _chance([axes], groups)
    e1._scale([axes], groups)
    style.legend(axes, lines, 1)
    return figure
