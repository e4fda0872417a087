"""Figures of post e3: normalisation on label-skewed data, in large batches and in federated averaging.

Their companions, which the post does not have, are in ``e3_extras``.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from repro.errors import ReproError
from repro.registry.labels import label, number
from repro.report import e1, e2, select, style
from repro.results import metrics
from repro.results.records import Record

BN, GN, FIXUP = "e3-iid-bn", "e3-iid-gn", "e3-iid-fixup"
BN_SKEWED, GN_SKEWED, FIXUP_SKEWED = "e3-noniid-bn", "e3-noniid-gn", "e3-noniid-fixup"
LAW = "e3-normalisation-law"
BATCHES = (128, 1024, 2048)
SYNCHRONISED = (10, 40, 150)

FIG1_RUNS = (BN, BN_SKEWED, LAW)
FIG2_RUNS = (BN, GN, FIXUP, BN_SKEWED, GN_SKEWED, FIXUP_SKEWED)
GN_RUNS = tuple(f"e3-gn-{batch}" for batch in BATCHES)
LN_RUNS = tuple(f"e3-ln-{batch}" for batch in BATCHES)
IN_RUNS = tuple(f"e3-in-{batch}" for batch in BATCHES)
OTHER_NORM_RUNS = (*LN_RUNS, *IN_RUNS)
FIG3_RUNS = (*GN_RUNS, *OTHER_NORM_RUNS)
FIXUP_RUNS = tuple(f"e3-fixup-{batch}" for batch in BATCHES)
LINEAR_RUNS = ("e3-fixup-1024-linear", "e3-fixup-2048-linear")
FIG4_RUNS = (*FIXUP_RUNS, *LINEAR_RUNS)
IID_RUNS = ("e3-fedavg-iid-10", "e3-fedavg-iid-150")
SKEWED_RUNS = tuple(f"e3-fedavg-noniid-{steps}" for steps in SYNCHRONISED)
FIG5_RUNS = (*IID_RUNS, *SKEWED_RUNS)

#: Fields of a spec in which the runs of this post differ; columns of its CSV files.
COLUMNS = ("schedule", "local_steps", "buffers", "last_scale_zero", "momentum", "weight_decay")

LINES = "Lines: mean over seeds. Bands: 95 % Student-t interval."
_GREY = "#555555"


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
    """Mean and band of a run. Where a seed diverged, each seed as a thin line and an X at chance for every lost one.

    ``when``: the legend says at which epochs, for which there is room in figures of one panel.

    Returns:
        What stands for the run in a legend.
    """
    lost = [found[1] for record in group if (found := metrics.divergence(record)) is not None]
    if not lost:
        return e1._draw_curve(axes, group, text, shift)
    look, chance = style.of(group[0].run, group[0].spec["method"]), 100 * group[0].chance
    seeds = [([row["epoch"] for row in r.rows], [100 * row["test_top1"] for row in r.rows]) for r in group if r.rows]
    for epochs, accuracies in seeds:
        axes.plot(epochs, accuracies, color=look.colour, linestyle=look.line, linewidth=0.9, zorder=3)
    ends = dict.fromkeys(number(epoch, 1) for epoch in (min(lost), max(lost)))
    said = f"{text}: {len(lost)} of {len(group)} diverged"
    marks: dict[str, Any] = {
        "color": look.colour, "marker": "X", "markersize": 8, "markeredgecolor": "white",
        "label": said + (f", at epoch {' to '.join(ends)}" if when else ""),
    }  # fmt: skip
    axes.plot(lost, [chance] * len(lost), linestyle="none", zorder=5, clip_on=False, **marks)
    return Line2D([], [], **marks | {"linestyle": look.line if seeds else "none", "linewidth": 0.9})


def _thin(groups: select.Groups) -> str:
    """What ``_curve`` draws where a seed diverged, in words; nothing where none did."""
    lost = any(record.status == "diverged" for group in groups.values() for record in group)
    return "Where a seed diverged: thin, a line a seed, and an X at chance for each lost one. " if lost else ""


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def _finals(group: Sequence[Record]) -> list[float]:
    return [100 * metrics.end_top1(record) for record in group]


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
        "standard deviations over all. Bands: 95 % Student-t interval over seeds. It is measured in a training pass:",
        "the layers before have already normalised each device's batch alone, so that a layer sees only what has come",
        "apart again since; that is why those in the middle look harmless.",
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
    return rows


# e3.fig2 ----------------------------------------------------------------


def fig2(groups: select.Groups, profile: str) -> Figure:
    """Three networks on IID and on label-skewed shards, gradients averaged in every round (e3.c1, e3.c2)."""
    sides = (FIG2_RUNS[:3], FIG2_RUNS[3:])
    columns = 1 if _thin(groups) else 2  # the legend also says how many seeds diverged
    notes = [
        f"{LINES} {_thin(groups)}Ten devices, gradients averaged in every round; evaluated with averaged running "
        "statistics.",
        *select.gaps(groups),
    ]
    figure, panels = style.new(
        "e3.fig2  Networks on IID and on label-skewed data",
        select.stamp(groups),
        notes,
        panels=[_split(groups[side[0]]) for side in sides],
        legend_rows=4 // columns,
        right=0.62,
    )
    for axes, side in zip(panels, sides, strict=True):
        lines = [_curve(axes, groups[run], _network(run), 2 * i) for i, run in enumerate(side)]
        if side is sides[1]:
            lines.append(_curve(axes, groups[BN], f"{_network(BN)} on IID data", 6))
        style.legend(axes, lines, columns)
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


def _warm_up(*runs: Sequence[Record]) -> str:
    """How the rate of runs is warmed up: from, to, and in how many epochs.

    Runs of several batches differ in the last rate, and in the epochs too where a profile keeps the steps of a warm-up.
    """
    schedules = [select.setting(group, "schedule") for group in runs]
    starts, lengths, ends = (
        " or ".join(dict.fromkeys(f"{schedule[name]:.4g}" for schedule in schedules))
        for name in ("warmup_from", "warmup_epochs", "lr")
    )
    return f"{starts} to {ends} in {lengths} epochs"


def _rates(axes: Axes, groups: select.Groups, runs: Sequence[str]) -> None:
    """The learning rate of each seed until it diverged: its warm-up, a straight line, then what was logged.

    A logged rate is that of the epochs since the evaluation before. The first run is drawn wide and pale, the next
    ones narrower and darker inside of it, so that none is hidden where rates are the same.
    """
    for before, run in enumerate(runs):
        look, left = style.of(run, groups[run][0].spec["method"]), 1 - before / max(1, len(runs) - 1)
        colour = 1 - (1 - np.array(to_rgb(look.colour))) * (1 - 0.6 * left)
        for record in groups[run]:
            schedule, lost = record.spec["schedule"], metrics.divergence(record)
            end, warm = lost[1] if lost else float("inf"), schedule.get("warmup_epochs", 0.0)
            first = schedule.get("warmup_from", schedule["lr"])
            epochs = list(np.linspace(0, min(warm, end), 40))
            rates = list(first + (schedule["lr"] - first) * np.array(epochs) / (warm or 1.0))
            logged = [(row["epoch"], row["lr"]) for row in record.rows if row["epoch"] > warm]
            if not logged and end > warm:
                logged = [(end, schedule["lr"])]
            for epoch, rate in logged:
                epochs, rates = [*epochs, epochs[-1], epoch], [*rates, rate, rate]
            if end > 0:
                axes.plot(epochs, rates, color=tuple(colour), linewidth=1.2 + 3.6 * left, label=f"_{run}",
                          solid_capstyle="butt", zorder=3)  # fmt: skip


#: What ``_rates`` draws, in words.
RATES = "Below: learning rate, a line a seed until it diverged; where rates are the same, one line lies inside another."


def fig3(groups: select.Groups, profile: str) -> Figure:
    """GroupNorm, and LayerNorm and InstanceNorm, by batch (e3.c3)."""
    figure, axes = style.new(
        "e3.fig3  Normalisation within an image, by batch",
        select.stamp(groups),
        [f"{LINES} {_thin(groups)}{RATES}", _steps(groups, GN_RUNS), *select.gaps(groups)],
        panels=("GroupNorm", "LayerNorm and InstanceNorm"),
        legend_rows=3,
        right=0.62,
        lower=1.2,
    )
    upper, lower = axes[:2], axes[2:]
    batches = {run: number(e1.global_batch(groups[run])) for run in FIG3_RUNS}
    for one, below, runs in zip(upper, lower, (GN_RUNS, OTHER_NORM_RUNS), strict=True):
        several = runs is OTHER_NORM_RUNS
        words = {run: f"{_network(run) if several else 'batch'} {batches[run]}" for run in runs}
        lines = [_curve(one, groups[run], words[run], 2 * i) for i, run in enumerate(runs)]
        _rates(below, groups, runs)
        style.legend(one, lines, 2)
    _chance(upper, groups)
    e1._scale(upper, groups)
    for one, below in zip(upper, lower, strict=True):
        e2._below(one, below)
    _rate_axis(figure, lower)
    return figure


def _rate_axis(figure: Figure, lower: Sequence[Axes]) -> None:
    """As in post 2; without a rate to draw, where every run diverged at its first step, an empty axis."""
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
            f"{LINES} {_thin(groups)}{RATES}",
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
    _rates(lower, groups, FIG4_RUNS)
    _chance([upper], groups)
    e1._scale([upper], groups)
    e2._below(upper, lower)
    _rate_axis(figure, [lower])
    style.legend(upper, lines, 1)
    return figure


# e3.fig5 ----------------------------------------------------------------


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
            f"Lines: mean over seeds. {_thin(groups)}Right: their last tenth, with its 95 % Student-t "
            "interval. 40 batches are ours. In brackets: rounds in all.",
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
    for band in list(left.collections):  # five of them would lie on top of each other
        band.remove()
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
