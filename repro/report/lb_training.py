"""Figures of the paper's training experiments: batch size, step-up of gradients, and controls beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from scipy.stats import gaussian_kde

from repro.errors import ReproError
from repro.registry.labels import number
from repro.report import e3, select, style
from repro.results import metrics
from repro.results.measurements import TITLES, title
from repro.results.records import Record

MODELS = ("resnet50", "vgg11", "alexnet")
BATCHES = {"resnet50": (32, 256, 512, 1024), "vgg11": (64, 256, 512, 1024), "alexnet": (32, 256, 512, 1024)}
FACTORS = (2, 4, 8, 16)
STEPPED = ("resnet50", "vgg11")
"""Networks whose gradients are stepped up."""
CASES = (("resnet50", "t05"), ("vgg11", "t05"), ("vgg11", "t08"))
"""Network and threshold of figures 7 and 8, as run ids have them."""


def _batch(model: str, batch: int = 1024) -> str:
    return f"lb-batch-{model}-{batch}"


def _stepped(model: str, threshold: str) -> tuple[str, ...]:
    """Runs of factors 1, 2, 4, 8 and 16."""
    return (_batch(model), *(f"lb-step-{model}-{threshold}-x{factor}" for factor in FACTORS))


def _read_by_equation(model: str, threshold: str) -> tuple[str, ...]:
    return (_batch(model), *(f"lb-equation-{model}-{threshold}-x{factor}" for factor in FACTORS))


def _always(model: str) -> tuple[str, ...]:
    return tuple(f"lb-always-{model}-x{factor}" for factor in FACTORS)


FIG3_RUNS = tuple(_batch(model, batch) for model in MODELS for batch in BATCHES[model])
FIG6_RUNS = tuple(_batch(model, batch) for model in STEPPED for batch in BATCHES[model])
FIG7_RUNS = tuple(
    run for model in STEPPED for run in (*_stepped(model, "t05"), _batch(model, BATCHES[model][0]))
)  # fmt: skip
FIG8_RUNS = (*_stepped("vgg11", "t08"), _batch("vgg11", BATCHES["vgg11"][0]))
EQUATION_RUNS = tuple(dict.fromkeys(run for case in CASES for run in (*_stepped(*case), *_read_by_equation(*case))))
GATING_RUNS = tuple(dict.fromkeys((
    *(run for case in CASES for run in _stepped(*case)),
    *(run for model in STEPPED for run in _always(model)),
    *(f"lb-random-{model}-{threshold}-x{factor}" for model, threshold in CASES for factor in (4, 16)),
    *(f"lb-rate-{model}-0_25" for model in STEPPED),
)))  # fmt: skip

OURS = "The paper has no such figure."
_COLUMNS = ("model", "local_steps", "momentum", "weight_decay", "buffers")
_EARLY = 1000  # iterations of figure 6, at most
_POINTS = 200  # of a series or density that is drawn, at most; its CSV holds the same ones
_WIDTH = 0.04  # of a kernel: share of the iterations
_GREY = "#777777"


# What all share ---------------------------------------------------------


def _scale(groups: select.Groups) -> str:
    """The scale at which runs were made, from their records: sizes by network, images, epochs, seeds."""
    members = [record for group in groups.values() for record in group]
    sizes = dict.fromkeys(
        f"{TITLES[r.spec['model']]} {r.spec['image_size']} px width {r.spec['width']}" for r in members
    )
    images, epochs = (select._span(int(r.spec[name]) for r in members) for name in ("train_images", "epochs"))
    counts = [len(group) for group in groups.values()]
    text = (
        f"{members[0].profile} profile: {', '.join(sizes)}; {images} images, {epochs} epochs, n = "
        f"{select._span(counts)} seed{'s' if max(counts) > 1 else ''}"
    )
    text += "" if members[0].profile == "paper" else " – not the published scale"
    reduced = sorted({f"{r.data['name']}: {r.data['reduced']}" for r in members if r.data.get("reduced")})
    return text + "".join(f"; reduced data ({item})" for item in reduced)


def _gaps(groups: select.Groups, diverged: str = "counted at chance") -> list[str]:
    """As ``select.gaps``, with all diverged runs in one sentence, for here they are many."""
    lost = {run: [str(record.seed) for record in group if record.status == "diverged"] for run, group in groups.items()}
    said = [f"{select.named(groups[run])} ({', '.join(seeds)})" for run, seeds in lost.items() if seeds]
    notes = [f"Diverged, {diverged} (seeds): {'; '.join(said)}."] if said else []
    return notes + [note for note in select.gaps(groups) if not note.startswith("Diverged")]


def _series(record: Record, name: str) -> np.ndarray:
    """What a run recorded at every iteration.

    Raises:
        ReproError: the run did not record it.
    """
    if name not in record.series:
        raise ReproError(
            f"record {record.run}.s{record.seed}: no {name}; a run that records it at every iteration was expected; "
            "correct `track` or `step_up` in pipelines/lb.yaml and run the sweep again"
        )
    return np.asarray(record.series[name], float)


def _thinned(count: int) -> np.ndarray:
    """Indices of at most ``_POINTS`` of ``count`` values, evenly spread, the first and the last among them.

    >>> len(_thinned(7)), len(_thinned(5000)), int(_thinned(5000)[-1])
    (7, 200, 4999)
    """
    return np.unique(np.round(np.linspace(0, count - 1, min(count, _POINTS))).astype(int))


@dataclass(frozen=True)
class _Path:
    """Test accuracy of a run whose every step is a round, over iterations and over training images seen."""

    iterations: np.ndarray
    images: np.ndarray
    curve: select.Curve


def _path(group: Sequence[Record]) -> _Path:
    curve = select.curve(group)
    counted = {round(float(row["epoch"]), 6): row["round"] for record in group for row in record.rows}
    # The end of a run whose every seed diverged is in no row.
    end = metrics._budget(group[0])["round"]
    iterations = np.array([counted.get(float(epoch), end) for epoch in curve.epochs])
    return _Path(iterations, curve.epochs * int(select.setting(group, "train_images")), curve)


def _iterations(group: Sequence[Record]) -> int:
    """Iterations that a run was given."""
    return int(_path(group).iterations[-1])


def _given(groups: select.Groups, models: Sequence[str], ending: str = "") -> str:
    """Iterations of the largest batch, in words; ``ending``: of the ids of its runs."""
    return ", ".join(f"{number(_iterations(groups[_batch(model) + ending]))} of {TITLES[model]}" for model in models)


def _origin(artefact: str, record: Record, n: int) -> dict[str, Any]:
    """The columns with which every row of these CSV files begins."""
    step_up = record.spec.get("step_up") or {}
    return select.provenance(artefact, record, n, _COLUMNS) | {
        f"step_up_{name}": step_up.get(name) for name in ("factor", "threshold", "when", "share_of")
    }


def _cross(axes: Axes, x: Sequence[float], y: Sequence[float], colour: str, size: float = 8) -> Line2D:
    """The mark of what diverged."""
    (marks,) = axes.plot(x, y, color=colour, marker="X", markersize=size, linestyle="none", zorder=5, clip_on=False,
                         markeredgecolor="white")  # fmt: skip
    return marks


def _draw(
    axes: Axes, group: Sequence[Record], text: str, *, images: bool = False, until: float = math.inf, shift: int = 0,
    band: bool = True,
) -> Line2D:  # fmt: skip
    """Mean and band of a run over iterations (or thousands of images); an X at chance where a seed diverged."""
    path, look = _path(group), style.of(group[0].run, group[0].spec["method"])
    x, kept = (path.images / 1000 if images else path.iterations), path.iterations <= until
    ends = [found for record in group if (found := metrics.divergence(record)) is not None]
    line = None
    if len(ends) < len(group):
        every = max(1, int(kept.sum()) // 8)
        (line,) = axes.plot(
            x[kept], path.curve.mean[kept], **look.kwargs(), label=text, markevery=(min(shift, every - 1), every),
            zorder=3,
        )  # fmt: skip
        if band:
            axes.fill_between(x[kept], path.curve.low[kept], path.curve.high[kept], color=look.colour, alpha=0.16,
                              linewidth=0)  # fmt: skip
    if ends:
        seen = float(group[0].spec["train_images"]) / 1000
        at = [epochs * seen if images else max(1.0, rounds) for rounds, epochs in ends]  # 0 is on no logarithmic axis
        marks = _cross(axes, at, [100 * group[0].chance] * len(at), look.colour)
        if line is None:
            marks.set_label(f"{text}: diverged")
            return marks
        line.set_label(f"{text}: {len(ends)} diverged")
    assert line is not None
    return line


def _path_rows(artefact: str, group: Sequence[Record], until: float = math.inf) -> list[dict[str, Any]]:
    """One row per seed and evaluation; one without numbers per seed where all diverged before any ``until`` there."""
    path = _path(group)
    names = ("iteration", "epoch", "images_seen", "accuracy_percent", "imputed_chance", "mean_percent", "low_percent",
             "high_percent")  # fmt: skip
    if path.iterations[0] > until:
        return [_origin(artefact, record, len(group)) | dict.fromkeys(names) for record in group]
    return [
        _origin(artefact, record, len(group))
        | dict(zip(names, (
            int(path.iterations[i]), path.curve.epochs[i], path.images[i], values[i], int(imputed[i]),
            path.curve.mean[i], path.curve.low[i], path.curve.high[i],
        ), strict=True))
        for record, values, imputed in zip(group, path.curve.values, path.curve.imputed, strict=True)
        for i in range(len(path.iterations)) if path.iterations[i] <= until
    ]  # fmt: skip


def _chance(axes: Axes, group: Sequence[Record], *, last: bool) -> None:
    chance = 100 * group[0].chance
    e3._reference(axes, chance, f"chance\n{number(chance)} %", last=last)


def _accuracy_axis(axes: Axes) -> None:
    axes.set_ylabel("test accuracy, top-1 (%)", fontsize=8)
    axes.set_ylim(0, min(100.0, axes.get_ylim()[1]))


# lb.fig3 ----------------------------------------------------------------


def fig3(groups: select.Groups, profile: str) -> Figure:
    """Test accuracy by batch size over iterations and over training images seen (lb.c6)."""
    figure, (upper, lower) = style.rows(
        "lb.fig3  Test accuracy by batch size", _scale(groups),
        [f"{e3.LINES} The paper does not say what its axis is. Above: equal iterations, logarithmic axis. Below: equal "
         "images. All runs of a network see the same number of images; dotted: chance.",
         *_gaps(groups)],
        panels=[title(groups[_batch(model)][0]) for model in MODELS], heights=(2.1, 2.1), legend_rows=4,
    )  # fmt: skip
    for above, below, model in zip(upper, lower, MODELS, strict=True):
        lines = []
        for i, batch in enumerate(BATCHES[model]):
            group = groups[_batch(model, batch)]
            lines.append(_draw(above, group, f"batch {batch}", shift=i))
            _draw(below, group, f"batch {batch}", images=True, shift=i)
        style.legend(above, lines, 1)
        above.set_xscale("log")
        above.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        above.xaxis.set_minor_formatter(NullFormatter())
        above.tick_params(axis="x", labelsize=7)
        above.set_xlabel("iterations", fontsize=8)
        below.set_xlabel("training images seen (thousands)", fontsize=8)
        below.set_xlim(left=0)
        below.xaxis.set_major_locator(MaxNLocator(4))
        for axes in (above, below):
            e3._reference(axes, 100 * groups[_batch(model)][0].chance, "", last=False)
    for row in (upper, lower):
        _accuracy_axis(row[0])
    return figure


def fig3_rows(artefact: str, groups: select.Groups) -> list[dict[str, Any]]:
    """One CSV row per run, seed and evaluation."""
    return [row for group in groups.values() for row in _path_rows(artefact, group)]


# lb.fig6 ----------------------------------------------------------------


@dataclass(frozen=True)
class _Norms:
    """Cumulative gradient norm of one run over early iterations, thinned; one row per completed seed."""

    iterations: np.ndarray
    values: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    records: list[Record]


def _early(groups: select.Groups, model: str) -> int:
    """Iterations that every completed run of a network has, at most ``_EARLY``."""
    runs = [groups[_batch(model, batch)] for batch in BATCHES[model]]
    lengths = [len(_series(r, "gradient_norm")) for group in runs for r in group if r.status == "completed"]
    return min([_EARLY, *lengths])


def _cumulative(group: Sequence[Record], count: int) -> _Norms | None:
    """None if every seed diverged."""
    kept = [record for record in group if record.status == "completed"]
    if not kept:
        return None
    at = _thinned(count)
    values = np.array([np.cumsum(_series(record, "gradient_norm")[:count])[at] for record in kept])
    mean, low, high = np.array([select.interval(column) for column in values.T]).T
    return _Norms(at + 1, values, mean, low, high, kept)


def fig6(groups: select.Groups, profile: str) -> Figure:
    """Cumulative gradient norm in early training, by batch size (lb.c10)."""
    early = {model: _early(groups, model) for model in STEPPED}
    spans = ", ".join(f"{number(count)} of {TITLES[model]}" for model, count in early.items())
    figure, (panels,) = style.rows(
        "lb.fig6  Gradient norm in early training", _scale(groups),
        [f"Sum of the L2 norms of the gradients so far. {e3.LINES} Shown are the first {number(_EARLY)} iterations, or "
         f"as many as every batch size has ({spans}); of a longer curve {_POINTS} points.",
         *_gaps(groups, "left out")],
        panels=[title(groups[_batch(model)][0]) for model in STEPPED], heights=(2.8,), legend_rows=2, share_y=False,
    )  # fmt: skip
    for axes, model in zip(panels, STEPPED, strict=True):
        lines = []
        for i, batch in enumerate(BATCHES[model]):
            group = groups[_batch(model, batch)]
            look, found = style.of(group[0].run, "central"), _cumulative(group, early[model])
            if found is None:
                lines += axes.plot([], [], **look.kwargs(), label=f"batch {batch}: diverged")
                continue
            every = max(1, len(found.iterations) // 8)
            lines += axes.plot(found.iterations, found.mean, **look.kwargs(), label=f"batch {batch}",
                               markevery=(min(2 * i, every - 1), every), zorder=3)  # fmt: skip
            axes.fill_between(found.iterations, found.low, found.high, color=look.colour, alpha=0.16, linewidth=0)
        axes.set_xlabel("iterations", fontsize=8)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        style.legend(axes, lines, 2)
    panels[0].set_ylabel("cumulative gradient norm (no unit)", fontsize=8)
    return figure


def fig6_rows(artefact: str, groups: select.Groups) -> list[dict[str, Any]]:
    """One CSV row per run, seed and drawn iteration; one without numbers for a seed that diverged."""
    rows = []
    for model in STEPPED:
        early = _early(groups, model)
        for batch in BATCHES[model]:
            group = groups[_batch(model, batch)]
            names = ("iteration", "cumulative_norm", "mean", "low", "high")
            rows += [
                _origin(artefact, record, len(group)) | dict.fromkeys(names)
                for record in group if record.status == "diverged"
            ]  # fmt: skip
            if (found := _cumulative(group, early)) is not None:
                drawn = (found.iterations.tolist(), found.mean, found.low, found.high)
                rows += [
                    _origin(artefact, record, len(group)) | dict(zip(names, (at, value, *rest), strict=True))
                    for record, values in zip(found.records, found.values, strict=True)
                    for at, value, *rest in zip(drawn[0], values, *drawn[1:], strict=True)
                ]
    return rows


# lb.fig7, lb.fig8 -------------------------------------------------------


def _shares(group: Sequence[Record]) -> list[float]:
    """In percent, of the seeds that have one."""
    return [100 * found for record in group if (found := metrics.step_up_share(record)) is not None]


def _density(group: Sequence[Record], total: int, which: Callable[[np.ndarray], np.ndarray]) -> np.ndarray | None:
    """Gaussian kernel density estimate of the iterations that ``which`` picks by their factor, times their number.

    Pooled over seeds and divided by the seeds, so that 1 means: every seed, at every iteration nearby. All estimates
    have kernels of one width, so that those at X and at 1x sum to that of all iterations.

    Returns:
        Values at ``_grid(total)``, NaN where every seed had diverged; None with fewer than two different iterations,
        which have no density.
    """
    steps = np.concatenate([np.flatnonzero(which(_series(record, "step_up_factor"))) + 1 for record in group])
    if len(set(steps)) < 2:
        return None
    kernel, at = gaussian_kde(steps, bw_method=_WIDTH * total / steps.std(ddof=1)), _grid(total)
    last = max(len(record.series["step_up_factor"]) for record in group)
    return np.where(at <= last, kernel(at) * len(steps) / len(group), np.nan)


def _grid(total: int) -> np.ndarray:
    return _thinned(total) + 1.0


_PICKED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "at_x": lambda factors: factors > 1,
    "at_1x": lambda factors: factors == 1,
    "all": lambda factors: factors > 0,
}


def _factor(group: Sequence[Record]) -> int:
    step_up = select.setting(group, "step_up") if "step_up" in group[0].spec else None
    return 1 if step_up is None else int(step_up["factor"])


def _step_figure(name: str, words: str, groups: select.Groups, cases: Sequence[tuple[str, str]]) -> Figure:
    """A column a network: accuracy, density of the iterations at X, and their share."""
    gates = [select.setting(groups[_stepped(*case)[1]], "step_up")["threshold"] for case in cases]
    ends = _given(groups, [model for model, _ in cases])
    wide = len(cases) == 1
    figure, (upper, middle, lower) = style.rows(
        f"{name}  {words}", _scale(groups),
        ["Lines: mean over seeds. Bars right of them: 95 % Student-t interval over seeds at the last iteration drawn. "
         f"Batch 1024, gradient times X where its squared norm has changed by {gates[0]:g} or more since "
         f"the iteration before (Eq. 8, the text's reading). Equal iterations ({ends}), not equal images: the small "
         "batch is cut there.",
         "Middle: Gaussian kernel density estimate of the iterations that used X, times their number, so that 1 means "
         f"all; standard deviation of the kernels {100 * _WIDTH:g} % of training. A density over the factor itself "
         "would mislead: it has two values, and nothing lies between them. Bottom: share of the iterations at X.",
         *_gaps(groups)],
        panels=[TITLES[model] for model, _ in cases], heights=(2.3, 1.1, 0.9), legend_rows=2 if wide else 3,
        right=0.72, gap=0.46,
    )  # fmt: skip
    for above, density, bars, case in zip(upper, middle, lower, cases, strict=True):
        model, last = case[0], above is upper[-1]
        small, total = groups[_batch(model, BATCHES[model][0])], _iterations(groups[_batch(model)])
        stepped = [groups[run] for run in _stepped(*case)]
        lines = [_draw(above, group, f"X = {_factor(group)}", shift=i, band=False) for i, group in enumerate(stepped)]
        lines.append(_draw(above, small, f"batch {small[0].spec['local_batch']}", until=total, band=False))
        for place, group in enumerate([*stepped, small]):
            _draw_interval(above, group, total, place)
        style.legend(above, lines, 4 if wide else 2)
        _chance(above, small, last=last)
        for place, group in enumerate(stepped[1:]):
            _draw_density(density, group, total)
            _draw_share(bars, place, _shares(group), group)
        whole = next((group for group in stepped[1:] if all(r.status == "completed" for r in group)), None)
        every = None if whole is None else _density(whole, total, _PICKED["all"])
        if every is not None:
            density.plot(_grid(total), every, color=_GREY, linewidth=1.0, linestyle=(0, (1, 2)))
        if last and every is not None:
            style.margin_label(density, 1.0, "all")
        for axes in (above, density):
            axes.set_xlim(0, 1.2 * total)  # right of the last iteration stand the intervals
            axes.set_xlabel("iterations", fontsize=8)
            axes.set_xticks([at for at in MaxNLocator(6, integer=True).tick_values(0, total) if at <= total])
        density.set_ylim(0, 1.15)
        _share_axis(bars, list(map(str, FACTORS)))
    _accuracy_axis(upper[0])
    middle[0].set_ylabel("density at X\n(1 = all)", fontsize=8)
    lower[0].set_ylabel("iterations\nat X (%)", fontsize=8)
    figure.align_ylabels()
    return figure


def _draw_interval(axes: Axes, group: Sequence[Record], total: int, place: int) -> None:
    """The interval of a curve at its last evaluation up to ``total``, right of the curves: bands would hide others."""
    path, colour = _path(group), style.of(group[0].run, group[0].spec["method"]).colour
    drawn = np.flatnonzero(path.iterations <= total)
    if not len(drawn) or all(record.status == "diverged" for record in group):
        return
    mean, low, high = (float(values[drawn[-1]]) for values in (path.curve.mean, path.curve.low, path.curve.high))
    if not math.isnan(low):
        axes.errorbar([total * (1.04 + 0.028 * place)], [mean], yerr=[[mean - low], [high - mean]], fmt=".",
                      color=colour, ecolor=colour, markersize=4, capsize=2.5, elinewidth=1.3, zorder=3)  # fmt: skip


def _draw_density(axes: Axes, group: Sequence[Record], total: int) -> None:
    values = _density(group, total, _PICKED["at_x"])
    look = style.of(group[0].run, group[0].spec["method"])
    if values is not None:
        every = max(1, len(values) // 6)
        axes.plot(_grid(total), values, **look.kwargs() | {"linewidth": 1.3, "markersize": 3.5},
                  markevery=(_factor(group) % every, every))  # fmt: skip


def _draw_share(axes: Axes, place: float, values: Sequence[float], group: Sequence[Record]) -> None:
    """A bar with its interval and its number; nothing for runs without an iteration."""
    if not values:
        return
    mean, low, high = select.interval(values)
    colour = style.of(group[0].run, group[0].spec["method"]).colour
    axes.bar([place], [mean], width=0.55, color=colour, zorder=2)
    if not np.isnan(low):
        axes.plot([place] * 2, [max(0.0, low), min(100.0, high)], color=_GREY, linewidth=1.2, zorder=3)
    top = mean if np.isnan(high) else min(100.0, high)
    axes.text(place, top + 4, f"{number(mean)} %", ha="center", va="bottom", fontsize=7)


def _share_axis(axes: Axes, names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(0, 128)
    axes.set_yticks([0, 50, 100])
    axes.grid(False, axis="x")
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_xlabel("step-up factor X", fontsize=8)


def fig7(groups: select.Groups, profile: str) -> Figure:
    """Step-up factors at threshold 0.5, ResNet50 and VGG11 (lb.c11, lb.c12, lb.c13, lb.c15)."""
    return _step_figure("lb.fig7", "Step-up factors at threshold 0.5", groups, CASES[:2])


def fig8(groups: select.Groups, profile: str) -> Figure:
    """Step-up factors at threshold 0.8, VGG11 (lb.c14, lb.c15, lb.c18)."""
    return _step_figure("lb.fig8", "Step-up factors at threshold 0.8", groups, CASES[2:])


def step_rows(artefact: str, groups: select.Groups) -> list[dict[str, Any]]:
    """Rows of figures 7 and 8: every evaluation, share of iterations at X, and points of the densities.

    ``quantity`` tells them apart. A density belongs to all seeds of a run together, and its seed is empty.
    """
    rows: list[dict[str, Any]] = []
    empty = dict.fromkeys(("imputed_chance", "mean", "low", "high"))
    for model, threshold in CASES[2:] if artefact == "lb.fig8" else CASES[:2]:
        total = _iterations(groups[_batch(model)])
        for run in (*_stepped(model, threshold), _batch(model, BATCHES[model][0])):
            group = groups[run]
            for found in _path_rows(artefact, group, total):
                kept = {name: found[name] for name in _origin(artefact, group[0], len(group))}
                ends = {name: found[f"{name}_percent"] for name in ("mean", "low", "high")}
                rows.append(
                    kept
                    | {"quantity": "accuracy_percent", "iteration": found["iteration"]}
                    | {"images_seen": found["images_seen"], "value": found["accuracy_percent"]}
                    | {"imputed_chance": found["imputed_chance"]}
                    | ends
                )
            if run not in _stepped(model, threshold)[1:]:
                continue
            rows += _share_rows(artefact, group, empty)
            for name, which in _PICKED.items():
                density = _density(group, total, which)
                rows += [
                    _origin(artefact, group[0], len(group)) | {"seed": None, "status": None, "fingerprint": None}
                    | {"quantity": f"density_{name}", "iteration": int(at), "images_seen": None, "value": value}
                    | empty
                    for at, value in zip(_grid(total), [] if density is None else density.tolist(), strict=False)
                ]  # fmt: skip
    return rows


def _share_rows(artefact: str, group: Sequence[Record], empty: dict[str, Any]) -> list[dict[str, Any]]:
    values = _shares(group)
    mean, low, high = select.interval(values) if values else (None, None, None)
    return [
        _origin(artefact, record, len(group))
        | {"quantity": "iterations_at_x_percent", "iteration": None, "images_seen": None, "value": e3._percent(found)}
        | empty
        | {"mean": mean, "low": low, "high": high}
        for record in group
        for found in [metrics.step_up_share(record)]
    ]


# Controls ---------------------------------------------------------------


def _ends(
    axes: Axes, points: Iterable[tuple[float, Sequence[Record]]], look: style.Style, text: str, shift: float = 1.0
) -> Line2D:
    """Final accuracy of runs against a factor: mean and interval over seeds, and an X where a seed diverged.

    ``shift``: of points on the logarithmic axis, so that those of one factor stand side by side.
    """
    x, found, lost = [], [], []
    for factor, group in points:
        x.append(factor * shift)
        found.append(select.interval(e3._finals(group)))
        lost.append(any(record.status == "diverged" for record in group))
    mean, low, high = np.array(found).T
    alone = {"linestyle": "none"} if len(x) == 1 else {}
    (line,) = axes.plot(x, mean, **look.kwargs() | {"linewidth": 1.3, "markersize": 4} | alone, label=text, zorder=3)
    axes.errorbar(x, mean, yerr=[mean - low, high - mean], fmt="none", ecolor=look.colour, capsize=2, elinewidth=1.0)
    at = np.flatnonzero(lost)
    if len(at):
        _cross(axes, np.array(x)[at].tolist(), mean[at].tolist(), look.colour, 6)
    return line


def _factor_axis(axes: Axes, text: str, least: float = 1.0) -> None:
    ticks = [factor for factor in (0.25, 1, *FACTORS) if factor >= least]
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(text, fontsize=8)


def _panel(groups: select.Groups, case: tuple[str, str], ending: str = "") -> str:
    step_up = select.setting(groups[_stepped(*case)[1] + ending], "step_up")
    return f"{TITLES[case[0]]}, threshold {step_up['threshold']:g}"


_GATED = {
    "above": "change ≥ threshold (text)", "below": "change < threshold (Eq. 6)", "always": "X always",
    "random": "random, same share", "rate": "quarter of the learning rate",
}  # fmt: skip

_BESIDE = {"rate": 1.0, "above": 0.85, "below": 1.12, "always": 1.0, "random": 1.18}
"""Shifts of points that belong to one factor."""


def equation(groups: select.Groups, profile: str) -> Figure:
    """The equation's reading of the step function beside the text's: accuracy and share of iterations at X."""
    figure, (upper, lower) = style.rows(
        "lb.extra-equation  Two readings of the step function", _scale(groups),
        ["The text steps up where the gradient changes much, Eq. 6 and the conclusion where it changes little. Batch "
         f"1024, equal iterations ({_given(groups, STEPPED)}). Above: accuracy at the end; a cross marks a factor at "
         "which a seed diverged. Below: share of the iterations at X. Points side by side belong to one factor. Bars: "
         f"95\u00a0% Student-t interval over seeds. {OURS}",
         *_gaps(groups)],
        panels=[_panel(groups, case) for case in CASES], heights=(2.3, 1.4), right=0.72, gap=0.46,
    )  # fmt: skip
    for above, below, case in zip(upper, lower, CASES, strict=True):
        lines = []
        for when, runs in (("above", _stepped(*case)), ("below", _read_by_equation(*case))):
            points = [(_factor(groups[run]), groups[run]) for run in runs]
            look = style.GATES[when]
            lines.append(_ends(above, points, look, _GATED[when], _BESIDE[when]))
            shares = [(factor, _shares(group)) for factor, group in points[1:]]
            known = [(factor, *select.interval(values)) for factor, values in shares if values]
            if known:
                x, mean, low, high = np.array(known).T
                x = x * _BESIDE[when]
                below.plot(x, mean, **look.kwargs() | {"linewidth": 1.3, "markersize": 4}, zorder=3)
                below.errorbar(x, mean, yerr=[mean - low, high - mean], fmt="none", ecolor=look.colour, capsize=2,
                               elinewidth=1.0)  # fmt: skip
        if above is upper[0]:
            style.legend(above, lines, 2)
        _chance(above, groups[_batch(case[0])], last=above is upper[-1])
        e3._reference(below, 50, "half", last=above is upper[-1])
        below.set_ylim(0, 100)
        for axes in (above, below):
            axes.set_xlim(0.66, 23)
            _factor_axis(axes, "step-up factor X")
    _accuracy_axis(upper[0])
    upper[0].set_ylabel("accuracy at the end, top-1 (%)", fontsize=8)
    lower[0].set_ylabel("iterations at X (%)", fontsize=8)
    figure.align_ylabels()
    return figure


def _slower(groups: select.Groups, model: str) -> tuple[float, list[Record]]:
    """Factor of the learning rate, and the run that has nothing else changed."""
    slow = groups[f"lb-rate-{model}-0_25"]
    return float(select.setting(slow, "lr")) / float(select.setting(groups[_batch(model)], "lr")), list(slow)


def gating(groups: select.Groups, profile: str) -> Figure:
    """Gated by the gradient's change, always or at random, and a slower run: accuracy against X (lb.c20)."""
    return _gating(groups, "lb.extra-gating  What the gate is worth", "", FACTORS,
                   "At 0.25 stands the rate times 0.25 with the weight decay as it is.")  # fmt: skip


