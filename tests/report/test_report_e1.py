"""Laws of figures and tables: honest about scale and gaps, readable in grey, byte-stable."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reporting import read_csv, records_of, texts
from synthetic import BEST, e1_control_records, e1_grid_records, e1_records

from repro import report
from repro.errors import ReproError
from repro.registry.labels import label
from repro.report import e1, tables
from repro.report import look as looks
from repro.report.intervals import interval
from repro.report.rows import curve
from repro.results.metrics import epochs_to_target, target_accuracy
from repro.results.records import Record

IDS = [name for name, item in report.ARTEFACTS.items() if item.source == "e1"]
FIGURES = [name for name in IDS if report.ARTEFACTS[name].kind == "figure"]
TABLES = [name for name in IDS if report.ARTEFACTS[name].kind == "table"]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("figures")
    for name in IDS:
        report.render(name, records_of("e1"), out, profile="study")
    return out


def test_an_artefact_is_present_when_all_its_files_are(rendered: Path, tmp_path: Path) -> None:
    folder = tmp_path / "figures/study"
    folder.mkdir(parents=True)
    for path in rendered.iterdir():
        (folder / path.name).write_bytes(b"")
    (folder / "e1.extra-grid.svg").unlink()
    assert report.present("study", tmp_path) == set(IDS) - {"e1.extra-grid"}
    assert report.present("paper", tmp_path) == set()


# Figures ----------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_a_reduced_profile_says_so_on_the_face(name: str) -> None:
    stamp = "study profile: 4\u202f000 images at 16 × 16 px, width 16, n = 3 seeds – not the published scale"
    assert stamp in texts(report.figure(name, records_of("e1")))


def test_the_figure_with_groupnorm_shows_its_own_runs_in_the_same_look(rendered: Path) -> None:
    rows = read_csv((rendered / "e1.extra-skew-gn.csv").read_text())
    assert {(row["run"], row["norm"]) for row in rows} == {(r.run, "group") for r in e1_control_records()}
    with_batchnorm, with_groupnorm = (
        [(line.get_color(), line.get_marker()) for axes in figure.axes for line in axes.lines]
        for figure in (
            report.figure("e1.extra-skew", e1_records()),
            report.figure("e1.extra-skew-gn", records_of("e1")),
        )
    )
    assert with_batchnorm == with_groupnorm


def test_full_scale_is_not_called_reduced_but_reduced_data_is() -> None:
    full = [
        replace(r, profile="paper", spec=r.spec | {"train_images": 50_000, "image_size": 32, "width": 64})
        for r in e1_records()
    ]
    assert "paper profile" in texts(report.figure("e1.fig1", full))
    assert "not the published scale" not in texts(report.figure("e1.fig1", full))
    partial = [replace(r, data=r.data | {"reduced": "72 px copy"}) for r in full]
    assert "reduced data (cifar10: 72 px copy)" in texts(report.figure("e1.fig1", partial))


def test_diverged_and_missing_seeds_are_said_in_the_figure() -> None:
    records = e1_records(diverged={("e1-federated", 2)}, missing={("e1-large-batch", 3)})
    words = texts(report.figure("e1.fig1", records))
    assert "Diverged, counted at chance (10 %): federated averaging, seed 2." in words
    assert "Fewer seeds than 3: large batch (2)." in words
    assert "Missing" not in words
    assert "n = 2 to 3 seeds" in words
    hole = texts(report.figure("e1.fig1", e1_records(missing={("e1-large-batch", 2)})))
    assert "Missing: large batch, seed 2." in hole
    assert "Fewer seeds" not in hole


def test_one_seed_has_no_band_and_the_figure_says_so(tmp_path: Path) -> None:
    records = e1_records(seeds=[1])
    assert "One seed, so no interval." in texts(report.figure("e1.fig1", records))
    report.render("e1.fig1", records, tmp_path, profile="study")
    assert {row["low_percent"] for row in read_csv((tmp_path / "e1.fig1.csv").read_text())} == {""}


def test_the_target_line_is_the_target_of_table2() -> None:
    target = f"{100 * target_accuracy(e1_records(), 'study'):.1f} %"
    assert target in texts(report.figure("e1.fig1", e1_records()))
    assert target in report.table("e1.table2", e1_records()).title


def test_the_csv_redraws_the_figure(rendered: Path) -> None:
    rows = read_csv((rendered / "e1.fig1.csv").read_text())
    (line, *_) = report.figure("e1.fig1", e1_records()).axes[0].lines
    drawn = dict(zip(*(np.asarray(values, float) for values in line.get_data()), strict=True))
    for row in rows:
        assert {row["profile"], row["n"]} == {"study", "3"}
        assert row["fingerprint"]
        if row["run"] == "e1-central":
            assert float(row["mean_percent"]) == pytest.approx(drawn[float(row["epoch"])], rel=1e-7)
    assert {(row["run"], row["seed"]) for row in rows} == {
        (run, str(seed)) for run in report.ARTEFACTS["e1.fig1"].runs for seed in (1, 2, 3)
    }


def test_the_grid_rings_the_best_rate_and_counts_divergence_at_chance(tmp_path: Path) -> None:
    report.render("e1.extra-grid", e1_grid_records(), tmp_path, profile="study")
    rows = read_csv((tmp_path / "e1.extra-grid.csv").read_text())
    lost = [row for row in rows if row["status"] == "diverged"]
    assert {(row["run"], row["accuracy_percent"], row["imputed_chance"]) for row in lost} == {
        ("e1-grid-central-lr1_6", "10", "1")
    }
    assert {row["evaluate_on"] for row in rows} == {"held_out"}
    axes = report.figure("e1.extra-grid", e1_grid_records()).axes[0]
    rings = [float(np.asarray(line.get_xdata(), float)[0]) for line in axes.lines if line.get_markersize() == 12]
    rates = {float(record.spec["lr"]) for record in e1_grid_records()}
    nearest = [min(rates, key=lambda rate, ring=ring: abs(math.log(rate / ring))) for ring in rings]
    assert nearest == [BEST[arm] for arm in e1.learning_rates.ARMS]
    places = {round(at, 9) for line in axes.lines for at in np.asarray(line.get_xdata(), float)}
    assert len(places) >= len(rates) * len(e1.learning_rates.ARMS), "points of one rate stand side by side"
    assert axes.get_xscale() == "log"


# Styles ----------------------------------------------------------------

#: Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB.
DEFICIENCIES = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.3039],
    ],
    "none": np.eye(3).tolist(),
}
_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]])


def lab(colour: str, matrix: Iterable[Iterable[float]]) -> np.ndarray:
    """CIE L*a*b* (D65) of a hexadecimal colour as seen through ``matrix``."""
    encoded = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    x, y, z = (_XYZ @ np.clip(np.array(matrix) @ linear, 0, 1)) / [0.95047, 1.0, 1.08883]
    f = [np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z)]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_methods_differ_in_grey_and_to_colour_blind_readers(deficiency: str) -> None:
    seen = [lab(look.colour, DEFICIENCIES[deficiency]) for look in looks.METHODS.values()]
    for one, other in itertools.combinations(seen, 2):
        assert abs(one[0] - other[0]) > 15
        assert np.linalg.norm(one - other) > 30


def test_methods_differ_in_marker_and_line_too() -> None:
    assert len({look.marker for look in looks.METHODS.values()}) == len(looks.METHODS)
    assert len({str(look.line) for look in looks.METHODS.values()}) == len(looks.METHODS)


def test_arms_keep_the_line_of_their_method_and_all_have_3_to_1_contrast() -> None:
    for run, look in looks.ARMS.items():
        method = next(name for name in ("central", "large_batch", "federated") if name.replace("_", "-") in run)
        assert look.line == looks.METHODS[method].line
        assert (look.colour, look.marker, look.filled) != (
            looks.METHODS[method].colour,
            looks.METHODS[method].marker,
            True,
        )
    for look in [*looks.METHODS.values(), *looks.ARMS.values()]:
        luminance = ((lab(look.colour, np.eye(3))[0] + 16) / 116) ** 3
        assert 1.05 / (luminance + 0.05) >= 3.0, look


# Tables ----------------------------------------------------------------


def test_table1_sets_the_post_beside_the_specs() -> None:
    table = report.table("e1.table1", e1_records())
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["workers"] == ["1", "1", "96", "8", "96", "8"]
    assert rows["momentum"] == ["0"] * 6
    assert rows["images per round"][2:4] == ["3\u202f072", "256"]
    assert rows["rounds per epoch"] == ["–", "–", "16.3 = 50\u202f000 / 3\u202f072", "16", "1", "1"]
    assert rows["synchronised"][4:] == ["once per epoch", "once per epoch"]
    assert rows["epochs"] == ["not stated", "20"] * 3
    basis = {(row["parameter"], row["method"]): row["basis"] for row in read_csv(table.csv())}
    assert basis["momentum", "central"] == "stated"
    assert basis["workers", "central"] == "stated"
    assert {basis["workers", "large_batch"], basis["workers", "federated"]} == {"implied"}
    assert basis["local batch (images)", "large_batch"] == "implied"
    assert basis["epochs", "federated"] == "not stated"
    assert basis["synchronised", "central"] == "does not apply"


def test_table2_counts_rounds_and_bytes_where_the_running_mean_crosses_the_target() -> None:
    records = e1_records()
    target = target_accuracy(records, "study")
    table = report.table("e1.table2", records)
    for row in read_csv(table.csv()):
        (record,) = (r for r in records if (r.run, str(r.seed)) == (row["run"], row["seed"]))
        means = [np.mean([r["test_top1"] for r in record.rows[i - 1 : i + 2]]) for i in range(1, len(record.rows) - 1)]
        after = next(i for i, mean in enumerate(means, start=1) if mean >= target)
        before, first = record.rows[after - 1], record.rows[after]
        assert before["epoch"] < float(row["epochs"]) <= first["epoch"]
        sends = row["method"] != "central"
        per_round = record.rows[-1]["bytes_up"] / record.rows[-1]["round"]
        if sends:
            assert before["round"] < float(row["rounds"]) <= first["round"]
        else:
            assert float(row["rounds"]) == 0
        assert float(row["bytes_up"]) == pytest.approx(float(row["rounds"]) * per_round, rel=1e-5)
    assert table.rows[0][2:5] == ["0", "0", "0"]


def test_table2_gives_a_bound_where_seeds_never_reach_the_target() -> None:
    records = [
        replace(r, rows=r.rows[:5]) if (r.run, r.seed) == ("e1-federated", 2) else r
        for r in e1_records(diverged={("e1-federated", 1)})
    ]
    federated = report.table("e1.table2", records).rows[2]
    assert all(re.fullmatch(r"> [\d\u202f.]+ \(not reached by 2 of 3 seeds\)", cell) for cell in federated[1:5])
    reached = {
        row["seed"]: row["reached"]
        for row in read_csv(report.table("e1.table2", records).csv())
        if row["run"] == "e1-federated"
    }
    assert reached == {"1": "0", "2": "0", "3": "1"}


def test_a_diverged_run_is_charged_its_whole_budget() -> None:
    records = e1_records(diverged={("e1-large-batch", 1)})
    (record,) = (r for r in records if (r.run, r.seed) == ("e1-large-batch", 1))
    (up, down), reached = tables.bytes_to_target(record, 0.05)
    assert not reached
    assert epochs_to_target(record, 0.05) == (20.0, False)
    assert up == down == pytest.approx(record.rows[-1]["bytes_up"] / 48 * 320)


def test_the_note_on_the_target_says_that_its_reference_has_another_recipe() -> None:
    note = next(n for n in report.table("e1.table2", e1_records()).notes if n.startswith("Target: "))
    assert "momentum, weight decay and a falling learning rate" in note


def test_a_diverged_central_seed_leaves_no_target_to_count_to() -> None:
    with pytest.raises(ReproError, match="the target accuracy is undecided"):
        report.table("e1.table2", e1_records(diverged={("e1-central", 2)}))


def test_methods_are_called_alike_in_figures_tables_and_verdicts() -> None:
    names = [label(run) for run in report.ARTEFACTS["e1.table2"].runs]
    assert [row[0] for row in report.table("e1.table2", e1_records()).rows] == names
    legend = report.figure("e1.fig1", e1_records()).axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == names


# Selection ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("records", "problem"),
    [
        ([], "no record of run e1-central"),
        ([r for r in e1_records() if r.run != "e1-federated"], "no record of run e1-federated"),
        ([*e1_records(), *e1_records(seeds=[2])], "each seed once"),
        ([*e1_records(), *e1_records(seeds=[9], profile="smoke")], "mixed"),
        ([replace(r, rows=r.rows[: 20 - r.seed]) for r in e1_records()], "different epochs"),
        (
            [replace(r, spec={k: v for k, v in r.spec.items() if k != "lr"}) for r in e1_records()],
            "spec field lr",
        ),
    ],
)
def test_unfit_records_are_one_line_that_says_what_to_do(records: list[Record], problem: str) -> None:
    with pytest.raises(ReproError, match=problem) as error:
        _ = (report.figure("e1.fig1", records), report.table("e1.table1", records))
    assert "\n" not in str(error.value)
    assert "expected" in str(error.value)


def test_unknown_artefacts_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ReproError, match=r"unknown figure 'e1\.table1'; one of e1\.fig1"):
        report.figure("e1.table1", e1_records())
    with pytest.raises(ReproError, match="unknown table"):
        report.table("e9.table1", e1_records())


def test_render_takes_only_records_of_its_profile(tmp_path: Path) -> None:
    with pytest.raises(ReproError, match="no record of run"):
        report.render("e1.fig1", e1_records(), tmp_path, profile="paper")
    assert not list(tmp_path.iterdir())


def test_what_a_diverged_seed_did_not_reach_counts_at_chance() -> None:
    group = [r for r in e1_records(diverged={("e1-federated", 2)}) if r.run == "e1-federated"]
    data = curve(group)
    assert data.imputed.sum() == 17
    assert np.all(data.values[data.imputed] == 10.0)
    assert data.mean[-1] == pytest.approx(np.mean([data.values[0, -1], 10.0, data.values[2, -1]]))
    alone = curve(group[1:2])
    assert (alone.epochs[-1], alone.values[0, -1]) == (20.0, 10.0)


@given(st.lists(st.floats(0, 100), min_size=2, max_size=6))
def test_the_interval_is_centred_and_the_mean_lies_among_the_values(values: list[float]) -> None:
    mean, low, high = interval(values)
    assert min(values) - 1e-9 <= mean <= max(values) + 1e-9
    assert math.isclose(high - mean, mean - low, abs_tol=1e-6)
