"""Figures of the smoke profile's records: all text on the page, short captions, nothing impossible drawn."""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
import pytest
import tree
from matplotlib.text import Text
from reporting import undrawn_ticks

from repro import report
from repro.registry import store
from repro.report import layout
from repro.results.records import Record

FIGURES = [name for name, item in report.ARTEFACTS.items() if item.kind == "figure"]
_LACKING = "Diverged|Missing|Fewer seeds|One seed|Where a seed diverged|Seeds: |Not above 0|Not settled"
OF_THE_RECORDS = rf"({_LACKING}).*?(?=\. [A-Z]|\.$)\."
"""Sentences of what these records lack, which no caption can do without."""


@lru_cache
def records(source: str) -> list[Record]:
    return store.current(source, "smoke", tree.REPOSITORY).records


@pytest.mark.parametrize("name", FIGURES)
def test_all_text_lies_on_the_page_and_the_caption_has_three_sentences_at_most(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree.REPOSITORY)
    figure = report.figure(name, records(name.partition(".")[0]))
    renderer = figure.canvas.get_renderer()
    figure.draw(renderer)
    for text in set(figure.findobj(Text)) - undrawn_ticks(figure):
        if text.get_visible() and text.get_text():
            box = text.get_window_extent(renderer)
            assert figure.bbox.x0 <= box.x0, text.get_text()
            assert box.x1 <= figure.bbox.x1, text.get_text()
            assert figure.bbox.y0 <= box.y0, text.get_text()
            assert box.y1 <= figure.bbox.y1, text.get_text()
    caption = re.sub(OF_THE_RECORDS, "", figure.texts[-1].get_text().replace("\n", " ")).strip()
    assert len(re.findall(r"\.(?= [A-Z(÷|]|$)", caption)) <= 3, caption
    for axes in figure.axes:
        if re.search(r"accuracy.*\(%\)", axes.get_ylabel()):
            drawn = [np.asarray(line.get_ydata(), float) for line in axes.lines]
            assert axes.get_ylim()[0] >= 0
            assert all(np.nanmin(values) >= 0 for values in drawn if np.isfinite(values).any()), name


def test_a_wide_label_moves_the_axes_and_a_narrow_one_does_not() -> None:
    lefts = []
    for label in ("1", "a tick label that is far too wide for its margin"):
        with layout.context():
            figure, (axes,) = layout.new(layout.Texts("x", "y", ["z"]), legend_rows=0)
            axes.set_yticks([0.5], [label])
            axes.set_ylabel("w")
            layout.fit(figure)
        lefts.append(axes.get_position().x0)
        assert axes.yaxis.get_tightbbox(figure.canvas.get_renderer()).x0 > 0
    assert lefts[0] == 0.62 / 7.2 < lefts[1]
