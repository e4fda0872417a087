"""One look for every figure of the package, and bytes that depend on nothing but the data.

Each method has one colour, one marker and one line style everywhere. The three colours lie at CIE lightness
9, 35 and 61, so that they differ in grey print too, stay apart under simulated protanopia, deuteranopia and
tritanopia, and have at least 3:1 contrast on white (WCAG 2.2, 1.4.11). Arms that vary one thing of a method
keep its line style and take a shade or a marker of their own. What compresses the messages of a method keeps its hue
and takes shade, marker and line style of its own, because such curves lie on top of each other. Post 3 compares
networks, not methods: there each normalisation has a colour, the split of the data or the batch a marker and a shade.
The paper varies the batch (from the centralised black to the large batch's blue) and the step-up factor, which grows
darker with the factor.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib import style as mpl_style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

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


@dataclass(frozen=True)
class Style:
    """How one arm is drawn: a hexadecimal sRGB colour, a matplotlib marker and line style."""

    colour: str
    marker: str
    line: str | tuple[int, tuple[float, ...]]
    filled: bool = True

    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments of ``Axes.plot``."""
        face = self.colour if self.filled else "white"
        return {"color": self.colour, "marker": self.marker, "linestyle": self.line, "markerfacecolor": face}


#: Keyed by the ``method`` of a spec.
METHODS = {
    "central": Style("#1A1A1A", "o", "-"),
    "large_batch": Style("#00539C", "s", (0, (5.0, 1.5))),
    "federated": Style("#DB7600", "^", (0, (5.0, 1.2, 1.2, 1.2))),
}

#: Arms that change one thing of their method, keyed by run.
_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "e1-large-batch-x2": ("large_batch", {"colour": "#4F93CF", "marker": "D"}),
    "e1-large-batch-2labels": ("large_batch", {"colour": "#4F93CF", "filled": False}),
    "e1-federated-2epochs": ("federated", {"colour": "#A85A00", "marker": "v"}),
    "e1-federated-4epochs": ("federated", {"colour": "#6B3900", "marker": "P"}),
    "e1-federated-32workers": ("federated", {"colour": "#A85A00", "marker": "v"}),
    "e1-federated-384workers": ("federated", {"colour": "#4A2700", "marker": "P"}),
    "e1-central-momentum": ("central", {"colour": "#6F6F6F", "filled": False}),
    "e1-federated-momentum": ("federated", {"colour": "#8C4A00", "filled": False}),
    "e1-federated-alpha10": ("federated", {"colour": "#C26200", "marker": "v"}),
    "e1-federated-alpha1": ("federated", {"colour": "#8C4A00", "marker": "D"}),
    "e1-federated-alpha0_1": ("federated", {"colour": "#3D2000", "marker": "P"}),
    "e1-federated-2labels": ("federated", {"colour": "#A85A00", "filled": False}),
}
ARMS = {run: replace(METHODS[method], **change) for run, (method, change) in _VARIANTS.items()}

#: Compressed arms and what is compared with them, keyed by run; open markers: cosine schedule.
COMPRESSED = {
    "e2-large-batch-gq": Style("#4F93CF", "o", "-"),
    "e2-large-batch-dgc": Style("#00264D", "D", (0, (1.2, 1.2))),
    "e2-large-batch-cosine": Style("#4F93CF", "s", (0, (5.0, 1.5)), filled=False),
    "e2-large-batch-dgc-cosine": Style("#4F93CF", "D", (0, (1.2, 1.2)), filled=False),
    "e2-large-batch-weights": Style("#00264D", "X", (0, (5.0, 1.2, 1.2, 1.2))),
    "e2-decay-large-batch": METHODS["large_batch"],
    "e2-decay-large-batch-dgc": Style("#00264D", "D", (0, (1.2, 1.2))),
    "e2-decay-large-batch-cosine": Style("#4F93CF", "s", (0, (5.0, 1.5)), filled=False),
    "e2-decay-large-batch-dgc-cosine": Style("#4F93CF", "D", (0, (1.2, 1.2)), filled=False),
    "e2-federated-gq": Style("#8C4A00", "v", "-"),
}

