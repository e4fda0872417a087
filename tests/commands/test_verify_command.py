"""The reviewer's check computes again what fits into its time, compares it, and says plainly what it did not check."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tree

from repro import cli, files
from repro.commands import verify
from repro.registry import specs, store
from repro.results import records
from repro.results.records import Record
from repro.running import rerun, runner

QUICK = {"e1-central": 30.0, "e1-federated": 20.0, "e1-large-batch": 10.0}
SEED = 11
LAW = {"low": 1e-9, "tolerance": 1e-6, "workers": 4}


CHECK = {"number": "low", "called": "largest difference", "is": "at most", "limit": "tolerance", "times": 1}


class Bench:
    """Records of three runs with their times, and a runner that gives what a test puts into ``again`` and ``law``."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.again, self.law = root, dict[str, Record](), dict(LAW)
        for run, seconds in QUICK.items():
            spec = specs.find(run, "study", root)
            self.again[run] = tree.record(spec, SEED, root)
            path = records.provenance_path(store.record_path(spec, SEED, root))
            known = {"cpu_seconds": seconds, "machine": {"device": "abacus"}}
            files.write_atomic(path, files.canonical_json(known))
        monkeypatch.setattr(runner, "run", self.run)
        monkeypatch.setattr(verify, "_computed", self.computed)
        monkeypatch.setattr(rerun, "law_checks", lambda run, root: [CHECK])

    def run(self, spec: specs.Spec, seed: int, root: Path, **options: Any) -> tuple[Record, dict[str, Any]]:
        made = replace(next(iter(self.again.values())), law=self.law) if spec.kind == "law" else self.again[spec.run]
        return made, {"machine": {"device": "abacus"}}

    def computed(self, chosen, root, jobs, until, tell):  # in this process, where the runner above stands in
        return {(known.spec.run, known.seed): rerun.rerun(known.spec, known.seed, root) for known in chosen}

    def review(self, **options: Any) -> tuple[verify.Report, dict[str, verify.Checked]]:
        report = verify.review("study", self.root, **({"time_budget": 1500, "jobs": 1} | options))
        return report, {each.id: each for each in report.statements}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tree.plant(tmp_path), monkeypatch)


def test_the_quickest_run_of_a_statement_is_computed_again_and_stands_for_all_that_read_it(bench: Bench) -> None:
    report, found = bench.review()
    assert report.agrees, report.lines()
    assert report.records == len(QUICK)
    compared = found["e1.c1"].runs[0]
    assert (compared.run, compared.verdict, found["e1.c1"].agrees) == ("e1-large-batch", rerun.IDENTICAL, True)
    assert compared.recorded == compared.again == "top-1 50.00 % at epoch 40"
    again = {(run.run, run.seed) for each in report.statements for run in each.runs}
    assert ("e1-central", SEED) not in again  # all that read it read a quicker one, too
    assert report.lines()[-1].startswith(f"{sum(each.agrees is True for each in report.statements)} of ")


