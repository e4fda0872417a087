"""Intervals of accuracies: those of Student, cut where no accuracy can be, and marked where they are cut."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from reporting import records_of

from repro import report
from repro.report import marks
from repro.report.intervals import bounded, interval, with_interval
from repro.report.rows import curve
from repro.report.selection import select

percents = st.lists(st.floats(0, 100), min_size=1, max_size=12)


@given(percents)
def test_an_interval_of_percents_is_that_of_student_within_0_and_100(values: list[float]) -> None:
    found, free = bounded(values), interval(values)
    for ours, student in zip(found, free, strict=True):
        if math.isnan(student):
            assert math.isnan(ours)
        else:
            assert ours == min(100.0, max(0.0, student))


def test_two_seeds_far_apart_are_cut_on_both_sides() -> None:
    assert bounded([10.0, 90.0]) == (50.0, 0.0, 100.0)
    assert with_interval([10.0, 90.0]) == "50.0 [0.0, 100.0]"


def test_an_arrow_stands_where_an_interval_is_cut_and_nowhere_else() -> None:
    axes = Figure().subplots()
    spread = np.array([bounded(values) for values in ([10, 90], [50, 51], [0, 0], [1, 9], [40])]).T
    marks.errors(axes, np.arange(5), spread, "#000000", 2)
    drawn = {line.get_marker(): list(line.get_xdata()) for line in axes.lines if line.get_marker() in "v^"}
    assert drawn == {"v": [0.0, 3.0], "^": [0.0]}


@pytest.mark.parametrize("name", [name for name, item in report.ARTEFACTS.items() if item.kind == "figure"])
def test_no_curve_of_a_figure_has_a_band_outside_of_what_is_possible(name: str) -> None:
    item = report.ARTEFACTS[name]
    for group in select(name, records_of(item.source), item.runs).values():
        if group[0].kind == "train":
            data = curve(group)
            assert not np.nanmin([data.low, data.mean]) < 0
            assert not np.nanmax([data.high, data.mean]) > 100
