"""Executors of a sweep without any cluster: what they are asked, what they ask for, and what a lost run costs."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toy
import tree

from repro import cli, files
from repro.errors import ReproError
from repro.registry import specs, store
from repro.results import records
from repro.running import executors, sweep
from repro.running.executors import needs

GIB = needs.GIB


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Specs and sizes, no record; their data count as prepared."""
    tree.plant(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("repro.data.sets.load", lambda *_: None)
    return tmp_path


def recorded(root: Path, spec: specs.Spec, seed: int, seconds: float, memory: int | None = None) -> None:
    path = records.provenance_path(store.record_path(spec, seed, root))
    known = {"cpu_seconds": seconds} | ({} if memory is None else {"peak_memory": memory})
    files.write_atomic(path, files.canonical_json(known))


# Optional packages ------------------------------------------------------------------------------------------------


def test_nothing_but_a_started_executor_imports_its_package() -> None:
    imports = "import sys, repro.cli, repro.commands.plan, repro.running.sweep"
    code = f"{imports}; print({{'ray', 'submitit'}} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], cwd=toy.ROOT, capture_output=True, text=True, check=True).stdout
    assert said == "set()\n"


@pytest.mark.parametrize("name", ["submitit", "ray"])
def test_without_its_package_one_line_says_what_to_install(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr("repro.running.tuning.stale", lambda *_: [])
    assert cli.main(["sweep", "--profile", "smoke", "--source", "e1", "--executor", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"the package {name} was expected, and is not installed; `pip install -e '.[cluster]'`" in line


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"executor": "ray", "time_budget": 5.0}, "a time budget with --executor ray"),
        ({"executor": "local", "gpus": 1.0}, "--gpus with --executor local"),
        ({"executor": "local", "jobs": 99_999}, "usable cores"),
    ],
)
def test_what_an_executor_cannot_do_is_refused_before_anything_is_computed(
    options: dict[str, Any], says: str, root: Path
) -> None:
    with pytest.raises(ReproError, match=says):
        sweep.sweep([(toy.spec("central"), 1)], root, **options)


@pytest.mark.parametrize("share", ["1.5", "-1", "nan", "two"])
def test_half_of_a_second_gpu_is_no_number_of_gpus(share: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["sweep", "--executor", "ray", "--gpus", share])
    assert "a share of a GPU from 0 to 1, or a whole number, was expected" in capsys.readouterr().err


# The sweep ----------------------------------------------------------------------------------------------------------


class Pool:
    """Answers in this process; of the runs named in ``lost``, the first so many attempts end without one."""

    remedy = "buy memory"
    at_once = 1

    def __init__(self, lost: dict[str, int]) -> None:
        self.lost, self.running, self.started = lost, list[tuple[int, str]](), list[str]()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        assert not self.running

    def submit(self, spec: specs.Spec, seed: int, root: Path, /) -> int:
        self.started.append(spec.run)
        self.running.append((len(self.started), spec.run))
        return len(self.started)

    def answers(self) -> Iterator[tuple[int, str | None]]:
        number, run = self.running.pop(0)
        self.lost[run] = self.lost.get(run, 0) - 1
        yield number, None if self.lost[run] >= 0 else "done"