def _gating(groups: select.Groups, words: str, ending: str, always: Sequence[int], note: str) -> Figure:
    """The figure of the runs whose ids end in ``ending``, of which those at ``always`` step up in every iteration."""
    ends = _given(groups, STEPPED, ending)
    figure, (panels,) = style.rows(
        words, _scale(groups),
        [f"Accuracy at the end of equally many iterations ({ends}) at batch 1024. A cross marks a factor at which a "
         "seed diverged. X always is the sweep of the learning rate: the rate times X with the weight decay divided by "
         f"X. {note} Random: each iteration steps up with the share that the gated run had. Points side by side belong "
         f"to one factor. Bars: 95\u00a0% Student-t interval over seeds. {OURS}",
         *_gaps(groups)],
        panels=[_panel(groups, case, ending) for case in CASES], heights=(2.9,), legend_rows=2, right=0.72,
    )  # fmt: skip
    for axes, case in zip(panels, CASES, strict=True):
        model, threshold = case
        runs = {
            "above": [run + ending for run in _stepped(*case)],
            "always": [_batch(model) + ending, *(f"lb-always-{model}-x{x}{ending}" for x in always)],
        }
        arms: dict[str, list[tuple[float, list[Record]]]] = {
            when: [(_factor(groups[run]), groups[run]) for run in named] for when, named in runs.items()
        }
        arms["random"] = [(float(x), groups[f"lb-random-{model}-{threshold}-x{x}{ending}"]) for x in (4, 16)]
        if not ending:
            arms["rate"] = [_slower(groups, model)]
        lines = [_ends(axes, points, style.GATES[when], _GATED[when], _BESIDE[when]) for when, points in arms.items()]
        if axes is panels[0]:
            style.legend(axes, lines, 2)
        _chance(axes, groups[_batch(model) + ending], last=axes is panels[-1])
        axes.set_xlim(0.66 if ending else 0.16, 25)
        _factor_axis(axes, "factor X", 1.0 if ending else 0.25)
    _accuracy_axis(panels[0])
    panels[0].set_ylabel("test accuracy at the end, top-1 (%)", fontsize=8)
    return figure


