"""The check finds every way in which the published statements, the specs and the files can come apart."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tree

from repro import files, report
from repro.commands.check import WAITING, check
from repro.errors import ReproError
from repro.registry import specs, store
from repro.registry.notebook_files import of_source
from repro.report import pilot
from repro.results import records
from repro.running import tuning
from repro.verdicts.judge import load_published

PUBLISHED, SPECS, NOTEBOOK = "data/published.yaml", "pipelines/e1.yaml", "notebooks/e1.ipynb"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which nothing is missing at the smoke profile: grids recorded, rates chosen, files there."""
    root = tree.plant(tmp_path_factory.mktemp("whole"))
    (root / "notebooks").mkdir()
    for source in specs.SOURCES:
        for path in of_source(tree.REPOSITORY / "notebooks", source):
            shutil.copy(path, root / "notebooks")
        for spec, seed in specs.runs(source, "smoke", "grid", root):
            tree.record(spec, seed, root)
        tuning.write(source, "smoke", root)
    folder = root / "figures/smoke"
    folder.mkdir(parents=True)
    for artefact in report.ARTEFACTS:
        for name in report.outputs(artefact):
            (folder / name).touch()
    judge(root)
    return root


def judge(root: Path) -> None:
    """Store the verdicts of the records at hand."""
    found = pilot.judge_all(load_published(root).statements, "smoke", root)
    (root / "figures/smoke/verdicts.json").write_text(json.dumps(found))


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "root"))


def problems(root: Path, verdicts: bool = False) -> list[str]:
    """What is wrong; verdicts that are older than what a test changed only if asked for."""
    found = check("smoke", root)[0]
    return [line for line in found if verdicts or not line.endswith("changed since; run `dvc repro`")]


def rename_in_notebook(root: Path, new: str) -> None:
    """Rename e1.c1, and not e1.c10, in the notebook of post 1."""
    text, count = re.subn(r"\be1\.c1\b", new, (root / NOTEBOOK).read_text())
    assert count
    (root / NOTEBOOK).write_text(text)


def test_nothing_is_wrong_where_everything_is_there(whole: Path) -> None:
    found, waiting = check("smoke", whole)
    assert found == []
    assert waiting
    verdicts = json.loads((whole / "figures/smoke/verdicts.json").read_text())
    runless = {verdict["id"] for verdict in verdicts if verdict["verdict"] == "not run"}
    assert {line.split(":")[0] for line in waiting} == WAITING | runless, "no run but the grids has a record"


@pytest.mark.parametrize("rule", ["lb.c9", "lb.c17"])
def test_a_rule_that_is_gone_is_a_problem_also_where_others_wait(rule: str, root: Path) -> None:
    text = (root / PUBLISHED).read_text()
    start = text.index("    judge:", text.index(f"- id: {rule}\n"))
    (root / PUBLISHED).write_text(text[:start] + text[text.index("  - id:", start) :])
    assert problems(root) == [f"{rule}: no rule; a key `judge` was expected in data/published.yaml"]


def test_a_drawing_that_is_gone_is_a_problem_also_where_others_wait(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "ARTEFACTS", {i: item for i, item in report.ARTEFACTS.items() if i != "lb.fig5"})
    found = problems(root)
    assert "lb.fig5: nothing draws it; add it to repro.report.ARTEFACTS" in found


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        (PUBLISHED, "contrast: {e1-large-batch: 1, e1-central", "contrast: {e1-lrge-batch: 1, e1-central",
         "e1.c1: judged by e1-lrge-batch, which pipelines/e1.yaml does not define"),
        (PUBLISHED, "e1-grid-large-batch, e1", "e1-grid-large, e1", "e1.c6: judged by e1-grid-large, which"),
        (PUBLISHED, "run: e1-union-law", "run: e1-law", "e1.c4: judged by e1-law, which"),
        (PUBLISHED, "runs: [e1-central, e1-large-batch,", "runs: [e1-centre, e1-large-batch,", "e1.c7: judged by e1-c"),
        (PUBLISHED, "artefact: e1.extra-skew", "artefact: e1.extra-skw", "e1.c5: shown by e1.extra-skw, which nothing"),
        (PUBLISHED, "e2-large-batch-gq: 1,", "e2-large-batch-qg: 1,", "e2.c3: judged by e2-large-batch-qg, which pipe"),
        ("pipelines/e3.yaml", "  e3-gn-1024-slow:", "  e3-gn-1024-slo:", "e3.c6: judged by e3-gn-1024-slow, which"),
        (PUBLISHED, "unlike: [e3-fixup-1024,", "unlike: [e3-fixup-1023,", "e3.c5: judged by e3-fixup-1023, which pipe"),
        ("pipelines/e2.yaml", "  e2-federated-gq:", "  e2-federated-g:", "e2.c6: judged by e2-federated-gq, which"),
        (SPECS, "  e1-federated-2labels-gn:", "  e1-federated-2lab-gn:", "e1.c5: judged by e1-federated-2labels-gn,"),
    ],
)  # fmt: skip
def test_a_name_that_does_not_exist_is_said(file: str, old: str, new: str, says: str, root: Path) -> None:
    tree.edit(root / file, old, new)
    assert any(line.startswith(says) for line in problems(root))


