"""What every figure and table of every source keeps to, whatever it shows."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import tree
from matplotlib.text import Text
from reporting import drawn, lost, read_csv, records_of, said, stopped, undrawn_ticks

from repro import report
from repro.errors import ReproError
from repro.registry.labels import label
from repro.report.rows import csv_text
from repro.report.selection import select
from repro.results.records import Record

ROOT = tree.REPOSITORY
IDS = list(report.ARTEFACTS)
FIGURES = [name for name, item in report.ARTEFACTS.items() if item.kind == "figure"]
TABLES = [name for name, item in report.ARTEFACTS.items() if item.kind == "table"]


def records_for(name: str) -> list[Record]:
    return list(records_of(report.ARTEFACTS[name].source))


def shown(name: str) -> list[Record]:
    """The records that the artefact shows, in its order."""
    chosen = select(name, records_for(name), report.ARTEFACTS[name].runs)
    return [record for group in chosen.values() for record in group]


TRAINED = [name for name in IDS if all(record.kind in ("train", "law") for record in shown(name))]
"""Artefacts of trained runs alone: their records can diverge."""
TARGET = {"e1.fig1", "e1.table2"}
"""Artefacts with a target accuracy, which is undecided where the centralised run diverged."""


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("figures")
    for name in IDS:
        report.render(name, records_for(name), out, profile="study")
    return out


# Registry -----------------------------------------------------------------------------------------------------


def test_listing_every_artefact_with_its_runs_and_files_draws_nothing_and_imports_no_heavy_package() -> None:
    code = (
        "import sys; from repro import report\n"
        "print(*((name, item.title, item.runs, item.files) for name, item in report.ARTEFACTS.items()))\n"
        "assert not {'matplotlib', 'torch', 'scipy.stats'} & set(sys.modules)"
    )
    env = {"PYTHONPATH": str(ROOT), "PATH": ""}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, cwd=ROOT, capture_output=True)


def test_sources_and_companions_follow_from_ids() -> None:
    for name, item in report.ARTEFACTS.items():
        assert item.id == name
        assert name.startswith(f"{item.source}.")
        assert item.published != ("extra-" in name)
        assert item.draw.__module__.startswith(f"repro.report.{item.source}.")


def test_the_sources_do_not_import_each_other() -> None:
    for path in (ROOT / "repro/report").glob("*/*.py"):
        others = {"e1", "e2", "e3", "lb"} - {path.parent.name}
        assert not re.search(rf"repro\.report(\.| import )({'|'.join(others)})\b", path.read_text()), path


def test_an_id_can_be_declared_once_only() -> None:
    from repro.report.artefact import table

    with pytest.raises(ValueError, match=r"e1\.table1 is declared twice"):
        table("e1.table1", title="Another", runs=("e1-central",))(lambda chosen: None)


# Files --------------------------------------------------------------------------------------------------------


def test_render_writes_the_named_files_and_no_other(rendered: Path) -> None:
    assert {path.name for path in rendered.iterdir()} == {file for name in IDS for file in report.outputs(name)}


@pytest.mark.parametrize("name", IDS)
def test_the_same_records_in_any_order_give_the_same_bytes(name: str, rendered: Path, tmp_path: Path) -> None:
    for path in report.render(name, reversed(records_for(name)), tmp_path, profile="study"):
        assert path.read_bytes() == (rendered / path.name).read_bytes()


def test_another_process_gives_the_same_bytes_without_torch(rendered: Path, tmp_path: Path) -> None:
    names = ["e1.fig1", "e1.table2", "e2.fig2", "e2.table6", "e3.fig1", "e3.extra-forgetting", "lb.fig8", "lb.table1"]
    code = (
        "import sys; from pathlib import Path; from reporting import records_of; from repro import report\n"
        "for name in sys.argv[2:]:\n"
        "    report.render(name, records_of(name[:2]), Path(sys.argv[1]), profile='study')\n"
        "assert 'torch' not in sys.modules"
    )
    env = {"PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}", "PYTHONHASHSEED": "7", "HOME": str(tmp_path)}
    # provenance is read from the root, so both look there
    subprocess.run([sys.executable, "-c", code, tmp_path / "out", *names], check=True, env=env, cwd=ROOT)
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (rendered / path.name).read_bytes()


def test_pictures_hold_no_date_version_or_path_and_no_text_an_open_brace(rendered: Path) -> None:
    for path in rendered.glob("*.*g"):
        content = path.read_bytes()
        assert b"dc:date" not in content
        assert b"Matplotlib v" not in content
        assert not re.search(rb"/(home|root|tmp|work)/", content)
    for path in [*rendered.glob("*.md"), *rendered.glob("*.csv")]:
        assert not re.search(r"\{[a-z_]*\}", path.read_text()), path


@pytest.mark.parametrize("name", IDS)
def test_every_line_of_a_csv_names_its_artefact_and_its_records(name: str, rendered: Path) -> None:
    rows = read_csv(rendered / f"{name}.csv")
    prints = {(record.run, str(record.seed)): record.fingerprint for record in shown(name)}
    assert {row["artefact"] for row in rows} == {name}
    assert {row["run"] for row in rows} <= {run for run, _ in prints}
    for row in rows:
        if row.get("fingerprint"):
            assert row["fingerprint"] == prints[row["run"], row["seed"]]


@pytest.mark.parametrize("name", IDS)
def test_a_run_without_a_record_is_one_line_that_says_what_to_do(name: str) -> None:
    pattern = report.ARTEFACTS[name].runs[-1]
    wanted = re.escape(f"no record of run {pattern}; at least one seed was expected")
    with pytest.raises(ReproError, match=wanted) as error:
        drawn(name, [record for record in records_for(name) if not fnmatchcase(record.run, pattern)])
    assert "\n" not in str(error.value)


# What readers see -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in IDS if name in TRAINED or name in FIGURES])
def test_a_reduced_profile_says_so_on_the_face(name: str) -> None:
    words = said(drawn(name, records_for(name)))
    assert "study profile: " in words
    assert " – not the published scale" in words


@pytest.mark.parametrize("name", TRAINED)
def test_one_seed_is_drawn_without_an_interval(name: str) -> None:
    first = min(record.seed for record in shown(name))
    words = said(drawn(name, [record for record in records_for(name) if record.seed == first]))
    if name not in ("e1.table1", "e2.table2"):  # parameters have no interval
        assert "One seed, so no interval" in words
    assert "nan" not in words.lower().split()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", [name for name in TRAINED if name not in TARGET])
@pytest.mark.parametrize("how", ["all at the first step", "one seed of each"])
def test_runs_that_diverged_are_drawn_and_said(name: str, how: str) -> None:
    some, artefact = how == "one seed of each", report.ARTEFACTS[name]
    seed = sorted({record.seed for record in shown(name)})[1]
    of_laws = {record.run for record in shown(name) if record.kind == "law"}
    damage = stopped if some else lost
    records = [
        damage(r) if r.kind == "train" and (not some or r.seed == seed) else r for r in records_for(name)
    ]  # fmt: skip
    made, chosen = drawn(name, records), select(name, records, artefact.runs)
    rows = artefact.rows(chosen) if artefact.rows is not None else made.csv_rows
    assert csv_text(rows)
    if name in ("e1.table1", "e2.table2"):  # parameters are those of the spec, whatever becomes of a run
        return
    words = said(made)
    assert "Diverged, " in words
    for run in set(chosen) - of_laws:
        assert label(run, chosen[run][0].spec) in words, run
        assert any(row["run"] == run and row["status"] == "diverged" for row in rows), run


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_leaves_the_figure_and_nothing_overlaps(name: str) -> None:
    figure = drawn(name, records_for(name))
    renderer = figure.canvas.get_renderer()
    figure.draw(renderer)
    beyond = undrawn_ticks(figure)
    for text in (text for text in figure.findobj(Text) if text.get_visible() and text.get_text()):
        if text in beyond:
            continue
        box = text.get_window_extent(renderer)
        assert figure.bbox.x0 <= box.x0, text.get_text()
        assert box.x1 <= figure.bbox.x1, text.get_text()
        assert figure.bbox.y0 <= box.y0, text.get_text()
        assert box.y1 <= figure.bbox.y1, text.get_text()
    boxes = [axes.get_window_extent(renderer) for axes in figure.axes]
    legends = [found.get_window_extent(renderer) for axes in figure.axes if (found := axes.get_legend()) is not None]
    pairs: list[Any] = [*itertools.product(legends, boxes), *itertools.combinations(boxes, 2)]
    for one, other in [*pairs, *itertools.combinations(legends, 2)]:
        assert not one.overlaps(other)
    notes = figure.texts[-1].get_window_extent(renderer)
    for axes in figure.axes:
        assert not axes.xaxis.label.get_text() or not axes.xaxis.label.get_window_extent(renderer).overlaps(notes)


@pytest.mark.parametrize("name", FIGURES)
def test_axes_name_their_units(name: str) -> None:
    figure = drawn(name, records_for(name))
    labels = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    lying = not labels  # one row a run, by its name
    if lying:
        assert all(text.get_text() for text in figure.axes[0].get_yticklabels())
        labels = [axes.get_xlabel() for axes in figure.axes]
    units = r"\((%|no unit|points|1 = all|standard deviations|ms|s|MiB)\)|^(device|client)$"
    assert all(re.search(units, text) for text in labels), labels
    named = r"epochs|iterations|round|step|layer|class|batch|factor|\((no unit|count|nats|thousands|images)\b"
    assert lying or all(re.search(named, text) for axes in figure.axes if (text := axes.get_xlabel()))


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_rectangular_and_latex_is_balanced_escaped_and_uses_booktabs(name: str) -> None:
    table = drawn(name, records_for(name))
    assert {len(row) for row in table.rows} == {len(table.header)}
    lines = [line for line in table.markdown().splitlines() if line.startswith("|")]
    assert len({line.count(" | ") for line in lines}) == 1
    text = table.latex()
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert all(text.count(rule) == 1 for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    assert not re.search(r"(?<!\\)[%#_]", text)
    assert not set(re.sub(r"[ -~\n]", "", text))
    assert len({row.count(" & ") for row in text.splitlines() if row.endswith(r"\\")}) == 1