def end_rows(artefact: str, groups: select.Groups) -> list[dict[str, Any]]:
    """One CSV row per run and seed: accuracy at the end, and the share of iterations at X where there is a gate."""
    rows = []
    for group in groups.values():
        finals = e3._finals(group)
        shares = [metrics.step_up_share(record) if "step_up" in record.spec else None for record in group]
        known = [100 * found for found in shares if found is not None]
        spans = {
            name: dict(zip(("mean", "low", "high"), select.interval(values) if values else (None,) * 3, strict=True))
            for name, values in (("accuracy", finals), ("at_x", known))
        }
        rows += [
            _origin(artefact, record, len(group))
            | {"iterations": _iterations(group)}
            | {"accuracy_percent": final, "imputed_chance": int(record.status == "diverged")}
            | {f"{name}_percent": value for name, value in spans["accuracy"].items()}
            | {"iterations_at_x_percent": e3._percent(found)}
            | {f"at_x_{name}_percent": value for name, value in spans["at_x"].items()}
            for record, final, found in zip(group, finals, shares, strict=True)
        ]
    return rows


# lb.extra-sharpness -----------------------------------------------------


def _at_end(record: Record, name: str) -> Any:
    """What a run recorded at its last evaluation; None for a diverged run, which has no end.

    Raises:
        ReproError: a completed run did not record it.
    """
    if record.status == "diverged":
        return None
    if name not in record.rows[-1]:
        raise ReproError(
            f"record {record.run}.s{record.seed}: no {name} at the last evaluation; a run that tracks it was expected; "
            "correct `track` in pipelines/lb.yaml and run the sweep again"
        )
    return record.rows[-1][name]


