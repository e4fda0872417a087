"""Notebooks: executed twice they are the same bytes, a failure is one line, committed ones are clean and complete."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
import tree
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from synthetic import e1_records
from synthetic_e2 import e2_records
from synthetic_e3 import DIVERGE, e3_records

from repro import report
from repro.book.notebooks import drawn, execute, html_body, load, percent, show, signed_percent, table
from repro.data import sets
from repro.errors import ReproError
from repro.registry import specs, store
from repro.registry.notebook_files import of_source
from repro.results import records
from repro.results.records import Record
from repro.running import laws
from repro.verdicts import judge

ROOT = Path(__file__).parents[2]
COMMITTED = sorted((ROOT / "notebooks").glob("*.ipynb"))


def notebook(*cells: tuple[str, str]) -> NotebookNode:
    """A notebook of a parameters cell and ``cells``, each an id and its code (Markdown where it starts with #)."""
    made = [new_code_cell("size = 'small'", id="parameters", metadata={"tags": ["parameters"]})]
    made += [(new_markdown_cell if text.startswith("#") else new_code_cell)(text, id=name) for name, text in cells]
    return new_notebook(cells=made, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})


def saved(path: Path, *cells: tuple[str, str]) -> Path:
    nbformat.write(notebook(*cells), path)
    return path


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one notebook was executed twice, as once and twice, with the folder as its root."""
    folder = tmp_path_factory.mktemp("repository")
    source = saved(
        folder / "tiny.ipynb",
        ("title", "# A title\n\nInline $a_k$ and\n\n$$\\sum_{k=1}^K \\frac{a_k}{n}$$"),
        ("parameter", "print(size)"),
        ("path", "import sys\nfrom pathlib import Path\nprint(Path('records').resolve(), sys.executable)"),
        ("warning", "import warnings\nwarnings.warn('care' + 'ful')\nprint('no' + 'ise', file=sys.stderr)"),
        (
            "figure",
            "from matplotlib.figure import Figure\nfrom repro.book.notebooks import show\n"
            "figure = Figure()\nfigure.subplots().plot([1, 2])\nshow(figure, alt='a rising line')",
        ),
    )
    for name in ("once", "twice"):
        execute(source, folder / "out" / f"{name}.ipynb", {"size": "large"}, root=folder)
    return folder


def texts(path: Path) -> dict[str, str]:
    """What each cell of an executed notebook printed or returned, by the cell's id."""
    return {
        cell.id: "".join(output.get("text") or output.data["text/plain"] for output in cell.outputs)
        for cell in nbformat.read(path, 4).cells
        if cell.cell_type == "code"
    }


def test_executed_twice_gives_the_same_bytes_and_nothing_else(executed: Path) -> None:
    once, twice = ((executed / "out" / f"{name}.ipynb").read_bytes() for name in ("once", "twice"))
    assert once == twice
    assert sorted(path.name for path in (executed / "out").iterdir()) == ["once.ipynb", "twice.ipynb"]


def test_parameters_replace_defaults_and_cells_run_in_the_root_on_this_interpreter(executed: Path) -> None:
    found = texts(executed / "out/once.ipynb")
    assert found["parameter"] == "large\n"
    assert found["path"] == f"records {sys.executable.replace(sys.prefix, '<environment>')}\n"


def test_executed_files_hold_no_paths_times_or_warnings(executed: Path) -> None:
    path = executed / "out/once.ipynb"
    for content in (path.read_text(), html_body(nbformat.read(path, 4), path)):
        for stray in (str(executed), sys.prefix, str(Path.home()) + "/", "careful", "noise", "iopub", "start_time"):
            assert stray not in content


def test_page_is_readable_offline(executed: Path) -> None:
    path = executed / "out/once.ipynb"
    page = html_body(nbformat.read(path, 4), path)
    assert not re.search(r"<script|https?://(?!www\.w3\.org/1998/Math/MathML)", page)
    assert page.count("<math") == 2
    assert 'alt="a rising line"' in page


def test_unknown_parameter_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    source = saved(tmp_path / "tiny.ipynb")
    with pytest.raises(ReproError, match=r"tiny\.ipynb: unknown parameter 'sise'; .* defines size; pass one of these"):
        execute(source, tmp_path / "out.ipynb", {"sise": 1}, root=tmp_path)
    assert not (tmp_path / "out.ipynb").exists()


