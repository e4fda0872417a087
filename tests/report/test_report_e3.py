"""Laws of post 3's figures and tables: drawn from records alone, whatever diverged; the teaching picture is right."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tree
from matplotlib.patches import Rectangle
from reporting import lightness, lost, read_csv, texts
from synthetic_e3 import CLASSES, DIVERGE, LAYERS, e3_control_records, e3_records, planned, stopped

from repro import report
from repro.errors import ReproError
from repro.experiments import schedules
from repro.registry import specs
from repro.report import e3, tables
from repro.report import look as looks
from repro.report.rows import Rows, curve
from repro.report.selection import select
from repro.results import metrics
from repro.results.records import Record
from repro.running import prepare

ROOT = tree.REPOSITORY
IDS = [name for name, item in report.ARTEFACTS.items() if item.source == "e3"]
FIGURES = [name for name in IDS if report.ARTEFACTS[name].kind == "figure"]
TABLES = [name for name in IDS if report.ARTEFACTS[name].kind == "table"]
CURVES = ["e3.fig2", "e3.fig3", "e3.fig4", "e3.fig5"]


def all_records(**settings: Any) -> list[Record]:
    return [*e3_records(**settings), *e3_control_records()]


RECORDS = all_records()


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("figures")
    for name in IDS:
        report.render(name, RECORDS, out, profile="study")
    return out


def change(run: str, how: Callable[[Record], Record], seeds: tuple[int, ...] = (1, 2, 3)) -> list[Record]:
    return [how(r) if r.run == run and r.seed in seeds else r for r in RECORDS]


def of(run: str, records: list[Record] | None = None) -> list[Record]:
    return [r for r in records or RECORDS if r.run == run]


# All artefacts ----------------------------------------------------------


def test_the_post_has_all_its_artefacts() -> None:
    published = {"e3.table1", *(f"e3.fig{i}" for i in range(1, 6))}
    assert {name for name in IDS if report.ARTEFACTS[name].published} == published
    assert report.ids("e3", "control") == ["e3.extra-buffers", "e3.extra-initialisation", "e3.extra-momentum"]


def test_every_run_is_shown_somewhere_and_controls_only_with_controls() -> None:
    shown = {run for name in IDS for run in report.ARTEFACTS[name].runs}
    controls = {spec.run for spec in planned(group="control")}
    assert shown == {spec.run for spec in planned()} | controls
    for name in report.ids("e3", "artefact"):
        assert not set(report.ARTEFACTS[name].runs) & controls, name


def test_synthetic_records_have_what_their_specs_track() -> None:
    for record in (r for r in RECORDS if r.kind == "train" and r.status == "completed"):
        track = record.spec.get("track", [])
        assert ("gradient_norm" in record.series) == ("gradient_norm" in track)
        assert ("test_top1_by_class" in record.rows[-1]) == ("per_class" in track)
        assert ("batch_statistics" in record.rows[-1]) == ("batch_statistics" in track)


# Figures ----------------------------------------------------------------


@pytest.mark.parametrize("name", CURVES)
def test_the_csv_of_curves_holds_every_evaluation_and_setting(name: str, rendered: Path) -> None:
    rows = read_csv((rendered / f"{name}.csv").read_text())
    assert {row["run"] for row in rows} == set(report.ARTEFACTS[name].runs)
    for record in (r for r in RECORDS if r.run in report.ARTEFACTS[name].runs and r.rows):
        ours = [row for row in rows if (row["run"], row["seed"]) == (record.run, str(record.seed))]
        assert [float(row["accuracy_percent"]) for row in ours] == pytest.approx(
            [100 * row["test_top1"] for row in record.rows], abs=1e-5
        )
        assert {row["norm"] for row in ours} == {record.spec["norm"]}
        assert {row["local_steps"] for row in ours} == {str(record.spec.get("local_steps", ""))}


def test_the_teaching_picture_marks_what_shares_a_mean() -> None:
    """BatchNorm's cells are the only ones with several images; GroupNorm lies between the other two."""
    cells = {norm: (len(rows), len(columns)) for norm, (_, _, rows, columns) in e3.layers.AVERAGED.items()}
    assert cells["batch"] == (4, 1)
    assert cells["layer"] == (1, 6)
    assert cells["instance"] == (1, 1)
    assert cells["group"] == (1, 3)
    left = report.figure("e3.fig1", RECORDS).axes[0]
    drawn = [patch for patch in left.patches if isinstance(patch, Rectangle)]
    assert len(drawn) == 4 * 4 * 6
    from matplotlib.colors import to_hex

    coloured = [to_hex(patch.get_facecolor()) for patch in drawn]
    for norm, (images, channels) in cells.items():
        assert coloured.count(looks.NORMS[norm].colour.lower()) == images * channels