@pytest.mark.parametrize("longer", ["e1.c10", "lb.e1.c1", "e1.c1-2", "e1.c1x"])
def test_an_id_within_a_longer_one_is_no_mention(longer: str, root: Path) -> None:
    rename_in_notebook(root, longer)
    assert problems(root) == ["e1.c1: not in notebooks/e1.ipynb; a section that names it was expected"]


def test_a_section_may_be_in_any_notebook_of_the_source_and_in_no_other(root: Path) -> None:
    rename_in_notebook(root, "e1.moved")
    (root / "notebooks/e1-more.ipynb").write_text("about e1.c1")
    assert problems(root) == []
    (root / "notebooks/e1-more.ipynb").rename(root / "notebooks/e12.ipynb")
    assert problems(root) == ["e1.c1: not in notebooks/e1.ipynb; a section that names it was expected"]


def test_a_statement_of_a_built_source_needs_a_rule(root: Path) -> None:
    text = (root / PUBLISHED).read_text()
    start = text.index("    judge:", text.index("- id: e1.c3"))
    (root / PUBLISHED).write_text(text[:start] + text[text.index("  - id: e1.c4") :])
    assert problems(root) == ["e1.c3: no rule; a key `judge` was expected in data/published.yaml"]


def test_a_statement_needs_a_figure_or_table_unless_it_is_a_law_or_definition(root: Path) -> None:
    tree.edit(root / PUBLISHED, "    artefact: e1.fig1\n", "    artefact: null\n")
    assert problems(root) == ["e1.c1: no figure or table; a key `artefact` was expected in data/published.yaml"]