@pytest.mark.parametrize("content", [None, "not JSON", '{"cells": 1}'])
def test_what_is_no_notebook_is_one_line(tmp_path: Path, content: str | None) -> None:
    source = tmp_path / "x.ipynb"
    if content is not None:
        source.write_text(content)
    with pytest.raises(ReproError, match=r"x\.ipynb: (no such notebook|not a notebook)") as caught:
        execute(source, tmp_path / "out.ipynb", {})
    assert "\n" not in str(caught.value)


def test_failing_cell_is_one_line_and_leaves_the_old_output(tmp_path: Path) -> None:
    source = saved(tmp_path / "bad.ipynb", ("fine", "1"), ("broken", "raise ValueError('first line\\nlast line')"))
    out = tmp_path / "out.ipynb"
    out.write_text("old notebook")
    with pytest.raises(ReproError) as caught:
        execute(source, out, {"size": "large"}, root=tmp_path)
    assert str(caught.value) == f"{source}: cell 3 of 3 (id broken) failed: ValueError: last line"
    assert out.read_text() == "old notebook"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.ipynb", "out.ipynb"]


@pytest.mark.parametrize("tex", [r"\left( a", r"\nosuchcommand x", r"\begin{aligned} a &= b \end{aligned}"])
def test_equation_without_mathml_form_is_refused(tex: str) -> None:
    with pytest.raises(ReproError, match=r"e9\.ipynb: equation .* MathML form; write it"):
        html_body(notebook(("equation", f"# A title\n\n$${tex}$$")), Path("e9.ipynb"))


def test_code_of_cells_with_the_tag_hide_input_is_folded() -> None:
    tiny = notebook(("shown", "1 + 1"), ("folded", "2 + 2"))
    tiny.cells[2].metadata["tags"] = ["hide-input"]
    assert html_body(tiny, Path("e9.ipynb")).count("<details>") == 1


def test_interval_of_one_seed_and_of_none_is_said() -> None:
    assert percent([0.005]) == "0.5 (one seed)"
    assert percent([]) == "–"
    assert percent([0.01, 0.02, 0.03]) == "2.0 [0.0, 4.5]"  # cut at 0, beyond which no accuracy lies
    assert percent([0.51, 0.52, 0.53]) == "52.0 [49.5, 54.5]"
    assert signed_percent([0.01, 0.02, 0.03]) == "2.0 [−0.5, 4.5]", "a difference is not cut"
    assert signed_percent([-0.02, -0.02]) == "−2.0 [−2.0, −2.0]"


def test_table_escapes_what_would_split_a_cell() -> None:
    assert table(["a"], [["x | y"]]).data == "| a |\n| --- |\n| x \\| y |"


# Committed notebooks ----------------------------------------------------------------------------------------


SEEDS = (11, 12, 13, 14, 15)
SHAPES = {(r.run, r.seed): r for r in [*e1_records(SEEDS), *e2_records(SEEDS), *e3_records(SEEDS)]}
STATEMENTS = {"e1": 10, "e2": 16, "e3": 12, "lb": 33}
"""Statements with a rule, by source."""


def fill(root: Path, *, source: str = "e1", without: str = "", stale: str = "") -> None:
    """A repository in ``root`` with a record of every planned run of a source, of which one may lack or be stale."""
    tree.plant(root)
    for spec, seed in specs.runs(source, "study", root=root):
        if spec.run == without:
            continue
        sha256 = None if spec.kind == "law" else sets.manifest_sha256(spec.dataset, root / "data")
        made = replace(
            SHAPES.get((spec.run, seed), SHAPES["e1-central", 11]),
            run=spec.run,
            kind=spec.kind,
            spec=spec.as_dict(),
            data={"name": sha256 and spec.dataset, "sha256": sha256, "classes": 10, "reduced": None},
            fingerprint="0" * 64 if spec.run == stale else store.fingerprint(spec, seed, root),
        )
        if spec.run == "e1-union-law":
            law = laws.union_batch(workers=2, local_batch=2, image_size=8, width=2, lr=0.1, seed=1)
            made = replace(made, rows=[], law=law)
        records.write(_to_the_end(made), root)


def _to_the_end(record: Record) -> Record:
    """The curve of a completed training, stretched over the epochs of its spec, with a loss a round."""
    if record.kind != "train" or record.status != "completed":
        return record
    longer, last = record.spec["epochs"] / record.rows[-1]["epoch"], record.rows[-1]["round"]
    rows = [row | {"epoch": longer * row["epoch"]} for row in record.rows]
    losses = [1.0] * last if "train_loss" not in record.series else record.series["train_loss"]
    losses = np.interp(np.linspace(0, 1, last), np.linspace(0, 1, len(losses)), losses).tolist()
    return replace(record, rows=rows, series=record.series | {"train_loss": losses})