def test_fig1_draws_the_mean_over_seeds_of_every_layer(rendered: Path) -> None:
    right = report.figure("e3.fig1", RECORDS).axes[1]
    for line, run in zip(right.lines, (e3.runs.BN, e3.runs.BN_SKEWED), strict=True):
        expected = np.mean([r.rows[-1]["batch_statistics"]["mean_shift"] for r in of(run)], axis=0)
        np.testing.assert_allclose(np.asarray(line.get_ydata(), float), expected)
    rows = read_csv((rendered / "e3.fig1.csv").read_text())
    assert {row["layer"] for row in rows} == {"", *LAYERS}
    assert "batch_mode_difference" in {row["quantity"] for row in rows}


def test_fig1_says_what_the_law_measured() -> None:
    said = texts(report.figure("e3.fig1", RECORDS))
    assert "BatchNorm 0.5 and 0.5" in said
    assert "GroupNorm 2e−15 and 2e−15" in said


def test_a_run_that_did_not_track_what_is_drawn_is_one_line() -> None:
    def untracked(record: Record) -> Record:
        rows = [{k: v for k, v in row.items() if k != "batch_statistics"} for row in record.rows]
        return replace(record, rows=rows, series={"train_loss": [1.0]})

    records = [untracked(r) for r in RECORDS]
    for name, what in (("e3.fig1", "batch_statistics"), ("e3.extra-divergence", "gradient_norm")):
        with pytest.raises(ReproError, match=f"no {what}.* correct `track`.* in pipelines/e3.yaml") as error:
            report.figure(name, records)
        assert "\n" not in str(error.value)


