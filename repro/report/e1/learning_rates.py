"""The grid of learning rates of post 1."""

from __future__ import annotations

import numpy as np

from repro.registry.labels import label, number
from repro.report import layout, look, marks
from repro.report.artefact import figure
from repro.report.intervals import bounded
from repro.report.layout import Axes, Figure, Line2D
from repro.report.notes import INTERVAL, gaps, stamp
from repro.report.rows import Rows
from repro.report.selection import Selection, finals, global_batch, setting

ARMS = ("central", "large-batch", "large-batch-x2", "federated", "central-momentum", "federated-momentum")
_APART = 0.12
"""Powers of two between the points of neighbouring arms."""


def _arm(run: str) -> str:
    """Arm of a grid run: ``e1-grid-large-batch-x2-lr0_8`` is of arm ``large-batch-x2``."""
    return run.removeprefix("e1-grid-").rpartition("-lr")[0]


@figure(
    "e1.extra-grid", title="Held-out accuracy against the learning rate",
    runs=[f"e1-grid-{arm}-lr*" for arm in ARMS], group="control",
)  # fmt: skip
def grid(groups: Selection, rows: Rows) -> Figure:
    """Draw each arm over its rates, the best of them ringed (statement e1.c6)."""
    counts = {arm: max(len(group) for run, group in groups.items() if _arm(run) == arm) for arm in ARMS}
    seeds = [f"{label('e1-grid-' + arm)} {number(count)}" for arm, count in counts.items()]
    budget = " and ".join(sorted({f"{setting(group, 'epochs')}" for group in groups.values()}))
    notes = [
        f"Accuracy after {budget} epoch{'' if budget == '1' else 's'} on held-out training images; bars: {INTERVAL}. "
        "Points side by side belong to one rate. Ring: best of its arm; cross: every seed diverged.",
        *([f"Seeds: {', '.join(seeds)}."] if len(set(counts.values())) > 1 else []),
        *gaps(groups, fewer=False),
    ]
    texts = layout.Texts("e1.extra-grid  Learning rate of each method", stamp(groups), notes)
    figure, (axes,) = layout.new(texts, legend_rows=3)
    lines = [_draw(axes, groups, arm, 2 ** (_APART * place)) for place, arm in enumerate(ARMS, -(len(ARMS) // 2))]
    marks.log2_axis(axes, sorted({float(setting(group, "lr")) for group in groups.values()}))
    axes.set_xlabel("learning rate (no unit; log2 axis)")
    axes.set_ylabel("held-out accuracy, top-1 (%)")
    marks.percent_axis(axes)
    marks.legend(axes, lines, 2)
    return figure


def _draw(axes: Axes, groups: Selection, arm: str, shift: float) -> Line2D:
    """One arm; ``shift``: of its points on the logarithmic axis, so that those of one rate stand side by side."""
    own = [group for run, group in groups.items() if _arm(run) == arm]
    points = sorted(
        (float(setting(group, "lr")), *bounded(finals(group)), all(r.status == "diverged" for r in group))
        for group in own
    )
    method = own[0][0].spec["method"]
    style, text = look.of(f"e1-{arm}", method), label(f"e1-grid-{arm}")
    if method != "federated":
        text += f", {number(global_batch(own[0]))} images per step"
    lr, mean, low, high, lost = (np.array(column) for column in zip(*points, strict=True))
    lr = lr * shift
    (line,) = axes.plot(lr, mean, **style.kwargs(), label=text, zorder=3)
    marks.errors(axes, lr, np.array([mean, low, high]), style.colour, 2)
    axes.plot(lr[lost], mean[lost], "x", color=look.GREY, markersize=10, zorder=4)
    best = int(np.argmax(mean))
    axes.plot(lr[best], mean[best], "o", markersize=12, markerfacecolor="none", color=style.colour, zorder=4)
    return line