def test_load_gives_valid_records_and_all_verdicts(tmp_path: Path) -> None:
    fill(tmp_path, stale="e1-union-law")
    loaded = load("e1", "study", tmp_path)
    assert [record.seed for record in loaded.seeds("e1-central")] == [*SEEDS]
    assert loaded.stale == [("e1-union-law", 11)]
    assert {run for run, _ in loaded.missing} >= {"e1-federated-gn", "e1-grid-central-lr0_1"}
    assert loaded.seeds("e1-union-law") == []
    assert loaded.verdicts["e1.c4"]["reason"] == "missing: e1-union-law (stale)"
    assert loaded.verdicts["e1.c2"]["verdict"] == "holds at study scale"


def test_load_without_a_root_goes_to_that_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jupyter starts a kernel in the folder of its notebook; what further cells read is named from the root."""
    fill(tmp_path)
    for folder in (tmp_path / "notebooks", tmp_path):
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        assert len(load("e1", "study").seeds("e1-central")) == len(SEEDS)
        assert Path.cwd() == tmp_path


def test_load_outside_of_any_checkout_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ReproError, match="not in a checkout of this project"):
        load("e1", "study")


def test_load_misses_a_seed_that_all_runs_lack(tmp_path: Path) -> None:
    fill(tmp_path)
    for path in (tmp_path / "data/records/study/e1").glob("*.s13.json"):
        path.unlink()
    assert load("e1", "study", tmp_path).verdicts["e1.c2"]["verdict"] == "not run"


@pytest.mark.parametrize("how", ["without", "stale"])
def test_load_names_the_run_that_is_missing(tmp_path: Path, how: str) -> None:
    fill(tmp_path, **{how: "e1-federated-2epochs"})
    with pytest.raises(ReproError, match=r"no current record of e1-federated-2epochs at profile study; .* sweep"):
        load("e1", "study", tmp_path)


def test_load_of_a_source_takes_its_own_records_and_misses_only_its_grids(tmp_path: Path) -> None:
    fill(tmp_path, source="e2")
    loaded = load("e2", "study", tmp_path)
    assert len(loaded.records) == 12 * 5 + 2 * 3 + 2
    assert [record.seed for record in loaded.seeds("e2-payloads-resnet50-10")] == [11]
    controls = {spec.run for spec, _ in specs.runs("e2", "study", "control", tmp_path)}
    assert "e2-large-batch-plain" in controls
    missing = {run for run, _ in loaded.missing if "-grid-" not in run}
    assert missing == {"e2-law-lost-worker", "e2-law-slowest-device", *controls}
    assert list(loaded.verdicts) == [f"e2.c{i}" for i in range(1, 17)]
    with pytest.raises(ReproError, match=r"no current record of e1-.* sweep --source e1 --profile study"):
        load("e1", "study", tmp_path)


def test_load_refuses_an_unknown_profile(tmp_path: Path) -> None:
    with pytest.raises(ReproError, match="unknown profile 'lapto'"):
        load("e1", "lapto", tmp_path)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_notebooks_are_clean(path: Path) -> None:
    content = nbformat.read(path, 4)
    nbformat.validate(content)
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert [cell.id for cell in code if "parameters" in cell.metadata.get("tags", [])] == ["parameters"]
    assert set(content.metadata) <= {"kernelspec", "language_info"}
    assert "version" not in content.metadata.get("language_info", {})
    assert all(
        re.fullmatch(r"[a-z0-9-]+", cell.id) and not re.fullmatch(r"[0-9a-f]{8}", cell.id) for cell in content.cells
    )
    assert nbformat.writes(content).rstrip("\n") + "\n" == path.read_text()


def test_every_source_has_a_notebook() -> None:
    assert {path.stem for path in COMMITTED} >= set(specs.SOURCES)


def code_of(path: Path) -> str:
    cells = nbformat.read(path, 4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")


def judged(code: str) -> set[str]:
    """The statements whose verdicts the code of a notebook shows."""
    return set(re.findall(r'statement\(verdicts\["([\w.]+)"\]\)', code))


@pytest.mark.parametrize("source", specs.SOURCES)
def test_notebooks_of_a_source_show_every_artefact_and_every_statement_in_one_of_them(source: str) -> None:
    codes = [code_of(path) for path in of_source(ROOT / "notebooks", source)]
    statements = [item.id for item in judge.load_published(ROOT).statements if item.source == source and item.judge]
    artefacts = [name for name, item in report.ARTEFACTS.items() if item.source == source]
    assert len(statements) == STATEMENTS[source]
    assert artefacts
    drawings = [re.findall(r'\(\s*"([\w.-]+)", (?:loaded\.)?records\b', code) for code in codes]
    assert sorted(name for found in drawings for name in set(found)) == sorted(artefacts)
    assert sorted(name for code in codes for name in judged(code)) == sorted(statements)


def run_cells(name: str) -> dict[str, object]:
    """The names that the cells of a committed notebook leave behind, run here and now."""
    names: dict[str, object] = {}
    for cell in nbformat.read(ROOT / f"notebooks/{name}.ipynb", 4).cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
    return names


def test_e1_notebook_runs_and_says_that_controls_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)
    monkeypatch.chdir(tmp_path)
    names = run_cells("e1")
    assert "no record of run e1-grid-central-lr" in names["grid"].data  # type: ignore[attr-defined]
    assert "no record of run e1-large-batch-gn" in names["skew_gn"].data  # type: ignore[attr-defined]


def test_e2_notebook_runs_on_records_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, source="e2")
    monkeypatch.chdir(tmp_path)
    names = run_cells("e2")
    assert names["profile"] == "study"
    assert len(names["verdicts"]) == 16  # type: ignore[arg-type]


@pytest.mark.parametrize("path", of_source(ROOT / "notebooks", "e3"), ids=lambda path: path.stem)
def test_e3_notebooks_run_with_diverged_runs_and_without_controls(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, source="e3")
    monkeypatch.chdir(tmp_path)
    names = run_cells(path.stem)
    assert set(names["verdicts"]) == judged(code_of(path)) != set()  # type: ignore[call-overload]
    assert {record.run for record in names["records"] if record.status == "diverged"} >= set(DIVERGE) - {"e3-none-128"}  # type: ignore[attr-defined]
    if path.stem == "e3":
        assert "no record of run e3-noniid-bn-local" in names["buffers"].data  # type: ignore[attr-defined]
        own, other, shared = names["toy_rows"][120]  # type: ignore[index]
        assert own > 0.9 > shared > 0.7 > 0.3 > other
    else:
        assert "no record of run e3-gn-128-unit-scale" in names["initialisation"].data  # type: ignore[attr-defined]


def lb_changes(spec: specs.Spec) -> dict[str, object]:
    """What the record of a run of the paper holds besides: two evaluations, and the series of its gradients."""
    if spec.law == "label_split":
        numbers = {
            "vgg11_max_abs_difference": 1e-16, "vgg11_update_max_abs": 0.01, "resnet50_max_abs_difference": 0.01,
            "resnet50_update_max_abs": 0.01, "tolerance": 1e-12,
        }  # fmt: skip
        return {"rows": [], "law": numbers}
    if spec.kind == "law":
        return {"rows": [], "law": laws.LAWS[spec.law](spec, 1)}
    if spec.kind != "train":
        return {}
    row = {
        "lr": 0.1, "train_loss": 1.5, "train_top1": 0.4, "test_loss": 1.25, "test_top5": 0.9, "bytes_up": 100,
        "bytes_down": 100,
    }  # fmt: skip
    if "training_sample" in (spec.track or []):
        row |= {"train_sample_top1": 0.6, "train_sample_loss": 1.5}
    ends = [row | {"epoch": part * spec.epochs, "round": int(10 * part), "test_top1": 0.5 * part} for part in (0.5, 1)]
    ends[-1] |= {"hessian_top_eigenvalue": 2.0, "hessian_iterations": 9, "hessian_converged": True, "hessian_images": 5}
    norms = [1.0, 1.5, 1.0, 0.5, 0.75, 1.0, 1.25, 1.0, 0.5, 0.5]
    series = {"train_loss": [1.5] * 10, "gradient_norm": norms, "step_up_factor": [1.0] + [4.0] * 9}
    return {"rows": ends, "series": series}


@pytest.mark.parametrize("path", of_source(ROOT / "notebooks", "lb"), ids=lambda path: path.stem)
@pytest.mark.parametrize("groups", [("artefact",), ("artefact", "control")], ids=["alone", "with controls"])
def test_lb_notebooks_run_on_records_alone(
    path: Path, groups: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.plant(tmp_path)
    for group in groups:
        for spec, seed in specs.runs("lb", "study", group, root=tmp_path):
            tree.record(spec, seed, tmp_path, **lb_changes(spec))
    monkeypatch.chdir(tmp_path)
    names = run_cells(path.stem)
    assert set(names["verdicts"]) == judged(code_of(path)) != set()  # type: ignore[call-overload]


def test_toys_of_the_step_up_notebook_agree_with_what_is_known() -> None:
    names: dict[str, object] = {}
    for cell in nbformat.read(ROOT / "notebooks/lb-step-up.ipynb", 4).cells:
        if cell.id in ("setup", "toy-rate", "toy-occupancy"):
            exec(cell.source, names)
    walks = [f"{weight:.10f}" for weight in names["toy_walks"].values()]  # type: ignore[attr-defined]
    assert walks == ["0.4716714053", "0.4716714053", "0.4496145348"]
    shares = [round(names["probability"](t, s), 2) for t, s in ((0.5, 0.3), (0.5, 1.5), (0.8, 0.5), (0.8, 1.5))]  # type: ignore[operator]
    assert shares == pytest.approx([0.10, 0.71, 0.12, 0.49], abs=0.011)
    assert names["half"] == pytest.approx({0.5: 0.801, 0.8: 1.543}, abs=2e-3)


def test_toys_of_the_teacher_notebook_obey_the_equations() -> None:
    names: dict[str, object] = {}
    for cell in nbformat.read(ROOT / "notebooks/lb-teacher.ipynb", 4).cells:
        if cell.id in ("setup", "toy-room", "toy-leak"):
            exec(cell.source, names)
    power, trace = ((names[name] ** 2).sum() for name in ("mean", "spread"))  # type: ignore[operator]
    for batch, (plain, scaled, noisy, best) in names["toy_rows"].items():  # type: ignore[attr-defined]
        whole = power + trace / 32
        assert best == pytest.approx(power / whole, abs=0.01)
        assert plain == pytest.approx((power - trace / batch) / whole, abs=0.01)
        assert noisy == pytest.approx(plain - trace * (1 / 32 - 1 / batch) / whole, abs=0.02)
        assert plain - 0.001 < scaled < best + 0.001
        assert best - plain < 32 / batch
    factors = names["toy_factors"]
    assert factors["inside"] == pytest.approx(1, abs=0.02)  # type: ignore[index]
    assert factors["apart"] == pytest.approx(names["shrunk"], abs=0.02)  # type: ignore[index]


def test_toys_of_the_tables_notebook_obey_the_laws() -> None:
    names: dict[str, object] = {}
    for cell in nbformat.read(ROOT / "notebooks/lb-tables.ipynb", 4).cells:
        if cell.id == "setup" or (cell.cell_type == "code" and cell.id.startswith("toy-")):
            exec(cell.source, names)
    differences = names["toy_splits"]
    assert differences.pop(("BSP", "no normalisation")) < 1e-12  # type: ignore[attr-defined]
    assert min(differences.values()) > 0.1  # type: ignore[attr-defined]
    for found, expected in names["toy_lengths"].values():  # type: ignore[attr-defined]
        assert found == pytest.approx(expected, rel=0.05)
    for known, found in names["toy_tops"].values():  # type: ignore[attr-defined]
        assert found.value == pytest.approx(known, rel=0.02)


def test_a_drawing_of_controls_may_be_missing_and_another_may_not() -> None:
    records = e1_records()
    assert drawn("e1.fig1", records, alt="three curves").alt == "three curves"  # type: ignore[union-attr]
    assert drawn("e1.table2", records, alt="").data == report.table("e1.table2", records).markdown()
    assert "no record of run e1-grid-central" in str(drawn("e1.extra-grid", records, alt="").data)
    with pytest.raises(ReproError, match=r"e1\.fig1: no record of run"):
        drawn("e1.fig1", [], alt="")


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_page_has_mathml_for_all_equations(path: Path) -> None:
    page = html_body(nbformat.read(path, 4), path)
    assert "$" not in re.sub(r"(?s)<pre>.*?</pre>|<code>.*?</code>", "", page)


def test_show_says_what_the_figure_shows() -> None:
    image = show(report.figure("e1.fig1", e1_records()), alt="three curves")
    assert image.alt == "three curves"
    assert image.data.startswith(b"\x89PNG")