#: Keyed by the ``norm`` of a spec.
NORMS = {
    "batch": Style("#3B0A57", "o", "-"),
    "group": Style("#0B5D2E", "s", (0, (5.0, 1.5))),
    "fixup": Style("#E0559A", "D", (0, (5.0, 1.2, 1.2, 1.2))),
    "layer": Style("#007C89", "^", (0, (1.2, 1.2))),
    "instance": Style("#8A6D00", "v", (0, (3.0, 1.0, 1.0, 1.0, 1.0, 1.0))),
    "none": Style("#6F6F6F", "X", (0, (1.2, 1.2))),
}
_OPEN: dict[str, Any] = {"filled": False}
_LARGER: dict[str, dict[str, Any]] = {
    "1024": {"marker": "s", "line": "-"},
    "2048": {"marker": "^", "line": (0, (1.2, 1.2))},
}
_SHADES = {"group": {"1024": "#2F9E6E", "2048": "#06301A"}, "fixup": {"1024": "#B0206F", "2048": "#6B1043"}}
_NAMES = {"bn": "batch", "gn": "group", "fixup": "fixup", "ln": "layer", "in": "instance", "none": "none"}


def _of_post_3() -> dict[str, Style]:
    looks = {f"e3-iid-{name}": NORMS[_NAMES[name]] for name in ("bn", "gn", "fixup")}
    looks |= {f"e3-noniid-{name}": replace(NORMS[_NAMES[name]], **_OPEN) for name in ("bn", "gn", "fixup")}
    looks |= {f"e3-{name}-128": NORMS[norm] for name, norm in _NAMES.items() if name != "bn"}
    for name, norm in (("gn", "group"), ("fixup", "fixup")):
        for batch, change in _LARGER.items():
            look = replace(NORMS[norm], colour=_SHADES[norm][batch], **change)
            looks[f"e3-{name}-{batch}"] = look
            looks[f"e3-{name}-{batch}-slow"] = replace(look, marker="X", **_OPEN)
    for batch, colour, line in (("1024", "#C46A9B", (5.0, 1.5)), ("2048", "#3A0824", (5.0, 1.2, 1.2, 1.2))):
        looks[f"e3-fixup-{batch}-linear"] = Style(colour, "X", (0, line))
    looks["e3-fixup-1024-short"] = Style("#4A0A33", "P", (0, (1.2, 1.2)), filled=False)
    looks["e3-fixup-2048-short"] = Style("#D0679F", "P", "-", filled=False)
    for name, colour, marker in (("ln", "#004A52", "D"), ("in", "#544300", "P")):
        looks[f"e3-{name}-1024"] = replace(NORMS[_NAMES[name]], colour=colour, marker=marker, line=(0, (5.0, 1.5)))
        looks[f"e3-{name}-2048"] = replace(NORMS[_NAMES[name]], line="-", **_OPEN)
    looks["e3-gn-128-unit-scale"] = replace(NORMS["group"], colour="#2F9E6E", line="-", **_OPEN)
    looks["e3-gn-wide"], looks["e3-gn-wide-unit-scale"] = NORMS["group"], looks["e3-gn-128-unit-scale"]
    looks["e3-noniid-bn-local"] = replace(NORMS["batch"], colour="#7A3E9D", **_OPEN)
    looks["e3-noniid-bn-drop"] = replace(NORMS["batch"], colour="#9A6FB5", **_OPEN)
    for every, colour, marker in (("10", "#DB7600", "^"), ("40", "#A85A00", "v"), ("150", "#6B3900", "P")):
        looks[f"e3-fedavg-iid-{every}"] = replace(METHODS["federated"], colour=colour, marker=marker, line="-")
        looks[f"e3-fedavg-noniid-{every}"] = replace(METHODS["federated"], colour=colour, marker=marker, **_OPEN)
    return looks


#: Arms of post 3, keyed by run. Open markers: non-IID shards, or another policy than the first of its kind.
NETWORKS = _of_post_3()

