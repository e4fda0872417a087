"""``repro plan`` of the study: every planned record once, done or left; what is left costs what other seeds did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tree

from repro import cli, files
from repro.registry import order, specs, store
from repro.results import records
from repro.running import bill


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tree.plant(tmp_path))
    return tmp_path


def planned(root: Path) -> int:
    made = [specs.runs_and_waiting(source, "study", group, root) for source in specs.SOURCES for group in specs.GROUPS]
    return sum(len(tasks) + len(waiting) for tasks, waiting in made)


def test_every_planned_record_is_counted_once_and_nothing_is_free(root: Path) -> None:
    found = bill.lines(set(), root)
    assert sum(line.left for line in found) == planned(root)
    assert sum(line.done for line in found) == 0
    assert all(line.hours == line.hours_left == 0 for line in found)
    assert all(line.unknown == line.left for line in found)


def test_what_is_done_is_added_up_and_other_seeds_of_the_run_cost_the_same(root: Path) -> None:
    spec = specs.find("e1-central", "study", root)
    for seed, seconds in ((11, 3600.0), (12, 7200.0)):
        tree.record(spec, seed, root)
        path = records.provenance_path(store.record_path(spec, seed, root))
        files.write_atomic(path, files.canonical_json({"cpu_seconds": seconds}))
    found = bill.lines({("e1-central", 11), ("e1-central", 12)}, root)
    (line,) = (line for line in found if line.done)
    assert (line.group, line.done, line.hours) == ("post 1", 2, 3.0)
    seeds = len([seed for s, seed in specs.runs_and_waiting("e1", "study", "artefact", root)[0] if s.run == spec.run])
    assert line.hours_left == pytest.approx((seeds - 2) * 1.5)
    assert line.unknown == line.left - (seeds - 2)
    assert sum(line.left for line in found) == planned(root) - 2


# As the command prints it -----------------------------------------------------------------------------------------


def timed(root: Path, run: str, seed: int, seconds: float) -> None:
    """A valid record of a planned run that took so many seconds of one core."""
    source = run.partition("-")[0]
    tasks = [task for group in specs.GROUPS for task in specs.runs_and_waiting(source, "study", group, root)[0]]
    spec = next(spec for spec, k in tasks if (spec.run, k) == (run, seed))
    tree.record(spec, seed, root)
    path = records.provenance_path(store.record_path(spec, seed, root))
    files.write_atomic(path, files.canonical_json({"cpu_seconds": seconds, "seconds": 10 * seconds}))


def bills(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    capsys.readouterr()
    assert cli.main(["plan", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    return {bill["group"]: bill for bill in answer["groups"]}, answer["total"]


def test_the_command_prints_the_bill_in_the_order_of_the_sweeps(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups, total = bills(capsys)
    assert list(groups) == [step.name for step in order.steps(root) if step.name in groups]
    assert set(groups) == {line.group for line in bill.lines(set(), root)}
    assert (total["runs"], total["runs_of_unknown_cost"]) == (planned(root), planned(root))
    assert (total["runs_done"], total["core_hours_spent"], total["core_hours_left"]) == (0, 0, 0)
    assert cli.main(["plan"]) == 0
    assert f"Nothing is known of the cost of {planned(root)} runs" in capsys.readouterr().out
    specs.learning_rates_path("study", root).write_text("{}")  # runs that wait for their rate are planned all the same
    assert bills(capsys) == (groups, total)


def test_seconds_of_the_processor_are_billed_and_not_those_of_the_wall_in_which_pauses_count(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    timed(root, "e3-gn-wide", 11, 1800.0)
    timed(root, "e3-gn-wide", 12, 5400.0)
    (group,) = [group for group in bills(capsys)[0].values() if group["runs_done"]]
    assert (group["runs_done"], group["core_hours_spent"]) == (2, pytest.approx(2.0))
    left = group["runs"] - group["runs_done"] - group["runs_of_unknown_cost"]
    assert left > 0
    assert group["core_hours_left"] == pytest.approx(left), "an hour each, as the two others on average"


def test_the_total_is_the_sum_and_the_table_says_what_is_not_known(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    timed(root, "lb-batch-vgg11-1024", 11, 36.0)
    timed(root, "e1-central", 11, 72.0)
    groups, total = bills(capsys)
    for key, value in total.items():
        assert key == "group" or value == pytest.approx(sum(group[key] for group in groups.values())), key
    assert total["core_hours_spent"] == pytest.approx(0.03)
    assert groups["post 2"]["runs_of_unknown_cost"] == groups["post 2"]["runs"]
    assert cli.main(["plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.startswith("post 2  "))
    assert "not known" in line
    (last,) = (line for line in lines if line.startswith("total"))
    assert "0.03" in last
    left = f"at least {total['core_hours_left']:.2f} (cost of {total['runs_of_unknown_cost']} runs is not known)"
    assert left in last


def test_a_run_costs_the_same_in_its_own_plan_and_in_that_of_the_study(root: Path, capsys) -> None:
    timed(root, "e3-gn-wide", 11, 1800.0)
    timed(root, "e3-gn-wide", 12, 5400.0)
    (group,) = [group for group in bills(capsys)[0].values() if group["runs_done"]]
    assert cli.main(["plan", "e3-gn-wide", "--json"]) == 0
    total = json.loads(capsys.readouterr().out)["total"]
    assert total["core_hours_to_do"] == pytest.approx(group["core_hours_left"])
    assert (total["core_hours_to_do"], total["runs_without_a_time"]) == (pytest.approx(total["runs"] - 2), 0)
    assert cli.main(["plan", "e3-gn-wide", "e3-noniid-bn"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"at least {total['core_hours_to_do']:.2f}" in next(line for line in lines if line.startswith("total"))


def test_a_stale_record_is_not_done(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timed(root, "e1-central", 11, 72.0)
    tree.edit(root / "pipelines/study/params.yaml", "epochs: 40", "epochs: 44")
    total = bills(capsys)[1]
    assert (total["runs_done"], total["core_hours_spent"]) == (0, 0)


def test_a_damaged_time_is_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timed(root, "e1-central", 11, 72.0)
    path = records.provenance_path(store.record_path(specs.find("e1-central", "study", root), 11, root))
    path.write_text('{"cpu_seconds": "long"}')
    assert cli.main(["plan"]) == 2
    assert "a number from 0 up was expected" in capsys.readouterr().err