def legend(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_fig4_marks_where_the_scaled_rates_diverged() -> None:
    upper = report.figure("e3.fig4", RECORDS).axes[0]
    marked = {line.get_label(): list(np.asarray(line.get_xdata(), float)) for line in upper.lines}
    for run in e3.runs.LINEAR_RUNS:
        rate = f"rate {of(run)[0].spec['lr']:g} (linear scaling): 3 of 3 diverged, at epoch"
        (text,) = [t for t in marked if rate in str(t)]
        assert text in legend(upper)
        assert marked[text] == [found[1] for r in of(run) if (found := metrics.divergence(r))]
    assert texts(report.figure("e3.fig4", RECORDS)).count("Diverged, counted at chance") == 2


def test_where_a_seed_diverged_no_mean_is_drawn_and_the_legend_says_when() -> None:
    run = "e3-fixup-2048"
    records = change(run, lambda r: stopped(r, 2), seeds=(1, 3))
    upper = report.figure("e3.fig4", records).axes[0]
    (text,) = [t for t in legend(upper) if t.startswith("batch 2\u202f048: ")]
    ends = {f"{found[1]:.1f}" for r in of(run, records) if (found := metrics.divergence(r))}
    assert text == f"batch 2\u202f048: 2 of 3 diverged, at epoch {ends.pop()}"
    assert not ends
    colour = looks.of(run, "central").colour
    drawn = [np.asarray(line.get_ydata(), float) for line in upper.lines if line.get_color() == colour]
    seeds = [[100 * row["test_top1"] for row in r.rows] for r in of(run, records)]
    assert [list(values) for values in drawn[:-1]] == seeds
    assert len(upper.collections) == 2, "a band for each of the two runs that completed"


def test_the_rates_below_are_those_of_the_schedule_and_of_the_record() -> None:
    """In the warm-up what the schedule says; then what was logged; of a diverged seed no more than it trained."""
    (record,) = [r for r in of("e3-gn-1024") if r.seed == 1]
    lower = report.figure("e3.fig3", RECORDS).axes[2]
    line = next(line for line in lower.lines if line.get_label() == f"_{record.run}")
    epochs, rates = (np.asarray(values, float) for values in line.get_data())
    warm = record.spec["schedule"]["warmup_epochs"]
    schedule = schedules.build(record.spec["schedule"])
    warming = epochs <= warm
    assert warming.sum() > 20
    np.testing.assert_allclose(rates[warming][:40], [schedule.lr(epoch) for epoch in epochs[warming][:40]])
    for row in (row for row in record.rows if row["epoch"] > warm):
        assert (row["epoch"], row["lr"]) in set(zip(epochs, rates, strict=True))
    short = report.figure("e3.fig4", RECORDS).axes[1]
    for run in e3.runs.LINEAR_RUNS:
        ends = {found[1] for r in of(run) if (found := metrics.divergence(r))}
        assert {
            max(np.asarray(line.get_xdata(), float)) for line in short.lines if line.get_label() == f"_{run}"
        } == ends


def test_no_rate_is_hidden_behind_another() -> None:
    """Runs with one schedule have lines of different widths, the wider one below."""
    for axes, runs in zip(
        report.figure("e3.fig3", RECORDS).axes[2:], (e3.runs.GN_RUNS, e3.runs.OTHER_NORM_RUNS), strict=True
    ):
        widths = list(dict.fromkeys(line.get_linewidth() for line in axes.lines))
        assert len(widths) == len(runs)
        assert widths == sorted(widths, reverse=True)


def test_a_scaled_run_that_does_not_diverge_is_drawn_as_a_curve() -> None:
    run, like = e3.runs.LINEAR_RUNS[0], of("e3-fixup-1024")
    records = [r for r in RECORDS if r.run != run]
    records += [replace(r, run=run, spec=r.spec | {"run": run}) for r in like]
    upper = report.figure("e3.fig4", records).axes[0]
    labels = [str(line.get_label()) for line in upper.lines]
    assert sum("diverged" in text for text in labels) == 1
    assert sum("diverged" in text for text in legend(upper)) == 1


def test_fig5_says_how_many_rounds_each_run_had() -> None:
    legend = report.figure("e3.fig5", RECORDS).axes[0].get_legend()
    assert legend is not None
    said = [text.get_text() for text in legend.get_texts()]
    for run in e3.curves.FIG5_RUNS:
        (record, *_) = of(run)
        words = f"every {record.spec['local_steps']} batches ({record.rows[-1]['round']} rounds)"
        assert any(words in text for text in said), run


def test_the_collapse_stands_beside_the_accuracy_of_training(rendered: Path) -> None:
    left = report.figure("e3.extra-collapse", RECORDS).axes[0]
    names = [tick.get_text() for tick in left.get_xticklabels()]
    assert names[-2:] == ["own classes,\nof the batch", "training\nbatches"]
    rows = read_csv((rendered / "e3.extra-collapse.csv").read_text())
    for record in (r for run in e3.layers.COLLAPSE_RUNS for r in of(run)):
        (row,) = [
            row for row in rows
            if (row["run"], row["seed"], row["quantity"]) == (record.run, str(record.seed), "training_batches_percent")
        ]  # fmt: skip
        assert float(row["value"]) == pytest.approx(100 * record.rows[-1]["train_top1"], abs=1e-5)


def test_the_spread_is_read_on_an_axis_around_one() -> None:
    figure = report.figure("e3.extra-collapse", RECORDS)
    low, high = figure.axes[1].get_ylim()
    ratios = [r.rows[-1]["batch_statistics"]["std_ratio"] for r in of(e3.runs.BN_SKEWED)]
    assert low < np.min(ratios) < 1 < high
    assert high - low < 3 * (1 - np.min(ratios))


def test_sizes_of_evaluated_batches_are_those_of_the_code() -> None:

    assert tables.EVALUATION_BATCH == prepare.EVALUATION_BATCH
    assert e3.layers.batch_of_probe(of(e3.runs.BN)) == 32  # 2000 images in 63 parts
    assert "about 32 images" in texts(report.figure("e3.extra-collapse", RECORDS))


def test_the_divergence_figure_tells_rate_and_warm_up_apart() -> None:
    figure = report.figure("e3.extra-divergence", RECORDS)
    for axes, batch, last in zip(figure.axes, (1024, 2048), (0.8, 1.6), strict=True):
        slow, fast = (of(f"e3-fixup-{batch}{end}")[0].spec["schedule"]["warmup_epochs"] for end in ("", "-linear"))
        assert slow != fast  # which is the longer depends on the profile
        assert legend(axes) == [
            f"rate 0.01 to 0.1 in {slow:g} epochs", f"rate 0.01 to 0.1 in {fast:g} epochs",
            f"rate 0.1 to {last:g} in {fast:g} epochs",
        ]  # fmt: skip


def test_the_first_steps_at_full_width_are_drawn_seed_by_seed(rendered: Path) -> None:
    right = report.figure("e3.extra-initialisation", RECORDS).axes[1]
    drawn = [list(np.asarray(line.get_ydata(), float)) for line in right.lines]
    for record in (r for run in e3.training.WIDE_RUNS for r in of(run)):
        assert record.series["train_loss"] in drawn
    assert [np.log(CLASSES)] * 2 in drawn
    rows = [row for row in read_csv((rendered / "e3.extra-initialisation.csv").read_text()) if row["train_loss"]]
    assert {row["run"] for row in rows} == set(e3.training.WIDE_RUNS)
    assert len(rows) == sum(len(r.series["train_loss"]) for run in e3.training.WIDE_RUNS for r in of(run))


def test_divergence_is_counted_in_rounds_and_epochs() -> None:
    (record,) = [r for r in of("e3-fixup-1024-linear") if r.seed == 1]
    rounds = DIVERGE["e3-fixup-1024-linear"] + 1
    assert metrics.divergence(record) == (rounds, rounds / 4)  # 4000 images make 4 batches of 1024
    assert metrics.divergence(of("e3-fixup-1024")[0]) is None


def test_rounds_of_federated_averaging_with_local_steps_are_told_from_its_spec() -> None:
    (record,) = [r for r in of("e3-fedavg-noniid-150") if r.seed == 1]
    steps = 13  # 400 images a device in batches of 32: a rest of half a batch counts
    assert metrics.planned_rounds(record) == round(20 * steps / 150)


def test_long_series_are_thinned_alike_from_start_to_end() -> None:
    assert list(e3.training.drawn_rounds(5)) == [0, 1, 2, 3, 4]
    at = e3.training.drawn_rounds(50_000)
    assert (at[0], at[-1]) == (0, 49_999)
    assert len(at) <= 300
    assert (np.diff(at) > 0).all()


def test_forgetting_is_the_mean_over_seeds_by_device_and_class(rendered: Path) -> None:
    run = "e3-fedavg-noniid-150"
    rows = e3.devices.forgetting_rows(select("e3.extra-forgetting", of(run), (run,)))
    before, after, shards = e3.devices.by_device(Rows(rows)) or pytest.fail("every seed diverged")
    assert before.shape == (10, CLASSES)
    assert after.shape == (CLASSES,)
    assert before[3][3] == pytest.approx(100 * np.mean([r.rows[-1]["clients_top1_by_class"][3][3] for r in of(run)]))
    assert list(np.flatnonzero(shards[9])) == [0, 9]
    own = np.mean([before[device][shards[device]] for device in range(10)])
    assert own == pytest.approx(100 * np.mean([metrics.own_classes_top1(r) for r in of(run)]))
    rows = [row for row in read_csv((rendered / "e3.extra-forgetting.csv").read_text()) if row["run"] == run]
    assert len(rows) == 3 * 10 * CLASSES
    assert sum(int(row["own_class"]) for row in rows) == 3 * 10 * 2


def test_devices_with_other_classes_in_another_seed_have_no_mean() -> None:
    def other(record: Record) -> Record:
        return replace(record, rows=[*record.rows[:-1], record.rows[-1] | {"classes_of_clients": [[0, 5]] * 10}])

    with pytest.raises(ReproError, match="devices have different classes in different seeds"):
        report.figure("e3.extra-forgetting", change("e3-fedavg-noniid-40", other, seeds=(2,)))


@pytest.mark.parametrize("records", [RECORDS, change(e3.runs.GN, lost, seeds=(2,))], ids=["whole", "diverged"])
def test_the_gap_above_the_panels_is_that_of_the_verdict_and_of_the_marks(
    records: list[Record], tmp_path: Path
) -> None:
    """Diamond minus end of the line of test images; the line counted while training is another thing."""
    figure = report.figure("e3.extra-regularisation", records)
    paths = report.render("e3.extra-regularisation", records, tmp_path, profile="study")
    rows = read_csv(next(path for path in paths if path.suffix == ".csv").read_text())
    for axes, run in zip(figure.axes, e3.training.REGULARISATION_RUNS, strict=True):
        gap = np.mean([100 * metrics.regularisation_gap(r) for r in of(run, records)])
        assert f"{e3.runs.network(run)}: {gap:.1f} points [" in texts(figure)
        ends = {line.get_label(): float(np.asarray(line.get_ydata(), float)[-1]) for line in axes.lines}
        assert ends["training images"] - ends["test images"] == pytest.approx(gap)
        assert ends["counted while training"] != pytest.approx(ends["training images"])
        found = [
            float(row["train_images_percent"]) for row in rows if row["run"] == run and row["train_images_percent"]
        ]
        assert len(found) == 3
        assert np.mean(found) == pytest.approx(ends["training images"], abs=1e-5)


@pytest.mark.parametrize("profile", ["study", "paper"])
def test_the_published_half_is_drawn_in_both_panels(profile: str) -> None:
    figure = report.figure("e3.fig5", e3_records(profile=profile))
    assert "post 50 %" in texts(figure)
    for axes in figure.axes:
        assert [line.get_linestyle() for line in axes.lines if set(np.asarray(line.get_ydata(), float)) == {50.0}]


# Looks ------------------------------------------------------------------


def test_a_network_has_one_colour_wherever_it_is_drawn() -> None:
    own = {"e3-gn-128-unit-scale", "e3-gn-wide-unit-scale", "e3-noniid-bn-local", "e3-noniid-bn-drop"}
    for spec in (*planned(), *planned(group="control")):
        if spec.kind == "train" and spec.method != "federated" and spec.local_batch in (32, 128):
            assert spec.run in own or looks.of(spec.run, spec.method).colour == looks.NORMS[spec.norm].colour, spec.run


def test_networks_differ_in_grey_and_all_looks_have_contrast_on_white() -> None:
    main = [lightness(looks.NORMS[norm].colour) for norm in ("batch", "group", "fixup")]
    assert min(abs(a - b) for a, b in itertools.combinations(main, 2)) > 15
    for run, look in looks.NETWORKS.items():
        luminance = ((lightness(look.colour) + 16) / 116) ** 3
        assert 1.05 / (luminance + 0.05) >= 3.0, run


@pytest.mark.parametrize("name", [*CURVES, "e3.extra-divergence", "e3.extra-initialisation"])
def test_curves_of_a_figure_differ_in_more_than_colour(name: str) -> None:
    methods = {r.run: r.spec["method"] for r in RECORDS}
    styles = [looks.of(run, methods[run]) for run in report.ARTEFACTS[name].runs if run not in e3.training.WIDE_RUNS]
    assert len({(look.marker, look.filled, look.line, look.colour) for look in styles}) == len(styles)
    for one, other in itertools.combinations(styles, 2):
        alike = abs(lightness(one.colour) - lightness(other.colour)) < 8
        assert not alike or (one.marker, one.filled, one.line) != (other.marker, other.filled, other.line)


# Tables -----------------------------------------------------------------


def test_table1_tells_every_warm_up_from_the_records_and_counts_what_diverged() -> None:
    table = report.table("e3.table1", RECORDS)
    slow, fast, larger = (
        f"{of(run)[0].spec['schedule']['warmup_epochs']:.4g}"
        for run in ("e3-fixup-1024", "e3-fixup-1024-short", "e3-fixup-2048-short")
    )
    both = f"{fast} or {larger}"
    assert fast != larger, "as many steps of another batch"
    scaled, low, short = (
        f"{rates} in {epochs} epochs"
        for rates, epochs in (("0.1 to 0.8 or 1.6", both), ("0.01 to 0.1", slow), ("0.01 to 0.1", both))
    )
    rows = {(row[0], row[1]): row[2:] for row in table.rows}
    assert len(rows) == len(table.rows)
    assert rows["Fixup", scaled][1:3] == ["diverged (3 of 3 seeds)"] * 2
    assert rows["LayerNorm", scaled][1].startswith("71.5 [")
    assert rows["InstanceNorm", scaled][1].startswith("68.0 [")
    for policy in (scaled, low):
        assert rows["GroupNorm", policy][0].startswith("79.0 [")
    assert rows["GroupNorm", low][1].startswith("75.2 [")
    assert rows["Fixup", low][3].startswith("−1.0 points [")
    assert rows["Fixup", short][3].startswith("−3.0 points [")
    assert "620 of 128 images" in " ".join(table.notes)


def test_table1_counts_a_single_diverged_seed_at_chance_and_says_so() -> None:
    table = report.table("e3.table1", change("e3-ln-2048", lost, seeds=(2,)))
    cell = next(row[4] for row in table.rows if row[0] == "LayerNorm")
    assert cell.endswith(", diverged 1 of 3 seeds")
    assert cell.startswith("50.0 [")  # (0.70 + 0.10 + 0.70) / 3


def test_the_buffers_table_pairs_each_policy_with_the_average() -> None:
    table = report.table("e3.extra-buffers", RECORDS)
    rows = {(row[0], row[1]): row for row in table.rows}
    policies = ("average", "local", "drop")
    assert list(rows) == [
        *((method, policy) for method in ("large batch", "federated averaging") for policy in policies),
        ("federated averaging", "–"),
    ]
    for method, gain in (("large batch", "34.0"), ("federated averaging", "8.0")):
        assert rows[method, "average"][5] == "–"
        assert rows[method, "drop"][5].startswith(f"{gain} points [")
    assert rows["large batch", "drop"][6] == "–"
    assert rows["large batch", "local"][6].startswith("20.0 [")
    for run, policy in zip((*e3.tables.FEDERATED_BUFFERS_RUNS, e3.tables.GROUP_NORM), (*policies, "–"), strict=True):
        own = np.mean([100 * metrics.own_classes_top1(r) for r in of(run)])
        assert re.fullmatch(rf"{own:.1f} \[.*\] \(own model\)", rows["federated averaging", policy][6])
    assert rows["federated averaging", "–"][2] == "GroupNorm: has none"
    assert rows["federated averaging", "–"][5].startswith("10.0 points [")
    assert "500 test images" in rows["large batch", "drop"][3]
    assert e3.tables.BUFFERS_RUNS[0] in {spec.run for spec in planned()}


def test_the_buffers_table_tells_whether_the_policies_trained_alike() -> None:
    def otherwise(record: Record) -> Record:
        return replace(record, series=record.series | {"train_loss": [*record.series["train_loss"][:-1], 9.0]})

    run = "e3-noniid-bn-local"
    for records, words in (
        (RECORDS, "the same number under all of them in every round of all 3 seeds"),
        (change(run, lost, seeds=(2,)), "in every round of all 2 seeds"),
        (change(run, otherwise, seeds=(1, 3)), "differs between policies in seeds 1, 3"),
        (change(run, lost), "No seed completed under every policy"),
    ):
        assert words in " ".join(report.table("e3.extra-buffers", records).notes)


def test_all_policies_of_the_specs_have_words() -> None:
    import typing

    assert set(typing.get_args(typing.get_type_hints(specs.Spec)["buffers"])) == set(tables.BUFFER_POLICIES)


def test_curves_of_training_accuracy_are_those_of_the_rows() -> None:
    group = of(e3.runs.GN)
    expected = np.mean([[100 * row["train_top1"] for row in r.rows] for r in group], axis=0)
    np.testing.assert_allclose(curve(group, "train_top1").mean, expected)
