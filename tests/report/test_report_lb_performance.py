"""Figures and tables of the paper's performance models: complete, byte-stable, and with the numbers of the records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import synthetic_lb
import tree
from reporting import read_csv as rows

from repro import report
from repro.errors import ReproError
from repro.registry.published import load_published
from repro.report import lb
from repro.results import measurements

IDS = (
    "lb.fig1",
    "lb.fig2",
    "lb.fig4",
    "lb.fig5",
    "lb.eq2",
    "lb.eq3",
    "lb.extra-fits",
    "lb.extra-shares",
    "lb.extra-capacity",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("figures")
    for name in IDS:
        report.render(name, synthetic_lb.all_records(), out, profile="study")
    return out


def test_a_missing_run_is_said() -> None:
    records = [record for record in synthetic_lb.all_records() if record.run != "lb-perf-vit"]
    with pytest.raises(ReproError, match=r"lb\.fig1: no record of run lb-perf-vit"):
        report.figure("lb.fig1", records)


def test_published_errors_are_those_of_the_list_of_what_is_published() -> None:
    statements = {item.id: item.published["error"] for item in load_published(tree.REPOSITORY).statements
                  if item.id in ("lb.c8", "lb.c9")}  # fmt: skip
    names = {"compute": measurements.TITLES, "loader": measurements.DATASETS}
    for quantity, statement in (("compute", "lb.c9"), ("loader", "lb.c8")):
        ours = {
            names[quantity][name]: list(errors)
            for (of, name), errors in lb.measured.PUBLISHED.items()
            if of == quantity
        }
        assert ours == statements[statement]


def test_predictions_that_are_not_above_zero_are_marked_and_named() -> None:
    for axes in report.figure("lb.fig5", synthetic_lb.all_records()).axes:
        named = [text.get_text() for text in axes.get_legend().get_texts()]
        marked = [line for line in axes.lines if line.get_marker() == "v" and len(line.get_xdata())]
        gone = [line for line in axes.lines if np.isnan(np.asarray(line.get_ydata(), float)).any()]
        assert [f"{line.get_label()}: not above 0" for line in gone] == [line.get_label() for line in marked]
        assert {line.get_label() for line in marked} <= set(named)


def test_an_epoch_is_said_to_be_resampled_on_a_logarithmic_axis() -> None:
    for axes in report.figure("lb.fig2", synthetic_lb.all_records()).axes:
        assert axes.get_yscale() == "log"
        assert "resampled" in axes.get_ylabel()


def test_csv_of_figure_1_holds_the_quartiles_of_the_records(folder: Path) -> None:
    found = rows(folder / "lb.fig1.csv")
    assert len(found) == 4 * 7 * 4
    record = synthetic_lb.record("lb-perf-vgg11")
    (ours,) = (r for r in found if (r["run"], r["batch"], r["part"]) == ("lb-perf-vgg11", "256", "compute"))
    assert float(ours["median_s"]) == pytest.approx(record.rows[4]["compute"][1], rel=1e-6)
    assert ours["device"] == "a processor"


def test_an_epoch_of_figure_2_is_steps_times_the_measured_step(folder: Path) -> None:
    for row in rows(folder / "lb.fig2.csv"):
        steps = -(-2048 // int(row["batch"]))
        step = 0.01 + 1e-5 + (0.001 + 1e-5) * int(row["batch"])
        assert steps * step <= float(row["median_s"]) <= 1.01 * steps * step


def test_errors_of_figure_5_are_zero_where_time_is_a_line_and_known_at_a_size_no_fit_has_seen(folder: Path) -> None:
    found = rows(folder / "lb.fig5.csv")
    assert {row["fit"] for row in found if (row["batch"], row["fitted"]) == ("1", "1")} == {"roofline"}
    assert max(float(row["error_percent"]) for row in found if row["fitted"] == "1") < 1.5


def test_equation_3_is_exact_for_linear_memory_and_shows_what_the_process_takes_beyond(folder: Path) -> None:
    found = rows(folder / "lb.eq3.csv")
    assert max(abs(float(row["error_percent"])) for row in found) < 1e-6
    (total,) = (r for r in found if (r["run"], r["batch"], r["term"]) == ("lb-perf-vit", "256", "total"))
    assert float(total["process_growth_bytes"]) == 70_000_000 + 2 * 100_000 * 256


def test_a_figure_says_its_scale_its_machine_and_its_noise() -> None:
    figure = report.figure("lb.fig1", synthetic_lb.all_records())
    text = " ".join(" ".join(item.get_text() for item in figure.texts).split())
    assert "not the published scale" in text
    assert "a processor, threads: 1" in text
    assert "noise" in text
    markdown = report.table("lb.eq2", synthetic_lb.all_records()).markdown()
    assert "not the published scale" in markdown


def test_shares_by_speed_stand_with_the_time_of_a_round_and_the_accuracy_of_training(folder: Path) -> None:
    found = rows(folder / "lb.extra-shares.csv")
    simulated = {(r["run"], r["shares"]): r for r in found if r["round_s"]}
    assert len(simulated) == 4 * 3
    for (run, way), row in simulated.items():
        low, mean, high = (float(row[name]) for name in ("times_low", "times_shorter", "times_high"))
        assert low <= mean <= high, (run, way)
        assert (mean == 1) is (way == "uniform")
    trained = [(r["run"], r["shares"], r["seed"]) for r in found if r["top1_percent"]]
    by_speed = [("lb-shares-resnet50", "proportional"), ("lb-shares-vgg11", "proportional")]
    equal = [("lb-bsp-resnet50-iid", "uniform"), ("lb-bsp-vgg11-iid", "uniform")]
    assert sorted(trained) == sorted((*arm, seed) for arm in equal + by_speed for seed in "123")
    markdown = (folder / "lb.extra-shares.md").read_text()
    assert "320 images in local batches of 51 (4), 26 (2), 25 (1), 13 (3)" in markdown
    (vit,) = (line for line in markdown.splitlines() if line.startswith("| ViT"))
    assert vit.endswith("| – | – | – | – |")
    records = [record for record in synthetic_lb.all_records() if record.run != "lb-shares-vgg11"]
    with pytest.raises(ReproError, match=r"lb\.extra-shares: no record of run lb-shares-vgg11"):
        report.table("lb.extra-shares", records)