#: Batches of the paper's centralised runs: the small one, 256, 512 and 1024.
_SMALL = METHODS["central"]
_MIDDLE = Style("#4F93CF", "D", (0, (1.2, 1.2)))
_HALF = Style("#2B9C9C", "^", "-", filled=False)
_LARGE = METHODS["large_batch"]
#: Step-up factors at batch 1024; factor 1 is the run without a step-up.
FACTORS = {
    1: _LARGE,
    2: Style("#DE6A5E", "^", "-"),
    4: Style("#B8352F", "D", (0, (5.0, 1.2, 1.2, 1.2))),
    8: Style("#85131F", "v", (0, (3.0, 1.0))),
    16: Style("#4A0410", "P", (0, (1.2, 1.2))),
}
#: When the gradient is stepped up, keyed by ``when`` of a spec's ``step_up``; ``rate``: the learning rate is instead.
GATES = {
    "above": Style("#B8352F", "D", "-"),
    "below": Style("#2B8A6B", "s", (0, (5.0, 1.5)), filled=False),
    "always": Style("#1A1A1A", "s", (0, (5.0, 1.2, 1.2, 1.2))),
    "random": Style("#8A6D00", "v", (0, (1.2, 1.2)), filled=False),
    "rate": Style("#5B7FA6", "^", (0, (3.0, 1.0))),
}


def _of_paper() -> dict[str, Style]:
    looks: dict[str, Style] = {}
    for model, small in (("resnet50", 32), ("vgg11", 64), ("alexnet", 32)):
        looks |= {
            f"lb-batch-{model}-{batch}": look
            for batch, look in ((small, _SMALL), (256, _MIDDLE), (512, _HALF), (1024, _LARGE))
        }
        for threshold in ("t05", "t08"):
            looks |= {f"lb-step-{model}-{threshold}-x{factor}": look for factor, look in FACTORS.items() if factor > 1}
    return looks


#: Arms of the paper, keyed by run.
TRAINED = _of_paper()


def of(run: str, method: str) -> Style:
    """The style of ``run``: its own where it varies its method, else that of its ``method``.

    Runs of post 1 with GroupNorm look like those with BatchNorm, with which they never share a figure.
    """
    return (NETWORKS | TRAINED).get(run) or (ARMS | COMPRESSED).get(run.removesuffix("-gn"), METHODS[method])


def context() -> Any:
    """Context manager under which figures are drawn and saved; restores matplotlib's settings afterwards."""
    return mpl_style.context(["default", RC])


def new(
    title: str,
    stamp: str,
    notes: Sequence[str],
    *,
    panels: Sequence[str] = ("",),
    legend_rows: int = 1,
    right: float = 0.25,
    lower: float = 0.0,
    share_y: bool = True,
    ratios: Sequence[float] | None = None,
) -> tuple[Figure, list[Axes]]:
    """A figure 7.2 inches wide: title, stamp, legends, axes that share the y-axis with their row, notes.

    Space for the text is set aside in inches, so that no text covers data.

    Args:
        title, stamp, notes: texts above and below the axes; long ones are wrapped.
        panels: one title per axes; an empty one takes no space.
        legend_rows: rows of the legends that ``legend`` will place above the axes.
        right: margin right of the axes in inches, for ``margin_label``.
        lower: height in inches of a second row of axes, which share the x-axis with those above; 0: no such row.
        share_y: False where the panels of a row show different quantities.
        ratios: relative widths of the panels; equal when None.

    Returns:
        The figure and its axes, the upper row first.
    """
    width, left, line, plot_height = 7.2, 0.62, 0.142, 3.1
    above = textwrap.wrap(stamp, 104)
    below = [part for note in notes for part in textwrap.wrap(note, 112)]
    top = 0.46 + line * len(above) + 0.19 * legend_rows + (0.24 if any(panels) else 0.0)
    bottom = 0.56 + line * len(below)
    gap = 0.14 if lower else 0.0
    height = top + plot_height + gap + lower + bottom
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    grey: dict[str, Any] = {"fontsize": 8, "color": "#444444"}
    figure.text(left / width, 1 - 0.12 / height, title, fontsize=11, fontweight="bold", va="top")
    figure.text(left / width, 1 - 0.36 / height, "\n".join(above), va="top", **grey)
    figure.text(left / width, 0.08 / height, "\n".join(below), va="bottom", **grey)
    heights = [plot_height, lower] if lower else [plot_height]
    grid = figure.subplots(
        len(heights), len(panels), sharex="col", sharey="row" if share_y else False, squeeze=False,
        gridspec_kw={"height_ratios": heights, "width_ratios": ratios or [1.0] * len(panels)},
    )  # fmt: skip
    figure.subplots_adjust(
        left=left / width,
        right=1 - right / width,
        top=1 - top / height,
        bottom=bottom / height,
        wspace=0.08 if share_y else 0.3,
        hspace=gap * len(heights) / sum(heights),
    )
    for one, panel in zip(grid[0], panels, strict=True):
        one.set_title(panel, pad=5 + 13.7 * legend_rows)
    return figure, list(grid.flat)


