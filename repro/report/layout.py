"""The page of a figure: fonts, title, notes and axes, and bytes that depend on nothing but the data.

Matplotlib is imported when a figure is drawn, not before: lists of figures need none.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
else:  # names for annotations, until a figure is drawn
    Axes = Figure = Line2D = Any

DPI = 160  # of the PNG; the SVG has no resolution

#: Fonts come with matplotlib and text is drawn as outlines, so that a figure looks the same on every machine.
RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.0,
    "svg.fonttype": "path",
    "svg.hashsalt": "repro",
    "figure.dpi": 110.0,
}

_WIDTH, _LINE, _BOTTOM = 7.2, 0.142, 0.56  # inches: the page, a line of text, below the axes without notes


def context() -> Any:
    """Context manager under which figures are drawn and saved; restores matplotlib's settings afterwards."""
    from matplotlib import style

    return style.context(["default", RC])


class Texts(NamedTuple):
    """Texts around the axes; long ones are wrapped.

    Attributes:
        heading: id and title, above all.
        stamp: the scale at which the figure was made, below the heading.
        notes: below the axes.
    """

    heading: str
    stamp: str
    notes: Sequence[str]


class _Page:
    """A page 7.2 inches wide, with its texts. Their space is set aside in inches, so that no text covers data."""

    def __init__(self, texts: Texts, head: Sequence[float], axes: Sequence[float], left: float, wrap: int):
        """``head``: inches between stamp and axes; ``axes``: and down to the notes; ``wrap``: letters in a line.

        Inches are added one by one: the ids of elements are hashes of all digits of their places.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        above = textwrap.wrap(texts.stamp, 104)
        below = [part for note in texts.notes for part in textwrap.wrap(note, wrap)]
        self.left, self.bottom = left, _BOTTOM + _LINE * len(below)
        self.top = reduce(add, head, 0.46 + _LINE * len(above))
        self.height = reduce(add, axes, self.top) + self.bottom
        self.figure = Figure(figsize=(_WIDTH, self.height))
        FigureCanvasAgg(self.figure)
        grey: dict[str, Any] = {"fontsize": 8, "color": "#444444"}
        place = left / _WIDTH
        self.figure.text(place, 1 - 0.12 / self.height, texts.heading, fontsize=11, fontweight="bold", va="top")
        self.figure.text(place, 1 - 0.36 / self.height, "\n".join(above), va="top", **grey)
        self.figure.text(place, 0.08 / self.height, "\n".join(below), va="bottom", **grey)

    def adjust(self, right: float, wspace: float, hspace: float) -> None:
        """Place the axes; ``right``: margin in inches."""
        self.figure.subplots_adjust(
            left=self.left / _WIDTH, right=1 - right / _WIDTH, top=1 - self.top / self.height,
            bottom=self.bottom / self.height, wspace=wspace, hspace=hspace,
        )  # fmt: skip


def _name(axes: Sequence[Axes], panels: Sequence[str], legend_rows: int) -> None:
    for one, panel in zip(axes, panels, strict=True):
        one.set_title(panel, pad=5 + 13.7 * legend_rows)


def _head(panels: Sequence[str], legend_rows: int) -> tuple[float, float]:
    return 0.19 * legend_rows, 0.24 if any(panels) else 0.0


def new(
    texts: Texts,
    *,
    panels: Sequence[str] = ("",),
    legend_rows: int = 1,
    right: float = 0.25,
    lower: float = 0.0,
    share_y: bool = True,
    ratios: Sequence[float] | None = None,
) -> tuple[Figure, list[Axes]]:
    """A figure with one row of axes that share the y-axis.

    Args:
        texts: around the axes.
        panels: one title per axes; an empty one takes no space.
        legend_rows: rows of the legends that ``marks.legend`` will place above the axes.
        right: margin right of the axes in inches, for ``marks.margin_label``.
        lower: height in inches of a second row of axes, which share the x-axis with those above; 0: no such row.
        share_y: False where the panels of a row show different quantities.
        ratios: relative widths of the panels; equal when None.

    Returns:
        The figure and its axes, the upper row first.
    """
    heights, gap = ([3.1, lower], 0.14) if lower else ([3.1], 0.0)
    page = _Page(texts, _head(panels, legend_rows), (3.1, gap, lower), 0.62, 112)
    grid = page.figure.subplots(
        len(heights), len(panels), sharex="col", sharey="row" if share_y else False, squeeze=False,
        gridspec_kw={"height_ratios": heights, "width_ratios": ratios or [1.0] * len(panels)},
    )  # fmt: skip
    page.adjust(right, 0.08 if share_y else 0.3, gap * len(heights) / sum(heights))
    _name(grid[0], panels, legend_rows)
    return page.figure, list(grid.flat)


def grid(texts: Texts, *, panels: Sequence[str], legend_rows: int = 1) -> tuple[Figure, list[Axes]]:
    """As ``new``, with panels that have axes of their own, two in a row."""
    height, head, count = 2.2, 0.30 + 0.19 * legend_rows, -(-len(panels) // 2)
    between = head + 0.5
    page = _Page(texts, (head,), (count * height, (count - 1) * between), 0.72, 108)
    axes = list(page.figure.subplots(count, 2, squeeze=False).flat)[: len(panels)]
    page.adjust(0.2, 0.3, between / height)
    _name(axes, panels, legend_rows)
    return page.figure, axes


def rows(
    texts: Texts,
    *,
    panels: Sequence[str],
    heights: Sequence[float],
    legend_rows: int = 1,
    right: float = 0.25,
    share_y: bool = True,
    gap: float = 0.5,
) -> tuple[Figure, list[list[Axes]]]:
    """As ``new``, with several rows of axes that have x-axes of their own; the legends stand above the first row.

    Args:
        texts, legend_rows, right: those of ``new``.
        panels: one title per column.
        heights: of each row, in inches.
        share_y: whether a row has one y-axis.
        gap: inches between two rows, for tick labels and an axis label.

    Returns:
        The figure and its axes, row by row.
    """
    page = _Page(texts, _head(panels, legend_rows), (sum(heights), gap * (len(heights) - 1)), 0.72, 108)
    axes = page.figure.subplots(
        len(heights), len(panels), sharey="row" if share_y else False, squeeze=False,
        gridspec_kw={"height_ratios": list(heights)},
    )  # fmt: skip
    page.adjust(right, 0.1 if share_y else 0.3, gap * len(heights) / sum(heights))
    _name(axes[0], panels, legend_rows)
    return page.figure, [list(row) for row in axes]


_ROOM = 0.06  # inches between a label and what stands beside it


def fit(figure: Figure) -> None:
    """Give all tick labels and axis labels the room that they need: on the page, beside panels and above the notes.

    How wide they are depends on the numbers drawn. Margins and gaps grow; what has room stays where it is.
    """
    figure.draw_without_rendering()
    renderer: Any = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    room, page = _ROOM * figure.dpi, figure.bbox
    left = right = bottom = between = 0.0
    notes = figure.texts[-1].get_window_extent(renderer).y1
    for axes in figure.axes:
        if (place := axes.get_subplotspec()) is None:
            continue
        boxes = [found for axis in (axes.xaxis, axes.yaxis) if (found := axis.get_tightbbox(renderer)) is not None]
        if not axes.axison or not boxes:
            continue
        start, end = min(box.x0 for box in boxes), max(box.x1 for box in boxes)
        if place.is_first_col():
            left = max(left, room - start)
        else:
            before = [other.bbox.x1 for other in figure.axes if other.bbox.x1 < axes.bbox.x0]
            between = max(between, max(before) + room - start)
        if place.is_last_col():
            right = max(right, end + room / 2 - page.width)
        if place.is_last_row():
            bottom = max(bottom, notes + room - min(box.y0 for box in boxes))
    _widen(figure, left, right, bottom, between)


def _widen(figure: Figure, left: float, right: float, bottom: float, between: float) -> None:
    """Margins and the gap between columns grow by so many pixels, rounded up to hundredths of an inch."""
    left, right, bottom, between = (
        math.ceil(100 * pixels / figure.dpi) / 100 for pixels in (left, right, bottom, between)
    )
    now, (width, height) = figure.subplotpars, figure.get_size_inches()
    columns = max(place.get_gridspec().ncols for axes in figure.axes if (place := axes.get_subplotspec()) is not None)
    inside = (now.right - now.left) * width
    gap = now.wspace * inside / (columns + now.wspace * (columns - 1)) + between
    if left or right or bottom or between:
        inside -= left + right
        figure.subplots_adjust(
            left=now.left + left / width, right=now.right - right / width, bottom=now.bottom + bottom / height,
            wspace=gap * columns / (inside - gap * (columns - 1)),
        )  # fmt: skip


def to_bytes(figure: Figure, kind: str, title: str, description: str = "") -> bytes:
    """The figure as ``png`` or ``svg``, byte-stable: no date, no version, element ids from a fixed salt.

    Args:
        figure: drawn by this package.
        kind: ``png`` or ``svg``.
        title, description: metadata; an empty description is left out.
    """
    metadata: dict[str, Any] = {"Title": title} | ({"Description": description} if description else {})
    metadata |= {"Software": "repro"} if kind == "png" else {"Creator": "repro", "Date": None}
    buffer = io.BytesIO()
    with context():
        figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata, facecolor="white")
    return buffer.getvalue()