def test_a_figure_is_drawn_from_runs_that_are_defined(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = replace(report.ARTEFACTS["e1.fig1"], runs=("e1-central", "e1-gone*"))
    monkeypatch.setitem(report.ARTEFACTS, "e1.fig1", changed)
    assert problems(root) == ["e1.fig1: drawn from e1-gone*, which pipelines/e1.yaml does not define; correct one"]


@pytest.mark.parametrize("source", tree.ARMS)
def test_learning_rates_that_the_grids_do_not_choose_are_stale(source: str, root: Path) -> None:
    path = specs.learning_rates_path("smoke", root)
    stored = json.loads(path.read_text())
    arm = tree.ARMS[source][-1]
    stored[source][arm]["lr"] *= 2
    path.write_text(json.dumps(stored))
    assert problems(root) == [f"data/learning_rates/smoke.json: {arm} is stale; run `make controls PROFILE=smoke`"]


@pytest.mark.parametrize("source", tree.ARMS)
def test_learning_rates_without_their_grid_cannot_be_checked(source: str, root: Path) -> None:
    arm = tree.ARMS[source][-1]
    next((root / f"data/records/smoke/{source}_controls").glob(f"{source}-grid-{arm}-*")).unlink()
    (line,) = problems(root)
    says = f"data/learning_rates/smoke.json: cannot be compared with the grids ({source}-grid-{arm}-lr"
    assert line.startswith(says)


def test_a_missing_figure_is_a_problem_and_one_of_the_controls_waits(root: Path) -> None:
    for name in ("e1.fig1.svg", "e1.extra-skew-gn.svg"):
        (root / "figures/smoke" / name).unlink()
    found, waiting = check("smoke", root)
    assert found == ["figures/smoke/e1.fig1.svg: missing; run `dvc repro`"]
    assert "figures/smoke/e1.extra-skew-gn.svg: missing; run `make controls PROFILE=smoke`" in waiting


def test_a_missing_verdict_is_a_problem_and_not_run_waits(root: Path) -> None:
    path = root / "figures/smoke/verdicts.json"
    verdicts = [v for v in json.loads(path.read_text()) if v["id"] != "e1.c2"]
    path.write_text(json.dumps(verdicts))
    found, waiting = check("smoke", root)
    assert found == ["e1.c2: no verdict in figures/smoke/verdicts.json; run `dvc repro`"]
    (line,) = (line for line in waiting if line.startswith("e1.c5: "))
    assert "not run (" in line


def test_a_verdict_that_is_not_todays_is_a_problem(root: Path) -> None:
    path = root / "figures/smoke/verdicts.json"
    verdicts = json.loads(path.read_text())
    next(v for v in verdicts if v["id"] == "e1.c5").update(verdict="holds at smoke scale")
    next(v for v in verdicts if v["id"] == "e1.c1").update(says="Something else.")
    path.write_text(json.dumps(verdicts))
    first, second = problems(root, verdicts=True)
    assert first.startswith("e1.c1: the stored verdict (")
    assert "has other numbers" in first
    assert second.startswith("e1.c5: the stored verdict is 'holds at smoke scale', judged again it is 'not run'; ")


def test_verdicts_older_than_a_record_or_than_a_statement_are_a_problem(root: Path) -> None:
    for spec, seed in specs.runs("e1", "smoke", root=root):
        if spec.kind == "train":
            tree.record(spec, seed, root, top1=0.5 + seed / 100)
    assert {line.split(":")[0] for line in problems(root, verdicts=True)} >= {"e1.c1", "e1.c2", "e1.c3"}
    judge(root)
    assert problems(root, verdicts=True) == []
    tree.edit(root / PUBLISHED, "says: Large batch and federated learning both", "says: Both")
    assert [line.split(":")[0] for line in problems(root, verdicts=True)] == ["e1.c1"]


@pytest.mark.parametrize("how", ["stale", "gone"])
def test_a_record_that_was_there_and_does_not_count_is_a_problem(how: str, root: Path) -> None:
    tasks = specs.runs("e3", "smoke", root=root)
    for spec, seed in tasks:
        made = tree.record(spec, seed, root, **({"fingerprint": "0" * 64} if how == "stale" else {}))
        path = store.record_path(spec, seed, root)
        files.write_atomic(records.provenance_path(path), files.canonical_json({"run": made.run}))
        if how == "gone":
            path.unlink()
    why = {
        "stale": "stale, made with other settings, data or numerics",
        "gone": "gone, while their provenance is there",
    }
    first = ", ".join(f"{spec.run} seed {seed}" for spec, seed in tasks[:3])
    line = f"e3: records are {why[how]} ({first} and {len(tasks) - 3} more); run `dvc repro` or `make controls"
    (found,) = (said for said in problems(root) if said.startswith("e3:"))
    assert found.startswith(line)


def test_a_record_that_cannot_be_judged_is_a_problem_once(root: Path) -> None:
    tree.record(specs.find("e1-union-law", "smoke", root), 1, root)  # without what a law measures
    (line,) = problems(root, verdicts=True)
    assert "law record: 'groupnorm_max_abs_difference' is None" in line


def test_a_run_that_was_never_run_is_no_problem(root: Path) -> None:
    assert not (root / "data/provenance").exists()
    assert problems(root, verdicts=True) == []


def test_a_damaged_record_is_a_problem(root: Path) -> None:
    spec, seed = specs.runs("e3", "smoke", "artefact", root)[0]
    tree.record(spec, seed, root)
    path = store.record_path(spec, seed, root)
    path.write_text(path.read_text()[:-20])
    (found,) = (line for line in problems(root) if path.name in line)
    assert "\n" not in found


def test_damaged_verdicts_are_one_line(root: Path) -> None:
    (root / "figures/smoke/verdicts.json").write_text("<<<<<<< HEAD\n")
    with pytest.raises(ReproError, match="truncated or not JSON"):
        check("smoke", root)
