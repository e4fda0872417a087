"""Laws of post 2's figures and tables: every byte counted from a record, every extrapolation named."""

from __future__ import annotations

import inspect
import itertools
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic_e2
import tree
import yaml
from hypothesis import given
from hypothesis import strategies as st
from reporting import luminance, read_csv, texts
from synthetic import specs_root
from synthetic_e2 import ARMS, CONTROL_ARMS, NETWORKS, STEPS

from repro import codecs, report
from repro.errors import ReproError
from repro.experiments import post2
from repro.registry import specs
from repro.registry.labels import label
from repro.registry.published import load_published
from repro.report import e2, tables
from repro.report import look as looks
from repro.report.rows import curve
from repro.report.selection import ends
from repro.results import traffic
from repro.results.metrics import target_accuracy
from repro.results.records import Record
from repro.running import payloads
from repro.verdicts import definitions

ROOT = tree.REPOSITORY
IDS = [name for name, item in report.ARTEFACTS.items() if item.source == "e2"]
FIGURES = [name for name in IDS if report.ARTEFACTS[name].kind == "figure" and name != "e2.extra-shards"]
"""Figures of trainings."""
TABLES = [name for name in IDS if report.ARTEFACTS[name].kind == "table"]
FEDERATED_ROW = ("study, measured", "federated averaging")
LINKS = {"slow mobile": {"down": 4, "up": 2}, "DSL": {"down": 16, "up": 8}, "fibre": {"down": 1000, "up": 500}}


e2_records = partial(synthetic_e2.e2_records, controls=True)