@pytest.mark.parametrize(("times", "computed"), [(1, 2), (2, 1)])
def test_a_lost_run_is_handed_in_once_more_and_measurements_are_left(
    times: int, computed: int, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, asked = Pool({"toy-lost": times}), []
    monkeypatch.setattr(executors, "start", lambda *given: asked.append(given) or pool)
    lost, other = toy.spec("central", run="toy-lost"), toy.spec("central", run="toy-other")
    measured = next(task for task in specs.runs("lb", "smoke", root=root) if task[0].kind == "measure")
    done = sweep.sweep([(lost, 1), (other, 1), measured], root, executor="ray", jobs=3, gpus=0.5)
    assert sorted(pool.started) == ["toy-lost", "toy-lost", "toy-other"]
    assert (done.computed, done.left) == (computed, 1)
    problem = ("toy-lost seed 1: its process was killed 2 times (out of memory?); buy memory",)
    assert done.problems == (problem if times == 2 else ())
    assert (asked[0][0], asked[0][3]) == ("ray", executors.Resources(3, 0.5))


def test_a_run_that_an_executor_refuses_is_a_problem_and_the_others_go_on(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Small(Pool):
        def submit(self, spec: specs.Spec, seed: int, root: Path, /) -> int:
            if spec.run == "toy-large":
                raise ReproError("asks for more memory than there is; add some")
            return super().submit(spec, seed, root)

    monkeypatch.setattr(executors, "start", lambda *given: Small({}))
    tasks = [(toy.spec("central", run=run), 1) for run in ("toy-first", "toy-large", "toy-last")]
    done = sweep.sweep(tasks, root, executor="ray", jobs=2)
    assert done.computed == 2
    assert done.problems == ("toy-large seed 1 failed: asks for more memory than there is; add some",)


def test_an_exception_that_cannot_be_pickled_is_answered_as_text() -> None:
    class Odd(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    def odd() -> None:
        raise Odd(1, 2)

    assert executors.caught(int, "7") == 7
    assert isinstance(executors.caught(int, "seven"), ValueError)
    found = executors.caught(odd)
    assert (type(found), str(found)) == (RuntimeError, "Odd: 1 and 2")


# What to ask for ----------------------------------------------------------------------------------------------------


def test_a_run_needs_the_most_that_any_of_its_seeds_took(root: Path) -> None:
    spec = toy.spec("central")
    assert needs.of(spec, root) == needs.Need(None, None)
    recorded(root, spec, 1, 40.0, GIB)
    recorded(root, spec, 2, 50.0)
    recorded(root, toy.spec("central", run="toy-central-x2"), 1, 900.0, 9 * GIB)
    assert needs.of(spec, root) == needs.Need(50.0, GIB)
    sizes = {0.1: 1, 0.8: 1, 0.81: 2, 1.6: 2, 3.0: 4, 5.0: 8}
    assert {least: needs.Need(None, int(least * GIB)).gib for least in sizes} == sizes
    assert needs.Need(1.0, None).gib is None


def tasks_of(root: Path, costs: dict[str, float | None]) -> list[needs.Task]:
    made = [(toy.spec("central", run=run, train_images=60_000), seed) for run in costs for seed in (1, 2)]
    for spec, seed in made:
        if (seconds := costs[spec.run]) is not None:
            recorded(root, spec, seed, seconds, GIB // 2)
    return made


COSTS = {"long": 5000.0, "middle": 200.0, "short": 3.0, "shorter": 1.0, "never": None}


@pytest.mark.parametrize("jobs", [None, 2, 40])
def test_every_run_is_in_one_job_and_a_job_of_several_runs_ends_soon(root: Path, jobs: int | None) -> None:
    tasks = tasks_of(root, COSTS)
    found = needs.arrays(tasks, root, jobs)
    every = [task for array in found for job in array.jobs for task in job]
    assert sorted((s.run, k) for s, k in every) == sorted((s.run, k) for s, k in tasks)
    for array in found:
        for job in array.jobs:
            assert [tasks.index(task) for task in job] == sorted(tasks.index(task) for task in job)
            seconds = [COSTS[spec.run] for spec, _ in job]
            if None in seconds:
                assert (len(job), array.minutes, array.gib) == (1, needs.UNKNOWN_MINUTES, None)
                continue
            assert len(job) == 1 or sum(seconds) <= needs.JOB_SECONDS
            assert needs.SLOWER * sum(seconds) < 60 * array.minutes
            assert array.gib == 1
    assert sum(array.untimed for array in found) == 2
    assert sum(len(array.jobs) for array in found) >= min(jobs or 1, 5)


def test_a_hundred_trivial_runs_are_few_jobs_whether_they_were_timed_or_not(root: Path) -> None:
    law = toy.spec("large_batch", run="toy-law", kind="law")
    tasks = [(law, seed) for seed in range(100)]
    (array,) = needs.arrays(tasks, root)
    assert (len(array.jobs), array.untimed) == (1, 100)
    recorded(root, law, 1, 0.2, GIB // 4)
    (array,) = needs.arrays(tasks, root, jobs=2)
    assert [len(job) for job in array.jobs] == [50, 50]
    assert (array.minutes, array.gib, array.untimed) == (needs.LEAST_MINUTES, 1, 0)
    (array,) = needs.arrays(tasks, root, apart=True)
    assert [len(job) for job in array.jobs] == [1] * 100


def test_plan_says_what_to_ask_for_of_the_runs_that_are_left(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = specs.runs("e1", "smoke", root=root)
    done = tasks[0][0]
    recorded(root, done, tasks[0][1], 30.0, 2 * GIB)
    tree.record(*tasks[0], root)
    seeds = len([spec for spec, _ in tasks if spec.run == done.run])
    asked = {}
    for name in ("submitit", "ray"):
        assert cli.main(["plan", "--profile", "smoke", "--source", "e1", "--executor", name, "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["executor"] == name
        asked[name] = answer["asked"]
        controls = len(specs.runs_and_waiting("e1", "smoke", "control", root)[0])
        grids = len(specs.runs_and_waiting("e1", "smoke", "grid", root)[0])
        assert sum(row["runs"] for row in answer["asked"]) == len(tasks) - 1 + controls + grids
    (timed,) = [row for row in asked["submitit"] if row["memory of a job (GiB)"] == 4]
    assert (timed["runs"], timed["time limit of a job (min)"], timed["never timed"]) == (seeds - 1, 15, 0)
    (timed,) = [row for row in asked["ray"] if row["memory of a run (GiB)"] == 4]
    assert (timed["runs"], timed["longest run (min)"], timed["CPUs of a run"]) == (seeds - 1, "0.5", 1)
    assert cli.main(["plan", done.run, "--profile", "smoke", "--executor", "submitit"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[1].split() == ["1", str(seeds - 1), "15", "4", "1", "0"]


def test_plan_counts_measurements_and_runs_without_a_rate_apart(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    specs.learning_rates_path("smoke", root).write_text("{}")
    assert cli.main(["plan", "--profile", "smoke", "--source", "lb", "--executor", "ray", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    planned = [specs.runs_and_waiting("lb", "smoke", group, root) for group in specs.GROUPS]
    assert answer["measurements"] == sum(s.kind == "measure" for now, _ in planned for s, _ in now) > 0
    assert answer["runs_without_a_learning_rate"] == sum(len(later) for _, later in planned) > 0
    assert [row["memory of a run (GiB)"] for row in answer["asked"]] == [None]
