"""Figures of ours of the study's further runs: what they draw is what verdicts read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tree
from reporting import read_csv as rows
from reporting import records_of
from synthetic import e1_records
from synthetic_e2 import e2_records
from synthetic_lb_training import training_records

from repro import report
from repro.report import e1, e2, lb
from repro.report.intervals import change
from repro.report.selection import ends, named
from repro.results import metrics
from repro.results.records import Record

E1, LB = e1_records(), training_records()


def of(records: list[Record], run: str) -> list[Record]:
    return [record for record in records if record.run == run]


@pytest.mark.parametrize(
    ("name", "runs", "setting"),
    [
        ("e1.extra-devices", e1.curves.DEVICES_RUNS, "workers"),
        ("e1.extra-dirichlet", e1.curves.DIRICHLET_RUNS[1:], "dirichlet_alpha"),
    ],
)
def test_the_right_panel_has_the_end_of_every_run_at_its_setting(
    name: str, runs: tuple[str, ...], setting: str
) -> None:
    right = report.figure(name, E1).axes[1]
    line = right.lines[0]
    expected = {float(of(E1, run)[0].spec[setting]): float(np.mean(list(ends(of(E1, run)).values()))) for run in runs}
    assert dict(zip(np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float), strict=True)) == (
        pytest.approx(expected)
    )
    dots = [other for other in right.lines if other.get_marker() == "."]
    assert sum(len(np.asarray(one.get_xdata())) for one in dots) == sum(len(of(E1, run)) for run in runs)


def test_momentum_is_compared_within_its_method() -> None:
    figure = report.figure("e1.extra-momentum", E1)
    for axes, (plain, with_it) in zip(
        figure.axes, (e1.curves.MOMENTUM_RUNS[:2], e1.curves.MOMENTUM_RUNS[2:]), strict=True
    ):
        assert axes.get_title(loc="left").endswith(change(of(E1, plain), of(E1, with_it)))
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["momentum 0", "momentum 0.9"]


def test_the_figure_of_cuts_says_the_first_cut_of_every_seed_that_verdicts_read() -> None:
    records = e2_records()
    said = " ".join(text.get_text() for text in report.figure("e2.extra-cut", records).texts).replace("\n", " ")
    for run in (e2.curves.CUT_RUNS[0], e2.curves.CUT_RUNS[2]):
        found = [metrics.epochs_to_first_cut(record) for record in of(records, run)]
        words = ", ".join(f"{at:g}" if reached else "never" for at, reached in found)
        assert f"{named(of(records, run))} {words}" in said


def test_both_learning_rates_stand_in_every_panel(tmp_path: Path) -> None:
    figure = report.figure("lb.extra-low-rate", LB)
    for axes, (model, _) in zip(figure.axes, lb.runs.CASES, strict=True):
        rates = [of(LB, f"lb-batch-{model}-1024{ending}")[0].spec["lr"] for ending in ("", "-low")]
        legend = [text.get_text() for text in axes.get_legend().get_texts()]
        assert legend[:2] == [f"learning rate {rate:g}" for rate in rates]
    report.render("lb.extra-low-rate", LB, tmp_path, profile="study")
    assert {row["run"] for row in rows(tmp_path / "lb.extra-low-rate.csv")} == set(lb.gates.LOW_RATE_RUNS)


def test_the_gap_is_drawn_where_the_rule_reads_it(tmp_path: Path) -> None:
    """The dotted line stands at the mean of the losses that ``metrics.matched_loss`` finds seed by seed."""
    figure = report.figure("lb.extra-training", LB)
    for axes, model in zip(figure.axes[3:], lb.runs.MODELS, strict=True):
        small, large = ({r.seed: r for r in of(LB, f"lb-batch-{model}-{b}")} for b in (lb.runs.BATCHES[model][0], 1024))
        losses = [metrics.matched_loss([small[seed], large[seed]]) for seed in small]
        dotted = [line for line in axes.lines if len(set(np.asarray(line.get_xdata(), float))) == 1]
        assert float(np.asarray(dotted[0].get_xdata(), float)[0]) == pytest.approx(np.mean(losses))
    report.render("lb.extra-training", LB, tmp_path, profile="study")
    for row in rows(tmp_path / "lb.extra-training.csv"):
        gap = float(row["train_sample_percent"]) - float(row["test_percent"])
        assert float(row["gap_points"]) == pytest.approx(gap, abs=1e-5)


@pytest.mark.parametrize("name", ["e2.table1", "e3.extra-forgetting", "lb.eq2"])
def test_what_is_drawn_with_files_beside_the_records_is_drawn_from_a_folder_below_the_root(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree.REPOSITORY / "data")
    records = records_of(report.ARTEFACTS[name].source)
    assert report.render(name, records, tmp_path, profile="study", root=Path(".."))