@pytest.fixture(scope="module", autouse=True)
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with the committed specs and other link classes, whether or not the post is built yet."""
    root = tmp_path_factory.mktemp("root")
    for folder in ("pipelines", "data/manifests"):
        shutil.copytree(ROOT / folder, root / folder)
    shutil.copy(ROOT / "data/sources.yaml", root / "data")
    spec_file = root / "pipelines/e2.yaml"
    spec_file.write_text(yaml.safe_dump(yaml.safe_load(spec_file.read_text()) | {"links": LINKS}, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        yield root


@pytest.fixture(scope="module")
def rendered(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("figures")
    for name in IDS:
        report.render(name, e2_records(), out, profile="study")
    return out


def group_of(run: str, records: list[Record] | None = None) -> list[Record]:
    return [r for r in records or e2_records() if r.run == run]


def with_bytes(records: list[Record], codec: str, size: Any) -> list[Record]:
    """Payload records whose messages of ``codec`` have ``size(parameters of convolutions, others)`` bytes."""
    changed = []
    for record in records:
        if record.kind == "payloads":
            length = int(size(*NETWORKS[record.spec["model"], record.spec["classes"]]))
            rows = [row | {"bytes": length} if row["codec"] == codec else row for row in record.rows]
            record = replace(record, rows=rows)
        changed.append(record)
    return changed


# All artefacts ----------------------------------------------------------


def test_the_post_has_all_its_artefacts() -> None:
    published = {f"e2.table{i}" for i in range(1, 7)} | {"e2.fig1", "e2.fig2"}
    assert {name for name in IDS if report.ARTEFACTS[name].published} == published
    assert {name for name in IDS if not report.ARTEFACTS[name].published} == {
        "e2.extra-cosine", "e2.extra-cut", "e2.extra-parts", "e2.extra-shards", "e2.extra-sparse", "e2.extra-weights"
    }  # fmt: skip


def test_synthetic_records_have_the_form_of_real_ones() -> None:
    known = {field.name for field in fields(specs.Spec)} | {"lr"}
    assert all(set(record.spec) <= known for record in e2_records())
    rows = [row for record in e2_records() for row in record.rows if record.kind == "payloads"]
    zipped = {f"{name}+zip" for name in payloads.ZIPPED}
    assert {row["codec"] for row in rows} == set(payloads.CODECS) | zipped == set(e2.runs.CODECS)
    assert {row["codec"] for row in rows if row["what"] != "gradient"} == {*payloads.QUANTISED, "int8+zip"}
    assert {row["what"] for row in rows} == {"gradient", *e2.runs.CONTENTS}
    content = yaml.safe_load((ROOT / "pipelines/e2.yaml").read_text())
    planned = content["runs"] | {run: content["controls"][run] for run in CONTROL_ARMS}
    assert {record.run for record in e2_records()} == {n for n, run in planned.items() if run.get("kind") != "law"}


def test_every_run_is_shown_somewhere() -> None:
    shown = {run for name in IDS for run in report.ARTEFACTS[name].runs}
    assert shown == {record.run for record in e2_records()}


# Figures ----------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_axes_are_labelled_with_units(name: str) -> None:
    axes = report.figure(name, e2_records()).axes
    left = [one.get_ylabel() for one in axes if one.get_ylabel()]
    assert left[0] == "test accuracy, top-1 (%)"
    assert all(re.search(r"\((no unit|points)\)", text) for text in left[1:])
    assert [one.get_xlabel() for one in axes if one.get_xlabel()] == ["epochs (passes over the training data)"] * (
        2 if name in ("e2.extra-cosine", "e2.extra-cut", "e2.extra-sparse") else 1
    )


@pytest.mark.parametrize("name", FIGURES)
def test_the_csv_says_codec_and_schedule_and_holds_every_rate(name: str, rendered: Path) -> None:
    rows = read_csv((rendered / f"{name}.csv").read_text())
    records = {(r.run, str(r.seed)): r for r in e2_records()}
    for row in rows:
        codec, schedule, quantised, *_ = (ARMS | CONTROL_ARMS)[row["run"]]
        assert (row["codec"], row["schedule"]) == (codec, schedule)
        assert row["quantised_weights"] == ("True" if quantised else "")
        logged = {f"{r['epoch']:g}": r["lr"] for r in records[row["run"], row["seed"]].rows}
        assert float(row["lr"]) == pytest.approx(logged[row["epoch"]], rel=1e-7)
    assert {row["run"] for row in rows} == set(report.ARTEFACTS[name].runs)


def test_the_lower_panel_draws_the_rate_of_every_seed() -> None:
    records = e2_records()
    _, lower = report.figure("e2.fig1", records).axes
    drawn = {tuple(np.asarray(line.get_ydata(), float)[1:]) for line in lower.lines}
    assert drawn == {
        tuple(row["lr"] for row in r.rows) for run in e2.runs.LARGE_BATCH_RUNS for r in group_of(run, records)
    }
    assert lower.get_yscale() == "log"


def test_the_note_gives_the_first_cut_of_each_seed() -> None:
    words = texts(report.figure("e2.fig1", e2_records())).replace("\n", " ")
    assert "large batch 11, 10, 11; " in words
    flat = [replace(r, rows=[row | {"lr": 0.1} for row in r.rows]) for r in e2_records()]
    assert "large batch never, never, never; " in texts(report.figure("e2.fig1", flat)).replace("\n", " ")
    lost = e2_records(diverged={("e2-large-batch", 2)})
    assert "large batch 11, diverged, 11; " in texts(report.figure("e2.fig1", lost)).replace("\n", " ")


def test_the_lower_panel_has_a_tick_at_each_rate_and_says_when_there_is_one_only() -> None:
    _, lower = report.figure("e2.fig1", e2_records()).axes
    drawn = {f"{rate:g}" for line in lower.lines for rate in np.asarray(line.get_ydata(), float)}
    assert {tick.get_text() for tick in lower.get_yticklabels()} == drawn
    assert not lower.texts
    flat = [replace(r, rows=[row | {"lr": 0.05} for row in r.rows]) for r in e2_records()]
    _, lower = report.figure("e2.fig1", flat).axes
    assert [tick.get_text() for tick in lower.get_yticklabels()] == ["0.05"]
    assert [text.get_text() for text in lower.texts] == ["every run: 0.05, never cut"]


@pytest.mark.parametrize("name", ["e2.fig1", "e2.extra-weights"])
def test_every_curve_has_a_band_as_wide_as_its_interval(name: str) -> None:
    upper = report.figure(name, e2_records()).axes[0]
    bands = [band.get_paths()[0].vertices[:, 1] for band in upper.collections]
    for run in report.ARTEFACTS[name].runs:
        data = curve(group_of(run))
        edges = {round(float(value), 6) for value in (*data.low, *data.high)}
        assert any(edges <= {round(float(value), 6) for value in band} for band in bands), run
    assert len(bands) == len(report.ARTEFACTS[name].runs)


def test_light_blue_is_quantised_gradients_and_nothing_else() -> None:
    every = looks.METHODS | looks.ARMS | looks.COMPRESSED | looks.NETWORKS | looks.TRAINED
    colour = looks.COMPRESSED["e2-large-batch-gq"].colour
    assert {run for run, look in every.items() if look.colour == colour} == {"e2-large-batch-gq"}


def test_a_seed_that_diverged_early_still_has_its_rates_drawn() -> None:
    figure = report.figure("e2.fig1", e2_records(diverged={("e2-large-batch-dgc", 2)}))
    assert "Diverged, counted at chance (10 %)" in texts(figure)
    assert 4 in {len(np.asarray(line.get_ydata())) for line in figure.axes[1].lines}


@pytest.mark.parametrize("name", FIGURES)
def test_a_run_that_diverged_at_once_does_not_keep_a_figure_from_being_drawn(name: str) -> None:
    for run in report.ARTEFACTS[name].runs:
        lost = [
            replace(r, status="diverged", reason="loss is not finite", rows=[]) if r.run == run else r
            for r in e2_records()
        ]
        assert f"Diverged, counted at chance (10 %): {label(run)}," in texts(report.figure(name, lost)).replace(
            "\n", " "
        )


def test_the_difference_below_fig2_is_paired_by_seed() -> None:
    records = e2_records(missing={("e2-federated", 2)})
    _, lower = report.figure("e2.fig2", records).axes
    expected = np.mean(
        [
            [100 * (g["test_top1"] - p["test_top1"]) for p, g in zip(plain.rows, quantised.rows, strict=True)]
            for plain, quantised in zip(
                group_of("e2-federated", records),
                [r for r in group_of("e2-federated-gq", records) if r.seed != 2],
                strict=True,
            )
        ],
        axis=0,
    )
    np.testing.assert_allclose(np.asarray(lower.lines[0].get_ydata(), float), expected)


def test_fig2_without_a_seed_in_common_is_drawn_without_a_difference() -> None:
    lost = {("e2-federated", 1), ("e2-federated", 2), ("e2-federated-gq", 3)}
    _, lower = report.figure("e2.fig2", e2_records(missing=lost)).axes
    assert len(lower.lines) == 1


@pytest.mark.parametrize("profile", ["study", "paper"])
def test_the_published_accuracy_is_drawn_with_long_dashes(profile: str) -> None:
    figure = report.figure("e2.fig2", e2_records(profile=profile))
    assert "post 90 %" in texts(figure)
    (line,) = (line for line in figure.axes[0].lines if set(np.asarray(line.get_ydata(), float)) == {90.0})
    assert line.is_dashed()


def test_the_cosine_figure_gives_the_paired_gain_of_each_method() -> None:
    words = texts(report.figure("e2.extra-cosine", e2_records()))
    plateau, cosine = (curve(group_of(run)).values[:, -1] for run in (e2.runs.DGC, e2.runs.DGC_COSINE))
    assert f"{label(e2.runs.DGC)}: {np.mean(cosine - plateau):.1f} points [" in words
    excess = np.mean(cosine - plateau) - np.mean(
        curve(group_of(e2.runs.COSINE)).values[:, -1] - curve(group_of(e2.runs.BASELINE)).values[:, -1]
    )
    assert f"beyond that of the baseline: {excess:.1f} points [" in words.replace("\n", " ")


OWN_HUE = {
    "e2-large-batch-weights",
    "e2-large-batch-plain-top10",
    "e2-large-batch-plain-top1",
    "e2-large-batch-dgc-clip-uncorrected",
}


def test_compressed_arms_keep_the_hue_of_their_method_but_for_those_of_look_and_differ_in_all_else() -> None:
    for run, look in looks.COMPRESSED.items():
        apart = abs(hue(look.colour) - hue(looks.METHODS[method(run)].colour))
        assert apart > 0.05 if run in OWN_HUE else apart < 0.03, run
        assert 1.05 / (luminance(look.colour) + 0.05) >= 3.0, run
    panels = [report.ARTEFACTS[name].runs for name in FIGURES if name != "e2.extra-sparse"]
    panels += [e2.runs.SPARSE_RUNS[:3], e2.runs.SPARSE_RUNS[3:]]
    for runs in panels:
        styles = [looks.of(run, method(run)) for run in runs]
        assert len({(look.marker, look.filled) for look in styles}) == len(styles)
        for one, other in itertools.combinations(styles, 2):
            same = abs(luminance(one.colour) ** (1 / 3) - luminance(other.colour) ** (1 / 3)) < 0.1
            assert not same or one.line != other.line


def method(run: str) -> str:
    return "federated" if "federated" in run else "large_batch"


def hue(colour: str) -> float:
    import colorsys

    return colorsys.rgb_to_hsv(*(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)))[0]


# Tables -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["e2.table5", "e2.table6"])
def test_tables_of_messages_say_what_the_thousand_classes_are(name: str) -> None:
    notes = "\n".join(report.table(name, e2_records()).notes)
    assert "sees its ten labels only" in notes
    assert (
        "width 64, 32 × 32 px, CIFAR stem) on 32 images at training steps 1, 49, 98; changes of weights over 49"
        in notes
    )


def test_networks_that_were_measured_at_other_steps_say_so() -> None:
    records = [
        replace(r, rows=[row for row in r.rows if row["step"] < 98]) if r.run.endswith("-1000") else r
        for r in e2_records()
    ]
    notes = report.table("e2.table6", records).notes
    wanted = "at training steps 1, 49, 98 (ResNet18, 10 classes); 1, 49 (ResNet18, 1\u202f000 classes); changes"
    assert any(wanted in note for note in notes)


def test_table1_gives_the_seconds_of_the_measured_bytes() -> None:
    table = report.table("e2.table1", e2_records())
    for row in read_csv(table.csv()):
        up, down = (8e-6 * float(row[f"bytes_{way}_per_worker_and_round"]) for way in ("up", "down"))
        link = LINKS.get(row["link"], LINKS["slow mobile"])  # with all classes in a round the slowest sets it
        assert float(row["round_seconds"]) == pytest.approx(down / link["down"] + up / link["up"], rel=1e-6)
        whole = float(row["round_seconds"]) * float(row["rounds"])
        assert float(row["training_seconds"]) == pytest.approx(whole, rel=1e-6)
        assert row["extrapolated"] == str(int(row["scale"] == "full size"))
        assert bool(row["seconds_to_target"]) == (row["scale"] == "study")
    assert any("each method takes as long as over slow mobile." in note for note in table.notes)


def test_table1_counts_bytes_a_worker_and_a_round() -> None:
    rows = read_csv(report.table("e2.table1", e2_records()).csv())
    for record in e2_records():
        found = {r["bytes_up_per_worker_and_round"] for r in rows if r["run"] == record.run and r["scale"] == "study"}
        if record.kind == "train" and found:
            last = record.rows[-1]
            (size,) = found
            assert float(size) * 3 * last["round"] == pytest.approx(last["bytes_up"])
    full = {row["method"]: row["rounds"] for row in rows if row["scale"] == "full size"}
    assert full["large batch"] == full["large batch (DGC + zip)"] == "4900"
    assert full["federated averaging (GQ)"] == "150"
    for row in (row for row in rows if row["scale"] == "full size"):  # what a round costs adds up to e2.table6
        (record,) = (r for r in group_of(row["run"]) if str(r.seed) == row["seed"])
        if "DGC" in row["method"]:
            reading = traffic.DEFAULT if "zip" in row["method"] else traffic.UNZIPPED
            total = 32 * 4900 * float(row["bytes_up_per_worker_and_round"])
            assert total == pytest.approx(traffic.total_sent(record, "large_batch", reading))


def test_table1_times_the_bytes_sent_until_the_target() -> None:
    records = e2_records()
    target = target_accuracy(records, "study", "e2")
    table = report.table("e2.table1", records)
    assert f"Target: {100 * target:.1f} %" in "\n".join(table.notes)
    rows = {(r["run"], r["seed"]): r for r in read_csv(table.csv()) if (r["link"], r["scale"]) == ("DSL", "study")}
    for record in (r for r in records if (r.run, str(r.seed)) in rows):
        (up, down), reached = tables.bytes_to_target(record, target)
        assert reached
        assert 0 < up < record.rows[-1]["bytes_up"]
        seconds = 8e-6 * (up / 8 + down / 16) / 3
        assert float(rows[record.run, str(record.seed)]["seconds_to_target"]) == pytest.approx(seconds, rel=1e-6)
    epochs = {row[1]: row[3] for row in table.rows if "measured" in row[0]}
    assert epochs["large batch"].startswith("2.7 [")


def test_table1_gives_a_bound_where_a_seed_never_reaches_the_target() -> None:
    short = [
        replace(r, rows=[row | {"test_top1": min(0.3, row["test_top1"])} for row in r.rows])
        if r.run == "e2-federated"
        else r
        for r in e2_records()
    ]
    (row,) = (r for r in report.table("e2.table1", short).rows if (r[0], r[1]) == FEDERATED_ROW)
    assert row[3] == "> 29.0 (not reached by 3 of 3 seeds)"
    assert row[6] == "16.8 s; 8.4 min; > 8.1 min"


def test_table1_charges_a_diverged_seed_all_its_rounds_and_leaves_out_one_without_bytes() -> None:
    records = e2_records(diverged={("e2-large-batch-gq", 1)})
    rows = {row[1]: row for row in report.table("e2.table1", records).rows if "measured" in row[0]}
    assert rows[label("e2-large-batch-gq")][2] == rows["large batch"][2] == "840"
    assert rows[label("e2-large-batch-gq")][3].endswith("(not reached by 1 of 3 seeds)")
    lost = [
        replace(r, status="diverged", reason="loss is not finite", rows=[]) if r.run == "e2-large-batch-gq" else r
        for r in e2_records()
    ]
    table = report.table("e2.table1", lost)
    assert ["diverged"] * 5 in [row[4:] for row in table.rows]
    assert "e2-large-batch-gq" not in {row["run"] for row in read_csv(table.csv())}


def test_table1_without_links_says_where_they_belong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ReproError, match=r"pipelines/e2\.yaml: no such file"):
        report.table("e2.table1", e2_records())


def test_table2_sets_the_post_beside_the_specs() -> None:
    table = report.table("e2.table2", e2_records())
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["workers"] == ["32", "3", "3", "3", "32", "3", "3"]
    assert rows["epochs"] == ["100", "20", "20", "20", "150", "30", "30"]
    assert rows["images per round"] == ["not stated", "96", "96", "96", "50\u202f000", "4\u202f000", "4\u202f000"]
    assert rows["DGC warm-up (epochs)"] == ["4", "–", "–", "4.67 (23.3 % of the epochs)", "–", "–", "–"]
    assert rows["momentum"][1:4] == ["0.9", "0.9", "0.9, on the workers"]
    basis = {(row["parameter"], row["run"]): row["basis"] for row in read_csv(table.csv())}
    assert basis["DGC sparsity", "e2-large-batch-dgc"] == "stated"
    assert basis["DGC sparsity", "e2-federated"] == "does not apply"
    assert basis["momentum", "e2-large-batch"] == "not stated"
    assert basis["image size (px)", "e2-federated"] == "derived"


def test_what_table2_says_of_dgc_is_what_the_codec_does() -> None:
    rows = {row[0]: row[4] for row in report.table("e2.table2", e2_records()).rows}
    defaults = {name: p.default for name, p in inspect.signature(codecs.DGC).parameters.items()}
    assert rows["DGC sparsity"] == ", ".join(map(str, defaults["sparsity"])) == "0.75, 0.9375, 0.984375, 0.996, 0.999"
    assert rows["stem"] == "3 × 3"
    assert rows["DGC momentum factor masking"] == {True: "yes", False: "no"}[defaults["masking"]]
    assert rows["DGC local gradient clipping"] == ("no" if defaults["clip"] is None else "yes")
    measured = definitions.of_codec(group_of("e2-large-batch-dgc")[0].spec)
    assert rows["DGC sparsifies"] == measured["sparsified"] == "convolution weights only"
    assert rows["DGC threshold from"] == f"at least {measured['sample_percent']} % of each tensor"
    assert measured["warm_up_epochs"] == len(post2.WARM_UP)


@pytest.mark.parametrize("profile", specs.PROFILES)
def test_the_published_share_of_a_warm_up_is_found_again_at_every_profile(profile: str) -> None:
    warm = [s for s, _ in specs.runs("e2", profile, root=specs_root()) if s.sparsity_warmup]
    assert {s.run for s in warm} >= {e2.runs.DGC, e2.runs.DGC_COSINE}
    for spec in warm:
        assert specs.published_warm_up(spec.as_dict(), ROOT) == pytest.approx(0.04), spec.run


def test_a_run_that_is_not_planned_has_a_published_share_only_where_shares_are_kept() -> None:
    spec = {"run": "e2-unheard-of", "source": "e2", "sparsity_warmup": 0.25}
    assert specs.published_warm_up(spec | {"profile": "smoke"}, ROOT) == 0.25
    with pytest.raises(ReproError, match=r"pipelines/e2\.yaml: no run e2-unheard-of, .* expected; name one"):
        specs.published_warm_up(spec | {"profile": "study"}, ROOT)


def test_the_published_scale_is_that_of_the_specs() -> None:
    planned = yaml.safe_load((ROOT / "pipelines/e2.yaml").read_text())
    usual = planned["defaults"]
    assert (usual["train_images"], usual["workers"]) == (post2.IMAGES, post2.WORKERS)
    assert usual["epochs"] == post2.EPOCHS["large_batch"]
    assert planned["runs"]["e2-federated"]["epochs"] == post2.EPOCHS["federated"]
    assert usual["local_batch"] == traffic.DEFAULT.local_batch
    warm_up = planned["runs"]["e2-large-batch-dgc"]["sparsity_warmup"] * usual["epochs"]
    assert warm_up == len(post2.WARM_UP)


def test_table3_pairs_the_distance_from_the_baseline_by_seed() -> None:
    table = report.table("e2.table3", e2_records())
    rows = {row[0]: row for row in table.rows}
    plain, sparse = (np.array(list(ends(group_of(run)).values())) for run in (e2.runs.BASELINE, e2.runs.DGC))
    assert rows[label(e2.runs.DGC)][4].startswith(f"−{np.mean(plain - sparse):.1f} points [")
    assert rows["large batch"][4] == "–"
    assert rows[label(e2.runs.DGC_COSINE)][1] == "cosine"


def test_table3_counts_a_diverged_seed_at_chance_and_says_so() -> None:
    table = report.table("e2.table3", e2_records(diverged={("e2-large-batch-weights", 1)}))
    lost = [row for row in read_csv(table.csv()) if row["imputed_chance"] == "1"]
    assert [(row["run"], row["seed"], row["accuracy_percent"]) for row in lost] == [
        ("e2-large-batch-weights", "1", "10")
    ]
    assert any(note.startswith("Diverged, counted at chance") for note in table.notes)


def test_table4_counts_the_known_parameters() -> None:
    rows = read_csv(report.table("e2.table4", e2_records()).csv())
    counts = {
        (r["model"], r["classes"], r["stem"]): (r["convolutional_parameters"], r["other_parameters"]) for r in rows
    }
    assert counts["resnet18", "1000", "imagenet"] == ("11166912", "522600")
    assert counts["resnet50", "10", "cifar"] == ("23447232", "73610")
    assert len(counts) == 8
    for row in rows:
        sent = row["dense_message_bytes"]
        assert bool(sent) == (row["stem"] == "cifar")
        assert not sent or 0 < int(sent) - 4 * int(row["all_parameters"]) < 10_000


def test_table5_gives_mean_and_extremes_over_steps_and_seeds() -> None:
    table = report.table("e2.table5", e2_records())
    group = group_of("e2-payloads-resnet18-10")
    zips = [r for record in group for r in record.rows if (r["codec"], r["what"]) == ("int8+zip", "gradient")]
    flat = [r["dense_bytes"] / r["bytes"] for r in zips]
    assert len(flat) == 3 * len(STEPS)
    row = next(row for row in table.rows if row[0] == "GQ + zip")
    judged = np.mean([traffic.compression_rate(record, "int8+zip") for record in group])
    assert row[2] == f"{judged:#.3g} ({min(flat):#.3g} to {max(flat):#.3g})"
    quantised = next(row for row in table.rows if row[0] == "GQ")
    assert quantised[1:3] == ["4", "4.00"]
    assert row[1] == row[-1] == row[-2] == "–"
    assert quantised[-1] == "4 of 4"
    zipped = next(row for row in table.rows if row[0] == "GQ: saved by zip (%)")
    saved = np.mean([traffic.saved_by_zip(record, "int8") for record in group])
    assert zipped[1] == "50"
    assert zipped[2].startswith(f"{100 * saved:.0f} (")
    apart = [float(cell.split()[0]) - 50 for cell in zipped[2:-2]]
    assert float(zipped[-2].split(" to ")[0].replace("−", "-")) == pytest.approx(min(apart), abs=0.51)
    assert zipped[-1] == f"{sum(abs(each) <= 10 for each in apart)} of 4"
    assert "n = 3 seeds (ResNet18), n = 1 seed (ResNet50)" in table.notes[0]
    names = [row[0] for row in table.rows]
    assert {"top-k with residual", "fixed threshold, without residual", "DGC + zip, warm-up at 0.75"} <= set(names)
    assert len(set(names)) == len(names)
    assert "the measured steps and the 5 before each" in " ".join(table.notes)


def test_table5_heads_its_columns_with_seeds_and_steps() -> None:
    cut = [
        replace(r, rows=[row for row in r.rows if row["step"] < 98]) if r.spec["model"] == "resnet50" else r
        for r in e2_records()
    ]
    header = report.table("e2.table5", cut).header
    assert header[2] == "ResNet18, 10 classes (3 seeds, 3 steps)"
    assert header[4] == "ResNet50, 10 classes (1 seed, 2 steps)"


def test_table5_sets_changes_and_weights_beside_gradients() -> None:
    table = report.table("e2.table5", e2_records())
    rows = {row[0]: row[2] for row in table.rows}
    group = group_of("e2-payloads-resnet18-10")
    for what, words in e2.runs.CONTENTS.items():
        mean = np.mean([traffic.compression_rate(record, "int8+zip", what) for record in group])
        assert rows[f"GQ + zip, {words}"].startswith(f"{mean:#.3g} (")
        saved = np.mean([traffic.saved_by_zip(record, "int8", what) for record in group])
        assert rows[f"GQ, {words}: saved by zip (%)"].startswith(f"{100 * saved:.0f} (")
    found = [row for row in read_csv(table.csv()) if (row["codec"], row["run"]) == ("int8+zip", group[0].run)]
    steps = {what: sorted({int(row["step"]) for row in found if row["content"] == what}) for what in e2.runs.CONTENTS}
    assert steps == {"change": [49, 98], "weights": [1, 49, 98]}
    rates = [float(row["rate"]) for row in found if row["content"] == "gradient"]
    for row in found:
        if row["content"] == "gradient":
            assert float(row["sd_rate"]) == pytest.approx(np.std(rates, ddof=1), rel=1e-6)


def test_messages_that_were_not_measured_are_one_line() -> None:
    cut = [
        replace(r, rows=[row for row in r.rows if row.get("codec") != "qsgd"]) if r.kind == "payloads" else r
        for r in e2_records()
    ]
    with pytest.raises(ReproError, match="no payload of codec 'qsgd'") as error:
        report.table("e2.table5", cut)
    assert "\n" not in str(error.value)
    more = [
        replace(r, rows=[*r.rows, r.rows[0] | {"codec": "morse"}]) if r.kind == "payloads" else r for r in e2_records()
    ]
    with pytest.raises(ReproError, match="codec morse has no name"):
        report.table("e2.table5", more)


def totals(records: list[Record]) -> dict[tuple[str, ...], list[dict[str, str]]]:
    names = ("large_batch_codec", "federated_codec", "warm_up", "images_per_round", "classes")
    rows: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in read_csv(report.table("e2.table6", records).csv()):
        rows.setdefault(tuple(row[name] for name in names), []).append(row)
    return rows


def test_table6_has_every_reading_and_says_what_it_extrapolates() -> None:
    table = report.table("e2.table6", e2_records())
    read = [row for row in table.rows if row[0].startswith("DGC") and row[4] == "extrapolated"]
    assert 2 * len(read) == len(traffic.readings())  # each with and without the download
    assert len({tuple(row[:5]) for row in table.rows}) == len(table.rows)
    assert table.rows[0][:5] == ["DGC + zip", "GQ + zip", "counted", "1\u202f024", "extrapolated"]
    assert table.notes[0].startswith("Extrapolated: full-scale rounds x measured message size.")
    assert {row[4] for row in table.rows[len(read) + 3 * 3 :]} == {"measured, study profile"}
    assert len(table.rows) == len(read) + 3 * 3 + len(e2.totals.TRAINED_PAIRS)
    for row in read_csv(table.csv()):
        assert row["extrapolated"] == str(int("payloads" in row["run"])) == str(int(row["basis"] == "extrapolated"))


def test_published_numbers_are_those_of_the_list_of_what_is_published() -> None:
    published = {item.id: item for item in load_published(ROOT).statements}
    assert published["e2.c1"].published == {"factor": e2.runs.PUBLISHED_RATE}
    assert published["e2.c2"].published == {"saved_percent": e2.runs.PUBLISHED_SAVED}
    ten, thousand = e2.runs.PUBLISHED_FACTORS
    (rule,) = published["e2.c7"].judge["parts"]
    assert rule["published"] == {"at_1000": thousand, "at_10": 1 / ten}
    assert rule["tolerance"] == e2.runs.WITHIN


def test_table6_says_which_way_fits_as_the_rule_has_it() -> None:
    table = report.table("e2.table6", e2_records())
    thousand, ten = (group_of(f"e2-payloads-resnet18-{classes}") for classes in (1000, 10))
    for row, exchange in zip(table.rows, e2.totals.readings(), strict=False):
        if not row[0].startswith("DGC"):
            break
        met = []
        for words, reading in (("up", exchange.reading), ("up and down", replace(exchange.reading, download=True))):
            at_1000 = traffic.times_as_much(thousand, "large_batch", "federated", reading)
            at_10 = traffic.times_as_much(ten, "federated", "large_batch", reading)
            met += [words] * (abs(at_1000 / 3 - 1) <= 0.25 and abs(at_10 / 5 - 1) <= 0.25)
        assert row[-1] == ("; ".join(met) or "neither")


def test_table6_marks_rounds_of_more_images_than_its_messages_hold() -> None:
    table = report.table("e2.table6", e2_records())
    images = {row[3] for row in table.rows if row[4] == "extrapolated"}
    assert images == {"1\u202f024", "2\u202f048 *", "4\u202f096 *"}
    assert any(note.startswith("* The messages are those of 32 images a worker") for note in table.notes)
    rows = [row for row in read_csv(table.csv()) if row["extrapolated"] == "1"]
    assert {row["message_images"] for row in rows} == {"32"}
    assert {row["images_per_round"] for row in rows} == {"1024", "2048", "4096"}


def test_table6_shows_what_trained_runs_really_sent() -> None:
    records = e2_records(diverged={("e2-federated", 2)})
    found = [row for row in read_csv(report.table("e2.table6", records).csv()) if row["extrapolated"] == "0"]
    assert {row["run"] for row in found} == {run for pair in e2.totals.TRAINED_PAIRS for run in pair}
    by_run = {(r.run, str(r.seed)): r for r in records}
    for row in found:
        method = "federated" if "federated" in row["run"] else "large_batch"
        last = by_run[row["run"], row["seed"]].rows[-1]
        assert float(row[f"{method}_bytes_up"]) == pytest.approx(last["bytes_up"])
        assert float(row[f"{method}_bytes_down"]) == pytest.approx(last["bytes_down"])
        assert row[f"{method}_rounds"] == str(last["round"])
    dense = {row["seed"] for row in found if row["large_batch_codec"] == "dense"}
    assert dense == {"1", "3"}, "totals are paired by seed, and a run that diverged has none"
    assert {row["judged"] for row in found} == {"0"}


def test_table6_at_full_scale_judges_the_bytes_of_trained_runs() -> None:
    scale = {"train_images": 50_000, "workers": 32, "width": 64, "image_size": 32}
    model = traffic.dense_bytes(group_of("e2-payloads-resnet18-10")[0]) + 38_000  # with running statistics
    records = [
        replace(
            r, spec=r.spec | scale | {"epochs": 150 if "federated" in r.run else 100},
            rows=[row | {"bytes_up": 32 * row["round"] * 200_000, "bytes_down": 32 * row["round"] * model}
                  for row in r.rows],
        ) if r.kind == "train" else r
        for r in e2_records(profile="paper")
    ]  # fmt: skip
    rows = read_csv(report.table("e2.table6", records).csv())
    judged = [row for row in rows if row["judged"] == "1"]
    assert {row["basis"] for row in judged} == {
        "extrapolated",
        "measured, paper profile, zip computed, no running statistics",
    }
    assert len([row for row in rows if row["basis"] == "measured, paper profile, zip computed"]) == 2 * 3
    by_run = {(r.run, str(r.seed)): r for r in records}
    for row in judged:
        payload = by_run["e2-payloads-resnet18-10", row["seed"]]
        if row["extrapolated"] == "1":
            assert row["classes"] == "1000"
            continue
        for method, run in zip(e2.runs.METHODS, e2.totals.TRAINED_PAIRS[0], strict=True):
            wanted = traffic.sent_by_run(by_run[run, row["seed"]], payload, method)
            assert float(row[f"{method}_bytes_up"]) == pytest.approx(wanted, rel=1e-7)
            assert wanted < by_run[run, row["seed"]].rows[-1]["bytes_up"] - 38_000 * 32


def test_table6_and_the_verdicts_count_the_same_bytes() -> None:
    records = e2_records()
    judged = [row for row in read_csv(report.table("e2.table6", records).csv()) if row["judged"] == "1"]
    assert len(judged) == 3 * 2
    for row in judged:
        (record,) = (r for r in group_of(row["run"], records) if str(r.seed) == row["seed"])
        for method in ("large_batch", "federated"):
            expected = traffic.total_sent(record, method)
            assert float(row[f"{method}_bytes_up"]) == pytest.approx(expected, rel=1e-7)
        every = traffic.times_as_much(group_of(row["run"], records), "large_batch", "federated")
        assert float(row["ratio_up"]) == pytest.approx(every, rel=1e-7)


def test_table6_multiplies_rounds_workers_and_measured_bytes() -> None:
    found = totals(e2_records())
    for record in group_of("e2-payloads-resnet18-1000"):
        sizes = {
            codec: np.mean([r["bytes"] for r in record.rows if (r["codec"], r["what"]) == (codec, what)])
            for codec, what in (("dense", "gradient"), ("int8", "change"), ("dgc+zip", "gradient"))
        }
        (row,) = (r for r in found["dgc+zip", "int8", "left out", "4096", "1000"] if r["seed"] == str(record.seed))
        assert float(row["large_batch_bytes_up"]) == pytest.approx(32 * 1200 * sizes["dgc+zip"], rel=1e-6)
        assert float(row["federated_bytes_up"]) == pytest.approx(32 * 150 * sizes["int8"], rel=1e-6)
        assert float(row["large_batch_bytes_down"]) == pytest.approx(32 * 1200 * sizes["dense"], rel=1e-6)
        (row,) = (r for r in found["dense", "dense", "–", "1024", "1000"] if r["seed"] == str(record.seed))
        assert float(row["large_batch_bytes_up"]) == pytest.approx(32 * 4900 * sizes["dense"], rel=1e-6)


def test_the_factors_of_the_post_come_out_of_the_reading_that_gives_both() -> None:
    """6 bytes a value kept, half a byte a parameter after zip, 4096 images a round, warm-up not counted."""
    records = with_bytes(e2_records(), "dgc", lambda conv, other: 6 * 0.001 * conv + 4 * other)
    found = totals(with_bytes(records, "int8+zip", lambda conv, other: 0.5 * (conv + other)))
    ten, thousand = (found["dgc", "int8+zip", "left out", "4096", classes][0] for classes in ("10", "1000"))
    assert 1 / float(ten["ratio_up"]) == pytest.approx(5.55, abs=0.02)
    assert float(thousand["ratio_up"]) == pytest.approx(2.95, abs=0.02)
    assert float(ten["ratio_up_and_down"]) > 5  # the download, uncompressed in every round, turns the order round


def test_counting_the_warm_up_never_makes_a_total_smaller() -> None:
    found = totals(e2_records())
    choices = itertools.product(("dgc", "dgc+zip"), ("int8", "int8+zip"), ("1024", "4096"), ("10", "1000"))
    for large_batch, federated, *rest in choices:
        without, counted = (
            float(found[large_batch, federated, warm_up, *rest][0]["large_batch_bytes_up"])
            for warm_up in ("left out", "counted")
        )
        assert without < counted < 5 * without


@given(st.lists(st.floats(1, 1e12), min_size=2, max_size=5), st.floats(0.01, 100))
def test_a_common_factor_between_seeds_is_found_exactly(sizes: list[float], factor: float) -> None:
    for found in e2.totals.ratio([factor * size for size in sizes], sizes):
        assert found == pytest.approx(factor, rel=1e-9)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ((4.632, 4.4, 4.9), "× 4.63 [4.40, 4.90]"),
        ((1 / 3, 0.25, 0.5), "÷ 3.00 [2.00, 4.00]"),
        ((4.632, 4.6319, 4.6321), "× 4.63"),
        ((1.0, math.nan, math.nan), "× 1.00"),
    ],
)
def test_ratios_in_words(found: tuple[float, float, float], text: str) -> None:
    assert e2.totals.times(found) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0674, "0.067 s"), (60, "60 s"), (600, "10 min"), (7200, "2.0 h"), (1.3e6, "15 d"), (0, "0 s")],
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert tables.duration(seconds) == text


@given(st.floats(1e-6, 1e12))
def test_significant_digits_are_within_half_a_unit(value: float) -> None:
    shown = float(tables.significant(value).replace("\u202f", ""))
    assert shown == pytest.approx(value, rel=0.00501)