def test_a_disagreement_is_said_of_every_statement_that_reads_the_run_and_is_the_exit_code(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (row,) = bench.again["e1-large-batch"].rows
    bench.again["e1-large-batch"] = replace(bench.again["e1-large-batch"], rows=[row | {"test_top1": 0.75}])
    report, found = bench.review()
    assert not report.agrees
    assert found["e1.c1"].agrees is False
    assert found["e2.c1"].agrees is None
    (line,) = (line for line in report.lines() if line.startswith("e1.c1 "))
    assert "DISAGREES" in line
    assert "recorded top-1 50.00 % at epoch 40, now top-1 75.00 % at epoch 40" in line
    monkeypatch.chdir(bench.root)
    assert cli.main(["verify", "--profile", "study", "--json", "--jobs", "1"]) == 1
    assert json.loads(capsys.readouterr().out)["agrees"] is False


def test_what_does_not_fit_into_the_time_is_said_with_its_cost(bench: Bench) -> None:
    _, found = bench.review(time_budget=0)
    assert found["e1.c1"].agrees is None
    assert "e1-large-batch seed 11) takes 0.2 core-minutes" in found["e1.c1"].said[0]


def test_without_records_laws_are_checked_and_the_lack_is_said(bench: Bench) -> None:
    for path in list(records.every(bench.root)):
        path.unlink()
    report, found = bench.review()
    assert report.records == 0
    assert any("no valid record of profile study" in note for note in report.notes)
    assert found["e1.c4"].agrees is True
    assert "without a record to compare with: 1 checks met" in found["e1.c4"].said[0]
    assert found["e1.c1"] == verify.Checked(
        "e1.c1", found["e1.c1"].kind, None, (), ("no valid record of the runs that it reads",)
    )


def test_a_law_that_is_not_met_here_disagrees(bench: Bench) -> None:
    bench.law["low"] = 1e-3
    report, found = bench.review()
    assert found["e1.c4"].agrees is False
    assert "largest difference 0.001 is not at most 1e-06" in found["e1.c4"].said[0]
    assert not report.agrees


def test_measurements_are_left_to_an_idle_machine(bench: Bench) -> None:
    _, found = bench.review()
    assert found["lb.c5"].agrees is None
    assert "measured times and memory" in found["lb.c5"].said[0]


def test_arithmetic_that_the_book_does_not_show_disagrees(bench: Bench) -> None:
    (bench.root / "book").mkdir()
    page = (tree.REPOSITORY / "book/arithmetic.html").read_text()
    (bench.root / "book/arithmetic.html").write_text(page)
    assert bench.review()[0].arithmetic == []
    (bench.root / "book/arithmetic.html").write_text("nothing")
    report, _ = bench.review()
    assert report.arithmetic
    assert not report.agrees


def test_a_stored_verdict_that_judging_again_does_not_give_disagrees(bench: Bench) -> None:
    from repro.report import pilot
    from repro.verdicts import judge

    path = bench.root / "figures/study/verdicts.json"
    judged = pilot.judge_all(judge.load_published(bench.root).statements, "study", bench.root)
    files.write_atomic(path, files.canonical_json(judged))
    assert bench.review()[0].verdicts == []
    judged[0]["verdict"] = "holds at study scale"
    files.write_atomic(path, files.canonical_json(judged))
    (line,) = bench.review()[0].verdicts
    assert line.startswith(f"{judged[0]['id']}: the stored verdict is 'holds at study scale'")


@pytest.mark.parametrize(
    ("budget", "jobs", "expected"),
    [(0, 1, ""), (9, 1, ""), (10, 1, "a"), (29, 1, "a"), (30, 1, "ab"), (20, 2, "ab"), (39, 2, "ab"), (40, 2, "abc")],
)  # fmt: skip
def test_as_many_statements_as_fit_get_a_run_and_one_run_serves_all_its_statements(budget, jobs, expected) -> None:
    seconds = {("a", 1): 10.0, ("b", 1): 20.0, ("c", 1): 30.0}
    behind = {
        "x": {("a", 1): 10.0, ("c", 1): 30.0}, "y": {("b", 1): 20.0}, "z": {("b", 1): 20.0, ("c", 1): 30.0},
        "w": {("c", 1): seconds["c", 1]}, "none": {},
    }  # fmt: skip
    assert [run for run, _ in verify.choose(behind, budget, jobs)] == list(expected)


def test_a_run_that_cannot_be_computed_leaves_the_others_alone(tmp_path: Path) -> None:
    root = tree.plant(tmp_path)
    spec = specs.find("e1-central", "study", root)
    (root / "data/sources.yaml").unlink()
    found = verify._computed([verify.Known(spec, SEED, 1.0)], root, 1, float("inf"), lambda line: None)
    assert isinstance(found["e1-central", SEED], str)


def test_a_real_run_is_computed_in_a_process_of_its_own_and_is_identical(tmp_path: Path) -> None:
    root = tree.plant(tmp_path)
    spec = specs.find("e3-normalisation-law", "study", root)
    made, provenance = runner.run(spec, SEED, root, checkpoint_seconds=float("inf"))
    runner.save(made, provenance, root)
    found = verify._again(spec, SEED, root)
    assert found.verdict == rerun.IDENTICAL
    assert found.recorded == found.again