def _eigenvalues(group: Sequence[Record]) -> list[float]:
    """Top eigenvalues of the seeds of a run that have one, where a logarithm can be taken."""
    found = [_at_end(record, "hessian_top_eigenvalue") for record in group]
    return [float(value) for value in found if value is not None and value > 0]


def sharpness(groups: select.Groups, profile: str) -> Figure:
    """Top Hessian eigenvalue at the end of training against the batch size (lb.c19)."""
    ended = {run: [r for r in group if r.status == "completed"] for run, group in groups.items()}
    below = [select.named(groups[run]) for run, group in ended.items() if len(_eigenvalues(group)) < len(group)]
    open_ = [
        select.named(groups[run])
        for run, group in ended.items()
        if not all(_at_end(r, "hessian_converged") for r in group)
    ]
    images = {int(_at_end(record, "hessian_images")) for group in ended.values() for record in group}
    figure, (panels,) = style.rows(
        "lb.extra-sharpness  Sharpness of minima by batch size", _scale(groups),
        ["Top eigenvalue of the Hessian of the mean training loss, by power iteration, on "
         f"{select._span(images) if images else 'no'} training images. Dots: seeds. Large markers: geometric mean, "
         "with its 95 % Student-t interval. Logarithmic axes. Equal images are fewer iterations of a larger batch, "
         f"which may not be at a minimum yet: the CSV has the training loss. {OURS}",
         *([f"Not above 0, so not on this axis: {', '.join(below)}."] if below else []),
         *([f"Not settled after the last product with the Hessian: {', '.join(open_)}."] if open_ else []),
         *_gaps(groups, "no eigenvalue")],
        panels=[title(groups[_batch(model)][0]) for model in MODELS], heights=(2.6,), legend_rows=0,
    )  # fmt: skip
    drawn = False
    for axes, model in zip(panels, MODELS, strict=True):
        for batch in BATCHES[model]:
            group = groups[_batch(model, batch)]
            look = style.of(group[0].run, "central")
            found = _eigenvalues(group)
            if not found:
                continue
            drawn = True
            axes.plot([batch * 1.35] * len(found), found, color=look.colour, marker=".", markersize=4,
                      linestyle="none", zorder=2)  # fmt: skip
            mean, low, high = np.exp(select.interval(np.log(found)))
            if not np.isnan(low):
                axes.plot([batch] * 2, [low, high], color=look.colour, linewidth=1.3, zorder=2)
            axes.plot([batch], [mean], **look.kwargs() | {"markersize": 7}, zorder=3)
        axes.set_xscale("log", base=2)
        axes.set_xlim(20, 1900)
        axes.xaxis.set_major_locator(FixedLocator(list(BATCHES[model])))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.tick_params(axis="x", labelsize=7)
        axes.set_xlabel("batch size (images)", fontsize=8)
    if drawn:
        panels[0].set_yscale("log")
        least, most = panels[0].get_ylim()
        panels[0].yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0) if most < 100 * least else (1.0,)))
        panels[0].yaxis.set_minor_locator(NullLocator())
        panels[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panels[0].set_ylabel("top Hessian eigenvalue (no unit)", fontsize=8)
    return figure


def sharpness_rows(artefact: str, groups: select.Groups) -> list[dict[str, Any]]:
    """One CSV row per run and seed, with the training loss and the iterations behind the eigenvalue."""
    rows = []
    for group in groups.values():
        found = _eigenvalues(group)
        spans = np.exp(select.interval(np.log(found))).tolist() if found else [None] * 3
        for record in group:
            last = record.rows[-1] if record.status == "completed" else {}
            names = ("hessian_iterations", "hessian_converged", "hessian_images", "train_loss")
            rows.append(
                _origin(artefact, record, len(group))
                | {"iterations": last.get("round"), "top_eigenvalue": _at_end(record, "hessian_top_eigenvalue")}
                | {name: last.get(name) for name in names}
                | dict(zip(("geometric_mean", "low", "high"), spans, strict=True))
            )
    return rows