def grid(
    title: str, stamp: str, notes: Sequence[str], *, panels: Sequence[str], legend_rows: int = 1
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """As ``new``, with panels that have axes of their own, two in a row; arguments are those of ``new``."""
    width, left, line, plot_height = 7.2, 0.72, 0.142, 2.2
    rows = -(-len(panels) // 2)
    above = textwrap.wrap(stamp, 104)
    below = [part for note in notes for part in textwrap.wrap(note, 108)]
    head = 0.30 + 0.19 * legend_rows
    top, bottom, between = 0.46 + line * len(above) + head, 0.56 + line * len(below), head + 0.5
    height = top + rows * plot_height + (rows - 1) * between + bottom
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    grey: dict[str, Any] = {"fontsize": 8, "color": "#444444"}
    figure.text(left / width, 1 - 0.12 / height, title, fontsize=11, fontweight="bold", va="top")
    figure.text(left / width, 1 - 0.36 / height, "\n".join(above), va="top", **grey)
    figure.text(left / width, 0.08 / height, "\n".join(below), va="bottom", **grey)
    axes = figure.subplots(rows, 2, squeeze=False)
    figure.subplots_adjust(
        left=left / width, right=1 - 0.2 / width, top=1 - top / height, bottom=bottom / height, wspace=0.3,
        hspace=between / plot_height,
    )  # fmt: skip
    chosen = list(axes.flat)[: len(panels)]
    for one, panel in zip(chosen, panels, strict=True):
        one.set_title(panel, pad=5 + 13.7 * legend_rows)
    return figure, chosen


def rows(
    title: str, stamp: str, notes: Sequence[str], *, panels: Sequence[str], heights: Sequence[float],
    legend_rows: int = 1, right: float = 0.25, share_y: bool = True, gap: float = 0.5,
) -> tuple[Figure, list[list[Axes]]]:  # fmt: skip
    """As ``new``, with several rows of axes that have x-axes of their own; the legends stand above the first row.

    Args:
        title, stamp, notes, legend_rows, right: those of ``new``.
        panels: one title per column.
        heights: of each row, in inches.
        share_y: whether a row has one y-axis.
        gap: inches between two rows, for tick labels and an axis label.

    Returns:
        The figure and its axes, row by row.
    """
    width, left, line = 7.2, 0.72, 0.142
    above = textwrap.wrap(stamp, 104)
    below = [part for note in notes for part in textwrap.wrap(note, 108)]
    top = 0.46 + line * len(above) + 0.19 * legend_rows + (0.24 if any(panels) else 0.0)
    bottom = 0.56 + line * len(below)
    height = top + sum(heights) + gap * (len(heights) - 1) + bottom
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    grey: dict[str, Any] = {"fontsize": 8, "color": "#444444"}
    figure.text(left / width, 1 - 0.12 / height, title, fontsize=11, fontweight="bold", va="top")
    figure.text(left / width, 1 - 0.36 / height, "\n".join(above), va="top", **grey)
    figure.text(left / width, 0.08 / height, "\n".join(below), va="bottom", **grey)
    axes = figure.subplots(
        len(heights), len(panels), sharey="row" if share_y else False, squeeze=False,
        gridspec_kw={"height_ratios": list(heights)},
    )  # fmt: skip
    figure.subplots_adjust(
        left=left / width, right=1 - right / width, top=1 - top / height, bottom=bottom / height,
        wspace=0.1 if share_y else 0.3, hspace=gap * len(heights) / sum(heights),
    )  # fmt: skip
    for one, panel in zip(axes[0], panels, strict=True):
        one.set_title(panel, pad=5 + 13.7 * legend_rows)
    return figure, [list(row) for row in axes]


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
