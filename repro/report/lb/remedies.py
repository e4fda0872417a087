"""Remedies for the generalisation gap side by side, and what compression costs by batch size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from repro.registry.labels import number
from repro.report import layout, marks
from repro.report.artefact import figure
from repro.report.intervals import interval
from repro.report.layout import Axes, Figure
from repro.report.lb.runs import iterations, lb_origin
from repro.report.look import CODECS, GREY, of_group
from repro.report.notes import gaps_of_many, stamp_by_network
from repro.report.rows import Row, Rows, span
from repro.report.selection import Selection, completed, ends, finals, recorded, setting
from repro.results.records import Record

PLAIN, SMALL = "lb-remedy-plain", "lb-remedy-small"
REMEDIES = {
    SMALL: "batch 32",
    PLAIN: "batch 1024",
    "lb-remedy-scaling": "linear scaling, warm-up",
    "lb-remedy-lars": "LARS",
    "lb-remedy-lamb": "LAMB",
    "lb-remedy-local": "post-local SGD",
    "lb-remedy-extrapolated": "extrapolated SGD",
    "lb-remedy-isotropic": "isotropic noise",
    "lb-remedy-fisher": "Fisher noise",
    "lb-remedy-growing": "growing batch",
    "lb-remedy-adaptive": "batch by noise scale",
    "lb-remedy-step-up": "step-up, X = 4",
}
"""Runs from top to bottom, in words."""

DASHED = (0, (4, 2))
END = ("mean_percent", "low_percent", "high_percent")
_EQUAL = (
    "equal_synchronisations_mean_percent",
    "equal_synchronisations_low_percent",
    "equal_synchronisations_high_percent",
)
SHARP = ("sharpness_mean", "sharpness_low", "sharpness_high")


# Rows -----------------------------------------------------------------------------------------------------------


def synchronisations(record: Record) -> list[int]:
    """How often workers that share the images would have averaged after each round so far."""
    rounds = len(record.series["train_loss"])
    return [round(each) for each in accumulate(record.series.get("synchronisations", [1.0] * rounds))]


def at_equal_synchronisations(record: Record, budget: int) -> float | None:
    """Accuracy in percent when no more than ``budget`` synchronisations had taken place.

    That at the end, where the whole training has no more; else that of the last evaluation before they were used up.
    None if there was none; a diverged run counts at chance.
    """
    done = synchronisations(record)
    if record.status == "diverged":
        return 100 * record.chance
    if done[-1] <= budget:
        return ends([record])[record.seed]
    before = [row for row in record.rows if done[min(row["round"], len(done)) - 1] <= budget]
    return 100 * float(before[-1]["test_top1"]) if before else None


def remedy_rows(chosen: Selection) -> list[Row]:
    """One row per run and seed: accuracy at the end and at equal synchronisations, their number, sharpness."""
    rows, budget = [], iterations(chosen[PLAIN])
    for run, group in chosen.items():
        equal = [at_equal_synchronisations(record, budget) for record in group]
        sharp = [recorded(record, "hessian_top_eigenvalue") for record in group]
        above = [np.log(value) for value in sharp if value is not None and value > 0]
        same = (
            span(finals(group), END)
            | span([value for value in equal if value is not None], _EQUAL)
            | dict(zip(SHARP, np.exp(interval(above)).tolist() if above else (None,) * 3, strict=True))
        )
        for record, end, at, eigenvalue in zip(group, finals(group), equal, sharp, strict=True):
            done = synchronisations(record)
            rows.append(
                lb_origin(chosen.artefact, record, len(group))
                | {"remedy": REMEDIES[run], "imputed_chance": int(record.status == "diverged")}
                | {"top1_percent": end, "equal_synchronisations_percent": at}
                | {"synchronisations": done[-1] if done else 0, "top_eigenvalue": eigenvalue}
                | same
            )
    return rows


# Remedies ---------------------------------------------------------------------------------------------------------


@figure(
    "lb.extra-remedies", title="Remedies for the generalisation gap of large batches", runs=tuple(REMEDIES),
    group="control", rows=remedy_rows,
    details="Each run has the learning rate of a grid of equal size on held-out images. Each average sends the "
    "gradients or models of all clients up and a model to each down, so that equal synchronisations are equal bytes.",
)  # fmt: skip
def remedies(groups: Selection, rows: Rows) -> Figure:
    """Draw accuracy at equal images and at equal synchronisations, and sharpness (statement lb.c33)."""
    budget = iterations(groups[PLAIN])
    notes = [
        "Small dots: seeds; markers: mean, of sharpness the geometric one, with its 95 % Student-t interval, cut at "
        "0 and 100 % (arrows); lines: means of batch 32 (solid) and 1024 (dashed). Left: at the end (last tenth), "
        f"after equal images; middle: when gradients or models have been averaged {number(budget)} times, as in plain "
        "training with batch 1024, without a marker where no evaluation came before that. Right: top eigenvalue of the "
        "Hessian of the training loss, at the end.",
        *gaps_of_many(groups),
    ]
    figure, panels = layout.new(
        layout.Texts("lb.extra-remedies  Remedies for the gap of large batches", stamp_by_network(groups), notes),
        panels=("equal images", "equal synchronisations", "sharpness"), legend_rows=0, share_y=False,
    )  # fmt: skip
    figure.subplots_adjust(wspace=0.12)
    columns = (("top1_percent", END), ("equal_synchronisations_percent", _EQUAL), ("top_eigenvalue", SHARP))
    for axes, (name, ends_of) in zip(panels, columns, strict=True):
        for place, run in enumerate(REMEDIES):
            draw_arm(axes, -place, rows.where(run=run), name, ends_of, groups[run])
        mean_lines(axes, rows, ends_of, {SMALL: "-", PLAIN: DASHED})
        axes.set_ylim(-len(REMEDIES) + 0.4, 0.6)
        axes.set_yticks([-place for place in range(len(REMEDIES))], list(REMEDIES.values()), fontsize=8)
        axes.tick_params(axis="x", labelsize=7)
        if axes is not panels[0]:
            axes.tick_params(axis="y", labelleft=False)
    for axes in panels[:2]:
        axes.set_xlabel("accuracy, top-1 (%)", fontsize=8)
    sharpness_axis(panels[2], rows)
    return figure


def draw_arm(axes: Axes, place: float, rows: Rows, name: str, columns: Sequence[str], group: Sequence[Record]) -> None:
    """A run in one panel: seeds, mean and interval."""
    style, found = of_group(group), rows.numbers(name)[0]
    mean, low, high = rows.once(*columns)[:, 0]
    if np.isnan(mean):
        return
    axes.plot(found, [place - 0.24] * len(found), color=style.colour, marker=".", markersize=3, linestyle="none")
    if not np.isnan(low):
        axes.plot([low, high], [place, place], color=style.colour, linewidth=1.4, zorder=2)
        if low == 0:  # cut there
            axes.plot([low], [place], "<", color=style.colour, markersize=5, clip_on=False, zorder=4)
    axes.plot([mean], [place], **style.kwargs() | {"linestyle": "none", "markersize": 6}, zorder=3)


def mean_lines(axes: Axes, rows: Rows, columns: Sequence[str], lines: Mapping[str, Any]) -> None:
    """Vertical lines at the means of some runs, each with its line style."""
    for run, line in lines.items():
        mean = rows.where(run=run).once(columns[0])[0, 0]
        if not np.isnan(mean):
            axes.axvline(mean, color=GREY, linewidth=0.8, linestyle=line, zorder=1)


def sharpness_axis(axes: Axes, rows: Rows) -> None:
    """The horizontal axis of top eigenvalues, logarithmic where there are any."""
    from matplotlib.ticker import LogLocator

    axes.set_xlabel("top Hessian eigenvalue (no unit)", fontsize=8)
    if any(row["top_eigenvalue"] is not None and row["top_eigenvalue"] > 0 for row in rows):
        axes.set_xscale("log")
        least, most = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if most < 1000 * least else (1.0,), numticks=5))
        marks.plain_ticks(axes.xaxis)


# Compression ------------------------------------------------------------------------------------------------------

BATCHES = (64, 256, 1024)
COMPRESSED = {"topk": "top-k", "dgc": "DGC", "int8": "int8", "powersgd": "PowerSGD"}
"""Codecs as run ids have them, in words."""


def compressed_run(codec: str, batch: int) -> str:
    """The run of a codec at a batch; ``dense`` is uncompressed."""
    return f"lb-compress-{codec}-{batch}"


COMPRESSION_RUNS = tuple(compressed_run(codec, batch) for codec in ("dense", *COMPRESSED) for batch in BATCHES)


def compression_rows(chosen: Selection) -> list[Row]:
    """One row per run and seed: accuracy that it loses to compression, and how much shorter its messages are."""
    rows = [
        lb_origin(chosen.artefact, record, len(chosen[run]))
        | {"codec": "no compression", "batch": batch, "imputed_chance": int(record.status == "diverged")}
        | {"top1_percent": end, "dense_percent": end, "lost_points": None, "times_shorter": None}
        | span([], ("lost_mean", "lost_low", "lost_high"))
        for batch in BATCHES
        for run in [compressed_run("dense", batch)]
        for record, end in zip(chosen[run], finals(chosen[run]), strict=True)
    ]
    for codec in COMPRESSED:
        for batch in BATCHES:
            group, dense = chosen[compressed_run(codec, batch)], chosen[compressed_run("dense", batch)]
            without, own = ends(dense), ends(group)
            lost = {seed: without[seed] - own[seed] for seed in own if seed in without}
            ratio = {record.seed: _ratio(record, dense) for record in group}
            for record in group:
                rows.append(
                    lb_origin(chosen.artefact, record, len(group))
                    | {"codec": COMPRESSED[codec], "batch": batch, "imputed_chance": int(record.status == "diverged")}
                    | {"top1_percent": own[record.seed], "dense_percent": without.get(record.seed)}
                    | {"lost_points": lost.get(record.seed), "times_shorter": ratio[record.seed]}
                    | span(list(lost.values()), ("lost_mean", "lost_low", "lost_high"), interval)
                )
    return rows


def _ratio(record: Record, dense: Sequence[Record]) -> float | None:
    """How many times shorter the uploads of a run are than those without compression, in as many rounds."""
    whole = [each for each in completed(dense) if each.seed == record.seed]
    if record.status == "diverged" or not whole:
        return None
    return float(whole[0].rows[-1]["bytes_up"] / record.rows[-1]["bytes_up"])


@figure(
    "lb.extra-compression", title="What compression costs by batch size", runs=COMPRESSION_RUNS, group="control",
    rows=compression_rows,
)  # fmt: skip
def compression(groups: Selection, rows: Rows) -> Figure:
    """Draw the accuracy lost against the batch, a line a codec (statement lb.c16)."""
    workers = setting(groups[compressed_run("dense", BATCHES[0])], "workers")
    steps = iterations(groups[compressed_run("dense", BATCHES[0])])
    notes = [
        "Accuracy without compression minus that with it at the end (last tenth), same seeds: mean with its 95 % "
        "Student-t interval, on the right in percent of the points above chance that training without compression "
        f"reaches. Equal iterations ({number(steps)}) at every batch, which {number(workers)} workers share, so that a "
        "larger batch sees more images. ÷: how many times shorter their uploads are.",
        *gaps_of_many(groups),
    ]
    figure, panels = layout.new(
        layout.Texts("lb.extra-compression  What compression costs by batch size", stamp_by_network(groups), notes),
        panels=("accuracy lost", "share of what is learnt"), legend_rows=1, share_y=False,
    )  # fmt: skip
    chance = 100 * groups[compressed_run("dense", BATCHES[0])][0].chance
    lines = []
    for place, (codec, words) in enumerate(COMPRESSED.items()):
        own, style = rows.where(codec=words), CODECS[codec]
        x = [batch * 2 ** (0.09 * (place - 1.5)) for batch in BATCHES]
        for axes, of in zip(panels, (_points, lambda found: _share(found, chance)), strict=True):
            spread = np.array([_ends(of(own.where(batch=batch))) for batch in BATCHES]).T
            (line,) = axes.plot(x, spread[0], **style.kwargs(), label=words, zorder=3)
            for at, (_, low, high) in zip(x, spread.T, strict=True):
                marks.whisker(axes, at, low, high, style.colour)
        shorter = [row["times_shorter"] for row in own if row["times_shorter"] is not None]
        if shorter:
            line.set_label(f"{words} (÷{number(float(np.median(shorter)))})")
        lines.append(line)
    marks.legend(panels[0], lines, 4)
    for axes, words in zip(panels, ("accuracy lost (points)", "lost share (%)"), strict=True):
        axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
        marks.log2_axis(axes, BATCHES)
        axes.set_xlabel("batch (images)", fontsize=8)
        axes.set_ylabel(words, fontsize=8)
    return figure


def _ends(values: Sequence[float]) -> tuple[float, float, float]:
    return interval(values) if len(values) else (np.nan, np.nan, np.nan)


def _points(rows: Rows) -> list[float]:
    return [row["lost_points"] for row in rows if row["lost_points"] is not None]


def _share(rows: Rows, chance: float) -> list[float]:
    """The loss in percent of what training without compression learns; seeds that learn nothing are left out."""
    known = [row for row in rows if row["lost_points"] is not None and row["dense_percent"] > chance + 1]
    return [100 * row["lost_points"] / (row["dense_percent"] - chance) for row in known]
