"""What figures draw with: curves with bands, intervals, reference lines, legends and axes.

Matplotlib is imported when a figure is drawn, not before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from repro.registry.labels import number
from repro.report.layout import Axes, Figure, Line2D
from repro.report.look import DOTTED, GREY, PUBLISHED, Style, of_group
from repro.report.rows import SPAN, Rows
from repro.results.records import Record

# Curves and points --------------------------------------------------------------------------------------------


def curve(
    axes: Axes, x: np.ndarray, spread: np.ndarray, look: Style, text: str, *, every: int = 1, shift: int = 0,
    band: bool = True,
) -> Line2D:  # fmt: skip
    """A line of means with its interval.

    Args:
        axes: where.
        x: (n,) places.
        spread: (3, n) mean, low and high.
        look, text: style, and words of the legend.
        every: points from one marker to the next.
        shift: points before the first marker, so that those of neighbouring curves stand apart.
        band: whether the interval is drawn.
    """
    mean, low, high = spread
    (line,) = axes.plot(x, mean, **look.kwargs(), label=text, markevery=(min(shift, every - 1), every), zorder=3)
    if band:
        shade(axes, x, low, high, look.colour)
    return line


def shade(axes: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str, alpha: float = 0.16) -> None:
    """The area between two edges."""
    axes.fill_between(x, low, high, color=colour, alpha=alpha, linewidth=0)


def accuracy(
    axes: Axes, rows: Rows, group: Sequence[Record], text: str, shift: int = 0, *, look: Style | None = None
) -> Line2D:
    """Mean and band of one run over epochs, from its rows of ``rows.curves``.

    ``look``: another style than the run's own.
    """
    epochs, *spread = rows.where(run=group[0].run).once("epoch", *SPAN)
    every = max(1, round(len(epochs) / 8))
    return curve(axes, epochs, np.array(spread), look or of_group(group), text, every=every, shift=shift)


def seeds(axes: Axes, rows: Rows, x: str, y: str, look: Style) -> None:
    """A thin line a seed of the columns ``x`` and ``y``, with an X at the end of those that diverged."""
    for seed in rows.seeds():
        drawn = Rows(row for row in seed if row[x] is not None)
        places, values = drawn.numbers(x, y)
        axes.plot(places, values, color=look.colour, linestyle=look.line, linewidth=1.1, zorder=3)
        if seed[0]["status"] == "diverged" and drawn:
            cross(axes, places[-1:], values[-1:], look.colour, linestyle="-", zorder=4)


def whisker(
    axes: Axes, x: float, low: float, high: float, colour: str, width: float = 1.2, *, zorder: float = 2
) -> None:
    """An interval as a vertical line; nothing for one seed, which has none."""
    if not np.isnan(low):
        axes.plot([x] * 2, [low, high], color=colour, linewidth=width, zorder=zorder)
        arrows(axes, [x], [low], [high], colour)


def errors(
    axes: Axes, x: Any, spread: np.ndarray, colour: str, capsize: float, *, ends: tuple[float, float] = (0.0, 100.0),
    **more: Any,
) -> None:  # fmt: skip
    """Intervals as bars with caps, and arrows where they are cut at ``ends``."""
    mean, low, high = spread
    axes.errorbar(x, mean, yerr=[mean - low, high - mean], fmt="none", ecolor=colour, capsize=capsize, **more)
    arrows(axes, x, low, high, colour, ends)


def arrows(axes: Axes, x: Any, low: Any, high: Any, colour: str, ends: tuple[float, float] = (0.0, 100.0)) -> None:
    """An arrow where an interval is cut at the ``ends`` of what is possible, and goes on beyond."""
    x, low, high = (np.asarray(values, float) for values in (x, low, high))
    for end, at, marker in ((low, ends[0], "v"), (high, ends[1], "^")):
        if (cut := (end == at) & (high > low)).any():
            axes.plot(x[cut], end[cut], marker, color=colour, markersize=5, clip_on=False, zorder=4)


def cross(axes: Axes, x: Any, y: Any, colour: str, **more: Any) -> Line2D:
    """The mark of what diverged."""
    shown: dict[str, Any] = {"markersize": 8, "linestyle": "none", "zorder": 5} | more
    (marks,) = axes.plot(x, y, color=colour, marker="X", clip_on=False, markeredgecolor="white", **shown)
    return marks


def not_above_zero(axes: Axes, x: np.ndarray, colour: str, text: str) -> list[Line2D]:
    """Arrows at the foot of a logarithmic axis where what ``text`` names is not above 0; nothing where it always is."""
    if not len(x):
        return []
    shown: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False, "label": f"{text}: not above 0"}
    return axes.plot(x, np.zeros(len(x)), "v", color=colour, markersize=4, **shown)


def reference(axes: Axes, value: float, text: str = "") -> None:
    """A dotted horizontal line at ``value``, with its text right of the axes."""
    axes.axhline(value, color=GREY, linewidth=1.0, linestyle=DOTTED, zorder=2)
    if text:
        margin_label(axes, value, text)


def published(axes: Axes, value: float, text: str = "") -> None:
    """A line of long dashes at a published ``value``, with its text right of the axes."""
    axes.axhline(value, color=GREY, linewidth=1.2, linestyle=PUBLISHED, zorder=2)
    if text:
        margin_label(axes, value, text)


def chance(axes: Axes, group: Sequence[Record], *, last: bool = True) -> None:
    """A line at the accuracy of guessing; its text stands right of the ``last`` axes of a row."""
    level = 100 * group[0].chance
    reference(axes, level, f"chance\n{number(level)} %" if last else "")


# Text ---------------------------------------------------------------------------------------------------------


def legend(axes: Axes, handles: Iterable[Line2D], columns: int) -> None:
    """A legend above the axes, so that it hides no data."""
    axes.legend(
        handles=list(handles),
        loc="lower left",
        bbox_to_anchor=(0.0, 1.01),
        ncols=columns,
        frameon=False,
        borderaxespad=0.0,
        borderpad=0.2,
        handlelength=2.9,
        handletextpad=0.5,
        columnspacing=1.1,
        fontsize=8,
    )


def margin_label(axes: Axes, y: float, text: str, colour: str = "#444444") -> None:
    """Text right of the axes at height ``y`` (data units), where no curve can be."""
    axes.annotate(
        text,
        xy=(1.0, y),
        xycoords=axes.get_yaxis_transform(),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=colour,
        annotation_clip=False,
    )


# Axes ---------------------------------------------------------------------------------------------------------


def epoch_axes(panels: Sequence[Axes], rows: Rows) -> None:
    """Epochs from 0 in whole steps, accuracy from 0 to at most 100 %; a band beyond that is cut."""
    from matplotlib.ticker import MaxNLocator

    for axes in panels:
        axes.set_xlabel("epochs (passes over the training data)")
        axes.set_xlim(0, 1.02 * max(row["epoch"] for row in rows))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    panels[0].set_ylabel("test accuracy, top-1 (%)")
    percent_axis(panels[0])


def percent_axis(axes: Axes) -> None:
    """From 0 to at most 100 %."""
    axes.set_ylim(0, min(100.0, axes.get_ylim()[1]))


def plain_ticks(axis: Any, places: Sequence[float] | None = None) -> None:
    """Numbers without exponents on a logarithmic ``axis``, without minor ticks; at ``places`` where they are given."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    if places is not None:
        axis.set_major_locator(FixedLocator(list(places)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def log_axis(axes: Axes) -> None:
    """A logarithmic y-axis with ticks at 1, 2 and 5, also where it spans less than a factor of ten."""
    from matplotlib.ticker import LogLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    plain_ticks(axes.yaxis)


def log2_axis(axes: Axes, places: Sequence[float]) -> None:
    """A logarithmic x-axis with ticks at ``places``."""
    axes.set_xscale("log", base=2)
    plain_ticks(axes.xaxis, places)


def label_below(upper: Sequence[Axes], lower: Sequence[Axes]) -> None:
    """Give the lower of two rows of axes the x-labels."""
    for above, below in zip(upper, lower, strict=True):
        below.set_xlabel(above.get_xlabel())
        above.set_xlabel("")


_FEW_RATES = 5  # what reduce on plateau can cut within a training; a cosine has a rate for every epoch


def rate_axis(figure: Figure, lower: Sequence[Axes]) -> None:
    """A log axis for learning rates, with ticks at those of a plateau; at the end of a cosine they fall below it.

    An empty axis where there is no rate to draw, because every run diverged at its first step.
    """
    from matplotlib.ticker import NullLocator

    lower[0].set_ylabel("learning rate (no unit)", fontsize=8)
    drawn = [float(rate) for axes in lower for line in axes.lines for rate in np.asarray(line.get_ydata())]
    if not drawn:
        return
    lower[0].set_yscale("log")
    lower[0].set_ylim(min(rate for rate in drawn if rate > 1e-5 * max(drawn)) / 2, 2 * max(drawn))
    if len(levels := sorted(set(drawn))) <= _FEW_RATES:
        lower[0].set_yticks(levels, [f"{rate:.2g}" for rate in levels])
    lower[0].yaxis.set_minor_locator(NullLocator())
    lower[0].tick_params(axis="y", labelsize=7)
    figure.align_ylabels()
